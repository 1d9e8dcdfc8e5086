"""Whether an Ogg file is whole: libsndfile decodes what it finds, without a word about damaged or lost pages."""

import struct
import zlib
from typing import BinaryIO

from ser_jax.features.bad_audio import BadAudio

MAX_PAGES = 1_000_000  # more than five hours at one packet of 20 ms per page

_HEAD = struct.Struct("<4sBBqIII B")  # magic, version, flags, position, stream, number, checksum, segments
_CHECKSUM = slice(22, 26)
_LAST = 4  # flag of the last page of a stream
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # byte → the same bits in the other order


def check_ogg(file: BinaryIO) -> None:
    """Walks the pages of an Ogg file (RFC 3533): one stream, no page missing, every checksum right.

    A stream whose last page is not marked as such passes: some programs never mark it, and nothing else tells it from
    one that was cut between two pages.

    Args:
      file: The file, at its beginning.

    Raises:
      BadAudio: "truncated" (it ends inside a page, or a page is missing), "unreadable" (damaged, or several streams) or
        "over the limits" (`MAX_PAGES`).
    """
    stream, position, ended = None, 0, False
    for expected in range(MAX_PAGES):
        head = file.read(_HEAD.size)
        if expected and not head or ended and head[:4] != b"OggS":  # behind the last page: padding, or a tag
            return
        if len(head) < _HEAD.size:
            raise BadAudio("truncated", f"the file ends inside the Ogg page at byte {position}")
        magic, _, flags, _, serial, number, _, segments = _HEAD.unpack(head)
        if magic != b"OggS":
            raise BadAudio("unreadable", f"no Ogg page at byte {position}, where one should begin")
        lengths = file.read(segments)
        body = file.read(sum(lengths))
        if len(lengths) < segments or len(body) < sum(lengths):
            raise BadAudio("truncated", f"the file ends inside the Ogg page at byte {position}")
        if not _is_intact(head, lengths + body):
            raise BadAudio("unreadable", f"the checksum of the Ogg page at byte {position} is wrong")
        if ended or stream not in (None, serial):
            raise BadAudio("unreadable", f"another Ogg stream begins at byte {position}; only files of one are read")
        if number != expected:
            raise BadAudio("truncated", f"Ogg page {number} follows page {expected - 1}; those between are missing")
        stream, ended = serial, bool(flags & _LAST)
        position += len(head) + len(lengths) + len(body)
    raise BadAudio("over the limits", f"more than {MAX_PAGES} Ogg pages")


def _is_intact(head: bytes, rest: bytes) -> bool:
    """Compares the checksum in a page's head with that of the page, in which its own four bytes count as zero.

    It is zlib's polynomial with every byte's and the result's bits in the other order, and without the two inversions.
    """
    blank = head[: _CHECKSUM.start] + bytes(4) + head[_CHECKSUM.stop :]
    found = ~zlib.crc32((blank + rest).translate(_REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return found == int.from_bytes(head[_CHECKSUM].translate(_REVERSED), "big")
