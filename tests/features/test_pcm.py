"""Samples in memory: accepted arrays, clipping, and the conversion to 16 bits."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.features import pcm
from ser_jax.features.pcm import INT16_SCALE, BadAudio, to_int16


def test_integers_and_channels_by_hand():
    frames = pcm.to_float(pcm.as_frames(np.array([[16384, -32768], [0, 32767]], np.int16)))
    np.testing.assert_array_equal(frames, np.array([[0.5, -1.0], [0.0, 32767 / 32768]], np.float32))
    expected = np.array([-0.25, 32767 / 65536], np.float32)
    np.testing.assert_array_equal(pcm.mix_down(frames), expected)
    clipped = pcm.mix_down(np.array([[3.0, -1.0]], np.float32))
    np.testing.assert_array_equal(clipped, [0.0])
    assert pcm.as_frames(np.zeros(3)).shape == (3, 1)


@pytest.mark.parametrize(
    "samples", [np.zeros(3, np.int32), np.zeros((2, 0)), np.zeros((1, 1, 1)), np.array(["a"])]
)
def test_other_arrays_are_refused(samples):
    message = r"unreadable: an array of .*; \[samples\] or \[samples, channels\]"
    with pytest.raises(BadAudio, match=message):
        pcm.as_frames(samples)


@pytest.mark.parametrize(
    ("samples", "clipped"),
    [
        ([[0.9], [1.0], [1.0], [0.9]], False),
        ([[-1.0]] * 3, True),
        ([[0.1], [1.5]], True),
        ([[1.0]], False),
        ([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], True),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], False),
    ],
)
def test_a_flat_top_of_one_channel_is_clipping(samples, clipped):
    assert pcm.check_block(np.array(samples, np.float32)) is clipped


def test_16_bit_samples_by_hand():
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
