"""Standardisation by mean and deviation of the training part, per log-mel band and functional."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ser_jax.data.inputs import Array, Inputs
from ser_jax.features.pcm import INT16_SCALE

# A deviation up to this fraction of the mean is that of rounding: the sums of squares of a constant
# log-mel band leave up to 3e-8; of EMO-DB's functionals the least has 1e-2.
CONSTANT = 1e-6
HSF_LIMIT = 10.0
BLOCK = 1024  # utterances that are in memory together for statistics


class Statistics(NamedTuple):
    """Means and standard deviations of one training part; None for features that are not used.

    The deviation of what is constant in the training part is infinite: standardised, it is 0.
    With speaker normalisation arrays have a leading axis, see `with_speakers`.
    """

    mean: Array | None = None  # [M], log-mel; [L, D], frames of embeddings
    std: Array | None = None  # the same
    hsf_mean: Array | None = None  # [D], functionals, embeddings of whole utterances
    hsf_std: Array | None = None  # [D]


def of_speakers(statistics: Callable[[np.ndarray], Statistics], numbers: np.ndarray) -> Statistics:
    """Returns the statistics of P ≥ 1 speakers, [P, M] and [P, D].

    Args:
      statistics: Utterances → their statistics.
      numbers: [N], the number of every utterance's speaker, from 1 to P; 0: none of them.
    """
    parts = (np.flatnonzero(numbers == speaker) for speaker in range(1, numbers.max() + 1))
    columns = zip(*map(statistics, parts), strict=True)
    return Statistics(*(None if column[0] is None else np.stack(column) for column in columns))


def with_speakers(training: Statistics, speakers: Statistics) -> Statistics:
    """Returns tables of statistics, whose row `Inputs.speaker` is that of an utterance.

    Args:
      training: Of the training part: row 0.
      speakers: Of P speakers, [P, M] and [P, D]: the rows from 1 on.
    """

    def table(one: Array | None, rows: Array | None) -> Array | None:
        return None if one is None or rows is None else np.concatenate([one[None], rows])

    return Statistics(*map(table, training, speakers))


def of_rows(statistics: Statistics, inputs: Inputs) -> Statistics:
    """Returns the statistics of every row of a batch, [B, M] and [B, D], if rows have their own."""
    if inputs.speaker is None:
        return statistics
    tables = (None if table is None else table[inputs.speaker] for table in statistics)
    return Statistics(*tables)


class BandSums(NamedTuple):
    """Sums per utterance and band, from which the statistics of any subset follow by addition."""

    frames: np.ndarray  # [N] i64
    total: Array  # [N, M] f64, in memory or to be read
    squares: Array  # [N, M] f64


def band_sums(log_mel: Sequence[np.ndarray]) -> BandSums:
    """Sums the frames of N arrays [F_n, M] f32 without padding, in float64."""
    return BandSums(
        np.array([len(frames) for frames in log_mel]),
        np.stack([frames.sum(axis=0, dtype=np.float64) for frames in log_mel]),
        np.stack([np.square(frames, dtype=np.float64).sum(axis=0) for frames in log_mel]),
    )


def log_mel_statistics(sums: BandSums, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation ([M] f64 each) over the frames of utterances `rows`."""
    frames = sums.frames[rows].sum()
    mean = _sum_of_rows(sums.total, rows) / frames
    variance = _sum_of_rows(sums.squares, rows) / frames - mean**2
    return mean, _deviation(mean, variance)


def _deviation(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    std = np.sqrt(np.maximum(variance, 0))
    return np.where(std > CONSTANT * np.abs(mean), std, np.inf)


def _sum_of_rows(values: Array, rows: np.ndarray) -> np.ndarray:
    return _sum_of_blocks(values[part] for part in _blocks(rows))


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _sum_of_blocks(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the sum of the rows of all blocks, bit-equal to NumPy's sum over all at once."""
    found = None
    for block in blocks:
        found = np.sum(block if found is None else np.concatenate([found[None], block]), axis=0)
    assert found is not None
    return found


def hsf_statistics(
    hsf: Sequence[np.ndarray] | np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation ([D] f64 each) of functionals of utterances `rows`.

    Non-finite values count as missing.
    """

    def total(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        def blocks() -> Iterator[np.ndarray]:
            for numbers in _blocks(rows):
                part = np.stack([hsf[n] for n in numbers.tolist()]).astype(np.float64)
                values = of(np.where(np.isfinite(part), part, np.nan))
                yield np.where(np.isnan(values), 0, values)

        return _sum_of_blocks(blocks())

    with np.errstate(all="ignore"):
        present = np.maximum(total(lambda part: (~np.isnan(part)).astype(np.float64)), 1)
        mean = total(lambda part: part) / present
        variance = total(lambda part: (part - mean) ** 2) / present
    return mean, _deviation(mean, variance)


def centre(hsf: np.ndarray) -> np.ndarray:
    """Returns [D] f64, the median of every functional where it is finite, 0 where it never is.

    Subtracted from the functionals, it keeps float32 exact where values are huge. Statistics of the
    training part are taken after the shift, so it cancels: nothing of the other utterances remains.
    """
    finite = np.where(np.isfinite(hsf), hsf, np.nan)
    with warnings.catch_warnings():
        # The median of a functional that no utterance has is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nan_to_num(np.nanmedian(finite, axis=0)).astype(np.float64)


def standardise(inputs: Inputs, statistics: Statistics, xp) -> Inputs:
    """Standardises a batch of raw features: (x − mean)/std, with statistics in the same units.

    With speaker normalisation each row has the statistics of its speaker. Functionals are clipped
    to ±10 and NaN becomes 0; waves are scaled to [-1, 1]. `xp` is numpy or jax.numpy.
    """
    own = of_rows(statistics, inputs)

    def bands(values):
        assert own.mean is not None and own.std is not None
        # [M] or [L, D], with speaker normalisation for every row.
        rows = () if inputs.speaker is None else own.mean.shape[:1]
        rest = own.mean.shape[len(rows) :]
        between = (1,) * (values.ndim - 1 - len(rest))
        shape = (*(rows or (1,)), *between, *rest)
        return (values - own.mean.reshape(shape)) / own.std.reshape(shape)

    hsf = inputs.hsf
    if hsf is not None:
        assert own.hsf_mean is not None and own.hsf_std is not None
        shape = (-1, hsf.shape[1])
        hsf = (hsf - own.hsf_mean.reshape(shape)) / own.hsf_std.reshape(shape)
        hsf = xp.where(xp.isnan(hsf), 0, xp.clip(hsf, -HSF_LIMIT, HSF_LIMIT))
    return inputs._replace(
        frames=None if inputs.frames is None else bands(inputs.frames),
        segments=(
            None if inputs.segments is None else tuple(bands(values) for values in inputs.segments)
        ),
        hsf=hsf,
        wave=None if inputs.wave is None else inputs.wave.astype(xp.float32) / INT16_SCALE,
    )
