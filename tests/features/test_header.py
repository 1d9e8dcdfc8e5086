"""Pages of Ogg files: whole files pass; every cut, lost page and flipped bit is found.

The other checks of headers are in test_audio.py and test_bad_recordings.py."""

import io
import struct

import bad_recordings
import mutants
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.features import header
from ser_jax.features.header import check_ogg
from ser_jax.features.pcm import BadAudio


def page(number: int, body: bytes = b"abc", *, flags: int = 0, stream: int = 7) -> bytes:
    """Returns a page with the checksum of an independent implementation."""
    lengths = bytes([255] * (len(body) // 255) + [len(body) % 255])
    head = struct.pack("<4sBBqIII B", b"OggS", 0, flags, 0, stream, number, 0, len(lengths))
    return mutants.mended(head + lengths + body)


def reason(content: bytes) -> str:
    with pytest.raises(BadAudio) as info:
        check_ogg(io.BytesIO(content))
    return str(info.value)


def accepted(content: bytes) -> bool:
    try:
        check_ogg(io.BytesIO(content))
    except BadAudio:
        return False
    return True


FIRST, SECOND, LAST = page(0, flags=2), page(1, bytes(1000)), page(2, b"", flags=4)
HERE = len(FIRST)


def test_the_checksum_by_hand():
    """Of polynomial 0x04C11DB7 and a single one-bit the checksum is the polynomial itself."""
    assert mutants.ogg_checksum(b"\x01") == 0x04C11DB7
    assert mutants.ogg_checksum(bytes(27)) == 0


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_real_files_pass(subtype):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 48000)
    assert accepted(bad_recordings.encoded(samples, format="OGG", subtype=subtype))


@pytest.mark.parametrize("tail", [b"", bytes(100), b"TAG and something"])
def test_padding_or_a_tag_behind_the_last_page_passes(tail):
    assert accepted(FIRST + SECOND + LAST + tail)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "truncated: the file ends inside the Ogg page at byte 0"),
        *(
            (FIRST + SECOND[:end], f"truncated: the file ends inside the Ogg page at byte {HERE}")
            for end in (20, 28, -1)
        ),
        (FIRST + LAST, "truncated: Ogg page 2 follows page 0; those between are missing"),
        (FIRST + FIRST, "truncated: Ogg page 0 follows page 0; those between are missing"),
        (FIRST + b"junk" * 9, f"unreadable: no Ogg page at byte {HERE}, where one should begin"),
        (FIRST + page(0, stream=8), f"unreadable: another Ogg stream begins at byte {HERE}; only"),
        (FIRST + SECOND + LAST + FIRST, "unreadable: another Ogg stream begins at byte"),
        (FIRST + SECOND[:-1] + b"\x01", f"unreadable: the checksum of the Ogg page at byte {HERE}"),
    ],
)
def test_what_does_not_pass(content, sentence):
    assert reason(content).startswith(sentence)


@given(bit=st.integers(0, 8 * len(FIRST + SECOND) - 1))
def test_every_flipped_bit_is_found(bit):
    content = bytearray(FIRST + SECOND + LAST)
    content[bit // 8] ^= 1 << bit % 8
    assert not accepted(bytes(content))


@given(length=st.integers(1, len(FIRST + SECOND + LAST) - 1))
def test_every_cut_but_one_between_pages_is_found(length):
    whole = FIRST + SECOND + LAST
    assert accepted(whole[:length]) == (length in (len(FIRST), len(FIRST + SECOND)))


def test_endless_pages_are_not_walked_to_the_end(monkeypatch):
    monkeypatch.setattr(header, "MAX_PAGES", 3)
    pages = b"".join(page(number) for number in range(4))
    assert reason(pages) == "over the limits: more than 3 Ogg pages"
