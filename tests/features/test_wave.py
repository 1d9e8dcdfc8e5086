"""Samples in 16 bits: exact where the recording has no more, else the nearest."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.features.wave import INT16_SCALE, to_int16


def test_by_hand():
    samples = np.array([0, 0.25, -0.25, 1, -1, 1 / 32768, 0.4 / 32768, -0.6 / 32768], np.float32)
    found = to_int16(samples)
    assert found.dtype == np.int16
    assert found.tolist() == [0, 8192, -8192, 32767, -32768, 1, 0, -1]


def test_jax_and_numpy_agree():
    samples = np.random.default_rng(0).uniform(-1, 1, (2, 1000)).astype(np.float32)
    found = to_int16(jnp.asarray(samples), jnp)
    assert found.dtype == jnp.int16
    np.testing.assert_array_equal(found, to_int16(samples))


def test_all_16_bit_samples_are_exact():
    every = np.arange(-INT16_SCALE, INT16_SCALE).astype(np.int16)
    np.testing.assert_array_equal(to_int16(every.astype(np.float32) / INT16_SCALE), every)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_nothing_moves_by_more_than_one_half(values):
    samples = np.array(values, np.float32)
    moved = np.abs(to_int16(samples) / INT16_SCALE - samples.astype(np.float64))
    assert np.all(moved <= np.where(samples > 1 - 0.5 / INT16_SCALE, 1, 0.5) / INT16_SCALE)
