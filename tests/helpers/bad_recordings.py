"""Files that are no usable recordings, made here, each with its expected reason of `BadAudio`."""

import io
import struct
from typing import Any

import numpy as np
import releases
import soundfile

MAX_SECONDS = 5.0  # features.max_seconds for these files
_RATE = 16000


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Returns name → (content, reason of `BadAudio`)."""
    containers = _other_files() | _wav_containers() | _wav_formats()
    return containers | _samples() | _flac() | _ogg_and_mp3()


def bombs() -> dict[str, tuple[bytes, str]]:
    """Returns those of them that are small and announce, or hold, far more than they should."""
    names = ("flac-ten-minutes.flac", "flac-claims-2-36.flac", "rate-1.wav", "channels-1024.wav")
    files = bad_files()
    return {name: files[name] for name in (*names, "riff-chunks.wav", "flac-bomb.flac")}


def encoded(samples: np.ndarray, rate: int = _RATE, **options: Any) -> bytes:
    """Returns samples [S] or [S, channels] as the bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **options})
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Returns a RIFF chunk, padded to an even length."""
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def riff(*chunks: bytes, kind: bytes = b"WAVE") -> bytes:
    """Returns a RIFF file of these chunks."""
    return chunk(b"RIFF", kind + b"".join(chunks))


def pcm_format(tag: int = 1, channels: int = 1, rate: int = _RATE, bits: int = 16) -> bytes:
    """Returns a format chunk, whose sizes follow from the rest."""
    frame = channels * bits // 8
    sizes = (rate * frame & 0xFFFFFFFF, frame & 0xFFFF)
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, *sizes, bits))


def _noise(seconds: float = 0.5, channels: int = 0, seed: int = 0) -> np.ndarray:
    count = round(seconds * _RATE)
    values = np.random.default_rng(seed).standard_normal((count, channels) if channels else count)
    return (0.1 * values).astype(np.float32)


def _patched(content: bytes, position: int, value: bytes) -> bytes:
    return content[:position] + value + content[position + len(value) :]


def _other_files() -> dict[str, tuple[bytes, str]]:
    return {
        "empty.wav": (b"", "unreadable"),
        "one-byte.wav": (b"R", "unreadable"),
        "text.wav": (b"no recording, but a note about one\n", "unreadable"),
        "page.mp3": (b"<!DOCTYPE html><title>404 Not Found</title>", "unreadable"),
        "pointer.wav": (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "unreadable"),
        "archive.wav": (b"PK\x03\x04" + bytes(100), "unreadable"),
        "._twin.wav": (releases.APPLE_DOUBLE, "unreadable"),
        "zeros.wav": (bytes(4096), "unreadable"),
        "aac.mp3": (b"\xff\xf1\x50\x80" + bytes(200), "unreadable"),
        "htk.wav": (encoded(_noise(), format="HTK"), "unreadable"),
        "voc.wav": (encoded(_noise(), format="VOC"), "unreadable"),
        "mat.wav": (encoded(_noise(), format="MAT4"), "unreadable"),
        "avi.wav": (riff(chunk(b"hdrl", bytes(64)), kind=b"AVI "), "unreadable"),
    }


def _wav_containers() -> dict[str, tuple[bytes, str]]:
    whole = encoded(_noise())
    data = chunk(b"data", _noise().tobytes())
    tag = b"ID3\x04\x00\x00\x00\x00\x00\x0a"
    wide = encoded(_noise(), format="W64")
    return {
        "riff-only.wav": (b"RIFF\x24\x00\x00\x00WAVE", "truncated"),
        "riff-header-cut.wav": (whole[:30], "truncated"),
        "riff-half.wav": (whole[: len(whole) // 2], "truncated"),
        "riff-last-sample.wav": (whole[:-2], "truncated"),
        "riff-data-too-long.wav": (_patched(whole, 40, struct.pack("<I", 10**9)), "truncated"),
        "rf64-half.wav": (encoded(_noise(), format="RF64")[:8000], "truncated"),
        "w64-half.wav": (wide[: len(wide) // 2], "truncated"),
        "w64-riff-alone.wav": (wide[:40], "unreadable"),
        "riff-no-format.wav": (riff(data), "unreadable"),
        "riff-no-data.wav": (riff(pcm_format()), "unreadable"),
        "riff-data-first.wav": (riff(data, pcm_format()), "unreadable"),
        "riff-short-format.wav": (riff(chunk(b"fmt ", bytes(8)), data), "unreadable"),
        "riff-chunks.wav": (riff(pcm_format(), chunk(b"JUNK", b"") * 5000, data), "unreadable"),
        "riff-behind-id3.wav": (tag + bytes(10) + whole, "unreadable"),
        "riff-second-format.wav": (riff(pcm_format(), pcm_format(tag=0x1234), data), "unreadable"),
    }


def _wav_formats() -> dict[str, tuple[bytes, str]]:
    data = chunk(b"data", _noise().tobytes())
    extensible = encoded(_noise(), format="WAVEX", subtype="PCM_16")
    sub_format = extensible.index(b"fmt ") + 8 + 24
    return {
        "tag-mp3.wav": (riff(pcm_format(tag=0x55), data), "unreadable"),
        "tag-unknown.wav": (riff(pcm_format(tag=0x1234), data), "unreadable"),
        "tag-hidden.wav": (_patched(extensible, sub_format, b"\x34\x12"), "unreadable"),
        "channels-0.wav": (riff(pcm_format(channels=0), data), "unreadable"),
        "channels-9.wav": (encoded(_noise(0.2, 9)), "over the limits"),
        "channels-1024.wav": (encoded(np.zeros((100, 1024), np.float32)), "over the limits"),
        "rate-0.wav": (riff(pcm_format(rate=0), data), "unreadable"),
        "rate-1.wav": (encoded(_noise(), 1), "over the limits"),
        "rate-384000.wav": (encoded(_noise(), 384000), "over the limits"),
        "bits-0.wav": (riff(pcm_format(bits=0), data), "unreadable"),
        "bits-64.wav": (riff(pcm_format(bits=64), data), "unreadable"),
    }


def _samples() -> dict[str, tuple[bytes, str]]:
    def with_one(value: float) -> bytes:
        return encoded(np.append(_noise(), np.float32(value)), subtype="FLOAT")

    opposite = np.stack([_noise(), -_noise()], axis=1)
    return {
        "samples-none.wav": (encoded(_noise(0)), "too short"),
        "samples-50-ms.wav": (encoded(_noise(0.05)), "too short"),
        "samples-too-many.wav": (encoded(_noise(MAX_SECONDS + 0.1)), "too long"),
        "samples-nan.wav": (with_one(np.nan), "non-finite"),
        "samples-infinite.wav": (with_one(np.inf), "non-finite"),
        "samples-minus-infinite.wav": (with_one(-np.inf), "non-finite"),
        "samples-beyond-float.wav": (encoded(np.full(8000, 1e300), subtype="DOUBLE"), "non-finite"),
        "samples-huge.wav": (encoded(1e29 * _noise(), subtype="FLOAT"), "over the limits"),
        "samples-integers.wav": (encoded(32768 * _noise(), subtype="FLOAT"), "over the limits"),
        "samples-zero.wav": (encoded(np.zeros(8000)), "silent"),
        "samples-cancel.wav": (encoded(opposite, subtype="FLOAT"), "silent"),
    }


def _flac() -> dict[str, tuple[bytes, str]]:
    whole = encoded(_noise(1.0), format="FLAC")
    half = len(whole) // 2
    # The upper bits of the number of samples.
    size = bytes([whole[21] | 0x0F]), bytes([whole[21] & 0xF0])
    damaged = _patched(whole, half, bytes(byte ^ 0xFF for byte in whole[half : half + 16]))
    long = encoded(np.zeros(600 * _RATE, np.int16), format="FLAC")
    return {
        "flac-ten-minutes.flac": (long, "too long"),
        "flac-claims-2-36.flac": (_patched(whole, 21, size[0] + b"\xff" * 4), "too long"),
        "flac-no-length.flac": (_patched(whole[:half], 21, size[1] + bytes(4)), "truncated"),
        "flac-bomb.flac": (_patched(long, 21, bytes([long[21] & 0xF0]) + bytes(4)), "too long"),
        "flac-magic.flac": (b"fLaC", "unreadable"),
        "flac-header.flac": (whole[:42], "truncated"),
        "flac-half.flac": (whole[:half], "truncated"),
        "flac-damaged.flac": (damaged, "truncated"),
        "flac-zero.flac": (encoded(np.zeros(8000), format="FLAC"), "silent"),
        "flac-rate-1.flac": (encoded(_noise(), 1, format="FLAC"), "over the limits"),
    }


def _ogg_and_mp3() -> dict[str, tuple[bytes, str]]:
    files = {}
    for subtype in ("VORBIS", "OPUS"):
        name, whole = subtype.lower(), encoded(_noise(3.0), format="OGG", subtype=subtype)
        pages = [b"OggS" + page for page in whole.split(b"OggS")[1:]]
        third = len(b"".join(pages[:3])) + 300  # inside the fourth page
        damaged = _patched(whole, third, bytes([whole[third] ^ 1]))
        files |= {
            f"ogg-{name}-half.ogg": (whole[: len(whole) // 2], "truncated"),
            f"ogg-{name}-page-lost.ogg": (b"".join(pages[:3] + pages[4:]), "truncated"),
            f"ogg-{name}-damaged.ogg": (damaged, "unreadable"),
            f"ogg-{name}-twice.ogg": (whole + whole, "unreadable"),
        }
    mp3 = encoded(_noise(3.0), format="MP3")
    first = b"OggS" + encoded(_noise(), format="OGG").split(b"OggS")[1]
    return files | {
        "ogg-first-page.ogg": (first, "unreadable"),
        "mp3-half.mp3": (mp3[: len(mp3) // 2 + 1], "truncated"),
        "mp3-tag-cut.mp3": (b"ID3\x04\x00", "truncated"),
    }
