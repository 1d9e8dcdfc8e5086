"""WAV files: RIFF, RIFX, RF64 (EBU Tech 3306) and Sony Wave64; PCM, float, A-law and µ-law.

They are read here and not by libsndfile, whose parser of WAV has had memory errors (IMA ADPCM:
CVE-2026-37555) and which believes headers: what a writer leaves behind that died or could not seek
back holds its samples all the same. The samples are those that libsndfile gives.
"""

import functools
import os
import struct
from typing import BinaryIO

import numpy as np

from ser_jax.features.pcm import BadAudio

_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_NAMES = {2: "MS ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x55: "MP3"}
# A writer that cannot seek back leaves 0, 0x7FFFF000 (sox) or 0xFFFFFFFF (ffmpeg) as a size.
_STREAMED = 0x7FFFF000
_MAX_CHUNKS = 1000
_FORMAT_BYTES = 40

# Wave64: names are GUIDs that begin with the RIFF name, sizes count the 24 bytes of the head.
_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
_W64_REST = bytes.fromhex("f3acd3118cd100c04f8edb8a")

# Kind and bytes of a sample → encoding, by libsndfile's name.
_ENCODINGS = {("PCM", 1): "PCM_U8", ("PCM", 2): "PCM_16", ("PCM", 3): "PCM_24"}
_ENCODINGS |= {("PCM", 4): "PCM_32", ("FLOAT", 4): "FLOAT", ("FLOAT", 8): "DOUBLE"}
_ENCODINGS |= {("ALAW", 1): "ALAW", ("ULAW", 1): "ULAW"}


def is_wav(head: bytes) -> bool:
    """Returns whether the first 40 bytes of a file are those of a WAV file."""
    if head.startswith(_W64_RIFF):
        return head[24:40] == b"wave" + _W64_REST
    return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE"


class Compressed(BadAudio):
    """The format is known, but not read here."""


class WavFile:
    """An open WAV file; it offers what `Span` uses of `soundfile.SoundFile`.

    Attributes:
      samplerate: Sampling rate in Hz.
      channels: Number of channels.
      subtype: How samples are held, by libsndfile's name.
      frames: Number of frames.
      assumed: Whether the header does not say how many, so that all the rest of the file is taken.
    """

    def __init__(self, file: BinaryIO):
        """Finds the samples of a file that `is_wav`; it stays the caller's.

        Raises:
          BadAudio: "unreadable" (no format or samples, or a format that is not read) or "truncated"
            (fewer samples than the header says).
        """
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        file.seek(0)
        head = file.read(12)
        self._order = ">" if head.startswith(b"RIFX") else "<"
        self._wide = head.startswith(b"riff")  # Wave64
        self._long: int | None = None  # size of the samples in an RF64 file
        riff = struct.unpack(self._order + "I", head[4:8])[0]
        self.subtype = ""
        self._begin = self._find_samples(riff)
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Goes to a frame."""
        self._left = self.frames - frame
        self._file.seek(self._begin + frame * self._bytes * self.channels)

    def read(self, frames: int, **_: object) -> np.ndarray:
        """Returns the next frames [S, channels] f32, fewer at the end."""
        width = self._bytes * self.channels
        content = self._file.read(min(frames, self._left) * width)
        content = content[: len(content) // width * width]
        self._left -= len(content) // width
        return _floats(content, self.subtype, self._order).reshape(-1, self.channels)

    def _find_samples(self, riff: int) -> int:
        """Walks the chunks up to the samples; returns where these begin."""
        position = 40 if self._wide else 12
        for _ in range(_MAX_CHUNKS):
            found = self._chunk(position)
            if found is None:
                break
            name, begin, length = found
            if name == b"ds64" and length >= 16:
                (self._long,) = struct.unpack("<Q", self._file.read(16)[8:])
            if name == b"fmt ":
                self._read_format(self._file.read(min(length, _FORMAT_BYTES)), length)
            if name == b"data":
                if not self.subtype:
                    raise BadAudio("unreadable", "WAV without a format chunk before its samples")
                self._measure(begin, length)
                return begin
            position = self._behind(begin + length)
        if not self._wide and riff < _STREAMED and riff + 8 > self._size:
            detail = f"the header announces {riff + 8} bytes, the file has {self._size} and no"
            raise BadAudio("truncated", f"{detail} samples")
        raise BadAudio("unreadable", "WAV without samples (no data chunk)")

    def _chunk(self, position: int) -> tuple[bytes, int, int] | None:
        """Returns name, begin and length of the chunk there, None behind the last."""
        if position > self._size:
            return None
        self._file.seek(position)
        head = self._file.read(24 if self._wide else 8)
        if len(head) < (24 if self._wide else 8):
            return None
        if self._wide:
            return head[:4], position + 24, max(0, struct.unpack("<Q", head[16:])[0] - 24)
        name, length = struct.unpack(self._order + "4sI", head)
        return name, position + 8, length

    def _behind(self, end: int) -> int:
        """Returns where the next chunk begins: chunks are padded, but some writers forget it."""
        if self._wide:
            return end + -end % 8
        if end % 2 == 0:
            return end
        if end > self._size:
            return end
        self._file.seek(end)
        five = self._file.read(5)
        forgotten = _is_name(five[:4]) and five[1:] not in (b"data", b"fmt ")
        return end if forgotten else end + 1

    def _read_format(self, chunk: bytes, length: int) -> None:
        if length < 16:
            raise BadAudio("unreadable", f"WAV format chunk of {length} bytes; at least 16 needed")
        if len(chunk) < min(length, _FORMAT_BYTES):
            raise BadAudio("truncated", "the file ends inside its format chunk")
        tag, self.channels, self.samplerate, _, block, bits = struct.unpack_from(
            self._order + "HHIIHH", chunk
        )
        if tag == _EXTENSIBLE and len(chunk) >= 26:
            (tag,) = struct.unpack_from(self._order + "H", chunk, 24)  # of the sub-format
        # Twelve bits, for instance, lie in the upper part of two bytes.
        width = block // self.channels if self.channels else 0
        if not -(-bits // 8) <= width <= 8:
            width = -(-bits // 8)
        kinds = {_PCM: "PCM", _FLOAT: "FLOAT", _ALAW: "ALAW", _ULAW: "ULAW"}
        if tag not in kinds:
            if tag in _NAMES:
                name = f"compressed WAV ({_NAMES[tag]})"
                remedy = "pip install 'ser_jax[media]' brings what reads it"
                raise Compressed("unreadable", f"a file of {name}; {remedy}")
            raise BadAudio("unreadable", f"WAV format tag 0x{tag:04X} is not known")
        self.subtype, self._bytes = _ENCODINGS.get((kinds[tag], width), ""), width
        if not (self.subtype and self.channels and self.samplerate and bits):
            form = f"{kinds[tag]} of {bits} bits, {self.channels} channels, {self.samplerate} Hz"
            detail = f"{form} is not read"
            raise BadAudio("unreadable", f"WAV format: {detail}")

    def _measure(self, begin: int, length: int) -> None:
        """Sets the number of frames: what the header says, or all there is if it says nothing."""
        if self._long is not None and length == 0xFFFFFFFF:
            length, streamed = self._long, 2**62
        else:
            streamed = 2**62 if self._wide else _STREAMED
        there = self._size - begin
        unknown = length >= streamed and length > there
        self.assumed = unknown or length == 0 < there and not self._only_chunks(begin)
        if not self.assumed and length > there:
            detail = f"the header announces {length} bytes of samples, the file holds {there}"
            raise BadAudio("truncated", detail)
        self.frames = (there if self.assumed else length) // (self._bytes * self.channels)

    def _only_chunks(self, position: int) -> bool:
        """Returns whether chunks fill the rest: there are no samples, and none have been lost."""
        for _ in range(_MAX_CHUNKS):
            found = self._chunk(position)
            if found is None or not _is_name(found[0]):
                break
            position = self._behind(found[1] + found[2])
        return position >= self._size


def _is_name(name: bytes) -> bool:
    """Returns whether four bytes look like the name of a chunk."""
    return len(name) == 4 and name[:1].isalnum() and all(32 <= byte < 127 for byte in name)


def _floats(content: bytes, subtype: str, order: str) -> np.ndarray:
    """Returns samples [S] f32, of which full scale is 1."""
    if subtype in ("ALAW", "ULAW"):
        return (_alaw if subtype == "ALAW" else _ulaw)()[np.frombuffer(content, np.uint8)]
    if subtype == "PCM_U8":
        return (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    if subtype == "PCM_24":  # as the upper three bytes of four
        four = np.zeros((len(content) // 3, 4), np.uint8)
        part = slice(1, 4) if order == "<" else slice(0, 3)
        four[:, part] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return four.view(order + "i4")[:, 0].astype(np.float32) / 2**31
    kind = {"PCM_16": "i2", "PCM_32": "i4", "FLOAT": "f4", "DOUBLE": "f8"}[subtype]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        values = np.frombuffer(content, order + kind).astype(np.float32)
    if kind[0] == "i":
        values *= np.float32(2.0 ** (1 - 8 * int(kind[1])))
    return values


@functools.cache
def _alaw() -> np.ndarray:
    """Returns the amplitude [256] f32 of every byte of A-law (ITU-T G.711)."""
    byte = np.arange(256) ^ 0x55
    exponent = byte >> 4 & 7
    value = ((byte & 15) << 4) + 8 + 256 * (exponent > 0) << np.maximum(exponent - 1, 0)
    return (np.where(byte & 128, value, -value) / 32768).astype(np.float32)


@functools.cache
def _ulaw() -> np.ndarray:
    """Returns the amplitude [256] f32 of every byte of µ-law (ITU-T G.711)."""
    byte = 255 - np.arange(256)
    value = (((byte & 15) << 3) + 132 << (byte >> 4 & 7)) - 132
    return (np.where(byte & 128, -value, value) / 32768).astype(np.float32)
