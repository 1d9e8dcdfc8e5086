"""The dataset of a protocol: padded arrays, one set per length bucket, shared by all trials.

A `Source` holds features of N utterances in memory, in the feature store or in record files. A
`Dataset` sorts the utterances into length buckets; its arrays are in memory, or their rows are read
and padded on access (`Rows`): the same values.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing

from ser_jax.data import padding, standardise
from ser_jax.data.inputs import Inputs, Segmentation, covered_frames
from ser_jax.runtime.machine import available_cores


class Source(NamedTuple):
    """Features of N utterances and of their variants, and figures that need all of them."""

    # N arrays, then those of the variants: frames [F_n, M] or, of embeddings, [F_n, L, D] f32; or
    # waves [S_n] i16
    arrays: Sequence[np.ndarray]
    lengths: np.ndarray  # [arrays] i32, F_n or S_n
    sums: standardise.BandSums | None = None  # sums of the log-mel frames; None for waves
    # functionals [D] f32 of each; None if the system does not use them
    hsf: Sequence[np.ndarray] | np.ndarray | None = None
    hsf_centre: np.ndarray | None = None  # [D] f64, see `standardise.centre`
    # [1 + V, N] numbers of the arrays of every utterance and of its V variants, see
    # `extraction.Variants`; None: there are no variants
    versions: np.ndarray | None = None


def frames_source(log_mel: Sequence[np.ndarray], hsf: np.ndarray | None) -> Source:
    """Returns the source of frames (N arrays [F_n, M] f32) and functionals [N, D] f32 in memory."""
    centre = None if hsf is None else standardise.centre(hsf)
    lengths = _lengths(log_mel)
    pooled = log_mel[0].ndim == 3 and lengths.max() == 1  # embeddings, a frame each
    sums = _sums_of_single_frames if pooled else standardise.band_sums
    return Source(log_mel, lengths, sums(log_mel), hsf, centre)


def _sums_of_single_frames(frames: Sequence[np.ndarray]) -> standardise.BandSums:
    """Does what `standardise.band_sums` does for one frame each, four times as large, on access."""
    kept = list(frames)  # the caller may clear its list

    def rows(power: int) -> Rows:
        def read(part: np.ndarray) -> np.ndarray:
            return np.concatenate([kept[n] for n in part.tolist()]).astype(np.float64) ** power

        return Rows(np.arange(len(kept)), kept[0].shape[1:], np.float64, read)

    return standardise.BandSums(np.ones(len(kept), np.int64), rows(1), rows(2))


def waves_source(waves: Sequence[np.ndarray]) -> Source:
    """Returns the source of N waves [S_n] i16 in memory."""
    return Source(waves, _lengths(waves))


def _lengths(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(values) for values in arrays], np.int32)


class Rows:
    """An array [n, …] whose rows are read and padded on access; it has an array's shape and type.

    Attributes:
      shape: Shape of the whole array.
      dtype: Type of its values.
    """

    def __init__(
        self,
        utterances: np.ndarray,
        shape: tuple[int, ...],
        dtype: np.typing.DTypeLike,
        read: Callable[[np.ndarray], np.ndarray],
    ):
        """Reads nothing yet; `utterances` [n] are those of the rows, `shape` is that of one row."""
        self._utterances, self._read = utterances, read
        self.shape, self.dtype = (len(utterances), *shape), np.dtype(dtype)

    def __getitem__(self, rows) -> np.ndarray:
        """Returns rows [k, …], given by their numbers or a slice."""
        part = self._utterances[rows]
        return self._read(part) if len(part) else np.zeros((0, *self.shape[1:]), self.dtype)

    def __len__(self) -> int:
        """Returns n."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values of the whole array."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The utterances of a protocol, by length."""

    # per bucket the features of its utterances, unstandardised; functionals are shifted by
    # `hsf_centre`
    buckets: tuple[Inputs, ...]
    # per bucket [n] i32, class numbers; −1 where the label is withheld
    targets: tuple[np.ndarray, ...]
    bucket: np.ndarray  # [N], the bucket of every utterance of the protocol, and of its variants
    # [1 + V, N], its row there, and those of its V variants: behind the rows of all utterances
    versions: np.ndarray
    # sums of the log-mel frames per utterance, for the statistics of any training part; None
    # without frames
    sums: standardise.BandSums | None = None
    # N functionals [D] f32, as extracted, or None
    hsf: Sequence[np.ndarray] | np.ndarray | None = None
    hsf_centre: np.ndarray | None = None  # [D] f64 or None
    # statistics of P speakers, [P, M] and [P, D] f64; None: no speaker normalisation
    speakers: standardise.Statistics | None = None

    def by_speaker(self, numbers: np.ndarray) -> "Dataset":
        """Returns the dataset with every speaker's own statistics, from all their utterances.

        `numbers` [N] are those of the utterances' speakers, 1 to P; 0: those of the training part
        serve.
        """
        speakers = standardise.of_speakers(self.statistics, numbers)
        buckets = []
        for bucket, inputs in enumerate(self.buckets):
            speaker = np.empty(len(inputs.length), numbers.dtype)
            members = self.utterances(bucket)
            speaker[self.versions[:, members]] = numbers[members]
            buckets.append(inputs._replace(speaker=speaker))
        return dataclasses.replace(self, buckets=tuple(buckets), speakers=speakers)

    @property
    def row(self) -> np.ndarray:
        """[N], the row of every utterance, as it is, in its bucket."""
        return self.versions[0]

    def rows(self, utterances: np.ndarray, version: np.ndarray | None = None) -> list[np.ndarray]:
        """Returns, per bucket, the rows of the given utterances (numbers in the protocol).

        `version` [N], from 0 to V, is which one of every utterance of the protocol; None: 0, each
        as it is.
        """
        row = self.row
        if version is not None:
            row = np.take_along_axis(self.versions, version[None], axis=0)[0]
        bucket = self.bucket[utterances]
        return [row[utterances[bucket == b]] for b in range(len(self.buckets))]

    def utterances(self, bucket: int) -> np.ndarray:
        """Returns the numbers in the protocol of a bucket's utterances, in the order of rows.

        The rows of their variants come behind those.
        """
        return np.flatnonzero(self.bucket == bucket)

    def statistics(self, utterances: np.ndarray) -> standardise.Statistics:
        """Returns the statistics of the given utterances (a training part) as they are, in float64.

        Variants do not count: a functional of a degraded recording may be a thousand deviations
        away, and what clean recordings differ in would become small beside it.
        """
        log_mel = hsf = (None, None)
        if self.sums is not None:
            log_mel = standardise.log_mel_statistics(self.sums, utterances)
        if self.hsf is not None:
            hsf = standardise.hsf_statistics(self.hsf, utterances)
        return standardise.Statistics(*log_mel, *hsf)

    def device_statistics(self, statistics: standardise.Statistics) -> standardise.Statistics:
        """Returns the statistics as the train step uses them: float32, with shifted functionals.

        With speaker normalisation those of the speakers stand below them.
        """
        if self.speakers is not None:
            statistics = standardise.with_speakers(statistics, self.speakers)
        hsf_mean = None if self.hsf_centre is None else statistics.hsf_mean - self.hsf_centre
        shifted = statistics._replace(hsf_mean=hsf_mean)
        return standardise.Statistics(
            *(None if value is None else value.astype(np.float32) for value in shifted)
        )

    @property
    def streamed(self) -> bool:
        """Whether rows are read on access."""
        return isinstance(self.buckets[0].time_arrays[0], Rows)

    def loaded(self) -> "Dataset":
        """Returns the same dataset with all rows in memory."""
        # In threads: most of the time is the kernel's, which provides the memory.
        with ThreadPoolExecutor(available_cores()) as pool:
            buckets = pool.map(lambda inputs: Inputs(*map(_loaded, inputs)), self.buckets)
            return dataclasses.replace(self, buckets=tuple(buckets))

    @property
    def padding_ratio(self) -> float:
        """Frames (or chunks of the wave) in the arrays per real one."""
        held = sum(
            math.prod(a.shape[: 2 if inputs.segments is None else 3])
            for inputs in self.buckets
            for a in inputs.time_arrays
        )
        return float(held / max(sum(inputs.length.sum() for inputs in self.buckets), 1))


def _loaded(values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(map(_loaded, values))
    return None if values is None else padding.aligned(values[:])


def frames_dataset(
    source: Source,
    targets: np.ndarray,
    *,
    segmentations: tuple[Segmentation, ...],
    form: str,
    silence: float,
    shapes: int,
    batch_size: int,
    train_fraction: float,
    whole: bool = False,
) -> Dataset:
    """Sorts utterances of classes `targets` [N] into length buckets; frames are padded on access.

    `form` is "fast" (frames) or "literal" (segments); `silence` is the log-mel value of digital
    silence. The frames behind the last segment are left out, but for `whole` utterances, as
    augmentation by speed needs them. For the other arguments see `padding.choose_sizes`.
    """
    lengths, log_mel, hsf, centre = source.lengths, source.arrays, source.hsf, source.hsf_centre
    bands = log_mel[0].shape[1:]
    minimum = max(segmentation.window for segmentation in segmentations)

    def frames(part: np.ndarray, size: int) -> np.ndarray:
        cut = [log_mel[n][:size] for n in part.tolist()]
        return padding.pad_frames(cut, size, minimum, silence)

    def segments(utterances: np.ndarray, size: int, window: int, hop: int) -> Rows:
        def read(part: np.ndarray) -> np.ndarray:
            return padding.cut_segments(frames(part, size), lengths[part], window, hop)[0]

        return Rows(utterances, ((size - window) // hop + 1, window, *bands), np.float32, read)

    def functionals(part: np.ndarray) -> np.ndarray:
        assert hsf is not None
        return (np.stack([hsf[n] for n in part.tolist()]) - centre).astype(np.float32)

    def inputs(utterances: np.ndarray, size: int) -> Inputs:
        found = Inputs(lengths[utterances])
        if centre is not None:
            found = found._replace(hsf=Rows(utterances, centre.shape, np.float32, functionals))
        if form == "literal":
            cut = tuple(segments(utterances, size, *one) for one in segmentations)
            return found._replace(segments=cut)
        rows = Rows(utterances, (size, *bands), np.float32, lambda part: frames(part, size))
        return found._replace(frames=rows)

    needed = covered_frames(lengths, segmentations)
    if whole:
        needed = np.maximum(lengths, needed)
    limits = {"shapes": shapes, "batch_size": batch_size, "train_fraction": train_fraction}
    dataset = _in_buckets(source, needed, targets, inputs, **limits)
    return dataclasses.replace(dataset, sums=source.sums, hsf=hsf, hsf_centre=centre)


def waves_dataset(
    source: Source,
    targets: np.ndarray,
    *,
    chunk: int,
    shapes: int,
    batch_size: int,
    train_fraction: float,
) -> Dataset:
    """Sorts utterances of classes `targets` [N] into length buckets; waves are padded on access.

    The dataset has no statistics: waves are not standardised. `chunk` is the number of samples of a
    chunk; for the other arguments see `padding.choose_sizes`.
    """
    chunks = padding.chunk_count(source.lengths, chunk)  # i32

    def inputs(utterances: np.ndarray, size: int) -> Inputs:
        def read(part: np.ndarray) -> np.ndarray:
            return padding.pad_waves([source.arrays[n] for n in part.tolist()], size, chunk)

        return Inputs(chunks[utterances], wave=Rows(utterances, (size, chunk), np.int16, read))

    limits = {"shapes": shapes, "batch_size": batch_size, "train_fraction": train_fraction}
    return _in_buckets(source, chunks, targets, inputs, **limits)


def _in_buckets(
    source: Source,
    covered: np.ndarray,
    targets: np.ndarray,
    inputs: Callable[[np.ndarray, int], Inputs],
    **limits: Any,
) -> Dataset:
    """Sorts utterances of classes `targets` [N] into buckets.

    An utterance and its variants share one, which is long enough for all of them: so an epoch has
    the same batches whichever of them it takes. `covered` has a length for every array of the
    source; for `limits` see `padding.choose_sizes`.
    """
    count = len(targets)
    versions = np.arange(count)[None] if source.versions is None else source.versions
    longest = covered[versions].max(axis=0)  # [N]
    sizes = padding.choose_sizes(longest, **limits)
    bucket = padding.assign(longest, sizes)
    row = np.zeros(versions.shape, np.int64)
    utterance, place = np.zeros((2, len(covered)), np.int64)  # of every array
    utterance[versions] = np.arange(count)
    buckets, classes = [], []
    for number, size in enumerate(sizes.tolist()):
        part = np.flatnonzero(bucket == number)
        own = versions[:, part]
        arrays = np.concatenate([part, np.unique(own[own >= count])])
        place[arrays] = np.arange(len(arrays))
        row[:, part] = place[own]
        buckets.append(inputs(arrays, size))
        classes.append(targets[utterance[arrays]])
    return Dataset(tuple(buckets), tuple(classes), bucket, row)
