"""Channels, flags and levels: what is done with several channels, and what is said of a sound."""

import dataclasses

import numpy as np
import pytest

from ser_jax.features import audio, extraction, level, pcm
from ser_jax.features.audio import Mix, from_samples
from ser_jax.features.pcm import BadAudio, Mixer
from ser_jax.features.preparation import prepare

RATE = 16000


def noise(peak: float = 0.5, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-1, 1, RATE)
    return (peak * values / np.abs(values).max()).astype(np.float32)


A, B = noise(seed=1), noise(seed=2)
STILL = np.zeros(RATE, np.float32)


@pytest.mark.parametrize(
    ("channels", "flags"),
    [
        ([A], ()),
        ([np.clip(3 * A, -1, 1)], ("clipped",)),
        ([noise(0.011)], ()),
        ([noise(0.009)], ("quiet",)),
        ([noise(0.0009)], ("near-silent", "no speech")),
        ([A, A], ("several channels",)),
        ([A, B], ("several channels",)),
        ([A, -0.95 * A], ("several channels", "out of phase")),
        ([A, B - 0.9 * A], ("several channels",)),
        ([A, STILL], ("several channels", "silent channel")),
        ([A, noise(0.0005)], ("several channels", "silent channel")),
        ([A, B, STILL], ("several channels", "surround", "silent channel")),
        ([noise(seed=k) for k in range(8)], ("several channels", "surround")),
    ],
)
def test_flags(channels, flags):
    samples = np.stack(channels, axis=1)
    assert from_samples(samples, RATE, max_seconds=9).flags == flags
    # In pieces of any size.
    mixer = Mixer()
    for piece in np.array_split(samples, 77):
        mixer.add(piece)
    assert mixer.flags(RATE, len(channels), sound="no speech" not in flags) == flags


@pytest.mark.parametrize(
    ("channel", "expected"), [("mean", (A + B) / 2), ("left", A), ("1", A), ("right", B), ("2", B)]
)
def test_a_channel_is_chosen(channel, expected):
    found = from_samples(np.stack([A, B], axis=1), RATE, max_seconds=9, mix=Mix(channel))
    np.testing.assert_array_equal(found.samples, expected)


def refusal(channels, channel="mean") -> str:
    with pytest.raises(BadAudio) as info:
        from_samples(np.stack(channels, axis=1), RATE, max_seconds=9, mix=Mix(channel))
    return str(info.value)


def test_what_a_channel_cannot_be():
    assert refusal([STILL, STILL]) == "silent: every sample is zero"
    remedy = "choose one with features.channel (predict --channel)"
    assert refusal([A, -A]) == f"silent: its channels cancel each other out; {remedy}"
    assert refusal([A, STILL], "2") == f"silent: channel 2 is silent, another is not; {remedy}"
    assert refusal([A, B], "3").startswith("over the limits: channel 3 is set, and there are 2")
    alone = from_samples(A, RATE, max_seconds=9, mix=Mix("right"))
    assert alone.flags == ("other channel",) and np.array_equal(alone.samples, A)
    for channel in ("middle", "0", "-1", ""):
        with pytest.raises(ValueError):
            pcm.channel_number(channel)


def test_flags_are_kept_in_the_store():
    for names in ((), ("clipped",), pcm.FLAGS):
        found = audio.Recording(A, 1.0, RATE, 1, "PCM_16", names)
        entry = extraction.compute_kind("audio", found, extraction.LogMelSettings(**SETTINGS))
        assert extraction._flags(entry) == names


SETTINGS = {"sample_rate": RATE, "window_seconds": 0.025, "hop_seconds": 0.01, "fft": 1024}
SETTINGS |= {"bands": 40, "low_hz": 0.0, "high_hz": 8000.0, "floor": 1e-10}


def test_only_what_differs_names_features_in_the_store():
    assert Mix().settings() == {}
    assert Mix("left", "rms").settings() == {"channel": "left", "level": "rms"}
    raw = extraction.LogMelSettings(**SETTINGS)
    assert raw.named() == SETTINGS
    assert raw.named() | {"normalisation": "utterance"} == (
        dataclasses.replace(raw, normalisation="utterance").named()
    )


# --- Levels


def test_rms_by_hand():
    found = prepare(np.full(RATE, 0.25, np.float32), Mix(level="rms"))
    np.testing.assert_allclose(found, 10 ** (-26 / 20), rtol=1e-6)
    spike = np.zeros(RATE, np.float32)
    spike[5] = 0.5  # to the level only with a peak far beyond 1
    assert np.abs(prepare(spike, Mix(level="rms"))).max() == 1.0


def sine(dbfs: float, seconds: float = 4.0, rate: int = 48000) -> np.ndarray:
    return 10 ** (dbfs / 20) * np.sin(2 * np.pi * 997 * np.arange(round(seconds * rate)) / rate)


def test_loudness_is_that_of_the_standard():
    """ITU-R BS.1770-4: its table 1 and 2, a sine of 0 dBFS in one channel, and the gates."""
    shelf, high_pass = level._k_weighting(48000)
    np.testing.assert_allclose(shelf[:3], [1.53512485958697, -2.69169618940638, 1.19839281085285])
    np.testing.assert_allclose(shelf[3:], [1, -1.69065929318241, 0.73248077421585])
    np.testing.assert_allclose(high_pass, [1, -2, 1, 1, -1.99004745483398, 0.99007225036621])
    assert level.loudness(sine(0), 48000) == pytest.approx(-3.01, abs=0.01)
    assert level.loudness(sine(-20, rate=RATE), RATE) == pytest.approx(-23.0, abs=0.1)
    # Silence and whispers between the words do not count.
    still, whisper = np.zeros(48000 * 4), sine(-60)
    parts = np.concatenate([sine(-20), still, whisper, sine(-20)])
    assert level.loudness(parts, 48000) == pytest.approx(-23.01, abs=0.3)
    assert level.loudness(sine(-20, 0.1), 48000) == pytest.approx(-23.0, abs=0.5)


def test_every_gain_gives_the_same_samples():
    for name in ("rms", "lufs"):
        loud, soft = (
            from_samples(gain * A, RATE, max_seconds=9, mix=Mix(level=name)).samples
            for gain in (1.0, 0.01)
        )
        np.testing.assert_allclose(loud, soft, atol=1e-4)
        assert not np.allclose(loud, A, atol=1e-2)
