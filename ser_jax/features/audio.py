"""Decodes a recording to 16 kHz mono, or raises `BadAudio` with the reason.

libsndfile accepts NaN samples, 1,024 channels and a 28 KB FLAC of ten minutes without complaint. So
the first bytes (header.py) and the announced size are checked before anything decodes, the samples
after, and samples are counted: headers are not believed.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from ser_jax.features import domain, header, media, mp3, pcm, wav
from ser_jax.features.header import Source
from ser_jax.features.pcm import SAMPLE_RATE, BadAudio, Mixer
from ser_jax.features.preparation import USUAL, Mix, audible, has_sound, prepare

MIN_SECONDS = 0.06  # shorter than one of the 60 ms windows of ComParE_2016: openSMILE gives NaN
MIN_RATE, MAX_RATE = 4000, 192000
MAX_CHANNELS = 8
QUALITY = "HQ"  # soxr's setting for resampling

_BLOCK = 65536  # frames decoded at a time: bounds the memory of many channels
# An end may lie so far behind the last sample: annotation tools and players round and count
# otherwise. Seconds, or a fraction of the span.
_SPAN_TOLERANCE, _SPAN_FRACTION = 0.1, 0.05
_FORMATS = {"flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}
_UNKNOWN_FRAMES = 2**62  # libsndfile gives more for a FLAC that does not say how long it is


@dataclasses.dataclass(frozen=True, slots=True)
class Recording:
    """A decoded recording or span."""

    samples: np.ndarray  # [S] f32 in [-1, 1], 16 kHz mono, prepared
    seconds: float  # length at the original rate, silent ends included
    rate: int  # original sampling rate in Hz
    channels: int  # original number of channels
    # how the file holds its samples, by libsndfile's name ("PCM_16", "FLOAT", "VORBIS")
    encoding: str
    flags: tuple[str, ...]  # peculiarities that do not prevent its use, of `pcm.FLAGS`
    # of the samples before they are prepared, see `domain.measure`
    facts: tuple[float, ...] = (np.nan,) * len(domain.FACTS)


def decode(
    source: Source,
    start: float | None = None,
    end: float | None = None,
    *,
    max_seconds: float,
    mix: Mix = USUAL,
    observe: Callable[[np.ndarray], None] | None = None,
    silent: bool = False,
) -> Recording:
    """Reads a recording, or a span of it, as 16 kHz mono.

    Args:
      source: A WAV, FLAC, Ogg or MP3 file, or what FFmpeg reads if it is installed (media.py), or
        its path.
      start: Start of the span in seconds, rounded to the nearest frame; None for the beginning of
        the file.
      end: End of the span in seconds; None for the end of the file, which it may exceed by 0.1 s or
        5 % of the span.
      max_seconds: Longest span that is read.
      mix: Channel and preparation.
      observe: Called with each block [S, channels] f32 as the file holds it, at the original rate
        and not yet averaged.
      silent: Accept a recording of zeros; it has the flag "no speech".

    Raises:
      BadAudio: With one of its reasons; never more than `max_seconds` are decoded.
    """
    with opened(source, start, end) as span:
        if span.frames is not None:
            check_length(span.frames / span.rate, max_seconds)
        mixer, parts, done = Mixer(mix.channel), [], 0
        for block in span.blocks():
            done += len(block)
            if done / span.rate > max_seconds:
                raise _too_long(f"more than {max_seconds:g} s", max_seconds)
            parts.append(mixer.add(block))
            if observe is not None:
                observe(block)
        assumed, encoding = span.assumed, span.encoding
    check_length(done / span.rate, max_seconds)
    mono = np.concatenate(parts)
    return _recording(mono, span.rate, span.channels, encoding, mixer, mix, assumed, silent)


class Span:
    """A recording, or a part of it, whose header is checked and whose samples can be decoded.

    Attributes:
      rate: Sampling rate in Hz.
      channels: Number of channels.
      encoding: How the file holds its samples, by libsndfile's name, or FFmpeg's.
      frames: Number of frames; None where only decoding tells.
      assumed: Whether the header does not tell the length: all the rest of the file is read.
    """

    def __init__(
        self, source: Any, kind: str, start: float | None, end: float | None, assumed: bool
    ):
        """Use `opened`: it checks the header."""
        self.rate, self.channels, self.encoding = source.samplerate, source.channels, source.subtype
        self.assumed, self._source, self._kind, self._asked = assumed, source, kind, (start, end)
        known = source.frames is not None and source.frames <= _UNKNOWN_FRAMES
        self._total = source.frames if known else None
        self._first, last = _span(self._total, self.rate, start, end)
        self._most = None if last is None else last - self._first
        self.frames = self._most if known else None

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields blocks [S, channels] f32 as the file holds them; the samples are not yet checked.

        Raises:
          BadAudio: "truncated", "unreadable" or, if its length is not known before, "span outside
            the file".
        """
        done = 0
        try:
            skipped = self._skip()
            while self._most is None or done < self._most:
                block = self._read(_BLOCK if self._most is None else self._most - done)
                if not len(block):
                    break
                done += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            if self._kind == "flac":  # the header was good, and what follows has checksums
                place = f"frame {self._first + done}"
                place += "" if self._total is None else f" of {self._total}"
                detail = f"the decoder stopped behind {place}: {error.error_string}"
                raise BadAudio("truncated", detail) from None
            raise BadAudio("unreadable", error.error_string) from None
        except OSError as error:
            raise BadAudio("unreadable", error.strerror or str(error)) from None
        if self.frames is not None:
            if done < self.frames - _missing_allowed(self._kind, self.frames):
                raise BadAudio("truncated", f"{self.frames} frames announced, {done} found")
        elif skipped < self._first or self._most is not None:
            _span(skipped + done, self.rate, *self._asked)

    def _read(self, frames: int) -> np.ndarray:
        return self._source.read(min(_BLOCK, frames), dtype="float32", always_2d=True)

    def _skip(self) -> int:
        """Goes to the first frame; returns how many lie before it."""
        if self._kind in ("wav", "ogg", "flac") and self._total is not None:
            self._source.seek(self._first)
            return self._first
        # An MP3 frame needs the bits of earlier ones: after a seek the decoder gives other samples.
        skipped = 0
        while skipped < self._first and (count := len(self._read(self._first - skipped))):
            skipped += count
        return skipped


class Samples:
    """Samples in memory, which are read like a `Span`.

    Attributes:
      rate: Sampling rate in Hz.
      frames: Their number, of every channel.
      start: Where they begin in what they were taken from, in s.
    """

    def __init__(self, samples: np.ndarray, rate: int, start: float | None = None):
        """Takes samples [S] or [S, channels], floats in [-1, 1] or int16.

        Raises:
          BadAudio: If rate or array cannot be read.
        """
        self._values = pcm.as_frames(samples)
        check_stream(rate, self._values.shape[1])
        self.rate, self.frames, self.start = rate, len(self._values), start

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields blocks [S, channels] f32; the samples are not yet checked."""
        for first in range(0, self.frames, _BLOCK):
            yield pcm.to_float(self._values[first : first + _BLOCK])


@contextlib.contextmanager
def opened(source: Source, start: float | None = None, end: float | None = None) -> Iterator[Span]:
    """Opens a recording, or a span of it, of any length, after the checks of its header.

    Arguments and errors are those of `decode`; blocks are read inside the `with`.
    """
    with header.reading(source) as raw, contextlib.ExitStack() as stack:
        file = _buffered(raw.fileno())
        kind, begin = header.container(file)
        decoder, assumed = _decoder(file, kind, begin, stack)
        check_stream(decoder.samplerate, decoder.channels)
        yield Span(decoder, kind, start, end, assumed)


def _buffered(descriptor: int) -> BinaryIO:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return open(descriptor, "rb", closefd=False)


def _sound_file(file: BinaryIO) -> Any:
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return soundfile.SoundFile(file.fileno(), closefd=False)


def _decoder(
    file: BinaryIO, kind: str, begin: int, stack: contextlib.ExitStack
) -> tuple[Any, bool]:
    """Returns what decodes the file (WavFile, SoundFile, MediaFile), and `Span.assumed`."""
    if kind == "wav":
        try:
            found = wav.WavFile(file)
            return found, found.assumed
        except wav.Compressed:
            if not media.installed():
                raise
            kind = media.WAV
    if kind not in _FORMATS:
        return stack.enter_context(contextlib.closing(media.MediaFile(file, kind))), False
    try:
        if kind == "mp3":
            found, assumed = _mp3_file(file, begin)
        else:
            found, assumed = _sound_file(file), False
    except soundfile.LibsndfileError as error:
        raise BadAudio("unreadable", error.error_string) from None
    stack.enter_context(found)
    if found.format != _FORMATS[kind]:
        detail = f"begins as {kind}, but libsndfile reads it as {found.format}"
        raise BadAudio("unreadable", detail)
    if found.frames > _UNKNOWN_FRAMES:
        found.seekable = lambda: False  # soundfile would seek to the end, which cannot be done
        assumed = True
    return found, assumed


def _mp3_file(file: BinaryIO, begin: int) -> tuple[Any, bool]:
    """Returns the decoder of an MP3 stream, and whether its length had to be counted."""
    found = mp3.scan(file, begin)
    if found is None:
        return _sound_file(file), False
    if not found.wrong:
        with contextlib.suppress(soundfile.LibsndfileError):  # of tags or padding before it
            decoder = _sound_file(file)
            if found.announced or decoder.frames >= found.samples:
                return decoder, False
            decoder.close()
    repaired: Any = mp3.Repaired(_buffered(file.fileno()), found)
    return soundfile.SoundFile(repaired), found.wrong or not found.announced


def from_samples(
    samples: np.ndarray, rate: int, *, max_seconds: float, mix: Mix = USUAL, silent: bool = False
) -> Recording:
    """Does with samples in memory what `decode` does with a file that holds them.

    Samples [S] or [S, channels] are floats in [-1, 1] or 16-bit integers at `rate` Hz; the encoding
    of the recording is their type.

    Raises:
      BadAudio: With one of its reasons.
    """
    values = pcm.as_frames(samples)
    check_stream(rate, values.shape[1])
    check_length(len(values) / rate, max_seconds)
    mixer = Mixer(mix.channel)
    mono = mixer.add(pcm.to_float(values))
    return _recording(mono, rate, values.shape[1], str(values.dtype), mixer, mix, silent=silent)


def _recording(
    mono: np.ndarray,
    rate: int,
    channels: int,
    encoding: str,
    mixer: Mixer,
    mix: Mix,
    assumed: bool = False,
    silent: bool = False,
) -> Recording:
    mixer.check_audible(silent)
    seconds, samples = len(mono) / rate, mono
    if rate != SAMPLE_RATE:
        samples = soxr.resample(mono, rate, SAMPLE_RATE, quality=QUALITY)
    samples = np.clip(samples, -1.0, 1.0)  # the resampling filter overshoots at steep edges
    if not silent and not samples.any():
        raise BadAudio("silent", f"nothing is left of it at {SAMPLE_RATE} Hz")
    found = audible(samples)
    flags = mixer.flags(rate, channels, assumed, has_sound(int(found.sum()), len(found)))
    facts = tuple(domain.measure(samples).tolist())
    return Recording(prepare(samples, mix), seconds, rate, channels, encoding, flags, facts)


def check_length(seconds: float, max_seconds: float) -> None:
    """Raises `BadAudio` "too short" (`MIN_SECONDS`) or "too long" (`max_seconds`)."""
    if seconds < MIN_SECONDS:
        raise BadAudio("too short", f"{seconds:.4f} s; at least {MIN_SECONDS} s are needed")
    if seconds > max_seconds:
        raise _too_long(f"{seconds:.3f} s", max_seconds)


def _too_long(found: str, max_seconds: float) -> BadAudio:
    detail = f"{found}; at most {max_seconds:g} s are read (features.max_seconds)"
    return BadAudio("too long", detail)


def check_stream(rate: int, channels: int) -> None:
    """Raises `BadAudio` "over the limits" for an unsupported rate in Hz or number of channels."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadAudio("over the limits", f"{rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are read")
    if channels > MAX_CHANNELS:
        raise BadAudio("over the limits", f"{channels} channels; at most {MAX_CHANNELS} are read")


def length(path: Source) -> tuple[float, int] | None:
    """Returns length in s and rate in Hz by the header of a recording; None if it has none."""
    try:
        with opened(path) as whole:
            return None if whole.frames is None else (whole.frames / whole.rate, whole.rate)
    except BadAudio:
        return None


def is_cut(start: float | None, end: float | None, seconds: float) -> bool:
    """Returns whether a span of which `seconds` are used was listed to end behind its file."""
    return end is not None and end - (start or 0.0) > seconds + 2 / MIN_RATE


def _span(
    total: int | None, rate: int, start: float | None, end: float | None
) -> tuple[int, int | None]:
    """Returns the first frame and the one behind the last, of `total`; None: not known."""
    seconds = np.inf if total is None else total / rate
    begin = 0.0 if start is None else start
    stop = end if end is not None else begin if total is None else seconds
    late = max(_SPAN_TOLERANCE, _SPAN_FRACTION * (stop - begin))
    if not (0 <= begin <= min(stop, seconds) and stop <= seconds + late):  # false for NaN, too
        raise BadAudio("span outside the file", f"{begin:g} s to {stop:g} s of {seconds:.3f} s")
    if total is None:
        return round(begin * rate), None if end is None else round(stop * rate)
    return round(begin * rate), min(round(stop * rate), total)


def _missing_allowed(kind: str, frames: int) -> int:
    """Lossy streams without an index announce an estimate of their length."""
    return 0 if kind in ("wav", "flac") else 4608 + frames // 100
