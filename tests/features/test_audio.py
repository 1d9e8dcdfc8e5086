"""Decoding: formats, resampling, spans, and a typed reason for every kind of bad file."""

import os
import pickle
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
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.header import content_sha256

LIMIT = 120.0


def tone(rate=16000, seconds=1.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write(folder, name, samples, rate: int = 16000, **options: Any):
    path = folder / name
    soundfile.write(path, samples, rate, **options)
    return path


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
    recording = decode(write(tmp_path, "a.wav", values), max_seconds=LIMIT)
    assert recording.samples.dtype == np.float32
    np.testing.assert_array_equal(recording.samples[:4], [0.0, 0.5, -1.0, 0.25])
    assert (recording.seconds, recording.rate, recording.channels, recording.flags) == (0.1, 16000, 1, ())


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_U8", 1e-2),
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "PCM_32", 1e-6),
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 0),
        ("a.flac", "PCM_16", 1e-4),
        ("a.flac", "PCM_24", 1e-6),
        ("a.ogg", "VORBIS", 0.1),
        ("a.ogg", "OPUS", 0.1),
        ("a.mp3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_formats(tmp_path, name, subtype, tolerance):
    expected = tone(amplitude=0.25)
    recording = decode(write(tmp_path, name, expected, subtype=subtype), max_seconds=LIMIT)
    assert recording.samples.shape == (16000,) and recording.flags == ()
    np.testing.assert_allclose(recording.samples[500:-500], expected[500:-500], atol=tolerance)


def test_big_endian_and_extensible_wav(tmp_path):
    expected = decode(write(tmp_path, "a.wav", tone()), max_seconds=LIMIT).samples
    big = write(tmp_path, "big.wav", tone(), endian="BIG")
    extensible = write(tmp_path, "extensible.wav", tone(), format="WAVEX", subtype="PCM_16")
    for path in (big, extensible):
        np.testing.assert_array_equal(decode(path, max_seconds=LIMIT).samples, expected)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_keeps_the_tone(tmp_path, rate):
    recording = decode(write(tmp_path, "a.wav", tone(rate), rate, subtype="FLOAT"), max_seconds=LIMIT)
    assert recording.flags == ("odd rate",) and recording.rate == rate and recording.seconds == pytest.approx(1.0)
    np.testing.assert_array_equal(recording.samples, soxr.resample(tone(rate), rate, 16000, quality="HQ"))
    np.testing.assert_allclose(recording.samples[800:-800], tone()[800:-800], atol=2e-3)


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([tone(), np.zeros(16000, np.float32)], axis=1)
    recording = decode(write(tmp_path, "a.wav", stereo, subtype="FLOAT"), max_seconds=LIMIT)
    assert recording.flags == ("several channels",) and recording.channels == 2
    np.testing.assert_array_equal(recording.samples, tone() / 2)


def test_clipping_is_a_flat_top_not_a_peak(tmp_path):
    peak = tone()
    peak[100] = 1.0
    assert decode(write(tmp_path, "peak.wav", peak), max_seconds=LIMIT).flags == ()
    flat = np.clip(tone(amplitude=1.5), -1, 1)
    assert decode(write(tmp_path, "flat.wav", flat), max_seconds=LIMIT).flags == ("clipped",)
    beyond = decode(write(tmp_path, "beyond.wav", tone(amplitude=1.5), subtype="FLOAT"), max_seconds=LIMIT)
    assert beyond.flags == ("clipped",) and np.abs(beyond.samples).max() == 1.0


def test_blocks_are_observed_as_the_file_holds_them(tmp_path):
    stereo = np.random.default_rng(0).uniform(-1, 1, (100_000, 2)).astype(np.float32)
    path, blocks = write(tmp_path, "a.wav", stereo, 44100, subtype="FLOAT"), []
    recording = decode(path, 0.5, 2.0, max_seconds=LIMIT, observe=lambda block: blocks.append(block.copy()))
    np.testing.assert_array_equal(np.concatenate(blocks), stereo[22050:88200])
    assert len(blocks) == 2 and recording.encoding == "FLOAT"


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_a_span_equals_the_slice(tmp_path, extension):
    noise = (0.1 * np.random.default_rng(0).standard_normal(160000)).astype(np.float32)
    path = write(tmp_path, f"a.{extension}", noise)
    whole = decode(path, max_seconds=LIMIT).samples
    part = decode(path, 5.00003, 7.5, max_seconds=LIMIT)
    assert part.seconds == 2.5
    np.testing.assert_allclose(part.samples, whole[80000:120000], atol=1e-6)
    np.testing.assert_allclose(decode(path, 9.0, max_seconds=LIMIT).samples, whole[144000:], atol=1e-6)
    np.testing.assert_allclose(decode(path, None, 1.0, max_seconds=LIMIT).samples, whole[:16000], atol=1e-6)


def test_span_limits(tmp_path):
    path = write(tmp_path, "a.wav", tone(seconds=2))
    assert decode(path, 1.0, 2.0005, max_seconds=1).seconds == 1.0  # the limit is the span's; times have 3 decimals
    for span in ((0.5, 2.1), (-0.1, 1.0), (1.5, 1.0), (3.0, None), (float("nan"), 1.0)):
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
        samples = decode(path, max_seconds=LIMIT).samples
        assert len(samples) >= 960 and np.isfinite(samples).all() and np.abs(samples).max() <= 1


def test_files_that_are_no_recordings(tmp_path):
    assert reason(tmp_path / "none.wav") == "missing"
    assert reason(tmp_path / "none" / "none.wav") == "missing"
    assert reason(tmp_path) == "unreadable"
    assert reason("a\0b.wav") == "unreadable"
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason(tmp_path / "pipe.wav") == "unreadable"
    for name, blob in {"empty": b"", "text": b"hello, this is no audio", "au": b".snd" + bytes(40)}.items():
        (tmp_path / name).write_bytes(blob)
        assert reason(tmp_path / name) == "unreadable"
    assert reason(write(tmp_path, "a.aiff", tone())) == "unreadable"


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_compressed_wav_is_refused_by_its_tag(tmp_path, subtype):
    path = write(tmp_path, "a.wav", tone(8000), 8000, subtype=subtype)
    with pytest.raises(BadAudio, match="unreadable: WAV format tag 0x00") as info:
        decode(path, max_seconds=LIMIT)
    assert "unknown" not in info.value.detail


def test_compressed_samples_behind_an_extensible_tag_are_refused(tmp_path):
    path = write(tmp_path, "a.wav", tone(), format="WAVEX", subtype="PCM_16")
    where = path.read_bytes().index(b"fmt ") + 8 + 24
    assert reason(patch(path, (where, b"\x11\x00"))) == "unreadable"


def test_a_wav_behind_an_id3_tag_is_refused(tmp_path):
    tag = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
    wav, mp3 = write(tmp_path, "a.wav", tone()), write(tmp_path, "a.mp3", tone())
    mp3.write_bytes(tag + mp3.read_bytes())
    assert len(decode(mp3, max_seconds=LIMIT).samples) == 16000
    wav.write_bytes(tag + wav.read_bytes())
    assert reason(wav) == "unreadable"
    wav.write_bytes(tag[:8])
    assert reason(wav) == "truncated"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_half_a_file_is_truncated(tmp_path, extension, share):
    path = write(tmp_path, f"a.{extension}", tone(seconds=20) * np.linspace(0.1, 1, 320000, dtype=np.float32))
    blob = path.read_bytes()
    path.write_bytes(blob[: int(len(blob) * share)])
    if extension == "mp3" and share == 0.99:
        assert decode(path, max_seconds=LIMIT).seconds > 19.5  # the length of a lossy stream is an estimate
    else:
        assert reason(path) == "truncated"


def test_wav_sizes(tmp_path):
    path = write(tmp_path, "a.wav", tone())
    size = path.stat().st_size
    for riff in (0, 8, size, size + 1, 0xFFFFFFFF):  # never written, counted with its own 8 bytes, streamed
        assert len(decode(patch(path, (4, struct.pack("<I", riff))), max_seconds=LIMIT).samples) == 16000
    for data in (0x7FFFF000, 0xFFFFFFFF):
        assert len(decode(patch(path, (40, struct.pack("<I", data))), max_seconds=LIMIT).samples) == 16000
    assert reason(patch(path, (4, struct.pack("<I", size + 100)), (40, struct.pack("<I", 32000)))) == "truncated"
    path.write_bytes(path.read_bytes()[:30])
    assert reason(path) == "truncated"


def test_wav_without_samples_or_format(tmp_path):
    empty = write(tmp_path, "a.wav", np.zeros(0, np.float32))
    assert reason(empty) == "too short"
    path = write(tmp_path, "b.wav", tone())
    assert reason(patch(path, (12, b"junk"))) == "unreadable"
    assert reason(patch(path, (12, b"fmt "), (36, b"junk"), (4, struct.pack("<I", 36)))) == "unreadable"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples(tmp_path, value):
    samples = tone()
    samples[-1] = value
    assert reason(write(tmp_path, "a.wav", samples, subtype="FLOAT")) == "non-finite"


def test_silence_and_absurd_values(tmp_path):
    assert reason(write(tmp_path, "zero.wav", np.zeros(16000, np.float32))) == "silent"
    opposite = np.stack([tone(), -tone()], axis=1)
    assert reason(write(tmp_path, "opposite.wav", opposite, subtype="FLOAT")) == "silent"
    assert reason(write(tmp_path, "huge.wav", tone() * 1e29, subtype="FLOAT")) == "over the limits"


def test_rates_and_channels_over_the_limits(tmp_path):
    assert reason(write(tmp_path, "slow.wav", tone(), 1)) == "over the limits"
    assert reason(write(tmp_path, "fast.wav", tone(), 384000)) == "over the limits"
    assert reason(write(tmp_path, "wide.wav", np.zeros((100, 1024), np.float32))) == "over the limits"
    assert decode(write(tmp_path, "eight.wav", np.full((2000, 8), 0.5)), max_seconds=LIMIT).channels == 8


def test_names_of_any_kind(tmp_path):
    content = write(tmp_path, "a.wav", tone()).read_bytes()
    for name in ("ünïcode", "line\nbreak", "no extension", os.fsdecode(b"latin-\xfc.wav")):  # the last is not UTF-8
        (tmp_path / name).write_bytes(content)
        assert len(decode(tmp_path / name, max_seconds=LIMIT).samples) == 16000


def test_a_header_that_libsndfile_reads_otherwise_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "a.wav", tone(8000), 8000, subtype="IMA_ADPCM")
    monkeypatch.setattr(audio, "container", lambda _: "wav")  # a gate that a header has deceived
    with pytest.raises(BadAudio, match="unreadable: libsndfile reads IMA_ADPCM samples; only PCM and float are read"):
        decode(path, max_seconds=LIMIT)


def test_too_large_a_file_is_not_opened(tmp_path):
    path = write(tmp_path, "a.wav", tone())
    os.truncate(path, 3 * 1024**3)  # sparse
    assert reason(path) == "over the limits"


def test_the_hash_is_of_the_bytes_and_a_bad_file_has_none(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
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
    unknown = patch(claims, (21, bytes([blob[21] & 0xF0])), (22, bytes(4)))
    assert reason(unknown) == "unreadable"


def test_random_damage_never_escapes(tmp_path):
    rng = np.random.default_rng(0)
    for extension in ("wav", "flac", "ogg"):
        path = write(tmp_path, f"a.{extension}", tone(seconds=0.5))
        blob = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(blob)
            damaged[rng.integers(0, min(len(blob), 300))] ^= 1 << rng.integers(0, 8)
            path.write_bytes(damaged)
            try:
                samples = decode(path, max_seconds=LIMIT).samples
            except BadAudio:
                continue
            assert np.isfinite(samples).all() and np.abs(samples).max() <= 1 and len(samples) >= 960


def test_bad_audio_crosses_processes():
    error = pickle.loads(pickle.dumps(BadAudio("silent", "every sample is zero")))
    assert (error.reason, error.detail, str(error)) == (
        "silent",
        "every sample is zero",
        "silent: every sample is zero",
    )
