"""Pieces of a recording become what the whole recording becomes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.features import audio
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.live import Listener

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
    listener = Listener(rate)
    found = np.concatenate([listener.push(part) for part in np.split(samples, sorted(cuts))] + [listener.end()])
    expected = audio.from_samples(samples, rate, max_seconds=9)
    np.testing.assert_array_equal(found, expected.samples)
    assert (listener.seconds, listener.flags) == (expected.seconds, expected.flags)
    listener.check_usable()


def test_nothing_of_a_refused_piece_is_taken():
    listener = Listener(16000)
    listener.push(np.full(10, 0.5))
    for piece, reason in ((np.array([np.inf]), "non-finite"), (np.array([9.0]), "over the limits")):
        with pytest.raises(BadAudio, match=reason):
            listener.push(piece)
    with pytest.raises(BadAudio, match="2 channels after 1; a stream keeps its channels"):
        listener.push(np.zeros((3, 2)))
    with pytest.raises(BadAudio, match="9 channels; at most 8"):
        Listener(16000).push(np.zeros((3, 9)))
    assert listener.seconds == 10 / 16000 and listener.flags == ()


def test_what_is_no_recording():
    for samples, reason in (
        (np.zeros(0), "too short: 0.0000 s"),
        (np.ones(900), "too short"),
        (np.zeros(960), "silent"),
    ):
        listener = Listener(16000)
        listener.push(samples)
        with pytest.raises(BadAudio, match=reason):
            listener.check_usable()
    with pytest.raises(BadAudio, match="3999 Hz; 4000 to 192000 Hz are read"):
        Listener(3999)
