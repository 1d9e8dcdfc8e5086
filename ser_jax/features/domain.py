"""Facts of a recording, and whether they lie outside those of the recordings of the training.

Taken of the samples before they are prepared. This module must not import jax: worker processes
load it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from ser_jax.features.pcm import SAMPLE_RATE
from ser_jax.features.preparation import BLOCK, active, block_powers

FACTS = ("level", "snr", "bandwidth")
# What a recording is said to be when it lies below or above its bounds; fact → both words.
WORDS = {
    "level": ("quieter than training", "louder than training"),
    "snr": ("noisier than training", ""),
    "bandwidth": ("narrower band than training", ""),
    "seconds": ("shorter than training", "longer than training"),
    "log_mel": ("", "other sound than training"),
}
FLAGS = tuple(word for pair in WORDS.values() for word in pair if word)
MOST = 2000  # utterances whose frames are read: of more, evenly spaced ones

_SPECTRA, _BAND = 32, 250  # blocks whose spectra are averaged; Hz
_DROP = 1e-5  # of power to the strongest band, -50 dB
_FLOOR = 1e-12  # power, -120 dBFS: digital silence
# The least that a bound lies beyond the quantile: dB, dB, Hz, natural logarithm, none.
_LEAST = {"level": 3.0, "snr": 3.0, "bandwidth": 500.0, "seconds": 0.2, "log_mel": 0.0}


def measure(samples: np.ndarray) -> np.ndarray:
    """Returns `FACTS` [3] f64 of samples [S] f32 at 16 kHz; NaN without sound.

    Level of the active part in dBFS; its distance in dB from the floor, the 5 % quietest blocks;
    and the frequency in Hz above which there is less than -50 dB of the strongest band of 250 Hz.
    """
    powers = block_powers(samples)
    kept = active(powers)
    if not kept.any():
        return np.full(len(FACTS), np.nan)
    level, floor = powers[kept].mean(), max(np.quantile(powers, 0.05), _FLOOR)
    places = np.flatnonzero(kept)
    places = places[np.linspace(0, len(places) - 1, min(len(places), _SPECTRA)).astype(int)]
    blocks = samples[: len(powers) * BLOCK].reshape(-1, BLOCK)[places]
    blocks = blocks - blocks.mean(axis=1, keepdims=True)
    spectra = np.abs(np.fft.rfft(blocks * np.hanning(BLOCK))) ** 2
    bins = _BAND * BLOCK // SAMPLE_RATE
    bands = spectra.mean(axis=0)[: BLOCK // 2].reshape(-1, bins).sum(axis=1)
    width = _BAND * (1 + np.flatnonzero(bands >= _DROP * bands.max())[-1])
    return np.array([10 * np.log10(level), 10 * np.log10(level / floor), width])


def describe(
    facts: np.ndarray, seconds: np.ndarray, log_mel: Sequence[np.ndarray], rows: np.ndarray
) -> dict[str, Any]:
    """Returns what a model remembers of its training recordings, as JSON.

    Bounds of a fact are its quantiles of 1 and 99 %, widened by half their distance from the
    median, and at least a little. Of log-mel frames, `mean` and `std` over the recordings of their
    means per band, and the bound of `distance`.

    Args:
      facts: [N, 3] of all N recordings, see `measure`.
      seconds: [N].
      log_mel: N arrays [F, M], or none.
      rows: Numbers of those that are trained on.
    """
    values = dict(zip(FACTS, facts[rows].T, strict=True)) | {"seconds": np.log(seconds[rows])}
    found: dict[str, Any] = {}
    if len(log_mel):
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, MOST).astype(int))]
        means = np.stack([log_mel[n].mean(axis=0, dtype=np.float64) for n in chosen.tolist()])
        mean, std = means.mean(axis=0), np.maximum(means.std(axis=0), 0.1)
        found = {"mean": mean.round(4).tolist(), "std": std.round(4).tolist()}
        values["log_mel"] = np.sqrt((((means - mean) / std) ** 2).mean(axis=1))
    bounds = {}
    for name, all_of in values.items():
        known = all_of[np.isfinite(all_of)]
        if len(known):
            low, middle, high = np.quantile(known, (0.01, 0.5, 0.99))
            below = max((middle - low) / 2, _LEAST[name])
            bounds[name] = [low - below, high + max((high - middle) / 2, _LEAST[name])]
    bounds = {name: np.round(pair, 4).tolist() for name, pair in bounds.items()}
    return {"bounds": bounds, "log_mel": found}


def is_description(value: Any) -> bool:
    """Returns whether a value from JSON has the form of what `describe` returns."""
    if not isinstance(value, dict) or not isinstance(value.get("bounds"), dict):
        return False
    bounds, known = value["bounds"], value.get("log_mel")
    pairs = all(_is_numbers(pair) and len(pair) == 2 for pair in bounds.values())
    if not pairs or not bounds.keys() <= WORDS.keys() or not isinstance(known, dict):
        return False
    mean, std = known.get("mean"), known.get("std")
    return not known or _is_numbers(mean) and _is_numbers(std) and len(mean) == len(std)


def _is_numbers(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and all(type(one) in (int, float) for one in value)


def flags(
    domain: Mapping[str, Any], facts: np.ndarray, seconds: float, frames: np.ndarray | None = None
) -> tuple[str, ...]:
    """Returns which of `FLAGS` a recording has, given what `describe` has returned.

    Args:
      domain: Of the training.
      facts: [3], see `measure`.
      seconds: Its length.
      frames: [F, M] log-mel as the models read it, or None.
    """
    values = dict(zip(FACTS, facts.tolist(), strict=True)) | {"seconds": float(np.log(seconds))}
    known = domain["log_mel"]
    if known and frames is not None:
        apart = (frames.mean(axis=0, dtype=np.float64) - known["mean"]) / known["std"]
        values["log_mel"] = float(np.sqrt((apart**2).mean()))
    found = []
    for name, (low, high) in domain["bounds"].items():
        below, above = WORDS[name]
        value = values.get(name, np.nan)
        found += [below] if below and value < low else []
        found += [above] if above and value > high else []
    return tuple(found)
