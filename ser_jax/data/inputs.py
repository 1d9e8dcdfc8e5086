"""The input arrays of a model, and the segmentation of an utterance."""

from typing import Any, NamedTuple

Array = Any  # a NumPy array at rest, a jax array in a compiled program


class Inputs(NamedTuple):
    """A batch of utterances as a model reads it."""

    # [B] i32, real frames of each utterance; real chunks for a system that reads the wave
    length: Array
    # [B, F, M] f32, log-mel, or [B, F, L, D], embeddings of L layers; standardised. Frames from
    # `length` up to one segment hold silence, the rest is padding and may hold anything. None in
    # the literal form
    frames: Array | None = None
    # literal form: per segmentation [B, T, W, M] f32, the same frames cut into segments. None in
    # the fast form
    segments: tuple[Array, ...] | None = None
    # [B, D] f32, functionals or embeddings of whole utterances, standardised; None if the system
    # does not use them
    hsf: Array | None = None
    # [B, C, S] chunks of S samples, f32 in [-1, 1] (i16 at rest). Chunks from `length` on are
    # padding and may hold anything. None if the system does not use them
    wave: Array | None = None
    # [B] i32, which row of the tables of statistics standardises each; None without speaker
    # normalisation, where statistics are those of the training part
    speaker: Array | None = None
    # [B, 2] u32, one random key per row for dropout. None without dropout and in scoring
    keys: Array | None = None

    @property
    def time_arrays(self) -> tuple[Array, ...]:
        """The arrays [B, ..., values] that grow with the length of the utterances."""
        if self.wave is not None:
            return (self.wave,)
        return (self.frames,) if self.segments is None else self.segments


class Segmentation(NamedTuple):
    """How an utterance is cut into segments, in frames."""

    window: int
    hop: int


def segment_count(frames: Array, window: int, hop: int) -> Array:
    """Returns T = (F − W)//hop + 1; 1 for a shorter utterance, which is filled with silence."""
    return (frames - window).clip(0) // hop + 1


def covered_frames(frames: Array, segmentations: tuple[Segmentation, ...]) -> Array:
    """Returns how many frames the segments of all segmentations cover; the tail is dropped."""
    covered = [(segment_count(frames, w, hop) - 1) * hop + w for w, hop in segmentations]
    longest = covered[0]
    for other in covered[1:]:
        longest = longest + (other - longest).clip(0)
    return longest
