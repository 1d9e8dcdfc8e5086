"""Running pools against the pooling of whole sequences and of those that begin with a window."""

import math

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.models.pooling import statistics_pooling
from ser_jax.prediction.segments import ROWS, Pool

MOST = 90  # segments


def add(pool: Pool, states: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Runs h ← h/2 + x on inputs x [n, R, H], restarting rows from 0; returns the states."""
    restarts = pool.restarts(0, [True] * len(values))
    for restart, value in zip(restarts, values, strict=True):
        states = np.where(restart[:, None], 0, states) / 2 + value[:, None]
        pool.add(states.astype(np.float32))
    return states


def recurrence(values: np.ndarray) -> np.ndarray:
    """The same from the first of the inputs [n, R, H] on: [R, n, H]."""
    states = [values[0]]
    for value in values[1:]:
        states.append(states[-1] / 2 + value)
    return np.stack(states, axis=1).astype(np.float32)


def test_three_segments_of_one_model_by_hand():
    """States of all: 4, 0, 1; of the window of two: −2, 0."""
    pool = Pool(segments=2)
    add(pool, np.zeros((1, ROWS, 1)), np.array([4.0, -2.0, 1.0]).reshape(3, 1, 1))
    np.testing.assert_allclose(pool.all(), [[4, 5 / 3, 0]], rtol=1e-6)
    np.testing.assert_array_equal(pool.recent(), [[0, -1, -2]])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, MOST), st.integers(1, 70), st.integers(0, MOST), st.integers(0, 99))
def test_it_is_the_pooling_of_the_network(steps, last, cut, seed):
    """Windows of up to 16 segments are exact, longer ones at most a fifteenth longer."""
    values = np.random.default_rng(seed).normal(size=(steps, 3, 5))
    pool, states = Pool(segments=last), np.zeros((3, ROWS, 5))
    for part in (values[:cut], values[cut:]):
        if len(part):
            states = add(pool, states, part)
    assert pool.count == steps
    every = max(1, math.ceil((last - 1) / 15))
    begin = max(0, steps - last) // every * every
    assert last <= steps - begin <= last * 16 / 15 or not begin
    for found, part in ((pool.all(), values), (pool.recent(), values[begin:])):
        hidden = np.zeros((3, MOST, 5), np.float32)  # one shape: it is compiled once
        hidden[:, : len(part)] = recurrence(part)
        mask = jnp.broadcast_to(jnp.arange(MOST) < len(part), (3, MOST))
        np.testing.assert_allclose(found, statistics_pooling(jnp.array(hidden), mask), atol=1e-5)


def test_the_mean_of_very_many_states_keeps_its_digits():
    pool, one = Pool(segments=1), np.full((1, ROWS, 1), 0.1, np.float32)
    pool.add(one)
    many = 2**28  # 600 days at five segments a second
    pool._total[:, 0], pool._seen[0] = 0.1 * many, many
    for _ in range(1000):
        pool.add(one)
    assert abs(pool.all()[0, 1] - 0.1) < 1e-7 and pool._total[0, 0, 0] > 0.1 * (many + 999)
