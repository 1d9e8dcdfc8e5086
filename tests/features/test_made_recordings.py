"""Recordings as people have them, made here: each is read with the right samples, or refused.

What was assumed is flagged. Damaged files are in test_bad_recordings.py.
"""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from bad_recordings import chunk, encoded, pcm_format, riff

from ser_jax.features import audio, media, mp3, wav
from ser_jax.features.pcm import BadAudio

RATE = 16000
ID3 = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
ODD, LOW = ("odd rate",), ("odd rate", "low rate")
COUNTED = ("length not in header",)


def speech(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """Returns noise that gets quieter, so that a variable bitrate falls."""
    count = round(seconds * rate)
    noise = np.random.default_rng(0).standard_normal(count)
    return (0.2 * noise * np.geomspace(1, 0.01, count)).astype(np.float32)


def mp3_of(seconds: float = 4.0, rate: int = RATE, mode: str = "VARIABLE") -> bytes:
    return encoded(
        speech(seconds, rate), rate, format="MP3", bitrate_mode=mode, compression_level=0.5
    )


def without_lengths(content: bytes) -> bytes:
    """Returns an MP3 without its first frame, which holds the header of lengths."""
    found = mp3.scan(io.BytesIO(content), 0)
    assert found is not None and found.announced == found.frames
    return content[found.pieces[0][0] :]


def announcing(content: bytes, frames: int) -> bytes:
    """Returns an MP3 whose header gives another number of frames."""
    place = max(content.find(b"Xing"), content.find(b"Info")) + 8
    return content[:place] + struct.pack(">I", frames) + content[place + 4 :]


def odd_chunk(padded: bool) -> bytes:
    content = chunk(b"LIST", b"INFOabc")
    content = content if padded else content[:-1]
    samples = (speech() * 32768).astype("<i2").tobytes()
    return riff(pcm_format(), content, chunk(b"data", samples))


def dead_writer(riff_size: int, data_size: int) -> bytes:
    content = bytearray(encoded(speech()))
    content[4:8], content[40:44] = struct.pack("<I", riff_size), struct.pack("<I", data_size)
    return bytes(content)


def flac_of_unknown_length() -> bytes:
    content = bytearray(encoded(speech(), format="FLAC"))
    content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)
    return bytes(content)


def rf64_without_sizes() -> bytes:
    content = encoded(speech(), format="RF64")
    place = content.index(b"ds64") + 8
    return content[:place] + bytes(24) + content[place + 24 :]


# Name → content, seconds, flags. Lossy lengths are right within a frame or two.
READ = {
    "writer died": (dead_writer(0, 0), 2.0, COUNTED),
    "writer died, RIFF size of a header": (dead_writer(36, 0), 2.0, COUNTED),
    "writer died, RIFF size too large": (dead_writer(2**31, 0), 2.0, COUNTED),
    "from a pipe": (dead_writer(2**32 - 1, 2**32 - 1), 2.0, COUNTED),
    "RIFF size of another file": (dead_writer(10, 64000), 2.0, ()),
    "odd chunk, padded": (odd_chunk(True), 2.0, ()),
    "odd chunk, not padded": (odd_chunk(False), 2.0, ()),
    "A-law": (encoded(speech(rate=8000), 8000, subtype="ALAW"), 2.0, LOW),
    "µ-law": (encoded(speech(rate=8000), 8000, subtype="ULAW"), 2.0, LOW),
    "RF64": (encoded(speech(), format="RF64"), 2.0, ()),
    "RF64 without sizes": (rf64_without_sizes(), 2.0, COUNTED),
    "Wave64": (encoded(speech(), format="W64"), 2.0, ()),
    "FLAC of unknown length": (flac_of_unknown_length(), 2.0, COUNTED),
    "FLAC with two tags": (2 * ID3 + encoded(speech(), format="FLAC"), 2.0, ()),
    "MP3": (mp3_of(), 4.0, ()),
    "MP3 with a tag": (ID3 + mp3_of(), 4.0, ()),
    "MP3 with two tags": (2 * ID3 + mp3_of(), 4.0, ()),
    "MP3 with padding behind its tag": (ID3 + bytes(5000) + mp3_of(), 4.0, ()),
    "MP3, constant, without lengths": (without_lengths(mp3_of(mode="CONSTANT")), 4.0, ()),
    "MP3, variable, without lengths": (without_lengths(mp3_of()), 4.0, COUNTED),
    "MP3 that counts its header": (announcing(mp3_of(), 115), 4.0, ()),
    "MP3 that announces less": (announcing(mp3_of(), 20), 4.0, COUNTED),
    "MP3 that announces more": (announcing(mp3_of(), 999), 4.0, COUNTED),
    "MP3s joined": (mp3_of() + ID3 + mp3_of(), 8.0, COUNTED),
    "MP3 of 44.1 kHz joined": (2 * mp3_of(rate=44100), 8.0, (*ODD, *COUNTED)),
}


def written(folder: Path, content: bytes, name: str = "a.wav") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", READ)
def test_what_a_careful_person_could_read_is_read(tmp_path, name):
    content, seconds, flags = READ[name]
    recording = audio.decode(written(tmp_path, content), max_seconds=9.0)
    assert recording.flags == flags
    lossy = "MP3" in name
    assert recording.seconds == pytest.approx(seconds, abs=0.2 if lossy else 1e-9)
    expected = speech(4.0 if lossy else seconds, recording.rate)
    if recording.rate == RATE and not lossy:
        np.testing.assert_allclose(recording.samples, expected, atol=2e-3)
    if lossy:  # the level falls as it should, to the end
        ends = np.split(recording.samples[: 16000 * int(seconds)], int(seconds))[3::4]
        assert all(np.std(end) == pytest.approx(0.2 * 0.01**0.875, rel=0.4) for end in ends)
    # A span is the slice of the whole.
    part = audio.decode(written(tmp_path, content), 0.5, 1.5, max_seconds=9.0)
    if recording.rate == RATE:
        np.testing.assert_allclose(part.samples, recording.samples[8000:24000], atol=1e-6)
    with pytest.raises(BadAudio, match="too long"):
        audio.decode(written(tmp_path, content), max_seconds=1.0)
    with pytest.raises(BadAudio, match="span outside the file: 0.5 s to 20 s of"):
        audio.decode(written(tmp_path, content), 0.5, 20.0, max_seconds=30.0)


def test_an_empty_recording_with_a_note_behind_it_has_no_samples(tmp_path):
    content = riff(pcm_format(), chunk(b"data", b""), chunk(b"LIST", b"INFO" + bytes(4000)))
    with pytest.raises(BadAudio, match="too short"):
        audio.decode(written(tmp_path, content), max_seconds=9.0)


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64"])
def test_samples_are_those_of_libsndfile(tmp_path, kind):
    """The oracle, for every format of samples, byte order and number of channels."""
    values = np.random.default_rng(0).uniform(-1, 1, (1001, 3))
    for subtype in {*wav._ENCODINGS.values()} & {*soundfile.available_subtypes(kind)}:
        for endian in ("FILE", "BIG") if kind == "WAV" else ("FILE",):
            for channels in (1, 3):
                path = tmp_path / "a.wav"
                options = {"format": kind, "subtype": subtype, "endian": endian}
                soundfile.write(path, values[:, :channels], RATE, **options)
                with path.open("rb") as file:
                    found = wav.WavFile(file)
                    assert (found.frames, found.subtype, found.assumed) == (1001, subtype, False)
                    expected = soundfile.read(path, dtype="float32", always_2d=True)[0]
                    np.testing.assert_array_equal(found.read(2000), expected)


@pytest.mark.parametrize("subtype", ["ALAW", "ULAW"])
def test_every_byte_of_g711(subtype):
    options = {"format": "RAW", "samplerate": 8000, "channels": 1, "subtype": subtype}
    expected, _ = soundfile.read(io.BytesIO(bytes(range(256))), dtype="float32", **options)
    np.testing.assert_array_equal(wav._floats(bytes(range(256)), subtype, "<"), expected)


def test_a_wav_beyond_four_gigabytes(tmp_path):
    """Its header is believed, and a span near its end is read; the file is sparse."""
    frames = 5 * 1024**3 // 2
    path = written(tmp_path, encoded(speech(), format="RF64"))
    content = bytearray(path.read_bytes())
    place = content.index(b"ds64") + 8
    content[place + 8 : place + 16] = struct.pack("<Q", 2 * frames)
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff" * 4
    path.write_bytes(content[: place + 4])
    with path.open("r+b") as file:
        file.truncate(place + 4 + 2 * frames)
        file.seek(place + 4 + 2 * (frames - 32000))
        file.write((speech() * 32768).astype("<i2").tobytes())
    end = frames / RATE
    recording = audio.decode(path, end - 2.0, end, max_seconds=9.0)
    np.testing.assert_allclose(recording.samples, speech(), atol=1e-4)


# --- What FFmpeg reads, with the extra


def aiff() -> bytes:
    return encoded(speech(), format="AIFF")


MEDIA = {
    "AIFF": aiff(),
    "AU": encoded(speech(), format="AU"),
    "CAF": encoded(speech(), format="CAF"),
    "NIST": encoded(speech(), format="NIST"),
    "MS ADPCM": encoded(speech(), subtype="MS_ADPCM"),
    "IMA ADPCM": encoded(speech(), subtype="IMA_ADPCM"),
    "GSM 6.10": encoded(speech(), subtype="GSM610"),
}


@pytest.mark.parametrize("name", MEDIA)
def test_without_ffmpeg_the_refusal_says_what_it_is_and_how_to_read_it(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(media, "installed", lambda: False)
    with pytest.raises(BadAudio, match=rf"{name}.*pip install 'ser_jax\[media\]'"):
        audio.decode(written(tmp_path, MEDIA[name]), max_seconds=9.0)


def made_by_ffmpeg(folder: Path, name: str, codec: str, rate: int, video: bool = False) -> Path:
    """Writes speech as a phone or browser does, by another program than this one."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:  # PyAV 19 writes no AMR; FFmpeg itself reads it.
        pytest.skip(f"this PyAV has no encoder {codec}")
    path = folder / name
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=rate, layout="mono")
        sound.bit_rate = 12200 if rate == 8000 else 64000
        if video:
            picture = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
            for _ in range(20):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        samples = (speech(rate=rate)[None] * 32768).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = rate
        form = sound.codec_context.format or av.AudioFormat("s16")
        size = sound.codec_context.frame_size or None
        resampler = av.AudioResampler(form, "mono", rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return path


PHONES = [
    ("a.m4a", "aac", 44100, False),
    ("a.mp4", "aac", 48000, True),
    ("a.webm", "libopus", 48000, False),
    ("a.mkv", "pcm_s16le", 16000, False),
    ("a.amr", "libopencore_amrnb", 8000, False),
    ("a.wma", "wmav2", 44100, False),
    ("a.aac", "aac", 16000, False),
    ("a.3gp", "aac", 16000, True),
]


@pytest.mark.parametrize(("name", "codec", "rate", "video"), PHONES)
def test_what_phones_and_browsers_make(tmp_path, name, codec, rate, video):
    path = made_by_ffmpeg(tmp_path, name, codec, rate, video)
    recording = audio.decode(path, max_seconds=9.0)
    assert recording.seconds == pytest.approx(2.0, abs=0.15)
    assert recording.rate == rate and recording.channels == 1
    quarters = [np.std(part) for part in np.array_split(recording.samples, 4)]
    sound = soxr.resample(speech(rate=rate), rate, RATE, quality="HQ")
    expected = [np.std(part) for part in np.array_split(sound, 4)]
    np.testing.assert_allclose(quarters, expected, rtol=0.4, atol=3e-3)
    with pytest.raises(BadAudio, match="too long: more than 1 s"):
        audio.decode(path, max_seconds=1.0)


@pytest.mark.parametrize("name", MEDIA)
def test_with_ffmpeg_it_is_read(tmp_path, name):
    pytest.importorskip("av")
    recording = audio.decode(written(tmp_path, MEDIA[name]), max_seconds=9.0)
    assert recording.seconds == pytest.approx(2.0, abs=0.1)
    least = 0.4 if name == "GSM 6.10" else 0.95  # it models a voice, and this is noise
    assert np.corrcoef(recording.samples[:16000], speech()[:16000])[0, 1] > least


def test_playlists_and_texts_are_not_for_ffmpeg(tmp_path):
    """It would open what they name."""
    for content in (b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile a.wav\n"):
        with pytest.raises(BadAudio, match="nor another that is known"):
            audio.decode(written(tmp_path, content), max_seconds=9.0)
