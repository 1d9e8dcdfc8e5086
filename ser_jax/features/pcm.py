"""PCM samples: conversion, mean over channels, and checks; `BadAudio`, which all checks raise.

This module must not import jax: worker processes load it.
"""

from types import ModuleType
from typing import Any

import numpy as np

REASONS = (
    "missing",
    "unreadable",
    "truncated",
    "non-finite",
    "silent",
    "too long",
    "too short",
    "over the limits",
    "span outside the file",
)


class BadAudio(Exception):
    """A recording that cannot be used.

    Attributes:
      reason: Short fixed name, one of `REASONS`.
      detail: What was found; without the path, so that equal recordings give equal details.
    """

    def __init__(self, reason: str, detail: str):
        """Passes both to `Exception`, so that it can be pickled between processes."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Returns reason and detail in one line."""
        return f"{self.reason}: {self.detail}"


# Float files may exceed 1 a little; beyond 8 (+18 dB) they hold integers stored as floats, or
# garbage.
MAX_PEAK = 8.0
INT16_SCALE = 32768  # the 16-bit number of amplitude 1
# The largest 16-bit sample; 8-bit samples reach it on the negative side only.
FULL_SCALE = 32767 / 32768
SAMPLE_RATE = 16000  # Hz of all that models read
MEAN = "mean"  # of the channels
# Peaks (re full scale) of -60 dB, 33 steps of 16 bits: the noise of a good microphone, and of
# -40 dB: a whisper.
NEAR_SILENT, QUIET = 1e-3, 1e-2
# Energy of the mean of the channels, as a fraction of their mean energy: 1 for equal ones, 1/N for
# N independent ones, 0 for opposite ones.
OUT_OF_PHASE = 0.1
NO_SPEECH = "no speech"  # flag, and the label in the place of an emotion
# What may be odd about a recording that is used all the same, in the order of their bits in the
# feature store.
FLAGS = (
    "clipped",
    "odd rate",  # not 16 kHz
    "several channels",
    "low rate",  # below 16 kHz, such as a telephone's: the upper bands are empty
    "surround",  # more than two channels, and their mean is used
    "out of phase",  # the channels cancel each other out, nearly
    "silent channel",  # one of them, while another is not
    "quiet",  # peak below -40 dBFS
    "near-silent",  # peak below -60 dBFS
    "other channel",  # it has one channel only, and not the one of features.channel
    "length not in header",  # all the rest of the file was read: a cut would not be seen
    NO_SPEECH,  # too little sound for any, see `preparation.has_sound`
)
CLIPPED_RUN = 3  # a single sample at full scale is a normalised recording; a flat top is clipping


def as_frames(samples: np.ndarray) -> np.ndarray:
    """Returns samples [S] or [S, channels], floats or int16, as frames [S, channels].

    Raises:
      BadAudio: "unreadable", for any other array.
    """
    values = np.asarray(samples)
    known = values.dtype.kind == "f" or values.dtype == np.int16
    if values.ndim not in (1, 2) or 0 in values.shape[1:] or not known:
        found = f"an array of {values.dtype} of shape {values.shape}"
        readable = "[samples] or [samples, channels] of floats or int16 is read"
        raise BadAudio("unreadable", f"{found}; {readable}")
    return values[:, None] if values.ndim == 1 else values


def to_float(frames: np.ndarray) -> np.ndarray:
    """Returns frames of floats or int16 as f32, where 16-bit integers become [-1, 1)."""
    scale = np.float32(INT16_SCALE if frames.dtype == np.int16 else 1)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return frames.astype(np.float32) / scale


def mix_down(frames: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns the mean [S] over channels of frames [S, channels] f32, clipped to [-1, 1] before."""
    return np.mean(np.clip(frames, -1.0, 1.0), axis=1, out=out)


def check_block(block: np.ndarray) -> bool:
    """Returns whether a channel of frames [S, channels] f32 is clipped.

    It is if it stays at full scale for `CLIPPED_RUN` frames, or exceeds it.

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
    starts = max(len(full) - CLIPPED_RUN + 1, 0)
    runs = np.logical_and.reduce([full[k : k + starts] for k in range(CLIPPED_RUN)])
    return peak > 1.0 or bool(runs.any())


class Mixer:
    """Checks blocks of frames, mixes each to mono, and notes what is odd about all of them.

    `mean` of the channels, `left` (1), `right` (2) or the number of one, from 1. Where there is
    only one, that is used and flagged.
    """

    def __init__(self, channel: str = MEAN):
        """Starts before the first block; `channel` as `channel_number` knows it."""
        self._number = channel_number(channel)
        self._clipped = self._other = False
        self._peak = self._mixed = 0.0  # of the mix: largest magnitude, energy
        self._peaks = self._energies = np.zeros(0)  # the same of each channel
        # The end of the last block: a flat top may begin in one block and end in the next.
        self._last = np.zeros((0, 0), np.float32)

    def add(self, block: np.ndarray) -> np.ndarray:
        """Returns the next block [S, channels] f32 as mono [S] f32 in [-1, 1].

        Raises:
          BadAudio: As `check_block`, or "over the limits": it lacks the channel; nothing is noted.
        """
        count = block.shape[1]
        if self._number is not None and self._number > count > 1:
            detail = f"channel {self._number} is set, and there are {count} (features.channel)"
            raise BadAudio("over the limits", detail)
        clipped, border, edge = check_block(block), self._last, CLIPPED_RUN - 1
        if border.size:
            clipped = check_block(np.concatenate([border, block[:edge]])) or clipped
            border = np.concatenate([border, block[-edge:]])
        else:
            border = block
        self._clipped, self._last = self._clipped or clipped, border[-edge:].copy()
        self._other = count == 1 and self._number not in (None, 1)
        if self._number is None and count > 1:
            mono = mix_down(block)
        else:
            number = 1 if count == 1 or self._number is None else self._number
            mono = np.clip(block[:, number - 1], -1.0, 1.0)
        self._peak = max(self._peak, _peak(mono))
        if count > 1:
            channels = np.ascontiguousarray(block.T)  # much faster than sums over a short axis
            peaks, energies = map(_peak, channels), (float(np.dot(one, one)) for one in channels)
            before = (self._peaks, self._energies) if len(self._peaks) else (np.zeros(count),) * 2
            self._peaks = np.maximum(before[0], np.fromiter(peaks, float))
            self._energies = before[1] + np.fromiter(energies, float)
            self._mixed += float(np.dot(mono, mono))
        return mono

    def flags(
        self, rate: int, channels: int, assumed: bool = False, sound: bool = True
    ) -> tuple[str, ...]:
        """Returns which of `FLAGS` apply.

        `assumed`: the header does not tell the length; `sound`: there may be speech.
        """
        mean = self._number is None
        loud = self._peaks >= NEAR_SILENT
        found: dict[str, bool] = {
            "clipped": self._clipped,
            "odd rate": rate != SAMPLE_RATE,
            "several channels": channels > 1,
            "low rate": rate < SAMPLE_RATE,
            "surround": mean and channels > 2,
            "out of phase": mean and self._mixed < OUT_OF_PHASE * self._energies.sum() / channels,
            "silent channel": bool(mean and loud.any() and not loud.all()),
            "quiet": NEAR_SILENT <= self._peak < QUIET,
            "near-silent": self._peak < NEAR_SILENT,
            "other channel": self._other,
            "length not in header": assumed,
            NO_SPEECH: not sound,
        }
        return tuple(name for name, applies in found.items() if applies)

    def check_audible(self, silent: bool = False) -> None:
        """Raises `BadAudio` "silent" if every sample of the mix is zero.

        `silent`: not if those of all channels are.
        """
        if self._peak or silent and not self._peaks.any():
            return
        if not self._peaks.any():
            raise BadAudio("silent", "every sample is zero")
        what = "its channels cancel each other out"
        if self._number is not None:
            what = f"channel {self._number} is silent, another is not"
        raise BadAudio("silent", f"{what}; choose one with features.channel (predict --channel)")


def _peak(samples: np.ndarray) -> float:
    """Returns the largest magnitude of samples [S], 0 without any."""
    return float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))


def channel_number(channel: str) -> int | None:
    """Returns the number of a channel from 1, None for the mean of all; a ValueError for others."""
    if channel == MEAN:
        return None
    number = {"left": 1, "right": 2}.get(channel) or int(channel)
    if number < 1:
        raise ValueError
    return number


def to_int16(samples: Any, xp: ModuleType = np) -> Any:
    """Rounds samples [..., S] f32 in [-1, 1] to 16 bits: exact for 16-bit recordings.

    The unit is 1/32768; amplitude 1 becomes 32767. `xp` is numpy or jax.numpy.
    """
    return xp.clip(xp.rint(samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(xp.int16)
