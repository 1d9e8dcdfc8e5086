"""Samples in memory: their forms, and what is found in them."""

import numpy as np
import pytest

from ser_jax.features import pcm
from ser_jax.features.bad_audio import BadAudio


def test_integers_and_channels_by_hand():
    frames = pcm.to_float(pcm.as_frames(np.array([[16384, -32768], [0, 32767]], np.int16)))
    np.testing.assert_array_equal(frames, np.array([[0.5, -1.0], [0.0, 32767 / 32768]], np.float32))
    np.testing.assert_array_equal(pcm.mix_down(frames), np.array([-0.25, 32767 / 65536], np.float32))
    np.testing.assert_array_equal(pcm.mix_down(np.array([[3.0, -1.0]], np.float32)), [0.0])  # each limited before


def test_one_channel_stands_in_a_column():
    assert pcm.as_frames(np.zeros(3)).shape == (3, 1) and pcm.as_frames(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("samples", [np.zeros(3, np.int32), np.zeros((2, 0)), np.zeros((1, 1, 1)), np.array(["a"])])
def test_other_arrays_are_refused(samples):
    with pytest.raises(BadAudio, match=r"unreadable: an array of .*; \[samples\] or \[samples, channels\]"):
        pcm.as_frames(samples)


@pytest.mark.parametrize(
    ("samples", "clipped"),
    [([0.9, 1.0, 1.0, 0.9], False), ([1.0, 1.0, 1.0], True), ([-1.0] * 3, True), ([0.1, 1.5], True), ([1.0], False)],
)
def test_a_flat_top_is_clipping(samples, clipped):
    assert pcm.check_block(np.array(samples, np.float32)[:, None]) is clipped


def test_a_flat_top_stands_in_one_channel():
    frames = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    assert not pcm.check_block(frames) and pcm.check_block(np.abs(frames) * [[0.5, 0]] + [[0, 1.0]])
