"""Everything else that phones, browsers and video hold, by FFmpeg, which PyAV brings in its wheel.

Optional (`pip install 'ser_jax[media]'`) and used only where wav.py and libsndfile cannot: MP4,
M4A, WebM, AAC, AMR, WMA, AIFF, compressed WAV, the sound of video. FFmpeg gets an open file, the
container that its first bytes name, no protocol to open another file, and decoders of a list.
"""

import importlib.util
import types
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ser_jax.features.pcm import BadAudio

HEAD = 400  # bytes that tell the kinds apart
OGG, WAV = "ogg", "wav"
# Ends of the names of files that are read without it.
AUDIO = (".wav", ".bwf", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3")
# Ends of the names of files for it.
SUFFIXES = (".m4a", ".mp4", ".m4v", ".mov", ".3gp", ".webm", ".weba", ".mkv", ".mka", ".aac")
SUFFIXES += (".amr", ".awb", ".wma", ".wmv", ".asf", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".flv")
SUFFIXES += (".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".spx", ".ogv", ".gsm")

# Name of FFmpeg's demuxer → what people call it, where the name in capitals is another.
_CALLED = {"mov": "MP4 or M4A", "matroska": "WebM or Matroska", "asf": "WMA", "nistsphere": "NIST"}
_CALLED |= {OGG: "Ogg with another codec than Vorbis or Opus", WAV: "compressed WAV"}
_STARTS = {b"\x1aE\xdf\xa3": "matroska", b"#!AMR": "amr", b"0&\xb2u\x8ef\xcf\x11": "asf"}
_STARTS |= {b".snd": "au", b"caff": "caf", b"NIST_1A": "nistsphere", b"FLV\x01": "flv"}
_STARTS |= {b"\0\0\x01\xba": "mpeg"}
_DECODERS = (
    *("aac", "ac3", "alac", "amrnb", "amrwb", "dca", "eac3", "flac", "gsm", "gsm_ms", "mp1", "mp2"),
    *("mp3", "mp3float", "mp2float", "mp1float", "opus", "libopus", "speex", "libspeex", "vorbis"),
    *("wmalossless", "wmapro", "wmav1", "wmav2", "wmavoice", "adpcm_ms", "adpcm_ima_wav"),
    *("adpcm_ima_qt", "adpcm_g726", "adpcm_yamaha", "adpcm_swf", "nellymoser"),
)
_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.01  # announced lengths are rounded, and priming is cut
_SCALES = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "f4": 1.0, "f8": 1.0}


def kind(head: bytes) -> str:
    """Returns the name of FFmpeg's demuxer for a file that begins so; "" if it is none of these."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:
        return "aac"
    if head[:1] == b"G" == head[188:189] == head[376:377]:
        return "mpegts"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), "")


def installed() -> bool:
    """Returns whether PyAV is there; does not import it."""
    return importlib.util.find_spec("av") is not None


def load() -> Any:
    """Returns PyAV, or None if it is not there or does not load."""
    try:
        import av  # pyright: ignore[reportMissingImports]  # an extra
    except (ImportError, OSError):
        return None
    return av


class MediaFile:
    """The sound of an open file; it offers what `Span` uses of `soundfile.SoundFile`.

    Attributes:
      samplerate: Sampling rate in Hz.
      channels: Number of channels.
      subtype: FFmpeg's name of the codec, in capitals.
      frames: None: containers announce an estimate.
    """

    frames = None

    def __init__(self, file: BinaryIO, name: str):
        """Finds the sound; the file stays the caller's.

        Raises:
          BadAudio: "unreadable": PyAV is missing, there is no sound, or FFmpeg cannot read it.
        """
        called = _CALLED.get(name, name.upper())
        av = load()
        if av is None:
            what = "PyAV is installed but does not load" if installed() else "PyAV is needed"
            remedy = "pip install 'ser_jax[media]' brings it"
            raise BadAudio("unreadable", f"a file of {called}; {what}: {remedy}")
        self._error = av.FFmpegError
        file.seek(0)
        # Without the name of the file: it would be taken for a text, and is a number.
        raw: Any = types.SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
        # Tags that are not UTF-8: PyAV 19 reads them as they are and lacks the argument.
        lenient = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
        try:
            self._container = av.open(
                raw, format=name, options={"protocol_whitelist": "none"}, **lenient
            )
            stream = self._container.streams.best("audio")
        except (self._error, OSError, ValueError) as error:
            raise BadAudio("unreadable", f"a file of {called}: {_text(error)}") from None
        if stream is None or stream.codec_context is None:
            raise BadAudio("unreadable", f"a file of {called} without sound that is known")
        codec = stream.codec_context
        if codec.name not in _DECODERS and not codec.name.startswith("pcm_"):
            raise BadAudio("unreadable", f"a file of {called} with {codec.name} sound is not read")
        codec.thread_count = 1
        self.samplerate, self.channels = codec.sample_rate or 0, codec.channels
        self.subtype = codec.name.upper()
        self._announced = float((stream.duration or 0) * (stream.time_base or 0))
        self._blocks = self._decoded(stream)
        self._rest = np.zeros((0, self.channels), np.float32)

    def read(self, frames: int, **_: object) -> np.ndarray:
        """Returns the next frames [S, channels] f32, fewer at the end.

        Raises:
          BadAudio: "truncated" or "unreadable".
        """
        parts, count = [self._rest], len(self._rest)
        while count < frames and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            count += len(block)
        found = np.concatenate(parts)
        self._rest = found[frames:]
        return found[:frames]

    def close(self) -> None:
        """Frees the decoder."""
        self._container.close()

    def _decoded(self, stream) -> Iterator[np.ndarray]:
        done = 0
        try:
            for frame in self._container.decode(stream):
                if (frame.sample_rate, len(frame.layout.channels)) != (
                    self.samplerate,
                    self.channels,
                ):
                    raise BadAudio("unreadable", "the rate or the channels change on the way")
                block = _floats(frame.to_ndarray(), frame.format.is_planar, self.channels)
                done += len(block)
                yield block
        except (self._error, ValueError) as error:
            seconds = done / self.samplerate
            detail = f"FFmpeg stops behind {seconds:.3f} s: {_text(error)}"
            raise BadAudio("truncated" if done else "unreadable", detail) from None
        missing = self._announced - done / self.samplerate
        if missing > _MISSING_SECONDS + _MISSING_SHARE * self._announced:
            detail = f"{self._announced:.3f} s announced, {done / self.samplerate:.3f} s found"
            raise BadAudio("truncated", detail)


def _floats(values: np.ndarray, planar: bool, channels: int) -> np.ndarray:
    """Returns frames [S, channels] f32 of [channels, S], or of [1, S · channels] interleaved."""
    frames = values.T if planar else values.reshape(-1, channels)
    scale = _SCALES[frames.dtype.str[1:]]
    if frames.dtype.kind == "u":
        frames = frames.astype(np.int16) - 128
    return (frames / scale).astype(np.float32) if scale != 1 else frames.astype(np.float32)


def _text(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]
