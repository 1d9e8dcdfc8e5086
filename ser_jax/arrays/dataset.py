"""All features of a protocol as padded arrays, one set per length bucket, shared by every run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ser_jax.arrays import buckets, padding, standardise
from ser_jax.arrays.inputs import Channel, Inputs, covered_frames


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The utterances of a protocol, by length.

    Attributes:
      buckets: Per bucket the features of its utterances, unstandardised; functionals are shifted by `hsf_centre`.
      targets: Per bucket [n] i32, class numbers; −1 where the label is withheld.
      bucket: [N], the bucket of every utterance of the protocol.
      row: [N], its row there.
      sums: Sums of the log-mel frames per utterance, for the statistics of any training part; None without frames.
      hsf: [N, D] f32, functionals as extracted, or None.
      hsf_centre: [D] f64 or None.
    """

    buckets: tuple[Inputs, ...]
    targets: tuple[np.ndarray, ...]
    bucket: np.ndarray
    row: np.ndarray
    sums: standardise.BandSums | None = None
    hsf: np.ndarray | None = None
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
    def padding_ratio(self) -> float:
        """Frames held per frame that is real; chunks where the wave is read."""
        held = sum(a.size // a.shape[-1] for inputs in self.buckets for a in inputs.time_arrays)
        return float(held / max(sum(inputs.length.sum() for inputs in self.buckets), 1))


def _aligned(values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(padding.aligned(value) for value in values)
    return None if values is None else padding.aligned(values)


def build_dataset(
    log_mel: Sequence[np.ndarray],
    hsf: np.ndarray | None,
    targets: np.ndarray,
    *,
    channels: tuple[Channel, ...],
    form: str,
    silence: float,
    shapes: int,
    batch_size: int,
    train_share: float,
) -> Dataset:
    """Sorts utterances into length buckets and pads them there.

    Args:
      log_mel: N arrays [F_n, M] f32.
      hsf: [N, D] f32 or None.
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
    lengths = np.array([len(frames) for frames in log_mel], np.int32)
    hsf_centre = None if hsf is None else standardise.centre(hsf)
    minimum = max(channel.window for channel in channels)

    def pad(members: np.ndarray, size: int) -> Inputs:
        frames = padding.pad_frames([log_mel[n][:size] for n in members.tolist()], size, minimum, silence)
        segments = None
        if form == "literal":
            segments = tuple(padding.cut_segments(frames, lengths[members], *channel)[0] for channel in channels)
        return Inputs(
            length=lengths[members],
            frames=frames if segments is None else None,
            segments=segments,
            hsf=None if hsf is None else (hsf[members] - hsf_centre).astype(np.float32),
        )

    covered = covered_frames(lengths, channels)
    padded = _in_buckets(covered, targets, pad, shapes=shapes, batch_size=batch_size, train_share=train_share)
    return dataclasses.replace(padded, sums=standardise.band_sums(log_mel), hsf=hsf, hsf_centre=hsf_centre)


def build_wave_dataset(
    waves: Sequence[np.ndarray], targets: np.ndarray, *, chunk: int, shapes: int, batch_size: int, train_share: float
) -> Dataset:
    """Sorts utterances into length buckets and pads their waves there.

    Args:
      waves: N arrays [S_n] i16, 16 kHz.
      targets: [N] i32, class numbers.
      chunk: Samples of a chunk.
      shapes: Largest number of buckets.
      batch_size: Rows of a batch.
      train_share: Share of the utterances in a training part.

    Returns:
      The dataset; it has no statistics, because the wave is read as it is.
    """
    lengths = np.array([padding.chunk_count(len(wave), chunk) for wave in waves], np.int32)

    def pad(members: np.ndarray, size: int) -> Inputs:
        return Inputs(lengths[members], wave=padding.pad_waves([waves[n] for n in members.tolist()], size, chunk))

    return _in_buckets(lengths, targets, pad, shapes=shapes, batch_size=batch_size, train_share=train_share)


def _in_buckets(
    covered: np.ndarray,
    targets: np.ndarray,
    pad: Callable[[np.ndarray, int], Inputs],
    *,
    shapes: int,
    batch_size: int,
    train_share: float,
) -> Dataset:
    """Chooses buckets for the lengths `covered` [N]; `pad` makes the inputs of some utterances, padded to a length."""
    sizes = buckets.choose_sizes(covered, shapes=shapes, batch_size=batch_size, train_share=train_share)
    number = buckets.assign(covered, sizes)
    row = np.zeros(len(covered), np.int64)
    inputs, bucket_targets = [], []
    for bucket, size in enumerate(sizes):
        members = np.flatnonzero(number == bucket)
        row[members] = np.arange(len(members))
        inputs.append(Inputs(*(_aligned(values) for values in pad(members, size))))
        bucket_targets.append(targets[members])
    return Dataset(tuple(inputs), tuple(bucket_targets), number, row)
