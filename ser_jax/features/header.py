"""Checks before decoding: the container of a recording, and whether an Ogg file is complete.

libsndfile opens far more than people record, and its parsers of rare formats have had memory
errors. So it gets FLAC, Ogg and MP3 only; WAV is read in wav.py, all else by FFmpeg if that is
installed (media.py). Of an Ogg file every page is checked: libsndfile ignores damaged and missing
ones.
"""

import contextlib
import hashlib
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ser_jax.features import media, mp3, wav
from ser_jax.features.pcm import BadAudio
from ser_jax.runtime.errors import UserError

MAX_BYTES = 64 * 1024**3  # two days of 16-bit stereo at 96 kHz
MAX_PAGES = 1_000_000  # of Ogg: more than five hours at one packet of 20 ms per page

_MAX_TAGS = 16
_BLOCK = 65536  # bytes of padding that are read at once

# Head of an Ogg page: magic, version, flags, position, stream, number, checksum, segments.
_PAGE = struct.Struct("<4sBBqIII B")
_CHECKSUM = slice(22, 26)
_LAST = 4  # flag of the last page of a stream
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # byte → its bits reversed


def size_of(path: str | os.PathLike[str]) -> int:
    """Returns the size of a regular file in bytes.

    Raises:
      BadAudio: "missing"; "unreadable" (no regular file, no access, empty); "over the limits"
        (`MAX_BYTES`).
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
      BadAudio: As `reading`.
    """
    with reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


Source = str | os.PathLike[str] | io.FileIO  # a path, or what `reading` gives


@contextlib.contextmanager
def reading(source: Source) -> Iterator[io.FileIO]:
    """Opens a recording, once, for all that reads it: another file may take its place meanwhile.

    Gives a file without a buffer, at its beginning. One that is open already stays open.

    Raises:
      BadAudio: As `size_of`, or "unreadable" where opening or reading fails, also inside.
    """
    try:
        if not isinstance(source, str | os.PathLike):
            source.seek(0)
            yield source
            return
        size_of(source)  # Opening a pipe would wait for a writer.
        with open(source, "rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise BadAudio("unreadable", error.strerror or str(error)) from None


class Changed(UserError):
    """A file does not hold the bytes any more whose hash names features: `args` is its path."""

    def __str__(self) -> str:
        """Returns the sentence for the user."""
        return (
            f"{self.args[0]} has been changed while it was read: run the same command again when"
            " the recordings stay as they are; what is finished is kept"
        )


State = tuple[int, int, int, int]
_DIGESTS: dict[State, str] = {}


def state(file: io.FileIO) -> State:
    """Returns what tells an open file from others and changes when it is written to."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def digest_of_state(before: State, file: io.FileIO) -> str:
    """Returns the SHA-256 of an open file of that state; one that is read again is hashed once."""
    if before not in _DIGESTS:
        file.seek(0)
        _DIGESTS[before] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[before]


def container(file: BinaryIO) -> tuple[str, int]:
    """Checks how a file begins.

    Returns:
      Its container ("wav", "flac", "ogg", "mp3", or a name of `media.kind`), and where it begins:
      behind tags and padding.

    Raises:
      BadAudio: "unreadable" (another container, a damaged Ogg page) or "truncated" (an Ogg file
        that lacks pages or ends inside one, a file that ends inside a tag).
    """
    begin = _behind_tags(file)
    file.seek(begin)
    kind = _kind(file.read(media.HEAD))
    if begin and kind not in ("flac", "mp3"):  # a container hidden behind a tag
        raise BadAudio("unreadable", "no MP3 or FLAC stream follows the ID3 tag")
    if kind == "ogg":
        file.seek(0)
        check_ogg(file)
    return kind, begin


def _behind_tags(file: BinaryIO) -> int:
    """Returns where ID3 tags, and the padding that follows one, end; 0 without tags."""
    position = 0
    for _ in range(_MAX_TAGS):
        file.seek(position)
        head = file.read(10)
        if head[:3] != b"ID3":
            break
        if len(head) < 10:
            raise BadAudio("truncated", "the file ends inside its ID3 tag")
        position += mp3.id3_length(head)
        file.seek(position)
        while block := file.read(_BLOCK):
            position += len(block) - len(block.lstrip(b"\0"))
            if block.strip(b"\0"):
                break
    return position


def _kind(head: bytes) -> str:
    if wav.is_wav(head):
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        # The first packet names the codec; libsndfile has decoders for three of them.
        known = head[28:33] in (b"\x01vorb", b"OpusH", b"\x7fFLAC") or len(head) < 33
        return "ogg" if known else media.OGG
    if mp3.is_frame(head):
        return "mp3"
    found = media.kind(head)
    if not found:
        known = "not a WAV, FLAC, Ogg or MP3 file, nor another that is known"
        raise BadAudio("unreadable", f"{known}: it begins with {head[:8]!r}")
    return found


def check_ogg(file: BinaryIO) -> None:
    """Walks the pages of an Ogg file (RFC 3533): one stream, no page missing, every checksum right.

    A stream whose last page is not marked as such passes: some programs never mark it, and nothing
    else tells it from one that was cut between two pages. The file is read from its beginning.

    Raises:
      BadAudio: "truncated" (it ends inside a page, or a page is missing), "unreadable" (damaged, or
        several streams) or "over the limits" (`MAX_PAGES`).
    """
    stream, position, ended = None, 0, False
    for expected in range(MAX_PAGES):
        head = file.read(_PAGE.size)
        if expected and not head or ended and head[:4] != b"OggS":  # padding or a tag may follow
            return
        if len(head) < _PAGE.size:
            raise BadAudio("truncated", f"the file ends inside the Ogg page at byte {position}")
        magic, _, flags, _, serial, number, _, segments = _PAGE.unpack(head)
        if magic != b"OggS":
            raise BadAudio("unreadable", f"no Ogg page at byte {position}, where one should begin")
        lengths = file.read(segments)
        body = file.read(sum(lengths))
        if len(lengths) < segments or len(body) < sum(lengths):
            raise BadAudio("truncated", f"the file ends inside the Ogg page at byte {position}")
        if not _is_intact(head, lengths + body):
            detail = f"the checksum of the Ogg page at byte {position} is wrong"
            raise BadAudio("unreadable", detail)
        if ended or stream not in (None, serial):
            detail = f"another Ogg stream begins at byte {position}; only files of one are read"
            raise BadAudio("unreadable", detail)
        if number != expected:
            detail = f"Ogg page {number} follows page {expected - 1}; those between are missing"
            raise BadAudio("truncated", detail)
        stream, ended = serial, bool(flags & _LAST)
        position += len(head) + len(lengths) + len(body)
    raise BadAudio("over the limits", f"more than {MAX_PAGES} Ogg pages")


def _is_intact(head: bytes, rest: bytes) -> bool:
    """Compares a page's checksum with that of its bytes, where the checksum itself counts as zero.

    It is zlib's CRC-32 with the bits of every byte and of the result reversed, and without the two
    inversions.
    """
    blank = head[: _CHECKSUM.start] + bytes(4) + head[_CHECKSUM.stop :]
    found = ~zlib.crc32((blank + rest).translate(_REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return found == int.from_bytes(head[_CHECKSUM].translate(_REVERSED), "big")
