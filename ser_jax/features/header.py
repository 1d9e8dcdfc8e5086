"""The gate before the decoder: what a file is, told from its first bytes.

libsndfile opens far more than speech corpora hold, and its parsers of rare formats have had memory errors
(WAV IMA-ADPCM: CVE-2026-37555). So only four containers pass, and of WAV only uncompressed samples.
"""

import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.ogg import check_ogg

MAX_BYTES = 2 * 1024**3

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FORMAT_NAMES = {2: "MS ADPCM", 6: "A-law", 7: "u-law", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x55: "MP3"}
# A writer that cannot seek back leaves 0, 0x7FFFF000 (sox) or 0xFFFFFFFF (ffmpeg) as a size; none fits MAX_BYTES.
_STREAMED = 0x7FFFF000
# Some writers count the 8 bytes before the RIFF size, or a missing padding byte.
_RIFF_SLACK = 9
_MAX_CHUNKS = 1000


def size_of(path: str | os.PathLike[str]) -> int:
    """Returns the size of a regular file in bytes.

    Raises:
      BadAudio: "missing"; "unreadable" (no regular file, no access, empty); "over the limits" (`MAX_BYTES`).
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise BadAudio("missing", "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise BadAudio("unreadable", getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise BadAudio("unreadable", "not a regular file")
    if status.st_size == 0:
        raise BadAudio("unreadable", "the file is empty")
    if status.st_size > MAX_BYTES:
        raise BadAudio("over the limits", f"{status.st_size} bytes; at most {MAX_BYTES} are read")
    return status.st_size


def content_sha256(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Returns the SHA-256 of a file's bytes and their number.

    Raises:
      BadAudio: As `size_of`, or "unreadable" where reading fails.
    """
    size = size_of(path)  # before it is opened: opening a pipe waits for a writer
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), size
    except OSError as error:
        raise BadAudio("unreadable", error.strerror or str(error)) from None


def container(path: str | os.PathLike[str]) -> str:
    """Checks the first bytes of a file and names its container.

    Args:
      path: The recording.

    Returns:
      "wav", "flac", "ogg" or "mp3".

    Raises:
      BadAudio: As `size_of`, and "unreadable" (another container, a compressed WAV, a damaged Ogg page) or "truncated"
        (a WAV shorter than its header says, an Ogg file that lacks pages or ends inside one).
    """
    size = size_of(path)
    try:
        with Path(path).open("rb") as file:
            kind = _magic(file, 0)
            if kind == "id3":
                kind = _magic(file, _end_of_id3(file))
                if kind not in ("flac", "mp3"):  # libsndfile would open a WAV hidden behind a tag
                    raise BadAudio("unreadable", "no MP3 or FLAC stream follows the ID3 tag")
            if kind == "wav":
                _check_wav(file, size)
            if kind == "ogg":
                file.seek(0)
                check_ogg(file)
    except OSError as error:
        raise BadAudio("unreadable", error.strerror or str(error)) from None
    return kind


def _magic(file: BinaryIO, position: int) -> str:
    file.seek(position)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:3] == b"ID3" and position == 0:
        return "id3"
    if _is_mp3_frame(head):
        return "mp3"
    raise BadAudio("unreadable", f"not a WAV, FLAC, Ogg or MP3 file: it begins with {head[:8]!r}")


def _is_mp3_frame(head: bytes) -> bool:
    """Eleven sync bits, then no reserved version, layer, bitrate or rate (AAC has the sync, but layer 0)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    return version != 1 and layer != 0 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3


def _end_of_id3(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(10)
    if len(head) < 10:
        raise BadAudio("truncated", "the file ends inside its ID3 tag")
    length = 0
    for byte in head[6:]:  # four times 7 bits
        length = length << 7 | byte & 0x7F
    footer = 10 if head[5] & 0x10 else 0
    return 10 + length + footer


def _check_wav(file: BinaryIO, size: int) -> None:
    """Walks the chunks up to the samples; checks the format tag and both sizes."""
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    (riff,) = struct.unpack(order + "I", file.read(4))
    position, tag = 12, None
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, length = struct.unpack(order + "4sI", header)
        if name == b"fmt ":
            tag = _format_tag(file.read(min(length, 40)), length, order)
        if name == b"data":
            if tag is None:
                raise BadAudio("unreadable", "WAV without a format chunk before its samples")
            _check_sizes(riff, length, position + 8, size)
            return
        position += 8 + length + length % 2
    if riff + 8 > size:
        raise BadAudio("truncated", f"the header announces {riff + 8} bytes, the file has {size} and no samples")
    raise BadAudio("unreadable", "WAV without samples (no data chunk)")


def _format_tag(chunk: bytes, length: int, order: str) -> int:
    if length < 16:
        raise BadAudio("unreadable", f"WAV format chunk of {length} bytes; at least 16 are needed")
    if len(chunk) < min(length, 40):
        raise BadAudio("truncated", "the file ends inside its format chunk")
    (tag,) = struct.unpack_from(order + "H", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from(order + "H", chunk, 24)  # the first bytes of the sub-format
    if tag not in (_PCM, _FLOAT):
        name = _FORMAT_NAMES.get(tag, "unknown")
        raise BadAudio("unreadable", f"WAV format tag 0x{tag:04X} ({name}); only PCM (1) and float (3) are read")
    return tag


def _check_sizes(riff: int, data: int, begin: int, size: int) -> None:
    if 0 < data < _STREAMED and begin + data > size:
        raise BadAudio("truncated", f"the header announces {data} bytes of samples, the file holds {size - begin}")
    if 0 < riff < _STREAMED and riff + 8 > size + _RIFF_SLACK:
        raise BadAudio("truncated", f"the header announces {riff + 8} bytes, the file has {size}")
