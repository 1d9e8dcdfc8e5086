"""Masked max, mean and min pooling: by hand, against a NumPy loop, and invariant to padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.models import pooling

POOLS = {
    "max": (pooling.masked_max, np.max),
    "mean": (pooling.masked_mean, np.mean),
    "min": (pooling.masked_min, np.min),
}


def test_hand_computed():
    values = jnp.array(
        [[[1.0, -4.0], [3.0, -2.0], [100.0, -100.0]], [[5.0, 5.0], [6.0, 7.0], [1.0, 9.0]]]
    )
    mask = jnp.array([[True, True, False], [True, True, True]])
    np.testing.assert_array_equal(pooling.masked_max(values, mask), [[3, -2], [6, 9]])
    np.testing.assert_array_equal(pooling.masked_mean(values, mask), [[2, -3], [4, 7]])
    np.testing.assert_array_equal(pooling.masked_min(values, mask), [[1, -4], [1, 5]])
    np.testing.assert_array_equal(
        pooling.statistics_pooling(values, mask), [[3, -2, 2, -3, 1, -4], [6, 9, 4, 7, 1, 5]]
    )


def test_attentive_statistics_by_hand():
    """Weights 1/4 and 3/4 of 0 and 4: mean 3, variance 9/4 + 3/4; a third step is padding."""
    values = jnp.array([[[0.0, 1.0], [4.0, 1.0], [9.0, 9.0]]])
    mask = jnp.array([[True, True, False]])
    scores = jnp.log(jnp.array([[1.0, 3.0, 100.0]]))
    found = pooling.attentive_statistics(values, mask, scores)
    expected = [[3, 1, np.sqrt(3), np.sqrt(pooling.LEAST_VARIANCE)]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_length_mask():
    mask = pooling.length_mask(jnp.array([1, 3, 0]), 3)
    np.testing.assert_array_equal(mask, np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0]], bool))


def scored_by_the_first(values, mask):
    return pooling.attentive_statistics(values, mask, values[:, :, 0])


@settings(deadline=None, max_examples=60)
@given(
    # Few shapes: each is compiled.
    lengths=st.sampled_from([1, 5]).flatmap(
        lambda rows: st.lists(st.integers(1, 9), min_size=rows, max_size=rows)
    ),
    steps=st.sampled_from([9, 15]),
    fill=st.sampled_from([0.0, 1e4, -1e4, np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 2**31),
)
def test_numpy_oracle_and_padding_invariance(lengths, steps, fill, seed):
    """Any companions, any extra padding and any fill give what a loop over the real steps gives."""
    rng = np.random.default_rng(seed)
    values = np.full((len(lengths), steps, 3), fill, np.float32)
    for row, length in enumerate(lengths):
        values[row, :length] = rng.normal(size=(length, 3))
    mask = pooling.length_mask(jnp.array(lengths), steps)
    for pool, oracle in POOLS.values():
        result = jax.jit(pool)(jnp.array(values), mask)
        expected = [oracle(values[row, :length], axis=0) for row, length in enumerate(lengths)]
        np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-6)
    result = jax.jit(scored_by_the_first)(jnp.array(values), mask)
    for found, row, length in zip(result, values, lengths, strict=True):
        weights = scipy.special.softmax(row[:length, 0])
        mean = np.average(row[:length], axis=0, weights=weights)
        variance = np.average((row[:length] - mean) ** 2, axis=0, weights=weights)
        deviation = np.sqrt(np.maximum(variance, pooling.LEAST_VARIANCE))
        np.testing.assert_allclose(found, [*mean, *deviation], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", [pooling.statistics_pooling, scored_by_the_first])
@pytest.mark.parametrize("fill", [0.0, 1e4, np.nan])
def test_gradient_into_padding_is_exactly_zero(fill, pool):
    values = np.full((2, 7, 3), fill, np.float32)
    values[0, :4] = np.random.default_rng(0).normal(size=(4, 3))
    values[1, :1] = 2.0
    lengths = jnp.array([4, 1])
    mask = pooling.length_mask(lengths, 7)

    @jax.jit
    def gradient_of(values, mask):
        return jax.grad(lambda v: jnp.sum(jnp.sin(pool(v, mask))))(values)

    gradient = gradient_of(jnp.array(values), mask)
    assert np.all(np.asarray(gradient)[~np.asarray(mask)] == 0)
    assert np.all(np.isfinite(gradient))
    alone = gradient_of(jnp.array(values[:1, :4]), jnp.ones((1, 4), bool))
    np.testing.assert_allclose(gradient[0, :4], alone[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (jnp.zeros((2, 3, 4)), jnp.zeros((2, 4), bool), r"expected \[B, T, H\]"),
        (jnp.zeros((2, 3)), jnp.zeros((2, 3), bool), r"expected \[B, T, H\]"),
        (jnp.zeros((2, 3, 4)), jnp.ones((2, 3)), "True = real"),
    ],
)
def test_wrong_shapes_and_types_are_refused(values, mask, message):
    with pytest.raises(ValueError, match=message):
        pooling.statistics_pooling(values, mask)
