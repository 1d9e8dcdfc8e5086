"""Decoding: formats, resampling, spans and flags; bad files are in test_bad_recordings.py, too."""

import os
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.features import audio
from ser_jax.features.audio import decode
from ser_jax.features.header import content_sha256
from ser_jax.features.pcm import BadAudio

LIMIT = 120.0


def tone(rate=16000, seconds=1.0, amplitude=0.5):
    turns = 440 * np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * turns)).astype(np.float32)


def write(folder, name, samples, rate: int = 16000, **options: Any):
    path = folder / name
    soundfile.write(path, samples, rate, **options)
    return path


def read(path, *span):
    return decode(path, *span, max_seconds=LIMIT)


def patch(path, *changes):
    blob = bytearray(path.read_bytes())
    for position, value in changes:
        blob[position : position + len(value)] = value
    path.write_bytes(blob)
    return path


def reason(path, *span, max_seconds=LIMIT):
    with pytest.raises(BadAudio) as info:
        decode(path, *span, max_seconds=max_seconds)
    assert info.value.detail and os.fspath(path) not in info.value.detail
    return info.value.reason


def test_sixteen_bit_samples_by_hand(tmp_path):
    values = np.resize(np.array([0, 16384, -32768, 8192], np.int16), 1600)
    recording = read(write(tmp_path, "a.wav", values))
    assert recording.samples.dtype == np.float32
    np.testing.assert_array_equal(recording.samples[:4], [0.0, 0.5, -1.0, 0.25])
    assert (recording.seconds, recording.rate) == (0.1, 16000)
    assert (recording.channels, recording.flags) == (1, ())


PCM = {"PCM_U8": 1e-2, "PCM_16": 1e-4, "PCM_24": 1e-6, "PCM_32": 1e-6, "FLOAT": 0, "DOUBLE": 0}
FORMATS = {"wav": PCM, "flac": {"PCM_16": 1e-4, "PCM_24": 1e-6}}
FORMATS |= {"ogg": {"VORBIS": 0.1, "OPUS": 0.1}, "mp3": {"MPEG_LAYER_III": 0.1}}


@pytest.mark.parametrize("extension", FORMATS)
def test_formats(tmp_path, extension):
    expected = tone(amplitude=0.25)
    for subtype, tolerance in FORMATS[extension].items():
        recording = read(write(tmp_path, f"a.{extension}", expected, subtype=subtype))
        assert recording.samples.shape == (16000,) and recording.flags == ()
        np.testing.assert_allclose(recording.samples[500:-500], expected[500:-500], atol=tolerance)


def test_big_endian_and_extensible_wav(tmp_path):
    expected = read(write(tmp_path, "a.wav", tone())).samples
    big = write(tmp_path, "big.wav", tone(), endian="BIG")
    extensible = write(tmp_path, "extensible.wav", tone(), format="WAVEX", subtype="PCM_16")
    for path in (big, extensible):
        np.testing.assert_array_equal(read(path).samples, expected)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_keeps_the_tone(tmp_path, rate):
    recording = read(write(tmp_path, "a.wav", tone(rate), rate, subtype="FLOAT"))
    flags = ("odd rate", "low rate") if rate < 16000 else ("odd rate",)
    assert (recording.flags, recording.rate, recording.seconds) == (flags, rate, 1.0)
    expected = soxr.resample(tone(rate), rate, 16000, quality="HQ")
    np.testing.assert_array_equal(recording.samples, expected)
    np.testing.assert_allclose(recording.samples[800:-800], tone()[800:-800], atol=2e-3)


def test_channels_are_averaged(tmp_path):
    assert read(write(tmp_path, "eight.wav", np.full((2000, 8), 0.5))).channels == 8
    stereo = np.stack([tone(), np.zeros(16000, np.float32)], axis=1)
    recording = read(write(tmp_path, "a.wav", stereo, subtype="FLOAT"))
    assert recording.flags == ("several channels", "silent channel") and recording.channels == 2
    np.testing.assert_array_equal(recording.samples, tone() / 2)


def test_clipping_is_a_flat_top_not_a_peak(tmp_path):
    peak = tone()
    peak[100] = 1.0
    assert read(write(tmp_path, "peak.wav", peak)).flags == ()
    flat = np.clip(tone(amplitude=1.5), -1, 1)
    assert read(write(tmp_path, "flat.wav", flat)).flags == ("clipped",)
    beyond = read(write(tmp_path, "beyond.wav", tone(amplitude=1.5), subtype="FLOAT"))
    assert beyond.flags == ("clipped",) and np.abs(beyond.samples).max() == 1.0


def test_blocks_are_observed_as_the_file_holds_them(tmp_path):
    stereo = np.random.default_rng(0).uniform(-1, 1, (100_000, 2)).astype(np.float32)
    path, blocks = write(tmp_path, "a.wav", stereo, 44100, subtype="FLOAT"), []
    options = {"max_seconds": LIMIT, "observe": lambda block: blocks.append(block.copy())}
    recording = decode(path, 0.5, 2.0, **options)
    np.testing.assert_array_equal(np.concatenate(blocks), stereo[22050:88200])
    assert len(blocks) == 2 and recording.encoding == "FLOAT"


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_a_span_equals_the_slice(tmp_path, extension):
    noise = (0.1 * np.random.default_rng(0).standard_normal(160000)).astype(np.float32)
    path = write(tmp_path, f"a.{extension}", noise)
    whole = read(path).samples
    part = read(path, 5.00003, 7.5)
    assert part.seconds == 2.5
    np.testing.assert_allclose(part.samples, whole[80000:120000], atol=1e-6)
    np.testing.assert_allclose(read(path, 9.0).samples, whole[144000:], atol=1e-6)
    np.testing.assert_allclose(read(path, None, 1.0).samples, whole[:16000], atol=1e-6)


def test_span_limits(tmp_path):
    path = write(tmp_path, "a.wav", tone(seconds=2))
    # The limit is the span's; times have 3 decimals.
    assert decode(path, 1.0, 2.0005, max_seconds=1).seconds == 1.0
    # An end within 0.1 s or 5 % of the span is that of the file.
    assert read(path, 0.5, 2.09).seconds == 1.5
    assert read(write(tmp_path, "b.wav", tone(seconds=4)), 0.0, 4.2).seconds == 4
    wrong = ((0.5, 2.11), (2.01, 2.05), (-0.1, 1.0), (1.5, 1.0), (3.0, None), (float("nan"), 1.0))
    for span in wrong:
        assert reason(path, *span) == "span outside the file"
    assert reason(path, 0.5, 0.55) == "too short"
    assert reason(path, max_seconds=1.5) == "too long"


@settings(max_examples=40, deadline=None)
@given(rate=st.integers(4000, 50000), extra=st.integers(-2, 50))
def test_the_shortest_recordings_give_960_samples(tmp_path_factory, rate, extra):
    frames = int(np.ceil(audio.MIN_SECONDS * rate)) + extra
    path = write(tmp_path_factory.mktemp("short"), "a.wav", np.full(frames, 0.5, np.float32), rate)
    if frames / rate < audio.MIN_SECONDS:
        assert reason(path) == "too short"
    else:
        samples = read(path).samples
        assert len(samples) >= 960 and np.isfinite(samples).all() and np.abs(samples).max() <= 1


def test_files_that_are_no_recordings(tmp_path):
    assert reason(tmp_path / "none.wav") == "missing"
    assert reason(tmp_path / "none" / "none.wav") == "missing"
    assert reason(tmp_path) == "unreadable"
    assert reason("a\0b.wav") == "unreadable"
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason(tmp_path / "pipe.wav") == "unreadable"
    path = write(tmp_path, "large.wav", tone())
    os.truncate(path, 65 * 1024**3)  # sparse
    assert reason(path) == "over the limits"


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_part_of_a_file_is_truncated(tmp_path, extension):
    louder = tone(seconds=20) * np.linspace(0.1, 1, 320000, dtype=np.float32)
    path = write(tmp_path, f"a.{extension}", louder)
    blob = path.read_bytes()
    for fraction in (0.1, 0.5, 0.99):
        path.write_bytes(blob[: int(len(blob) * fraction) + 1])  # inside a frame of MP3
        if extension == "mp3" and fraction == 0.99:
            assert read(path).seconds > 19.5  # the length of a lossy stream is an estimate
        else:
            assert reason(path) == "truncated"


def test_wav_sizes(tmp_path):
    path = write(tmp_path, "a.wav", tone())
    size = path.stat().st_size
    for riff in (0, 8, size, size + 1, size + 100, 2**31, 0xFFFFFFFF):  # it is not believed
        assert len(read(patch(path, (4, struct.pack("<I", riff)))).samples) == 16000
    for data in (0, 0x7FFFF000, 0xFFFFFFFF):
        recording = read(patch(path, (40, struct.pack("<I", data))))
        assert (len(recording.samples), recording.flags) == (16000, ("length not in header",))
    patch(path, (40, struct.pack("<I", 32002)))
    assert reason(path) == "truncated"
    path.write_bytes(path.read_bytes()[:30])
    assert reason(path) == "truncated"


def test_names_of_any_kind(tmp_path):
    content = write(tmp_path, "a.wav", tone()).read_bytes()
    not_utf8 = os.fsdecode(b"latin-\xfc.wav")
    for name in ("ünïcode", "line\nbreak", "no extension", not_utf8):
        (tmp_path / name).write_bytes(content)
        assert len(read(tmp_path / name).samples) == 16000


def test_a_header_that_libsndfile_reads_otherwise_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "a.wav", tone(8000), 8000, subtype="IMA_ADPCM")
    monkeypatch.setattr(audio.header, "container", lambda _: ("ogg", 0))  # deceived by a header
    message = "unreadable: begins as ogg, but libsndfile reads it as WAV"
    with pytest.raises(BadAudio, match=message):
        read(path)


def test_the_hash_is_of_the_bytes_and_a_bad_file_has_none(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_sha256(tmp_path / "abc") == (digest, 3)
    with pytest.raises(BadAudio, match="missing"):
        content_sha256(tmp_path / "none")


def test_bombs_are_refused_without_memory(tmp_path):
    flac = write(tmp_path, "a.flac", np.zeros(600 * 16000, np.int16))
    assert flac.stat().st_size < 100_000
    claims = write(tmp_path, "b.flac", tone())
    blob = claims.read_bytes()
    patch(claims, (21, bytes([blob[21] | 0x0F])), (22, b"\xff\xff\xff\xff"))  # 2^36 - 1 frames
    tracemalloc.start()
    assert reason(flac) == "too long"
    assert reason(claims) == "too long"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
