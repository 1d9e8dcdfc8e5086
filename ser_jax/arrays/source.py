"""What length buckets are filled from: features of N utterances, in memory or in shards."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ser_jax.arrays import standardise


class Source(NamedTuple):
    """Features of N utterances and what must be known of all of them.

    Attributes:
      arrays: N arrays: log-mel frames [F_n, M] f32, or waves [S_n] i16.
      lengths: [N] i32, F_n or S_n.
      sums: Sums of the log-mel frames; None for waves.
      hsf: N functionals [D] f32; None if the system has no use for them.
      hsf_centre: [D] f64, see `standardise.centre`.
    """

    arrays: Sequence[np.ndarray]
    lengths: np.ndarray
    sums: standardise.BandSums | None = None
    hsf: Sequence[np.ndarray] | np.ndarray | None = None
    hsf_centre: np.ndarray | None = None


def of_frames(log_mel: Sequence[np.ndarray], hsf: np.ndarray | None) -> Source:
    """Returns log-mel frames (N arrays [F_n, M] f32) and functionals ([N, D] f32 or None) that are in memory."""
    centre = None if hsf is None else standardise.centre(hsf)
    return Source(log_mel, _lengths(log_mel), standardise.band_sums(log_mel), hsf, centre)


def of_waves(waves: Sequence[np.ndarray]) -> Source:
    """Returns waves (N arrays [S_n] i16) that are in memory."""
    return Source(waves, _lengths(waves))


def _lengths(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(values) for values in arrays], np.int32)
