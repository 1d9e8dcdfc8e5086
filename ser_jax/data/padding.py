"""Pads ragged frames and waves, cuts segments with masks, and chooses the lengths of buckets."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing

ALIGNMENT = 64  # bytes


def aligned(values: np.ndarray) -> np.ndarray:
    """Returns values that all CPU devices of jax share without a copy; do not write to them."""
    if values.ctypes.data % ALIGNMENT == 0 and values.flags.c_contiguous:
        return values
    copy = zeros(values.shape, values.dtype)
    copy[...] = values
    return copy


def zeros(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """Returns aligned zeros; the kernel provides them as they are touched."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def pad_frames(frames: Sequence[np.ndarray], size: int, minimum: int, silence: float) -> np.ndarray:
    """Right-pads N arrays of frames [F_n, M] (or [F_n, L, D]) to [N, F, M] f32 with F = `size`.

    An utterance shorter than `minimum`, the longest segment, is filled with silence up to it;
    frames from max(F_n, minimum) on are 0.

    Raises:
      ValueError: If an utterance or `minimum` exceeds `size`.
    """
    longest = max([minimum, *(len(utterance) for utterance in frames)])
    if longest > size:
        raise ValueError(f"{longest} frames do not fit into {size}")
    padded = zeros((len(frames), size, *frames[0].shape[1:]), np.float32)
    for row, utterance in zip(padded, frames, strict=True):
        row[: len(utterance)] = utterance
        row[len(utterance) : minimum] = silence
    return padded


def chunk_count(samples: Any, size: int) -> Any:
    """Returns how many chunks of `size` samples hold so many; also of an array."""
    return -(-samples // size)


def pad_waves(waves: Sequence[np.ndarray], chunks: int, size: int) -> np.ndarray:
    """Cuts N waves [S_n] i16 into chunks, right-padded with 0 to [N, C = chunks, S = size].

    Raises:
      ValueError: If an utterance exceeds `chunks`.
    """
    longest = max(len(wave) for wave in waves)
    if longest > chunks * size:
        raise ValueError(f"{longest} samples do not fit into {chunks} chunks of {size}")
    padded = zeros((len(waves), chunks * size), np.int16)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    return padded.reshape(len(waves), chunks, size)


def cut_segments(
    frames: np.ndarray, lengths: np.ndarray, window: int, hop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts padded utterances into the paper's overlapping segments.

    The tail that does not fill a segment is dropped; an utterance shorter than a segment gives one
    segment, whose missing frames `pad_frames` has filled with silence.

    Args:
      frames: [N, F, M], F ≥ window.
      lengths: [N] real frames.
      window: Segment length W in frames.
      hop: Distance of segments in frames.

    Returns:
      Segments [N, T, W, M], 0 in the padding, T = (F − W)//hop + 1; mask [N, T], True = real.
    """
    steps = (frames.shape[1] - window) // hop + 1
    index = np.arange(steps)[:, None] * hop + np.arange(window)[None, :]
    real = np.maximum(np.asarray(lengths) - window, 0) // hop + 1
    mask = np.arange(steps)[None, :] < real[:, None]
    return np.where(mask[:, :, None, None], frames[:, index], 0), mask


def choose_sizes(
    covered: np.ndarray, *, shapes: int, batch_size: int, train_fraction: float
) -> np.ndarray:
    """Chooses the buckets' padded lengths that minimise an epoch's frames, by dynamic programming.

    A bucket of n utterances costs ceil(n/B) batches of B rows of its padded length: padding in time
    and padding of the last batch are weighed together, so a small corpus gets few buckets.

    Args:
      covered: [N] frames that every utterance needs.
      shapes: Largest number of buckets.
      batch_size: Rows B of a batch.
      train_fraction: Fraction of the utterances in a training part.

    Returns:
      Padded lengths in frames, ascending; the last is max(covered).
    """
    lengths, counts = np.unique(covered, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)]) * train_fraction
    # cost[i, j]: one bucket for the distinct lengths i…j.
    rows = below[None, 1:] - below[:-1, None]
    cost = np.ceil(rows / batch_size - 1e-9) * batch_size * lengths[None, :]
    cost = np.where(np.tri(len(lengths), k=-1, dtype=bool), np.inf, cost)
    best = cost[0]
    choices = []
    for _ in range(min(shapes, len(lengths)) - 1):
        # split[i, j]: the last bucket starts at i + 1.
        split = best[:-1, None] + cost[1:, :]
        start = np.argmin(split, axis=0)
        improved = np.minimum(best, split[start, np.arange(len(lengths))])
        choices.append(np.where(improved < best, start, -1))
        best = improved
    sizes = [len(lengths) - 1]
    for choice in reversed(choices):
        if choice[sizes[-1]] >= 0:
            sizes.append(int(choice[sizes[-1]]))
    return lengths[sizes[::-1]]


def assign(covered: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns [N], the number of the smallest bucket that holds each utterance."""
    return np.searchsorted(sizes, covered)
