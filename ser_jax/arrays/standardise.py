"""Standardisation: mean and standard deviation of the training part, per log-mel band and per functional."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ser_jax.arrays.inputs import Array, Inputs
from ser_jax.features.wave import INT16_SCALE

SMALLEST_STD = 1e-8
HSF_LIMIT = 10.0
BLOCK = 1024  # utterances that statistics look at together


class Statistics(NamedTuple):
    """Means and standard deviations of one training part; None of what the system does not read. The wave has none.

    Attributes:
      mean: [M], log-mel.
      std: [M], log-mel.
      hsf_mean: [D], functionals.
      hsf_std: [D], functionals.
    """

    mean: Array | None = None
    std: Array | None = None
    hsf_mean: Array | None = None
    hsf_std: Array | None = None


class BandSums(NamedTuple):
    """Per utterance: frames, and sum and sum of squares of every band; statistics of any subset follow by addition."""

    frames: np.ndarray  # [N] i64
    total: Array  # [N, M] f64, in memory or to be read
    squares: Array  # [N, M] f64


def band_sums(log_mel: Sequence[np.ndarray]) -> BandSums:
    """Sums the real frames of every utterance.

    Args:
      log_mel: N arrays [F_n, M] f32, without padding.

    Returns:
      The sums, in float64.
    """
    return BandSums(
        np.array([len(frames) for frames in log_mel]),
        np.stack([frames.sum(axis=0, dtype=np.float64) for frames in log_mel]),
        np.stack([np.square(frames, dtype=np.float64).sum(axis=0) for frames in log_mel]),
    )


def log_mel_statistics(sums: BandSums, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation ([M] f64 each) over the real frames of the utterances in rows."""
    frames = sums.frames[rows].sum()
    mean = _sum_of_rows(sums.total, rows) / frames
    variance = _sum_of_rows(sums.squares, rows) / frames - mean**2
    return mean, np.maximum(np.sqrt(np.maximum(variance, 0)), SMALLEST_STD)


def _sum_of_rows(values: Array, rows: np.ndarray) -> np.ndarray:
    return _sum_of_blocks(values[rows[start : start + BLOCK]] for start in range(0, len(rows), BLOCK))


def _sum_of_blocks(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the sum of the rows of all blocks, to the bit what NumPy's sum over all of them at once gives."""
    found = None
    for block in blocks:
        found = np.sum(block if found is None else np.concatenate([found[None], block]), axis=0)
    assert found is not None
    return found


def hsf_statistics(hsf: Sequence[np.ndarray] | np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation ([D] f64 each) of the functionals [N, D] of the utterances in rows.

    NaN counts as missing; a value that never varies gets mean and standard deviation that map it to 0.
    """

    def total(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, len(rows), BLOCK):
                part = np.stack([hsf[n] for n in rows[start : start + BLOCK].tolist()]).astype(np.float64)
                values = of(np.where(np.isfinite(part), part, np.nan))
                yield np.where(np.isnan(values), 0, values)

        return _sum_of_blocks(blocks())

    with np.errstate(all="ignore"):
        present = np.maximum(total(lambda part: (~np.isnan(part)).astype(np.float64)), 1)
        mean = total(lambda part: part) / present
        std = np.sqrt(total(lambda part: (part - mean) ** 2) / present)
    return mean, np.maximum(std, SMALLEST_STD)


def centre(hsf: np.ndarray) -> np.ndarray:
    """Returns [D] f64, the median of every functional where it is finite, 0 where it never is.

    Subtracted from the functionals, it keeps float32 exact where values are huge.

    Statistics of the training part are taken after the shift, so it cancels: nothing of the other utterances remains.
    """
    finite = np.where(np.isfinite(hsf), hsf, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a functional that no utterance has: its median is NaN
        return np.nan_to_num(np.nanmedian(finite, axis=0)).astype(np.float64)


def standardise(inputs: Inputs, statistics: Statistics, xp) -> Inputs:
    """Standardises a batch: (x − mean)/std; functionals clipped to ±10, NaN → 0; waves are scaled to [-1, 1].

    Args:
      inputs: A batch of raw features.
      statistics: Of the training part, in the same units.
      xp: numpy or jax.numpy.

    Returns:
      The batch, standardised.
    """

    def bands(values):
        assert statistics.mean is not None and statistics.std is not None
        shape = (1,) * (values.ndim - 1) + (-1,)
        return (values - statistics.mean.reshape(shape)) / statistics.std.reshape(shape)

    hsf = inputs.hsf
    if hsf is not None:
        assert statistics.hsf_mean is not None and statistics.hsf_std is not None
        hsf = (hsf - statistics.hsf_mean[None, :]) / statistics.hsf_std[None, :]
        hsf = xp.where(xp.isnan(hsf), 0, xp.clip(hsf, -HSF_LIMIT, HSF_LIMIT))
    return inputs._replace(
        frames=None if inputs.frames is None else bands(inputs.frames),
        segments=None if inputs.segments is None else tuple(bands(values) for values in inputs.segments),
        hsf=hsf,
        wave=None if inputs.wave is None else inputs.wave.astype(xp.float32) / INT16_SCALE,
    )
