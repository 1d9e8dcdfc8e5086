"""All features of a protocol as padded arrays, one set per length bucket, shared by every run.

The arrays are in memory, or they are read and padded row by row when rows are asked for (`Rows`): the same values.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ser_jax.arrays import buckets, padding, standardise
from ser_jax.arrays.inputs import Channel, Inputs, covered_frames
from ser_jax.arrays.rows import Rows
from ser_jax.arrays.source import Source, of_frames, of_waves
from ser_jax.cores import available_cores


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The utterances of a protocol, by length.

    Attributes:
      buckets: Per bucket the features of its utterances, unstandardised; functionals are shifted by `hsf_centre`.
      targets: Per bucket [n] i32, class numbers; −1 where the label is withheld.
      bucket: [N], the bucket of every utterance of the protocol.
      row: [N], its row there.
      sums: Sums of the log-mel frames per utterance, for the statistics of any training part; None without frames.
      hsf: N functionals [D] f32, as extracted, or None.
      hsf_centre: [D] f64 or None.
    """

    buckets: tuple[Inputs, ...]
    targets: tuple[np.ndarray, ...]
    bucket: np.ndarray
    row: np.ndarray
    sums: standardise.BandSums | None = None
    hsf: Sequence[np.ndarray] | np.ndarray | None = None
    hsf_centre: np.ndarray | None = None

    def rows(self, utterances: np.ndarray) -> list[np.ndarray]:
        """Returns, per bucket, the rows of the given utterances (numbers in the protocol)."""
        return [self.row[utterances[self.bucket[utterances] == b]] for b in range(len(self.buckets))]

    def utterances(self, bucket: int) -> np.ndarray:
        """Returns the numbers in the protocol of a bucket's utterances, in row order."""
        return np.flatnonzero(self.bucket == bucket)

    def statistics(self, utterances: np.ndarray) -> standardise.Statistics:
        """Returns the statistics of the given utterances (a training part), in float64."""
        log_mel = (None, None) if self.sums is None else standardise.log_mel_statistics(self.sums, utterances)
        hsf = (None, None) if self.hsf is None else standardise.hsf_statistics(self.hsf, utterances)
        return standardise.Statistics(*log_mel, *hsf)

    def device_statistics(self, statistics: standardise.Statistics) -> standardise.Statistics:
        """Returns the same statistics for the shifted functionals, in float32: what the train step uses."""
        hsf_mean = None if self.hsf_centre is None else statistics.hsf_mean - self.hsf_centre
        shifted = statistics._replace(hsf_mean=hsf_mean)
        return standardise.Statistics(*(None if value is None else value.astype(np.float32) for value in shifted))

    @property
    def streamed(self) -> bool:
        """Whether rows are read when they are asked for."""
        return isinstance(self.buckets[0].time_arrays[0], Rows)

    def loaded(self) -> "Dataset":
        """Returns the same dataset with all rows in memory."""
        with ThreadPoolExecutor(available_cores()) as pool:  # It is mostly the kernel that works, to provide memory.
            loaded = pool.map(lambda inputs: Inputs(*map(_loaded, inputs)), self.buckets)
            return dataclasses.replace(self, buckets=tuple(loaded))

    @property
    def padding_ratio(self) -> float:
        """Frames held per frame that is real; chunks where the wave is read."""
        held = sum(a.size // a.shape[-1] for inputs in self.buckets for a in inputs.time_arrays)
        return float(held / max(sum(inputs.length.sum() for inputs in self.buckets), 1))


def _loaded(values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(map(_loaded, values))
    return None if values is None else padding.aligned(values[:])


def build_dataset(
    log_mel: Sequence[np.ndarray], hsf: np.ndarray | None, targets: np.ndarray, **options: Any
) -> Dataset:
    """Sorts utterances into length buckets and pads them there.

    Args:
      log_mel: N arrays [F_n, M] f32.
      hsf: [N, D] f32 or None.
      targets: [N] i32, class numbers.
      **options: See `lay_out_frames`.

    Returns:
      The dataset, in memory.
    """
    return lay_out_frames(of_frames(log_mel, hsf), targets, **options).loaded()


def build_wave_dataset(waves: Sequence[np.ndarray], targets: np.ndarray, **options: Any) -> Dataset:
    """Sorts utterances into length buckets and pads their waves there.

    Args:
      waves: N arrays [S_n] i16, 16 kHz.
      targets: [N] i32, class numbers.
      **options: See `lay_out_waves`.

    Returns:
      The dataset, in memory.
    """
    return lay_out_waves(of_waves(waves), targets, **options).loaded()


def lay_out_frames(
    source: Source,
    targets: np.ndarray,
    *,
    channels: tuple[Channel, ...],
    form: str,
    silence: float,
    shapes: int,
    batch_size: int,
    train_share: float,
) -> Dataset:
    """Sorts utterances into length buckets; rows are padded when they are asked for.

    Args:
      source: Their log-mel frames and functionals.
      targets: [N] i32, class numbers.
      channels: The segmentations the system reads.
      form: "fast" (frames) or "literal" (segments).
      silence: Log-mel value of digital silence.
      shapes: Largest number of buckets.
      batch_size: Rows of a batch.
      train_share: Share of the utterances in a training part.

    Returns:
      The dataset.
    """
    lengths, log_mel, hsf, centre = source.lengths, source.arrays, source.hsf, source.hsf_centre
    minimum = max(channel.window for channel in channels)

    def frames(members: np.ndarray, size: int) -> np.ndarray:
        return padding.pad_frames([log_mel[n][:size] for n in members.tolist()], size, minimum, silence)

    def cut(channel: Channel) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda members, size: padding.cut_segments(frames(members, size), lengths[members], *channel)[0]

    def functionals(members: np.ndarray) -> np.ndarray:
        assert hsf is not None
        return (np.stack([hsf[n] for n in members.tolist()]) - centre).astype(np.float32)

    def inputs(members: np.ndarray, size: int) -> Inputs:
        bands, segments = source.arrays[0].shape[1], None
        if form == "literal":
            shape = [((size - window) // hop + 1, window, bands) for window, hop in channels]
            segments = tuple(
                Rows(members, one, np.float32, lambda part, channel=channel: cut(channel)(part, size))
                for one, channel in zip(shape, channels, strict=True)
            )
        return Inputs(
            length=lengths[members],
            frames=Rows(members, (size, bands), np.float32, lambda part: frames(part, size)) if not segments else None,
            segments=segments,
            hsf=None if centre is None else Rows(members, centre.shape, np.float32, functionals),
        )

    covered = covered_frames(lengths, channels)
    laid_out = _in_buckets(covered, targets, inputs, shapes=shapes, batch_size=batch_size, train_share=train_share)
    return dataclasses.replace(laid_out, sums=source.sums, hsf=hsf, hsf_centre=centre)


def lay_out_waves(
    source: Source, targets: np.ndarray, *, chunk: int, shapes: int, batch_size: int, train_share: float
) -> Dataset:
    """Sorts utterances into length buckets; their waves are padded when they are asked for.

    Args:
      source: Their waves.
      targets: [N] i32, class numbers.
      chunk: Samples of a chunk.
      shapes: Largest number of buckets.
      batch_size: Rows of a batch.
      train_share: Share of the utterances in a training part.

    Returns:
      The dataset; it has no statistics, because the wave is read as it is.
    """
    lengths = np.array([padding.chunk_count(samples, chunk) for samples in source.lengths.tolist()], np.int32)

    def inputs(members: np.ndarray, size: int) -> Inputs:
        def pad(part: np.ndarray) -> np.ndarray:
            return padding.pad_waves([source.arrays[n] for n in part.tolist()], size, chunk)

        return Inputs(lengths[members], wave=Rows(members, (size, chunk), np.int16, pad))

    return _in_buckets(lengths, targets, inputs, shapes=shapes, batch_size=batch_size, train_share=train_share)


def _in_buckets(
    covered: np.ndarray,
    targets: np.ndarray,
    inputs: Callable[[np.ndarray, int], Inputs],
    *,
    shapes: int,
    batch_size: int,
    train_share: float,
) -> Dataset:
    """Chooses buckets for the lengths `covered` [N]; `inputs` are those of some utterances, padded to a length."""
    sizes = buckets.choose_sizes(covered, shapes=shapes, batch_size=batch_size, train_share=train_share)
    number = buckets.assign(covered, sizes)
    row = np.zeros(len(covered), np.int64)
    members = [np.flatnonzero(number == bucket) for bucket in range(len(sizes))]
    for part in members:
        row[part] = np.arange(len(part))
    filled = tuple(inputs(part, int(size)) for part, size in zip(members, sizes, strict=True))
    return Dataset(filled, tuple(targets[part] for part in members), number, row)
