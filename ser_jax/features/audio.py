"""Decodes a recording to 16 kHz mono, or says why it cannot be used.

libsndfile accepts half a WAV, NaN samples, 1,024 channels and a 28 KB FLAC of ten minutes without a word. So everything
is checked around it: the first bytes (header.py) and the announced size before it decodes, the samples after.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soundfile
import soxr

from ser_jax.features import pcm
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.header import container

SAMPLE_RATE = 16000
MIN_SECONDS = 0.06  # shorter than one of the 60 ms windows of ComParE_2016: openSMILE gives NaN
MIN_RATE, MAX_RATE = 4000, 192000
MAX_CHANNELS = 8
QUALITY = "HQ"  # of the resampler

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
    with opened(path, start, end) as stretch:
        rate, channels, encoding = stretch.rate, stretch.channels, stretch.encoding
        check_length(stretch.frames / rate, max_seconds)
        mono, clipped, done = np.empty(stretch.frames, np.float32), False, 0
        for block in stretch.blocks():
            clipped = pcm.check_block(block) or clipped
            if observe is not None:
                observe(block)
            pcm.mix_down(block, out=mono[done : done + len(block)])
            done += len(block)
    check_length(done / rate, max_seconds)
    return _recording(mono[:done], rate, channels, encoding, clipped)


class Stretch:
    """A recording, or a span of it, that has passed the gate and can be decoded in blocks; see `opened`.

    Attributes:
      rate: Sampling rate in Hz.
      channels: Number of channels.
      encoding: How the file holds its samples, by libsndfile's name.
      frames: How many frames it announces.
    """

    def __init__(self, file: soundfile.SoundFile, kind: str, first: int, last: int):
        """Is made by `opened`."""
        self.rate, self.channels, self.encoding = file.samplerate, file.channels, file.subtype
        self.frames = last - first
        self._file, self._kind, self._first = file, kind, first

    def blocks(self) -> Iterator[np.ndarray]:
        """Decodes once, in blocks [S, channels] f32 as the file holds them; their samples are not yet checked.

        Raises:
          BadAudio: "truncated" or "unreadable".
        """
        file, done = self._file, 0
        try:
            _seek(file, self._kind, self._first)
            while done < self.frames:
                block = file.read(min(_BLOCK, self.frames - done), dtype="float32", always_2d=True)
                if not len(block):
                    break
                done += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            if self._kind == "flac":  # the header was good, and what follows has checksums
                place = f"frame {self._first + done} of {file.frames}"
                raise BadAudio("truncated", f"the decoder stopped behind {place}: {error.error_string}") from None
            raise BadAudio("unreadable", error.error_string) from None
        if done < self.frames - _missing_allowed(self._kind, self.frames):
            raise BadAudio("truncated", f"{self.frames} frames announced, {done} found")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], start: float | None = None, end: float | None = None) -> Iterator[Stretch]:
    """Opens a recording, or a span of it, of any length, behind the gate of `decode`.

    Args:
      path: As of `decode`.
      start: As of `decode`.
      end: As of `decode`.

    Yields:
      The stretch; its blocks are read inside the `with`.

    Raises:
      BadAudio: With one of its reasons.
    """
    kind = container(path)
    name: Any = os.fsencode(path)  # as text a name must be UTF-8; that it may be bytes is not in soundfile's types
    try:
        file = soundfile.SoundFile(name)
    except soundfile.LibsndfileError as error:
        raise BadAudio("unreadable", error.error_string) from None
    with file:
        _check_limits(file, kind)
        yield Stretch(file, kind, *_span(file, start, end))


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
    values = pcm.as_frames(samples)
    check_stream(rate, values.shape[1])
    check_length(len(values) / rate, max_seconds)
    frames = pcm.to_float(values)
    clipped = pcm.check_block(frames)
    return _recording(pcm.mix_down(frames), rate, frames.shape[1], str(values.dtype), clipped)


def _recording(mono: np.ndarray, rate: int, channels: int, encoding: str, clipped: bool) -> Recording:
    samples = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality=QUALITY)
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
    check_stream(file.samplerate, file.channels)
    if file.frames > _UNKNOWN_FRAMES:
        raise BadAudio("unreadable", "the header does not say how long the recording is")


def check_stream(rate: int, channels: int) -> None:
    """Raises `BadAudio` "over the limits" for a sampling rate in Hz or a number of channels that is not read."""
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
