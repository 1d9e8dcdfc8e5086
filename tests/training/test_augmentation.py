"""Augmentation: against the front end on waves that were changed, by hand, and properties."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import Statistics
from ser_jax.features.logmel import LogMelSettings, log_mel, mel, silence
from ser_jax.training.augmentation import (
    Augmentation,
    add_noise,
    play,
    reverberate,
    vary_frames,
    vary_hsf,
)

FRONT_END = LogMelSettings(16000, 0.025, 0.010, 1024, 40, 0.0, 8000.0, 1e-10)
SILENCE = silence(FRONT_END)
RANGE = {"silence": SILENCE, "mel_range": (mel(0.0), mel(8000.0))}
MEAN = np.full(40, 77.0, np.float32)
STATISTICS = Statistics(mean=MEAN, std=np.ones(40, np.float32))


@jax.jit
def keys_of(numbers: jax.Array) -> jax.Array:
    return jax.vmap(lambda number: jax.random.key_data(jax.random.key(number)))(numbers)


def keys(count: int, first: int = 0) -> jax.Array:
    return keys_of(first + np.arange(count))


def batch(rows: int = 4, size: int = 60) -> Inputs:
    """Rows of 60, 53, 46 … real frames of noise between -20 and 0; the padding is NaN."""
    lengths = size - 7 * np.arange(rows)
    frames = np.random.default_rng(0).uniform(-20, 0, (rows, size, 40)).astype(np.float32)
    frames[np.arange(size)[None, :] >= lengths[:, None]] = np.nan
    return Inputs(jnp.asarray(lengths, jnp.int32), frames=jnp.asarray(frames))


def real(inputs: Inputs) -> list[np.ndarray]:
    pairs = zip(np.asarray(inputs.frames), inputs.length, strict=True)
    return [frames[:length] for frames, length in pairs]


@functools.cache
def compiled(settings: Augmentation) -> Callable[[Inputs, jax.Array], Inputs]:
    return jax.jit(lambda before, keys: vary_frames(before, keys, STATISTICS, settings))


def vary(before: Inputs, settings: Augmentation, first: int = 0) -> Inputs:
    return compiled(settings)(before, keys(len(before.length), first))


played = jax.jit(play, static_argnums=3)


# --- Speed


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_speed_is_that_of_a_wave_played_faster(factor):
    """A rising tone at the other speed through the front end: the same ridge and length."""

    def tone(speed: float) -> np.ndarray:
        time = np.arange(round(24000 / speed)) / 16000 * speed
        phase = 2 * np.pi * (500 * time + 700 * time**2)
        return (0.3 * np.sin(phase)).astype(np.float32)

    before, expected = (log_mel(tone(speed), FRONT_END) for speed in (1.0, factor))
    padded = np.pad(before, ((0, 60), (0, 0)), constant_values=np.nan)
    frames, length = played(
        jnp.asarray(padded), jnp.int32(len(before)), jnp.float32(factor), Augmentation(**RANGE)
    )
    assert abs(int(length) - len(expected)) <= 2
    count = min(int(length), len(expected)) - 3
    ridge, wanted = np.argmax(frames[:count], axis=1), np.argmax(expected[:count], axis=1)
    assert np.max(np.abs(ridge - wanted)) <= 1
    assert np.mean(np.abs(ridge - wanted)) < 0.35
    if factor != 1:  # The test can fail: the ridge as it was is elsewhere.
        count = min(count, len(before))
        assert np.mean(np.abs(np.argmax(before[:count], axis=1) - wanted[:count])) > 0.7
    np.testing.assert_array_equal(frames[int(length) :], np.float32(SILENCE))


def test_speed_one_changes_nothing():
    frames = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    found, length = played(
        jnp.asarray(frames), jnp.int32(20), jnp.float32(1), Augmentation(**RANGE)
    )
    assert int(length) == 20
    np.testing.assert_allclose(found[:20], frames[:20], atol=2e-4)


@pytest.mark.parametrize(
    ("length", "factor", "expected"), [(50, 0.8, 60), (1, 1.2, 1), (40, 1.25, 32)]
)
def test_length_stays_within_the_padded_one(length, factor, expected):
    frames = jnp.ones((60, 40))
    found, shorter = played(frames, jnp.int32(length), jnp.float32(factor), Augmentation(**RANGE))
    assert int(shorter) == expected
    np.testing.assert_allclose(found[:expected], 1, atol=1e-5)


SLOWED = Augmentation(speed=0.3, **RANGE)
BUCKETS = (60, 61, 90)  # frames


def ramp(length: int, size: int) -> Inputs:
    """An utterance whose frames are their numbers, in a bucket of `size`; the padding is NaN."""
    numbers = np.where(np.arange(size) < length, np.arange(size, dtype=np.float32), np.nan)
    frames = np.broadcast_to(numbers[None, :, None], (1, size, 40))
    return Inputs(jnp.array([length], jnp.int32), frames=jnp.asarray(frames))


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 60), first=st.integers(0, 10_000))
def test_all_of_an_utterance_is_played_once_in_any_bucket(length, first):
    """A ramp says which times are heard: evenly, from the first frame to the last, none twice."""
    key = keys(1, first)
    heard = [real(compiled(SLOWED)(ramp(length, size), key))[0] for size in BUCKETS]
    times = heard[0][:, 20]
    factor = np.diff(times).mean() if len(times) > 1 else 1.3
    assert 0.7 - 1e-3 <= factor <= 1.3 + 1e-3
    np.testing.assert_allclose(times, factor * np.arange(len(times)), atol=2e-3)
    assert length - 1 - factor - 2e-3 < times[-1] < length - 1 + 2e-3
    varied = [real(compiled(EVERYTHING)(ramp(length, size), key))[0] for size in BUCKETS]
    for one, other in ((heard, heard[1:]), (varied, varied[1:])):
        for frames in other:
            np.testing.assert_allclose(frames, one[0], atol=1e-4)


def test_an_utterance_that_is_cut_off_has_no_frozen_end():
    """60 of its 75 frames are there: what comes after them is silence, not a copy of the last."""
    frames = jnp.asarray(np.repeat(np.arange(60.0)[:, None], 40, axis=1))
    found, count = played(frames, jnp.int32(75), jnp.float32(1.25), SLOWED)
    np.testing.assert_allclose(found[:48, 20], 1.25 * np.arange(48), atol=1e-3)
    assert int(count) == 48 and np.all(found[48:] == np.float32(SILENCE))


# --- Loudness


def test_loudness_is_that_of_a_louder_wave():
    wave = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.01
    before = log_mel(wave, FRONT_END)
    same = Inputs(jnp.array([len(before)] * 6), frames=jnp.stack([before] * 6))
    varied = vary(same, Augmentation(gain_db=6.0, **RANGE))
    gains = []
    for frames in real(varied):
        gain_db = np.mean(frames - before) * 10 / np.log(10)
        louder = log_mel(wave * np.float32(10 ** (gain_db / 20)), FRONT_END)
        np.testing.assert_allclose(frames, louder, atol=2e-4)
        gains.append(gain_db)
    assert max(np.abs(gains)) <= 6 and np.ptp(gains) > 2


def test_nothing_is_quieter_than_silence():
    before = Inputs(jnp.full(8, 10), frames=jnp.full((8, 10, 40), SILENCE))
    found = np.asarray(vary(before, Augmentation(gain_db=20.0, **RANGE)).frames)
    assert found.min() == np.float32(SILENCE) < found.max()


# --- Silence, room, noise and telephone, against waves that were changed


def speech(seconds: float = 3.0, brown: bool = True) -> np.ndarray:
    """Bursts of brown or white noise with pauses."""
    time = np.arange(round(seconds * 16000)) / 16000
    colour = np.random.default_rng(1).standard_normal(len(time))
    if brown:
        walk = np.cumsum(colour)
        colour = walk - np.convolve(walk, np.ones(400) / 400, "same")
    wave = colour * (np.sin(2 * np.pi * 1.3 * time) > 0)
    return (0.05 * wave / wave.std()).astype(np.float32)


def one(frames: np.ndarray, count: int = 1) -> Inputs:
    return Inputs(jnp.full(count, len(frames)), frames=jnp.stack([jnp.asarray(frames)] * count))


@pytest.mark.parametrize("slope", [0.0, 6.0])
@pytest.mark.parametrize("snr", [20.0, 5.0, -5.0])
def test_noise_is_that_of_a_wave_with_noise(snr, slope):
    """White, or the slope that was drawn: on average over the frames of every band, and spread."""
    wave = speech()
    before = log_mel(wave, FRONT_END)
    settings = Augmentation(noise=1.0, noise_snr_db=(snr, snr), noise_slope_db=slope, **RANGE)
    key = jax.random.wrap_key_data(keys(1)[0], impl="threefry2x32")
    noisy = jax.jit(add_noise, static_argnums=3)
    found = np.asarray(noisy(before, len(before), key, settings))
    drawn = slope * float(jax.random.uniform(jax.random.split(key)[0], (3,))[2])
    spectrum = np.fft.rfft(np.random.default_rng(2).standard_normal(len(wave)))
    hertz = np.fft.rfftfreq(len(wave), 1 / 16000)
    spectrum *= np.where(hertz > 30, np.maximum(hertz, 30) ** (-drawn / 20 / np.log10(2)), 0)
    noise = np.fft.irfft(spectrum, len(wave))
    noise *= np.sqrt(np.mean(wave**2) / np.mean(noise**2) / 10 ** (snr / 10))
    expected = log_mel((wave + noise).astype(np.float32), FRONT_END)
    bands = slice(2, None)  # The lowest hold a bin or two of the FFT.
    difference = (found - expected)[:, bands].mean(axis=0)
    assert np.abs(difference).max() < 0.5 and abs(difference.mean()) < 0.25
    assert np.abs((before - expected)[:, bands]).mean() > 1, "the test can fail"
    silent = slice(130, 145)  # Frames of noise alone.
    spread = [values[silent, 5:].std(axis=0).mean() for values in (found, expected)]
    assert spread[0] == pytest.approx(spread[1], rel=0.35)


@pytest.mark.parametrize("seconds", [0.3, 0.8])
def test_a_room_is_that_of_a_wave_with_a_tail(seconds):
    """In a pause, which it fills, in every band and on average over all."""
    wave = speech(brown=False)
    before = log_mel(wave, FRONT_END)
    settings = Augmentation(room=1.0, room_seconds=(seconds, seconds), **RANGE)
    key = jax.random.wrap_key_data(keys(1)[0], impl="threefry2x32")
    found = np.asarray(jax.jit(reverberate, static_argnums=2)(before, key, settings))
    direct_db = 12 * float(jax.random.uniform(key, (3,))[2])
    time = np.arange(1, round(seconds * 16000)) / 16000
    tail = np.random.default_rng(0).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail *= np.sqrt(10 ** (-direct_db / 10) / np.sum(tail**2))
    heard = np.convolve(wave, np.concatenate([[1.0], tail]))[: len(wave)]
    heard *= np.sqrt(np.mean(wave**2) / np.mean(heard**2))
    expected = log_mel(heard.astype(np.float32), FRONT_END)
    pause = slice(44, 60)  # 0.44 to 0.625 s; the burst before ends at 0.385 s, its tail at 0.685
    for name, values in (("found", found), ("dry", before)):
        difference = (values - expected)[pause, 3:].mean(axis=0)
        assert (np.abs(difference).max() < 1.2) == (name == "found")
        assert (abs(difference.mean()) < 0.4) == (name == "found")


def test_a_telephone_leaves_its_band():
    frames = np.zeros((5, 40), np.float32)
    found = vary(one(frames, 50), Augmentation(telephone=1.0, **RANGE))
    hertz = 700 * (10 ** (np.linspace(0, mel(8000.0), 42)[1:-1] / 2595) - 1)
    lost = -np.asarray(found.frames)[:, 0] * 10 / np.log(10)
    assert not lost[:, (hertz > 400) & (hertz < 3000)].any()
    deep = lost[:, hertz > 7000]
    assert deep.min() >= 29 and deep.max() <= 71 and np.ptp(deep) > 20
    assert lost[:, hertz < 100].min() > 28


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 60), first=st.integers(0, 10_000))
def test_silence_surrounds_and_changes_nothing_else(length, first):
    surrounded = Augmentation(silence_frames=25, **RANGE)
    before = ramp(length, 60)
    found = vary(before, surrounded, first)
    (frames,) = real(found)
    assert found.frames is not None and found.frames.shape[1] == 110
    starts = range(len(frames) - length + 1)
    spans = [frames[k : k + length, 20] for k in starts]
    (start,) = (k for k in starts if np.array_equal(spans[k], np.arange(length)))
    quiet = np.delete(frames, slice(start, start + length), axis=0)
    assert max(start, len(quiet) - start) <= 25
    assert len(quiet) == 0 or quiet.min() == quiet.max() >= np.float32(SILENCE)


@pytest.mark.parametrize("name", ["room", "noise", "telephone"])
def test_a_fraction_of_the_utterances_is_varied(name):
    before = one(log_mel(speech(0.6), FRONT_END), 200)
    for fraction, least, most in ((1.0, 200, 200), (0.3, 40, 80)):
        varied = real(vary(before, Augmentation(**{name: fraction}, **RANGE)))
        changed = [not np.allclose(a, b) for a, b in zip(varied, real(before), strict=True)]
        assert least <= sum(changed) <= most
    drawn = np.stack(real(vary(before, Augmentation(**{name: 1.0}, **RANGE))))
    assert drawn.std(axis=0).max() > 0.5, "not all alike"


# --- Masks


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 80), st.integers(1, 50))
def test_a_mask_is_one_span_of_real_frames_or_bands(first, frames, bands):
    before = batch()
    over_time = Augmentation(time_masks=1, time_mask_frames=frames, **RANGE)
    over_bands = Augmentation(band_masks=1, band_mask_bands=bands, **RANGE)
    # Not compiled: that would be another program for every width.
    masked, without = (
        real(vary_frames(before, keys(4, first), STATISTICS, settings))
        for settings in (over_time, over_bands)
    )
    for number, (old, new) in enumerate(zip(real(before), masked, strict=True)):
        hidden = np.all(new == 77, axis=1)
        assert hidden.sum() <= min(frames, 60 - 7 * number)
        assert np.count_nonzero(np.diff(hidden.astype(int))) <= 2, "one span"
        np.testing.assert_array_equal(new[~hidden], old[~hidden])
    for old, new in zip(real(before), without, strict=True):
        hidden = np.all(new == 77, axis=0)
        assert hidden.sum() <= min(bands, 40) and np.count_nonzero(np.diff(hidden.astype(int))) <= 2
        np.testing.assert_array_equal(new[:, ~hidden], old[:, ~hidden])


def test_masks_are_as_wide_as_they_may_be_and_anywhere():
    """300 rows: widths 0 … 10 all occur, and every frame is masked in some."""
    before = Inputs(jnp.full(300, 60), frames=jnp.zeros((300, 60, 40)))
    found = vary(before, Augmentation(time_masks=1, time_mask_frames=10, **RANGE))
    hidden = np.stack([np.all(frames == 77, axis=1) for frames in real(found)])
    assert set(hidden.sum(axis=1)) == set(range(11)) and hidden.any(axis=0).all()


# --- What is drawn

EVERYTHING = Augmentation(
    *(0.1, 3.0),  # speed, gain
    *(2, 9, 1, 5),  # masks over time and bands
    **{"silence_frames": 12, "room": 0.7, "noise": 0.7, "telephone": 0.7, "hsf_noise": 0.5},
    **RANGE,
)


def test_a_row_is_varied_by_its_key_only():
    """Wherever it stands and whatever its padding holds."""
    before = batch()
    assert before.frames is not None
    together = real(vary(before, EVERYTHING))
    other = before._replace(frames=jnp.where(jnp.isnan(before.frames), 1e9, before.frames))
    turned = jax.tree.map(lambda leaf: leaf[::-1], other)
    again = real(compiled(EVERYTHING)(turned, keys(4)[::-1]))[::-1]
    for one, two in zip(together, again, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, two, atol=1e-5)
    other_key = real(vary(before, EVERYTHING, first=9))
    assert not np.allclose(together[0][:20], other_key[0][:20])


def test_functionals_get_noise():
    before = Inputs(jnp.full(3, 1), hsf=jnp.ones((3, 4000)))
    noise = np.asarray(vary_hsf(before, keys(3), EVERYTHING).hsf) - 1
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 0.5], atol=0.03)
    assert not np.allclose(noise[0], noise[1])
    assert vary_hsf(before, keys(3), Augmentation(**RANGE)) is before


def test_only_what_is_there_is_varied():
    inputs = Inputs(jnp.full(3, 1), hsf=jnp.ones((3, 4)))
    assert vary_frames(inputs, keys(3), Statistics(), EVERYTHING) is inputs
    assert vary_hsf(batch(), keys(4), EVERYTHING).hsf is None
    assert EVERYTHING.draws and not Augmentation(**RANGE).draws
