"""MP3 streams, frame by frame: how long one really is, and where its frames lie.

libsndfile takes the length from a header in the first frame, or guesses it from the first bitrate:
a wrong header, or none before a variable bitrate, cuts a recording without a word. So frames are
counted here, and where the header is wrong, libsndfile gets one that is right, and frames alone.
"""

import dataclasses
import os
import struct
from typing import BinaryIO

_VERSION_1 = 3
# kbit/s of layer III by the index in the header; 0: not stated.
_BITRATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_BITRATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of versions 2, 2.5
_RATES = (44100, 48000, 32000)
_SAME = 0xFFFE0C00  # bits of a header that no frame of a stream changes: version, layer, rate
_SEARCH = 65536  # bytes in which the next frame is looked for
_MAX_PIECES = 1000
_LENGTH_BITRATE = 9  # index of a bitrate whose frames have room for the header of lengths
_FRAMES_GIVEN = 1  # flag of that header: the number of frames follows


@dataclasses.dataclass(frozen=True)
class Scan:
    """The frames of a stream."""

    frames: int  # number of frames with sound
    announced: int | None  # what the header in the first says; None without one, 0: nothing
    pieces: tuple[tuple[int, int], ...]  # begin and end of bytes with nothing but such frames
    header: bytes  # the first four bytes of a frame
    cut: bool  # whether the file ends inside a frame

    @property
    def wrong(self) -> bool:
        """Whether libsndfile would read too little or stumble; not: because the file is cut."""
        missing = self.announced - self.frames if self.announced else 0
        if missing > 0 and self.cut:
            return False  # it will be found to be truncated
        # Some encoders count the header itself, or what they have not flushed.
        return len(self.pieces) > 1 or not -1 <= missing <= 8 + self.frames // 100

    @property
    def samples(self) -> int:
        """Number of samples of all frames."""
        return self.frames * (1152 if self.header[1] >> 3 & 3 == _VERSION_1 else 576)


def is_frame(head: bytes) -> bool:
    """Returns whether bytes begin like a frame: eleven sync bits, and nothing that is reserved."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3  # the layer of AAC is 0
    return version != 1 and layer != 0 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3


def scan(file: BinaryIO, begin: int) -> Scan | None:
    """Walks the frames of layer III from `begin` on.

    Returns:
      The frames; None for other layers, free bitrates, and what lies in more than `_MAX_PIECES`.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(begin)
    first = file.read(4)
    if not is_frame(first) or first[1] >> 1 & 3 != 1 or not first[2] >> 4:
        return None
    position, frames, announced, cut = begin, 0, None, False
    pieces: list[tuple[int, int]] = []
    while position is not None and len(pieces) <= _MAX_PIECES:
        file.seek(position)
        head = file.read(4)
        if not _follows(head, first):
            cut = len(head) < 4 and head.startswith(b"\xff")
            position = _next_frame(file, position, first)
            continue
        end = position + _length(head)
        if end > size:
            cut, position = True, None
            continue
        lengths = _lengths(file, head)
        if lengths is not None:
            announced = lengths if not frames and announced is None else announced
        else:
            frames += 1
            if pieces and pieces[-1][1] == position:
                pieces[-1] = (pieces[-1][0], end)
            else:
                pieces.append((position, end))
        position = end
    return None if position is not None else Scan(frames, announced, tuple(pieces), first, cut)


class Repaired:
    """The frames of a stream behind a header with their true number, as a file to read."""

    def __init__(self, file: BinaryIO, found: Scan):
        """Reads nothing yet; `file` stays the caller's."""
        self._file, self._position = file, 0
        self._head = _length_frame(found)
        self._pieces = found.pieces
        self._size = len(self._head) + sum(end - begin for begin, end in found.pieces)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a byte."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Returns the number of the next byte."""
        return self._position

    def read(self, count: int) -> bytes:
        """Returns the next bytes."""
        parts = [self._head[self._position : self._position + count]]
        place = self._position - len(self._head)  # in the pieces
        count -= len(parts[0])
        for begin, end in self._pieces:
            if count and 0 <= max(place, 0) < end - begin:
                self._file.seek(begin + max(place, 0))
                parts.append(self._file.read(min(count, end - begin - max(place, 0))))
                count -= len(parts[-1])
                place = 0
            else:
                place -= end - begin
        content = b"".join(parts)
        self._position += len(content)
        return content


def _follows(head: bytes, first: bytes) -> bool:
    if not is_frame(head) or not head[2] >> 4:
        return False
    return not (int.from_bytes(head) ^ int.from_bytes(first)) & _SAME


def _next_frame(file: BinaryIO, position: int, first: bytes) -> int | None:
    """Returns where two frames in a row begin behind a tag or padding, None if nowhere near."""
    file.seek(position)
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        position += id3_length(head)
    while True:
        file.seek(position)
        block = file.read(_SEARCH)
        stripped = block.lstrip(b"\0")
        if not block:
            return None
        if stripped:
            break
        position += len(block)
    place = len(block) - len(stripped)
    while (place := block.find(b"\xff", place)) >= 0:
        head = block[place : place + 4]
        if _follows(head, first):
            file.seek(position + place + _length(head))
            if _follows(file.read(4), first):
                return position + place
        place += 1
    return None


def id3_length(head: bytes) -> int:
    """Returns the length of an ID3v2 tag in bytes, given its first ten."""
    length = 0
    for byte in head[6:10]:  # four times 7 bits
        length = length << 7 | byte & 0x7F
    return 10 + length + (10 if head[5] & 0x10 else 0)  # with its footer


def _length(head: bytes) -> int:
    """Returns the length of a frame in bytes."""
    version = head[1] >> 3 & 3
    rate = _RATES[head[2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
    table, slots = (_BITRATES, 144) if version == _VERSION_1 else (_BITRATES_2, 72)
    return slots * 1000 * table[head[2] >> 4] // rate + (head[2] >> 1 & 1)


def _side(head: bytes) -> int:
    """Returns the length of the side information behind the header, in bytes."""
    one = head[3] >> 6 == 3  # channel
    if head[1] >> 3 & 3 == _VERSION_1:
        return 17 if one else 32
    return 9 if one else 17


def _lengths(file: BinaryIO, head: bytes) -> int | None:
    """Returns what a header of lengths (Xing, Info, VBRI) says, 0 if nothing; None without one."""
    body = file.read(54)
    tag = body[_side(head) : _side(head) + 12]
    if tag[:4] in (b"Xing", b"Info"):
        flags, frames = struct.unpack(">II", tag[4:12])
        return frames if flags & _FRAMES_GIVEN else 0
    if body[32:36] == b"VBRI":
        return struct.unpack(">I", body[46:50])[0]
    return None


def _length_frame(found: Scan) -> bytes:
    """Returns a frame without sound that announces the frames."""
    head = found.header
    third = head[2] & 0x0D | _LENGTH_BITRATE << 4  # without padding
    head = bytes([head[0], head[1] | 1, third, head[3]])  # without a checksum
    body = head + bytes(_side(head)) + b"Xing" + struct.pack(">II", _FRAMES_GIVEN, found.frames)
    return body.ljust(_length(head), b"\0")
