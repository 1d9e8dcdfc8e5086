"""Samples in memory: which arrays are taken, what is refused in them, and their mean over the channels.

This module must not import jax: worker processes load it.
"""

import numpy as np

from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.wave import INT16_SCALE

# Float files may exceed 1 a little; beyond 8 (+18 dB) they hold integers stored as floats, or garbage.
MAX_PEAK = 8.0
FULL_SCALE = 32767 / 32768  # the largest 16-bit sample; 8-bit samples reach it on the negative side only
CLIPPED_RUN = 3  # a single sample at full scale is a normalised recording; a flat top is clipping


def as_frames(samples: np.ndarray) -> np.ndarray:
    """Returns samples in memory as frames [S, channels] of the same type.

    Args:
      samples: [S] or [S, channels], floats or int16.

    Raises:
      BadAudio: "unreadable", for any other array.
    """
    values = np.asarray(samples)
    known = values.dtype.kind == "f" or values.dtype == np.int16
    if values.ndim not in (1, 2) or 0 in values.shape[1:] or not known:
        detail = f"an array of {values.dtype} of shape {values.shape}"
        raise BadAudio("unreadable", f"{detail}; [samples] or [samples, channels] of floats or int16 is read")
    return values[:, None] if values.ndim == 1 else values


def to_float(frames: np.ndarray) -> np.ndarray:
    """Returns frames of floats or int16 as f32, where 16-bit integers become [-1, 1)."""
    scale = np.float32(INT16_SCALE if frames.dtype == np.int16 else 1)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return frames.astype(np.float32) / scale


def mix_down(frames: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns the mean [S] over the channels of frames [S, channels] f32, each limited to [-1, 1]."""
    return np.mean(np.clip(frames, -1.0, 1.0), axis=1, out=out)


def check_block(block: np.ndarray) -> bool:
    """Checks one or more frames [S, channels] f32.

    Returns:
      Whether a channel stays at full scale for `CLIPPED_RUN` frames, or exceeds it.

    Raises:
      BadAudio: "non-finite", or "over the limits" (`MAX_PEAK`).
    """
    peak = float(np.max(np.abs(block)))
    if not np.isfinite(peak):
        raise BadAudio("non-finite", "the samples contain NaN or infinity")
    if peak > MAX_PEAK:
        raise BadAudio("over the limits", f"samples up to {peak:g}; they must lie in [-1, 1]")
    if peak < FULL_SCALE:
        return False
    full = np.abs(block) >= FULL_SCALE
    run = np.ones(max(len(full) - CLIPPED_RUN + 1, 0), bool)
    return peak > 1.0 or any(
        bool(np.logical_and.reduce([full[k : k + len(run), channel] for k in range(CLIPPED_RUN)]).any())
        for channel in range(full.shape[1])
    )
