"""Raw PCM from a pipe and from a microphone, which is a fake one here."""

import itertools
import os
import pty
import sys
import types

import numpy as np
import pytest

from ser_jax.prediction import live
from ser_jax.runtime.errors import UserError


def piped(content: bytes, encoding: str, channels: int) -> list[np.ndarray]:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        return list(live.standard_input(reader, encoding, channels))
    finally:
        os.close(reader)


def test_three_stereo_frames_by_hand():
    content = bytes([1, 0, 0xFF, 0xFF, 0, 1, 0, 0x80, 2, 0, 3, 0])
    [found] = piped(content, "s16", 2)
    np.testing.assert_array_equal(found, [[1, -1], [256, -32768], [2, 3]])
    assert found.dtype == np.int16
    [found] = piped(np.array([0.5, -1], "<f4").tobytes(), "f32", 1)
    np.testing.assert_array_equal(found, np.array([[0.5], [-1]], np.float32))


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
def test_reads_may_end_inside_a_sample(monkeypatch, size):
    samples = np.random.default_rng(0).integers(-9000, 9000, (50, 2)).astype("<i2")
    monkeypatch.setattr(live, "_READ", size)
    np.testing.assert_array_equal(np.concatenate(piped(samples.tobytes(), "s16", 2)), samples)


def test_an_input_that_ends_inside_a_sample_is_told(caplog):
    assert [len(part) for part in piped(b"\0\0\0", "s16", 1)] == [1]
    assert "the input ends inside a sample of 2 bytes; check --encoding" in caplog.text
    assert piped(b"", "s16", 1) == []


def test_a_file_with_a_header_is_refused():
    for header, name in ((b"RIFF\0\0\0\0WAVE", "WAV"), (b"fLaC\0", "FLAC"), (b"ID3\4", "MP3")):
        with pytest.raises(UserError, match=f"begins as a {name} file, .* name the file instead"):
            piped(header, "s16", 1)


def test_a_terminal_is_refused():
    primary, secondary = pty.openpty()
    sentence = "standard input is a terminal: pipe raw PCM .* or add --microphone"
    with pytest.raises(UserError, match=sentence):
        next(live.standard_input(secondary, "s16", 1))
    os.close(primary)
    os.close(secondary)


class FakeInput:
    """What the microphone's driver gives: samples that count up, of which some are lost."""

    opened: list[dict] = []

    def __init__(self, **options):
        self.opened.append(options)
        if options["samplerate"] == 7000:
            raise FakeError("Invalid sample rate")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.clear()

    def read(self, frames):
        return np.full((frames, self.opened[0]["channels"]), frames, np.int16), True


class FakeError(Exception):
    pass


@pytest.fixture
def driver(monkeypatch):
    listed = [("Webcam", 2), ("Loudspeaker", 0), ("Headset", 1)]
    devices = [
        {"name": name, "max_input_channels": count, "default_samplerate": 48000.0}
        for name, count in listed
    ]
    module = types.SimpleNamespace(
        InputStream=FakeInput, PortAudioError=FakeError, query_devices=lambda: devices
    )
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_the_microphone(driver, caplog):
    source = live.microphone(8000, "s16", 2)
    found = list(itertools.islice(source, 3))
    assert [part.shape for part in found] == [(800, 2)] * 3 and found[0][0, 0] == 800
    assert FakeInput.opened == [{"samplerate": 8000, "channels": 2, "dtype": "int16"}]
    assert caplog.text.count("samples have been lost") == 1
    source.close()
    assert FakeInput.opened == [], "the device is closed"


def test_one_of_several_microphones(driver):
    lines = ["   0  Webcam (2 channels, 48000 Hz)", "   2  Headset (1 channel, 48000 Hz)"]
    assert live.microphones() == lines
    for given, passed in (("2", 2), ("Headset", "Headset")):
        source = live.microphone(8000, "s16", 1, given)
        next(source)
        assert FakeInput.opened[0]["device"] == passed
        source.close()


def test_what_the_microphone_cannot_do_is_said(driver):
    sentence = r"cannot be used at 7000 Hz with 1 channel \(Invalid sample rate\); try another"
    with pytest.raises(UserError, match=sentence):
        next(live.microphone(7000, "s16", 1))
    FakeInput.opened.clear()


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    sentence = r"needs sounddevice and PortAudio .*pip install 'ser_jax\[mic\]'"
    with pytest.raises(UserError, match=sentence):
        next(live.microphone(16000, "s16", 1))
    with pytest.raises(UserError, match=sentence):
        live.microphones()
