"""Facts of recordings, and the flags of those that lie outside the training."""

import numpy as np
import pytest
from scipy import signal

from ser_jax.features import domain
from ser_jax.features.audio import from_samples
from ser_jax.features.logmel import LogMelSettings, log_mel

RATE = 16000
SETTINGS = LogMelSettings(RATE, 0.025, 0.01, 1024, 40, 0.0, 8000.0, 1e-10)


def speech(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Noise in syllables at about -26 dBFS over a floor 50 dB below, of one colour."""
    rng = np.random.default_rng(seed)
    count = round((seconds + 0.2 * rng.uniform(-1, 1)) * RATE)
    gain = 10 ** (rng.uniform(-29, -23) / 20)
    noise = np.asarray(signal.lfilter([0.4], [1, -0.6], rng.standard_normal(count)))
    loud = np.where(np.arange(count) % 5000 < 1500, 10**-2.5, 1)
    return (gain * loud * noise / noise.std()).clip(-1, 1).astype(np.float32)


def test_facts_by_hand():
    """A second of a tone of 1 kHz, and as much of noise 40 dB below."""
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    noise = 1e-3 / 2**0.5 * np.random.default_rng(0).standard_normal(RATE)
    level, snr, bandwidth = domain.measure(np.append(tone, noise).astype(np.float32))
    assert level == pytest.approx(-23.01, abs=0.01) and snr == pytest.approx(40, abs=1)
    assert bandwidth in (1250, 1500)
    assert domain.measure(speech(0))[2] == 8000
    low = signal.sosfilt(signal.butter(12, 3400, fs=RATE, output="sos"), speech(0))
    assert 3500 <= domain.measure(np.asarray(low, np.float32))[2] <= 5500
    assert np.isnan(domain.measure(np.zeros(RATE, np.float32))).all()
    assert domain.measure(np.append(tone, np.zeros(RATE)).astype(np.float32))[1] > 90


def heard(count: int = 60) -> dict:
    waves = [speech(seed) for seed in range(count)]
    facts = np.array([from_samples(wave, RATE, max_seconds=9).facts for wave in waves])
    seconds = np.array([len(wave) / RATE for wave in waves])
    frames = [log_mel(wave, SETTINGS) for wave in waves]
    return domain.describe(facts, seconds, frames, np.arange(count))


HEARD = heard()


def flags(wave: np.ndarray, known: dict = HEARD) -> tuple[str, ...]:
    wave = wave.astype(np.float32)
    frames = log_mel(wave, SETTINGS)
    return domain.flags(known, domain.measure(wave), len(wave) / RATE, frames)


def telephone(wave: np.ndarray) -> np.ndarray:
    return np.asarray(
        signal.sosfilt(signal.butter(12, (300, 3400), "bandpass", fs=RATE, output="sos"), wave)
    )


NOISE = np.random.default_rng(9).standard_normal(2 * RATE)


@pytest.mark.parametrize(
    ("wave", "expected"),
    [
        (0.1 * speech(99), {"quieter than training"}),
        (4 * speech(99), {"louder than training"}),
        (speech(99, 0.5), {"shorter than training"}),
        (speech(99, 9.0), {"longer than training"}),
        (telephone(speech(99)), {"narrower band than training", "other sound than training"}),
        (speech(99)[:30000] + 0.02 * NOISE[:30000], {"noisier than training"}),
    ],
    ids=["quiet", "loud", "short", "long", "telephone", "noise"],
)
def test_what_lies_outside_is_flagged(wave, expected):
    assert expected <= set(flags(wave))
    assert not set(flags(wave)) - expected - {"other sound than training"}


def test_what_lies_inside_is_not():
    odd = [flags(speech(seed)) for seed in range(1000, 1100)]
    assert sum(map(bool, odd)) <= 3
    assert set(domain.FLAGS) == {word for pair in domain.WORDS.values() for word in pair if word}


def test_bounds_by_hand():
    """Levels of 0, 1, …, 100: quantiles 1, 50 and 99, and half of 49 beyond each."""
    facts = np.stack([np.arange(101.0), np.full(101, np.nan), np.full(101, 8000.0)], axis=1)
    found = domain.describe(facts, np.ones(101), (), np.arange(101))
    assert found["bounds"]["level"] == [-23.5, 123.5] and "snr" not in found["bounds"]
    assert found["bounds"]["bandwidth"] == [7500, 8500] and found["log_mel"] == {}
    assert found["bounds"]["seconds"] == [-0.2, 0.2]
    part = domain.describe(facts, np.ones(101), (), np.arange(50, 61))
    assert part["bounds"]["level"][0] == pytest.approx(50.1 - 3)
