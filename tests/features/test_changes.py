"""Changes of recordings: each measured on tones, noise and steps, as a user would hear it."""

import io

import numpy as np
import pytest
import soundfile

from ser_jax.features import changes

RATE = 16000
VOICES = tuple(np.random.default_rng(n).normal(0, 0.1, 8000).astype(np.float32) for n in (5, 6))
ALL = changes.changes(VOICES)


def tone(hertz: float, seconds: float = 1.0, peak: float = 0.1) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def decibels(after: np.ndarray, before: np.ndarray) -> float:
    """How much more power the middle of a recording has."""
    power = [np.mean(np.square(wave[len(wave) // 4 : -len(wave) // 4])) for wave in (after, before)]
    return 10 * np.log10(power[0] / power[1])


def hertz_of(wave: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return int(spectrum.argmax()) * RATE / len(wave)


def speech() -> np.ndarray:
    """Half a second of noise, 0.2 s of almost nothing a little behind the middle, noise again."""
    rng = np.random.default_rng(0)
    level = np.repeat([0.1, 1e-4, 0.1], [9600, 3200, 4800])
    return (level * rng.standard_normal(17600)).astype(np.float32)


@pytest.mark.parametrize("name", ALL)
def test_a_change_follows_from_its_seed_and_is_one(name):
    wave = speech()
    before = wave.copy()
    once, again, other = (np.asarray(ALL[name](wave, RATE, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(wave, before)
    np.testing.assert_array_equal(once, again)
    assert once.ndim == 1 and np.isfinite(once).all() and once.any()
    assert (np.array_equal(once, wave)) == (name == changes.UNCHANGED)
    drawn = "noise" in name or name.startswith(("babble", "reverberation"))
    assert np.array_equal(once, other) != drawn


def test_without_voices_there_is_no_babble():
    assert set(ALL) - set(changes.changes()) == {f"babble, {snr} dB" for snr in (20, 10, 0)}


@pytest.mark.parametrize("db", [10, 20, 40])
def test_level(db):
    wave = tone(440, peak=0.001)
    assert decibels(ALL[f"{db} dB louder"](wave, RATE, 0), wave) == pytest.approx(db, abs=1e-3)
    assert decibels(ALL[f"{db} dB quieter"](wave, RATE, 0), wave) == pytest.approx(-db, abs=1e-3)


@pytest.mark.parametrize(
    ("place", "first", "length"),
    [("before", 16000, 16000), ("behind", 0, 16000), ("between", 9600, 16000)],
)
def test_silence_is_where_it_should_be(place, first, length):
    """Between: in the pause, which is 0.6 to 0.8 s from the start."""
    wave = speech()
    found = ALL[f"1 s silence {place}"](wave, RATE, 0)
    assert len(found) == len(wave) + length
    (zeros,) = np.nonzero(found == 0)
    assert len(zeros) >= length
    begin = {"before": 0, "behind": len(wave)}.get(place, zeros[0])
    assert not found[begin : begin + length].any()
    assert place != "between" or first <= begin <= first + 3200
    np.testing.assert_array_equal(np.delete(found, slice(begin, begin + length)), wave)


def test_faint_noise_has_its_level_on_both_sides():
    wave = speech()
    found = ALL["faint noise around"](wave, RATE, 0)
    np.testing.assert_array_equal(found[RATE:-RATE], wave)
    for side in (found[:RATE], found[-RATE:]):
        assert 20 * np.log10(np.sqrt(np.mean(side**2))) == pytest.approx(-70, abs=0.2)


@pytest.mark.parametrize("kind", ["white noise", "pink noise", "babble"])
@pytest.mark.parametrize("snr", [20, 10, 0])
def test_noise_has_the_ratio_of_mean_powers(kind, snr):
    wave = speech()
    noise = ALL[f"{kind}, {snr} dB"](wave, RATE, 3) - wave
    found = 10 * np.log10(np.mean(np.square(wave)) / np.mean(np.square(noise)))
    assert found == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize(("kind", "per_octave"), [(changes.white, 0.0), (changes.pink, -3.01)])
def test_colour_of_noise(kind, per_octave):
    power = np.square(np.abs(np.fft.rfft(kind(np.zeros(1_600_000), RATE, 0))))
    edges = [12_500 * 2**n for n in range(6)]  # octaves from 125 Hz
    density = [10 * np.log10(power[low : 2 * low].mean()) for low in edges]
    np.testing.assert_allclose(np.diff(density), per_octave, atol=0.25)


def test_babble_is_the_voices_at_one_level():
    """A quiet and a loud tone, shorter and longer than the recording, are equally loud in it."""
    voices = (tone(300, 0.5, peak=0.001), tone(1000, 2.0, peak=0.5))
    found = changes.babble(np.zeros(RATE), RATE, 0, voices=voices)
    spectrum = np.abs(np.fft.rfft(found))
    assert len(found) == RATE and spectrum[300] == pytest.approx(spectrum[1000], rel=0.02)


@pytest.mark.parametrize(
    ("name", "hertz", "least", "most"),
    [
        *(("telephone band", hertz, -1, 1) for hertz in (500, 1000, 2500)),
        *(("telephone band", hertz, -200, -25) for hertz in (100, 7000)),
        ("A-law, 8 kHz", 1000, -0.3, 0.3),
        ("A-law, 8 kHz", 5000, -200, -25),
        ("MP3, 32 kbit/s", 1000, -1, 1),
    ],
)
def test_channels_keep_their_band(name, hertz, least, most):
    if name not in ALL:
        pytest.skip("this libsndfile writes no MP3")
    before = tone(hertz)
    assert least <= decibels(ALL[name](before, RATE, 0), before) <= most


def test_a_law_rounds_as_g_711():
    """Signal to quantisation noise of a tone: about 38 dB, of 16 bits about 80."""
    before = tone(997, peak=0.5)
    after = ALL["A-law, 8 kHz"](before, RATE, 0)[4000:12000]
    noise = after - before[4000:12000]
    assert 33 < 10 * np.log10(np.mean(before**2) / np.mean(noise**2)) < 42


def test_mp3_has_its_bit_rate(monkeypatch):
    if "MP3, 32 kbit/s" not in ALL:
        pytest.skip("this libsndfile writes no MP3")
    sizes, read = [], soundfile.read

    def spy(file: io.BytesIO, **options):
        sizes.append(file.getbuffer().nbytes)
        return read(file, **options)

    monkeypatch.setattr(soundfile, "read", spy)
    changes.mp3(changes.white(np.zeros(160_000), RATE, 0) / 10, RATE, 0, kbits=32)
    assert sizes[0] * 8 / 10 == pytest.approx(32_000, rel=0.03)


@pytest.mark.parametrize("seconds", [0.3, 0.8])
def test_a_room_falls_by_60_db_in_its_time(seconds):
    """The backward integral of the response to a click (Schroeder 1965), from −5 to −35 dB."""
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 0.5
    response = ALL[f"reverberation {seconds} s"](click, RATE, 0)
    tail = np.cumsum(response[:0:-1] ** 2)[::-1]
    assert np.sum(tail[0]) == pytest.approx(response[0] ** 2, rel=1e-6), "direct = reverberant"
    level = 10 * np.log10(np.maximum(tail / tail[0], 1e-12))
    start, end = (np.argmax(level < below) for below in (-5, -35))
    assert 2 * (end - start) / RATE == pytest.approx(seconds, rel=0.1)
    assert np.sum(response**2) == pytest.approx(np.sum(click**2), rel=1e-6)


def test_clipping_bits_and_offset():
    wave = tone(100)
    assert np.abs(ALL["clipped"](wave, RATE, 0)).max() == pytest.approx(0.025, rel=1e-4)
    coarse = ALL["8 bits"](wave, RATE, 0)
    assert set(np.unique(coarse * 128)) <= set(range(-128, 128)) and len(np.unique(coarse)) > 20
    np.testing.assert_allclose(ALL["DC offset 0.01"](wave, RATE, 0) - wave, 0.01, atol=1e-7)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_pitch_and_length(factor):
    found = ALL[f"speed {factor}"](tone(1000), RATE, 0)
    assert len(found) == pytest.approx(RATE / factor, abs=2)
    assert hertz_of(found) == pytest.approx(1000 * factor, abs=2)


def test_noise_that_falls_by_so_many_decibels_per_octave():
    power = np.square(
        np.abs(np.fft.rfft(changes.coloured(np.zeros(1_600_000), RATE, 0, slope_db=6)))
    )
    density = [10 * np.log10(power[low : 2 * low].mean()) for low in (12_500, 25_000, 50_000)]
    np.testing.assert_allclose(np.diff(density), -6, atol=0.25)


def test_noise_of_zeros_changes_nothing():
    found = changes.add_noise(speech(), RATE, 0, noise=lambda wave, rate, seed: 0 * wave, snr_db=0)
    np.testing.assert_array_equal(found, speech())


def test_a_room_by_its_impulse_response():
    """Two echoes by hand; what comes before the direct sound is left out."""
    wave = speech()
    response = np.array([0.1, 0.0, -1.0, 0.5, 0.0, 0.25], np.float32)
    found = changes.in_room(wave, RATE, 0, response=response)
    expected = -wave.astype(np.float64)
    expected[1:] += 0.5 * wave[:-1]
    expected[3:] += 0.25 * wave[:-3]
    expected[:-2] += 0.1 * wave[2:]
    expected *= np.sqrt(np.sum(wave.astype(np.float64) ** 2) / np.sum(expected**2))
    np.testing.assert_allclose(found, expected, atol=1e-6)
