"""Preparation: what a recorder changes (gain, offset, silence around) changes no sample."""

import re
from pathlib import Path

import numpy as np
import pytest

from ser_jax.features import preparation
from ser_jax.features.audio import Mix, from_samples
from ser_jax.features.logmel import LogMelSettings, energy_of, log_mel
from ser_jax.features.preparation import (
    Running,
    RunningMean,
    active,
    loudness_facts,
    prepare,
    speaker_gain,
)

RATE = 16000
FULL = Mix(level="recording", remove_dc=True, trim="ends")
SETTINGS = LogMelSettings(RATE, 0.025, 0.01, 1024, 40, 0.0, 8000.0, 1e-10, "utterance")


def speech(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    """Noise in syllables: a tenth of the time, also at the beginning, 40 dB below the rest."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    wave = 0.1 * rng.standard_normal(len(time)) * np.where(time % 1 < 0.1, 0.01, 1)
    return (wave - wave.mean()).astype(np.float32)


def test_active_blocks_by_hand():
    """With all five the mean is 0.605 and 0.01 too little; without it and 0, 1.01, and 0.02 too."""
    assert active(np.array([1, 0.0, 2, 0.01, 0.02])).tolist() == [True, False, True, False, False]
    assert active(np.full(3, 1e-9)).all() and not active(np.zeros(3)).any()
    assert not len(active(np.zeros(0)))


def test_by_hand():
    """A second of 0.5 and −0.5 around 0.1: no offset; what is soft behind it stays; −26 dBFS."""
    tone = np.where(np.arange(RATE) % 2, -0.4, 0.6).astype(np.float32)
    found = prepare(tone, Mix(remove_dc=True))
    np.testing.assert_allclose(np.abs(found), 0.5, atol=1e-6)
    long = np.concatenate([np.zeros(RATE, np.float32), found, np.zeros(RATE, np.float32)])
    np.testing.assert_array_equal(prepare(long, Mix(trim="ends")), found)
    long[2 * RATE : 2 * RATE + 1600] = 0.01  # 34 dB below
    long[2 * RATE + 1600 : 2 * RATE + 2000] = 0.005  # 40 dB below
    assert len(prepare(long, Mix(trim="ends"))) == RATE + 1600
    long[2 * RATE :] = 0.01
    assert len(prepare(long, Mix(trim="ends"))) == RATE + 3200
    level = prepare(long, Mix(level="recording"))
    np.testing.assert_allclose(np.abs(level[RATE : 2 * RATE]), 10**-1.3, rtol=1e-6)
    np.testing.assert_array_equal(prepare(long, Mix(level="speaker", gain=0.5)), long * 0.5)
    assert np.abs(prepare(long, Mix(gain=9.0))).max() == 1  # no more than full scale
    assert prepare(long, Mix()) is long and not prepare(np.zeros(RATE, np.float32), FULL).any()


def test_one_gain_for_all_recordings_of_a_speaker():
    """Squares of 0.1 and 0.3 in silence: mean power 0.05, and the 9.5 dB between them stay."""
    square = np.where(np.arange(RATE) % 2, -1.0, 1.0).astype(np.float32)
    silence = np.zeros(RATE, np.float32)
    waves = [np.concatenate([silence, size * square]) for size in (0.1, 0.3)]
    facts = np.stack([loudness_facts(wave) for wave in waves])
    np.testing.assert_allclose(facts, [[0.5, 50, 0.1], [4.5, 50, 0.3]], rtol=1e-6)
    gain = speaker_gain(facts)
    assert gain is not None
    decibels = 20 * np.log10(gain)
    assert decibels == pytest.approx(-13.0)  # −26 − 10 log10(0.05) = −12.99, to 0.1 dB below
    for wave in waves:
        found = prepare(wave, Mix(level="speaker", gain=gain))
        np.testing.assert_allclose(found, wave * gain, rtol=1e-6)
    peak = speaker_gain(np.array([[1e-4, 100, 0.5]]))
    assert peak == pytest.approx(10**0.3, rel=1e-3)  # −26 dBFS would exceed full scale
    assert speaker_gain(np.array([[0.0, 0, 0.5]])) is None
    # Not known, as for strangers: each recording its own.
    np.testing.assert_array_equal(
        prepare(waves[0], Mix(level="speaker")), prepare(waves[0], Mix(level="recording"))
    )


QUIET = np.random.default_rng(1).standard_normal(RATE).astype(np.float32)


@pytest.mark.parametrize(
    "change",
    [
        lambda wave: 0.01 * wave,
        lambda wave: 2 * wave,
        lambda wave: wave + np.float32(0.01),
        lambda wave: np.concatenate([np.zeros(RATE, np.float32), wave]),
        lambda wave: np.concatenate([wave, np.zeros(3 * RATE, np.float32)]),
        lambda wave: np.concatenate([10**-3.5 * QUIET, wave, 10**-3.5 * QUIET]),
    ],
    ids=["40 dB quieter", "louder", "offset", "silence before", "silence behind", "faint noise"],
)
def test_what_a_recorder_changes_changes_nothing(change):
    silence = np.zeros(RATE // 2, np.float32)
    wave = np.concatenate([silence, speech(), silence])
    expected, found = prepare(wave, FULL), prepare(change(wave), FULL)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    raw = change(wave)
    assert raw.shape != wave.shape or np.abs(raw - wave).max() > 5e-3


def test_the_code_of_the_documentation_does_the_same():
    """An exported model is given waves that docs/export.md prepares."""
    text = (Path(__file__).parents[2] / "docs/export.md").read_text()
    [code] = [
        part for part in re.findall(r"```python\n(.*?)```", text, re.S) if "def prepare" in part
    ]
    names: dict = {}
    exec(code, names)
    wave = np.concatenate([np.zeros(9000, np.float32), speech(), np.zeros(7777, np.float32)]) + 0.01
    levels = (Mix(level=name) for name in ("rms", "recording", "speaker"))
    for mix in (FULL, *levels, Mix(trim="ends"), Mix()):
        for one in (wave, 40 * wave, speech(0.06)):
            one = np.clip(one, -1, 1).astype(np.float32)
            expected = prepare(one, mix)
            np.testing.assert_allclose(names["prepare"](one, mix.settings()), expected, atol=1e-6)


def test_recordings_keep_their_length_and_their_flags():
    quiet = np.concatenate([np.zeros(RATE, np.float32), 0.01 * speech()])
    found = from_samples(quiet, RATE, max_seconds=9, mix=FULL)
    assert (found.seconds, found.flags) == (4, ("quiet",))
    assert len(found.samples) == 2.9 * RATE  # 0.1 s of speech() is silent


def test_the_mean_of_every_band():
    frames = log_mel(speech(), SETTINGS)
    found = preparation.normalise(frames, "utterance")
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(frames - found, frames.mean(axis=0)[None] + 0 * frames, atol=1e-4)
    assert preparation.normalise(frames, "training") is frames
    assert "normalisation" in SETTINGS.named()


# --- Streams


def running(wave: np.ndarray, cuts=(), mix: Mix = FULL) -> np.ndarray:
    stream = Running(mix)
    parts = [stream.push(part) for part in np.split(wave, sorted(cuts))]
    return np.concatenate([*parts, stream.end()])


def test_a_stream_is_prepared_alike_in_any_pieces():
    rng, wave = np.random.default_rng(0), np.concatenate([np.zeros(5000, np.float32), speech(1.7)])
    expected = running(wave)
    assert len(expected) == len(wave)
    for _ in range(5):
        np.testing.assert_array_equal(running(wave, rng.integers(0, len(wave), 9)), expected)
    for length in (0, 100, 500, 2000):
        assert len(running(wave[5000 : 5000 + length])) == length


def test_a_stream_comes_to_the_level_of_the_recording():
    """Half a second is waited for, however long the silence before; then it is near."""
    wave = 0.05 * speech(8) + np.float32(0.02)
    expected = prepare(wave, Mix(level="recording", remove_dc=True))
    for before in (0, 2 * RATE):
        found = running(np.concatenate([np.full(before, 0.02, np.float32), wave]))[before:]
        ratio = np.sqrt(np.mean(found.reshape(-1, RATE) ** 2, 1) / np.mean(expected**2))
        np.testing.assert_allclose(20 * np.log10(ratio), 0, atol=1.0)
    stream, wave = Running(FULL), wave[RATE // 10 :]
    assert not len(stream.push(wave[:7999])) and len(stream.push(wave[7999:8000])) == 8000


def test_noise_alone_is_not_brought_to_the_level_of_speech():
    noise = 10**-3.5 * QUIET
    np.testing.assert_allclose(running(noise), noise, atol=1e-4)


def test_the_level_is_forgotten_after_thirty_seconds():
    loud, soft = speech(10), 0.1 * speech(31)
    found = running(np.concatenate([loud, soft]))
    levels = 20 * np.log10(np.sqrt(np.mean(found.reshape(-1, RATE) ** 2, axis=1)))
    assert levels[12] < -38 and abs(levels[-1] + 26.5) < 1


def test_the_running_mean_by_hand():
    """Energies e⁰ + e⁰ = 2: frames below are silent and not counted."""
    mean = RunningMean(2.0)
    found = mean.push(np.array([[-9, -9], [0, 2], [-9, -9], [2, 2]], np.float32))
    np.testing.assert_allclose(found, [[0, 0], [0, 0], [-9, -11], [1, 0]])
    np.testing.assert_allclose(mean.push(np.array([[1, 2]], np.float32)), [[0, 0]])


def test_the_energy_of_a_frame_tells_its_power():
    wave = speech() * 0 + 0.03 * np.random.default_rng(0).standard_normal(3 * RATE).astype("f4")
    energies = np.exp(log_mel(wave, SETTINGS)).sum(axis=1)
    assert abs(energies.mean() / energy_of(0.03**2, SETTINGS) - 1) < 0.05
