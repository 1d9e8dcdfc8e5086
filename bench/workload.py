"""The work that is measured: synthetic features with the lengths of IEMOCAP's turns."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

BANDS, FUNCTIONALS, CLASSES = 40, 6373, 4
WINDOW, HOP = 400, 160  # samples


class Workload(NamedTuple):
    """Utterances as the systems read them.

    Attributes:
      log_mel: N arrays [F_n, M] f32.
      hsf: [N, D] f32.
      targets: [N] i32.
    """

    log_mel: list[np.ndarray]
    hsf: np.ndarray
    targets: np.ndarray


def samples(count: int | None = None) -> np.ndarray:
    """Returns lengths in samples of `count` turns: quantiles of IEMOCAP's; by default all 5531."""
    listed = np.loadtxt(Path(__file__).parent / "lengths.txt", dtype=np.int64)
    if count is None:
        return listed
    return listed[(2 * np.arange(count) + 1) * len(listed) // (2 * count)]


def features(count: int | None = None, *, functionals: bool = False, seed: int = 0) -> Workload:
    """Returns shuffled utterances of those lengths: noise, with a trace of the class in it.

    Args:
      count: Number of utterances; None: 5531.
      functionals: Whether to make functionals, too (25 kB per utterance).
      seed: Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    frames = 1 + (rng.permutation(samples(count)) - WINDOW) // HOP
    targets = rng.integers(CLASSES, size=len(frames)).astype(np.int32)
    log_mel = [rng.standard_normal((length, BANDS), np.float32) for length in frames]
    for values, target in zip(log_mel, targets, strict=True):
        values[:, target] += 0.5
    hsf = rng.standard_normal((len(frames), FUNCTIONALS if functionals else 0), np.float32)
    return Workload(log_mel, hsf, targets)


def segments(log_mel: list[np.ndarray], window: int = 30, hop: int = 20) -> int:
    """Returns how many real segments the utterances have: the unit of every throughput here."""
    return sum((max(len(values), window) - window) // hop + 1 for values in log_mel)
