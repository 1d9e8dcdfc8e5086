"""What a system reads of a batch, and how an utterance is cut into segments."""

from typing import Any, NamedTuple

Array = Any  # a NumPy array at rest, a jax array in a compiled program


class Inputs(NamedTuple):
    """What a system reads of a batch of utterances.

    Attributes:
      length: [B] i32, real frames of each utterance; its real chunks for a system that reads the wave.
      frames: [B, F, M] f32, log-mel, standardised. Frames from `length` up to one segment hold silence, the rest is
        padding and may hold anything. None in the literal form.
      segments: Literal form: per channel [B, T, W, M] f32, the same frames cut into segments. None in the fast form.
      hsf: [B, D] f32, functionals, standardised; None if the system has no use for them.
      wave: [B, C, S] chunks of S samples, f32 in [-1, 1] (i16 at rest). Chunks from `length` on are padding and may
        hold anything. None if the system has no use for them.
      keys: [B, 2] u32, per row the key of what is random in the model. None where nothing is: in systems without
        dropout, and in all when they score.
    """

    length: Array
    frames: Array | None = None
    segments: tuple[Array, ...] | None = None
    hsf: Array | None = None
    wave: Array | None = None
    keys: Array | None = None

    @property
    def time_arrays(self) -> tuple[Array, ...]:
        """What grows with the length of the utterances: arrays [B, ..., values]."""
        if self.wave is not None:
            return (self.wave,)
        return (self.frames,) if self.segments is None else self.segments


class Channel(NamedTuple):
    """How an utterance is cut into segments, in frames."""

    window: int
    hop: int


def segment_count(frames: Array, window: int, hop: int) -> Array:
    """Returns T = (F − W)//hop + 1, and 1 for an utterance shorter than one segment (silence fills it)."""
    return (frames - window).clip(0) // hop + 1


def covered_frames(frames: Array, channels: tuple[Channel, ...]) -> Array:
    """Returns how many frames the segments of all channels cover; the tail beyond them is dropped (protocols, [D])."""
    covered = [(segment_count(frames, window, hop) - 1) * hop + window for window, hop in channels]
    longest = covered[0]
    for other in covered[1:]:
        longest = longest + (other - longest).clip(0)
    return longest
