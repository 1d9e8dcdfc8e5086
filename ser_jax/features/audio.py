"""Decodes a recording to 16 kHz mono, or says why it cannot be used.

libsndfile accepts half a WAV, NaN samples, 1,024 channels and a 28 KB FLAC of ten minutes without a word. So everything
is checked around it: the first bytes (header.py) and the announced size before it decodes, the samples after.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
import soxr

from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.header import container
from ser_jax.features.wave import INT16_SCALE

SAMPLE_RATE = 16000
MIN_SECONDS = 0.06  # shorter than one of the 60 ms windows of ComParE_2016: openSMILE gives NaN
MIN_RATE, MAX_RATE = 4000, 192000
MAX_CHANNELS = 8
# Float files may exceed 1 a little; beyond 8 (+18 dB) they hold integers stored as floats, or garbage.
MAX_PEAK = 8.0
FULL_SCALE = 32767 / 32768  # the largest 16-bit sample; 8-bit samples reach it on the negative side only

_CLIPPED_RUN = 3  # a single sample at full scale is a normalised recording; a flat top is clipping
_BLOCK = 65536  # frames decoded at a time: bounds the memory of many channels
# Span times are written with three decimals: an end may lie this far behind the last sample.
_SPAN_TOLERANCE = 0.001
_FORMATS = {"wav": ("WAV", "WAVEX"), "flac": ("FLAC",), "ogg": ("OGG",), "mp3": ("MP3",)}
_UNCOMPRESSED = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
_UNKNOWN_FRAMES = 2**62  # libsndfile's answer for a FLAC that does not say how long it is is larger


@dataclasses.dataclass(frozen=True, slots=True)
class Recording:
    """A decoded stretch of speech.

    Attributes:
      samples: [S] f32 in [-1, 1], 16 kHz, mean over the channels.
      seconds: Its length at the original rate.
      rate: Original sampling rate in Hz.
      channels: Original number of channels.
      encoding: How the file holds its samples, by libsndfile's name ("PCM_16", "FLOAT", "VORBIS").
      flags: What is odd about it although it is used; see `flags`.
    """

    samples: np.ndarray
    seconds: float
    rate: int
    channels: int
    encoding: str
    flags: tuple[str, ...]


def decode(
    path: str | os.PathLike[str],
    start: float | None = None,
    end: float | None = None,
    *,
    max_seconds: float,
    observe: Callable[[np.ndarray], None] | None = None,
) -> Recording:
    """Reads a recording, or a span of it, as 16 kHz mono.

    Args:
      path: A WAV (PCM or float), FLAC, Ogg (Vorbis, Opus) or MP3 file.
      start: Start of the span in seconds, rounded to the nearest frame; None for the beginning of the file.
      end: End of the span in seconds; None for the end of the file.
      max_seconds: Longest span that is read.
      observe: Called with each block [S, channels] f32 as the file holds it, at the original rate and not yet averaged.

    Returns:
      The recording.

    Raises:
      BadAudio: With one of its reasons; never more than `max_seconds` are decoded.
    """
    kind = container(path)
    name: Any = os.fsencode(path)  # as text a name must be UTF-8; that it may be bytes is not in soundfile's types
    try:
        with soundfile.SoundFile(name) as file:
            _check_limits(file, kind)
            first, last = _span(file, start, end)
            check_length((last - first) / file.samplerate, max_seconds)
            mono, clipped = _read(file, kind, first, last, observe)
            rate, channels, encoding = file.samplerate, file.channels, file.subtype
    except soundfile.LibsndfileError as error:
        raise BadAudio("unreadable", error.error_string) from None
    check_length(len(mono) / rate, max_seconds)
    return _recording(mono, rate, channels, encoding, clipped)


def from_samples(samples: np.ndarray, rate: int, *, max_seconds: float) -> Recording:
    """Makes of samples in memory what `decode` makes of a file that holds them, with the same checks.

    Args:
      samples: [S] or [S, channels], floats in [-1, 1] or 16-bit integers.
      rate: Their sampling rate in Hz.
      max_seconds: Longest recording that is taken.

    Returns:
      The recording; its encoding is the type of the samples.

    Raises:
      BadAudio: With one of its reasons.
    """
    values = np.asarray(samples)
    known = values.dtype.kind == "f" or values.dtype == np.int16
    if values.ndim not in (1, 2) or 0 in values.shape[1:] or not known:
        detail = f"an array of {values.dtype} of shape {values.shape}"
        raise BadAudio("unreadable", f"{detail}; [samples] or [samples, channels] of floats or int16 is read")
    frames = values[:, None] if values.ndim == 1 else values
    _check_stream(rate, frames.shape[1])
    check_length(len(frames) / rate, max_seconds)
    scale = np.float32(INT16_SCALE if values.dtype == np.int16 else 1)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        frames = frames.astype(np.float32) / scale
    clipped = _check_block(frames)
    mono = np.mean(np.clip(frames, -1.0, 1.0), axis=1)
    return _recording(mono, rate, frames.shape[1], str(values.dtype), clipped)


def _recording(mono: np.ndarray, rate: int, channels: int, encoding: str, clipped: bool) -> Recording:
    samples = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    samples = np.clip(samples, -1.0, 1.0)  # the resampling filter overshoots at steep edges
    if not samples.any():
        raise BadAudio("silent", "every sample is zero")
    return Recording(samples, len(mono) / rate, rate, channels, encoding, flags(rate, channels, clipped))


def check_length(seconds: float, max_seconds: float) -> None:
    """Raises `BadAudio` "too short" (`MIN_SECONDS`) or "too long" (`max_seconds`) for a length in seconds."""
    if seconds < MIN_SECONDS:
        raise BadAudio("too short", f"{seconds:.4f} s; at least {MIN_SECONDS} s are needed")
    if seconds > max_seconds:
        raise BadAudio("too long", f"{seconds:.3f} s; at most {max_seconds:g} s are read (features.max_seconds)")


def flags(rate: int, channels: int, clipped: bool) -> tuple[str, ...]:
    """Names what is odd about a usable recording.

    Args:
      rate: Original sampling rate in Hz.
      channels: Original number of channels.
      clipped: Whether a channel stays at full scale for three samples, or exceeds it.

    Returns:
      Any of "clipped", "odd rate" (not 16 kHz), "several channels".
    """
    found = (("clipped", clipped), ("odd rate", rate != SAMPLE_RATE), ("several channels", channels > 1))
    return tuple(name for name, applies in found if applies)


def _check_limits(file: soundfile.SoundFile, kind: str) -> None:
    if file.format not in _FORMATS[kind]:
        raise BadAudio("unreadable", f"begins as {kind}, but libsndfile reads it as {file.format}")
    if kind == "wav" and file.subtype not in _UNCOMPRESSED:  # the gate read the header in another way than libsndfile
        raise BadAudio("unreadable", f"libsndfile reads {file.subtype} samples; only PCM and float are read")
    _check_stream(file.samplerate, file.channels)
    if file.frames > _UNKNOWN_FRAMES:
        raise BadAudio("unreadable", "the header does not say how long the recording is")


def _check_stream(rate: int, channels: int) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadAudio("over the limits", f"{rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are read")
    if channels > MAX_CHANNELS:
        raise BadAudio("over the limits", f"{channels} channels; at most {MAX_CHANNELS} are read")


def _span(file: soundfile.SoundFile, start: float | None, end: float | None) -> tuple[int, int]:
    """Returns the first frame and the one behind the last."""
    seconds = file.frames / file.samplerate
    begin, stop = (0.0 if start is None else start), (seconds if end is None else end)
    if not (0 <= begin <= stop <= seconds + _SPAN_TOLERANCE):  # false for NaN, too
        raise BadAudio("span outside the file", f"{begin:g} s to {stop:g} s of {seconds:.3f} s")
    return round(begin * file.samplerate), min(round(stop * file.samplerate), file.frames)


def _read(
    file: soundfile.SoundFile, kind: str, first: int, last: int, observe: Callable[[np.ndarray], None] | None
) -> tuple[np.ndarray, bool]:
    """Decodes frames `first` to `last` → mono samples [S] f32 in [-1, 1], and whether they are clipped."""
    mono = np.empty(last - first, np.float32)
    clipped, done = False, 0
    try:
        _seek(file, kind, first)
        while done < len(mono):
            block = file.read(min(_BLOCK, len(mono) - done), dtype="float32", always_2d=True)
            if not len(block):
                break
            clipped = _check_block(block) or clipped
            if observe is not None:
                observe(block)
            np.mean(np.clip(block, -1.0, 1.0), axis=1, out=mono[done : done + len(block)])
            done += len(block)
    except soundfile.LibsndfileError as error:
        if kind == "flac":  # the header was good, and what follows has checksums
            detail = f"the decoder stopped behind frame {first + done} of {file.frames}: {error.error_string}"
            raise BadAudio("truncated", detail) from None
        raise
    if done < len(mono) - _missing_allowed(kind, len(mono)):
        raise BadAudio("truncated", f"{len(mono)} frames announced, {done} found")
    return mono[:done], clipped


def _seek(file: soundfile.SoundFile, kind: str, first: int) -> None:
    if kind != "mp3":
        file.seek(first)
        return
    # An MP3 frame needs the bits of earlier ones: after a seek the decoder gives other samples. Read up to the span.
    while first > 0:
        skipped = len(file.read(min(_BLOCK, first), dtype="float32"))
        if not skipped:
            break
        first -= skipped


def _missing_allowed(kind: str, frames: int) -> int:
    """Lossy streams without an index announce an estimate of their length."""
    return 0 if kind in ("wav", "flac") else 4608 + frames // 100


def _check_block(block: np.ndarray) -> bool:
    """Checks frames [S, channels] f32; returns whether they are clipped."""
    peak = float(np.max(np.abs(block)))
    if not np.isfinite(peak):
        raise BadAudio("non-finite", "the samples contain NaN or infinity")
    if peak > MAX_PEAK:
        raise BadAudio("over the limits", f"samples up to {peak:g}; they must lie in [-1, 1]")
    if peak < FULL_SCALE:
        return False
    full = np.abs(block) >= FULL_SCALE
    run = np.ones(max(len(full) - _CLIPPED_RUN + 1, 0), bool)
    return peak > 1.0 or any(
        bool(np.logical_and.reduce([full[k : k + len(run), channel] for k in range(_CLIPPED_RUN)]).any())
        for channel in range(full.shape[1])
    )
