"""The running pool equals the pooling of the whole sequence."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.models.pooling import statistics_pooling
from ser_jax.prediction.pool import Pool


def test_three_states_of_one_model_by_hand():
    pool = Pool(segments=2)
    for value in (4.0, -2.0, 1.0):
        pool.add(np.array([[value, 10.0]], np.float32))
    np.testing.assert_array_equal(pool.all(), [[4, 10, 1, 10, -2, 10]])
    np.testing.assert_array_equal(pool.recent(), [[1, 10, -0.5, 10, -2, 10]])


@settings(deadline=None, max_examples=25)
@given(steps=st.integers(1, 12), last=st.integers(1, 15), seed=st.integers(0, 99))
def test_it_is_the_pooling_of_the_network(steps, last, seed):
    hidden = np.random.default_rng(seed).normal(size=(3, steps, 5)).astype(np.float32)
    pool = Pool(segments=last)
    for step in range(steps):
        pool.add(hidden[:, step])
    assert pool.count == steps
    for found, part in ((pool.all(), hidden), (pool.recent(), hidden[:, -last:])):
        mask = jnp.ones(part.shape[:2], bool)
        np.testing.assert_allclose(found, statistics_pooling(jnp.asarray(part), mask), atol=1e-6)


def test_the_mean_of_very_many_states_keeps_its_digits():
    pool, one = Pool(segments=1), np.full((1, 1), 0.1, np.float32)
    pool.add(one)
    pool._total, pool.count = np.full((1, 1), 0.1 * 2**28), 2**28  # 600 days at five segments a second
    for _ in range(1000):
        pool.add(one)
    assert abs(pool.all()[0, 1] - 0.1) < 1e-7 and pool._total[0, 0] > 0.1 * (2**28 + 999)
