"""Resampling a stream: pieces give the samples of the whole recording, and the same errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.features import audio
from ser_jax.features.pcm import BadAudio
from ser_jax.features.resampler import StreamResampler

RATES = (4000, 16000, 22050, 44100, 48000, 192000)


@settings(deadline=None, max_examples=40)
@given(
    rate=st.sampled_from(RATES),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 9000), max_size=8),
    integers=st.booleans(),
)
def test_the_pieces_add_up_to_the_whole(rate, channels, cuts, integers):
    samples = np.random.default_rng(rate).uniform(-1.02, 1, (12000, channels))
    samples = (samples * 32000).astype(np.int16) if integers else samples.astype(np.float32)
    resampler = StreamResampler(rate)
    found = np.concatenate(
        [resampler.push(part) for part in np.split(samples, sorted(cuts))] + [resampler.end()]
    )
    expected = audio.from_samples(samples, rate, max_seconds=9)
    np.testing.assert_array_equal(found, expected.samples)
    assert (resampler.seconds, resampler.flags) == (expected.seconds, expected.flags)
    resampler.check_usable()


def test_a_refused_piece_is_dropped():
    resampler = StreamResampler(16000)
    resampler.push(np.full(10, 0.5))
    for piece, reason in ((np.array([np.inf]), "non-finite"), (np.array([9.0]), "over the limits")):
        with pytest.raises(BadAudio, match=reason):
            resampler.push(piece)
    with pytest.raises(BadAudio, match="2 channels after 1; a stream keeps its channels"):
        resampler.push(np.zeros((3, 2)))
    with pytest.raises(BadAudio, match="9 channels; at most 8"):
        StreamResampler(16000).push(np.zeros((3, 9)))
    assert resampler.seconds == 10 / 16000 and resampler.flags == ("no speech",)


def test_streams_that_are_no_recording():
    for samples, reason in (
        (np.zeros(0), "too short: 0.0000 s"),
        (np.ones(900), "too short"),
        (np.stack([np.ones(960), -np.ones(960)], axis=1), "silent"),
    ):
        resampler = StreamResampler(16000)
        resampler.push(samples)
        with pytest.raises(BadAudio, match=reason):
            resampler.check_usable()
    with pytest.raises(BadAudio, match="3999 Hz; 4000 to 192000 Hz are read"):
        StreamResampler(3999)
