"""The low-rank gradient of a kernel, against the optimiser with the gradient written out."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.linalg import norm

from ser_jax import config as configuration
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import Statistics
from ser_jax.models import build
from ser_jax.models.kernels import cpu
from ser_jax.models.layers import ComputeOptions
from ser_jax.training import step as steps
from ser_jax.training.step import Gradients, LowRankGradient, TrainSettings

pytestmark = pytest.mark.skipif(cpu.compiler() is None, reason="there is no C++ compiler")

SETTINGS = TrainSettings(clip_norm=1.0, learning_rate=0.1, weight_decay=0.01)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@functools.cache
def program(settings):
    """One update: of the moments, and with them of the parameters."""

    @jax.jit
    def update(params, state, gradient, good):
        gradients = Gradients(gradient, steps.global_norm(gradient), jnp.asarray(good))
        return steps.update_moments(settings, params, state, gradients)

    return update


def updated(params, state, gradient, good=True, **changes):
    """The update of a kernel whose gradient has a low rank: all of it is in the first half."""
    return program(SETTINGS._replace(**changes))(params, state, gradient, good)


def test_a_step_by_hand():
    """Gradient (2, 0)ᵀ · 3 = (6, 0)ᵀ: moments 0.6 and 0.036, a step of −0.5 · 6 / 6."""
    params = {"kernel": jnp.array([[1.0], [2.0]])}
    gradient = {"kernel": LowRankGradient(jnp.array([[2.0, 0.0]]), jnp.array([[3.0]]))}
    recipe: Any = {"clip_norm": 1e9, "learning_rate": 0.5, "weight_decay": 0.0}
    params, state = updated(params, steps.init_adam(params), gradient, **recipe)
    # float32 has five digits of 1 − 0.999
    np.testing.assert_allclose(params["kernel"], [[0.5], [2.0]], rtol=1e-5)
    np.testing.assert_allclose(state.moment1["kernel"], [[0.6], [0.0]], rtol=1e-6)
    np.testing.assert_allclose(state.moment2["kernel"], [[0.036], [0.0]], rtol=1e-6)
    assert int(state.count) == 1


def test_its_layer_has_the_rate_of_the_front():
    (kernel, inputs, output_grads) = draw(0, (90, 20), (4, 90), (4, 20))
    gradient = {"kernel": LowRankGradient(inputs, output_grads)}
    params, state = {"kernel": kernel}, steps.init_adam({"kernel": kernel})
    rates: tuple[Any, Any] = {"front_rate": 0.5}, {"learning_rate": 0.05}
    slower, slow = (updated(params, state, gradient, **changes) for changes in rates)
    assert tiny.bits(slower) == tiny.bits(slow)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 70)),
    clip_norm=st.sampled_from([1.0, 1e9]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
@example(sizes=(32, 193, 64), clip_norm=1.0, weight_decay=0.1, seed=0)
@example(sizes=(23, 1, 1), clip_norm=1.0, weight_decay=0.0, seed=1)
def test_it_is_the_optimiser(sizes, clip_norm, weight_decay, seed):
    """Three steps against AdamW with the gradient written out, in NumPy and float64."""
    rows, wide, narrow = sizes
    (kernel,) = draw(seed, (wide, narrow))
    seen = [LowRankGradient(*draw(seed + n, (rows, wide), (rows, narrow))) for n in range(3)]
    exact, mean, square = (np.asarray(kernel, np.float64), *np.zeros((2, wide, narrow)))
    known, cancelled = np.ones((wide, narrow), bool), 5.0
    for t, factors in enumerate(seen, start=1):
        inputs, output_grads = (np.asarray(values, np.float64) for values in factors)
        gradient = inputs.T @ output_grads
        terms = abs(inputs).T @ abs(output_grads)
        cancelled = max(cancelled, float(norm(terms) / norm(gradient)))
        gradient *= min(1, clip_norm / norm(gradient))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        direction = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        exact -= 0.1 * (direction + weight_decay * exact)
        # Where a mean is nearly 0, float32 does not know its direction, and Adam's step is all
        # direction.
        known &= abs(mean) > 1e-4 * abs(mean).max()
    # Where the terms of the products cancel to a c-th of their size, float32 knows the gradient to
    # 1e-7 · c, and its norm, a sum of products of four factors, to 1e-7 · c². Up to c = 5, as of
    # any larger kernel, the bounds are the plain ones.
    loss = (cancelled / 5) ** 2
    recipe = {"clip_norm": clip_norm, "weight_decay": weight_decay, "learning_rate": 0.1}
    params: Any = {"kernel": kernel}
    shapes = jax.eval_shape(steps.init_adam, params)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    for factors in seen:
        params, state = updated(params, state, {"kernel": factors}, **recipe)
    for name, wanted in (("moment1", mean), ("moment2", square)):
        found = getattr(state, name)["kernel"]
        np.testing.assert_allclose(found, wanted, atol=2e-6 * loss * abs(wanted).max())
    assert known.mean() > 0.5
    found = np.asarray(params["kernel"])
    np.testing.assert_allclose(found[known], exact[known], rtol=0, atol=1e-3 * 0.1 * loss)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.0])
def test_switched_off_nothing_changes(bad):
    """To the bit, after an update that has made the moments something."""
    kernel, inputs, output_grads = draw(0, (90, 20), (4, 90), (4, 20))
    gradient = {"kernel": LowRankGradient(inputs, output_grads)}
    spoilt = {"kernel": LowRankGradient(inputs, bad * output_grads)}
    params, state = updated({"kernel": kernel}, steps.init_adam({"kernel": kernel}), gradient)
    before = tiny.bits((params, state))
    assert tiny.bits(updated(params, state, spoilt, good=False)) == before
    assert tiny.bits(updated(params, state, gradient)) != before


def test_the_norm_is_that_of_the_product():
    inputs, output_grads, other = draw(0, (5, 30), (5, 7), (3, 4))
    norm = steps.global_norm({"a": LowRankGradient(inputs, output_grads), "b": other})
    np.testing.assert_allclose(
        norm**2, np.sum((inputs.T @ output_grads) ** 2) + np.sum(other**2), rtol=1e-6
    )
    assert steps.global_norm({"a": LowRankGradient(inputs, 0 * output_grads)}) == 0
    assert np.isnan(steps.global_norm({"a": LowRankGradient(inputs, np.nan * output_grads)}))


def test_trials_of_a_group_on_one_device():
    """Each is what it would be alone; one that is switched off stays."""
    kernels, inputs, output_grads = draw(0, (3, 100, 33), (3, 6, 100), (3, 6, 33))
    good = jnp.array([True, False, True])

    def one(kernel, inputs, output_grads, good):
        gradient = {"kernel": LowRankGradient(inputs, output_grads)}
        return updated({"kernel": kernel}, steps.init_adam({"kernel": kernel}), gradient, good)

    together = jax.jit(jax.vmap(one))(kernels, inputs, output_grads, good)
    for run in range(3):
        alone = jax.jit(one)(kernels[run], inputs[run], output_grads[run], good[run])
        tiny.assert_close(jax.tree.map(lambda leaf, run=run: leaf[run], together), alone, 1e-6)
    assert tiny.bits(together[0]["kernel"][1]) == tiny.bits(kernels[1])


@pytest.mark.parametrize(("dropout", "skip"), [(0.0, False), (0.5, False), (0.5, True)])
def test_hsf_crnn_trains_the_same(dropout, skip):
    """As five steps with the written gradient, XLA's programs and the same draws."""
    c = configuration.get_config()
    c.system = "hsf_crnn"
    c.model.filters, c.model.lstm_units = 6, 8
    c.model.hsf_crnn_dense, c.model.hsf_dense, c.model.hsf_head = (8,), (20, 9), (8,)
    c.model.hsf_dropout = c.model.dropout = dropout
    c.model.hsf_skip = skip
    frames, hsf = draw(0, (6, 60, 5), (6, 70))
    bucket = steps.Bucket(
        Inputs(jnp.asarray([50, 60, 41, 33, 60, 30], jnp.int32), frames=frames, hsf=hsf),
        jnp.arange(6, dtype=jnp.int32) % 4,
    )
    statistics = Statistics(jnp.zeros(5), jnp.ones(5), jnp.zeros(70), jnp.ones(70))
    key = jax.random.key_data(jax.random.key(1)) if dropout else None
    run = steps.TrialConstants(statistics, jnp.ones(4), key)
    found = []
    for native in (True, False):
        model = build.build_model(c, 4, ComputeOptions(native=native))
        assert not steps.uses_low_rank(model, SETTINGS._replace(schedule="cosine"), None)
        assert steps.uses_low_rank(model, SETTINGS, None) == native
        recipe = TrainSettings(0.02, 1.0, weight_decay=0.01, ema=0.9, dropout=dropout > 0)
        state = trained(model, recipe, bucket, run)
        adam: Any = state.adam
        found.append((state.params, state.average, adam.moment1))
    own, usual = found
    tiny.assert_close(own, usual, 3e-5)


def trained(model, settings, bucket, trial):
    example = jax.tree.map(lambda leaf: leaf[:1], bucket.inputs)
    state = steps.init_state(jax.jit(model.init)(jax.random.key(0), example)["params"], settings)
    step = jax.jit(functools.partial(steps.train_step, model, settings))
    mask = jnp.array([True, True, True, False])
    for n in range(5):
        rows = jnp.array([n, (n + 1) % 6, (n + 3) % 6, 0], jnp.int32)
        state = step(bucket, state, trial, rows, mask)
    assert int(state.adam.count) == 5
    return state
