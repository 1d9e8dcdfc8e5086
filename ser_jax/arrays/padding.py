"""Ragged frames and waves → padded arrays, and the literal form's padded segment tensors with masks."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing

ALIGNMENT = 64  # bytes


def aligned(values: np.ndarray) -> np.ndarray:
    """Returns values that all of jax's CPU devices read where they lie, instead of copying; do not write to them."""
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
    """Right-pads utterances to one length.

    Args:
      frames: N arrays [F_n, M] f32, log-mel.
      size: Padded length F.
      minimum: Frames of the longest segment: a shorter utterance is filled with silence up to it.
      silence: Log-mel value of digital silence.

    Returns:
      [N, F, M] f32; frames from max(F_n, minimum) on are 0.

    Raises:
      ValueError: If an utterance or `minimum` exceeds `size`.
    """
    longest = max([minimum, *(len(utterance) for utterance in frames)])
    if longest > size:
        raise ValueError(f"{longest} frames do not fit into {size}")
    padded = zeros((len(frames), size, frames[0].shape[1]), np.float32)
    for row, utterance in zip(padded, frames, strict=True):
        row[: len(utterance)] = utterance
        row[len(utterance) : minimum] = silence
    return padded


def chunk_count(samples: int, size: int) -> int:
    """Returns how many chunks of `size` samples hold so many."""
    return -(-samples // size)


def pad_waves(waves: Sequence[np.ndarray], chunks: int, size: int) -> np.ndarray:
    """Cuts waves into chunks without overlap and right-pads them to one number of chunks.

    Args:
      waves: N arrays [S_n] i16.
      chunks: Padded number of chunks C.
      size: Samples S of a chunk.

    Returns:
      [N, C, S] i16; what the last chunk of an utterance lacks, and the chunks behind it, are 0.

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


def cut_segments(frames: np.ndarray, lengths: np.ndarray, window: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts padded utterances into the paper's overlapping segments.

    The tail that does not fill a segment is dropped; an utterance shorter than a segment gives one segment, whose
    missing frames `pad_frames` has filled with silence.

    Args:
      frames: [N, F, M], F ≥ window.
      lengths: [N] real frames.
      window: Segment length W in frames.
      hop: Distance of segments in frames.

    Returns:
      segments [N, T, W, M] with 0 in the padding, and mask [N, T] bool (True = real); T = (F − W)//hop + 1.
    """
    steps = (frames.shape[1] - window) // hop + 1
    index = np.arange(steps)[:, None] * hop + np.arange(window)[None, :]
    real = np.maximum(np.asarray(lengths) - window, 0) // hop + 1
    mask = np.arange(steps)[None, :] < real[:, None]
    return np.where(mask[:, :, None, None], frames[:, index], 0), mask
