"""Augmentation: against the front end on waves that were really changed, by hand, and as a property of masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import Statistics
from ser_jax.features.logmel import LogMelSettings, log_mel, mel, silence
from ser_jax.training.augmentation import Augmentation, play, vary_frames, vary_hsf

FRONT_END = LogMelSettings(16000, 0.025, 0.010, 1024, 40, 0.0, 8000.0, 1e-10)
SILENCE = silence(FRONT_END)
RANGE = {"silence": SILENCE, "mel_range": (mel(0.0), mel(8000.0))}
MEAN = np.full(40, 77.0, np.float32)
STATISTICS = Statistics(mean=MEAN, std=np.ones(40, np.float32))


def keys(count: int, first: int = 0) -> jax.Array:
    return jax.vmap(lambda number: jax.random.key_data(jax.random.key(number)))(first + jnp.arange(count))


def batch(rows: int = 4, size: int = 60) -> Inputs:
    """Rows of 60, 53, 46 … real frames of noise between -20 and 0; the padding is NaN."""
    lengths = size - 7 * np.arange(rows)
    frames = np.random.default_rng(0).uniform(-20, 0, (rows, size, 40)).astype(np.float32)
    frames[np.arange(size)[None, :] >= lengths[:, None]] = np.nan
    return Inputs(jnp.asarray(lengths, jnp.int32), frames=jnp.asarray(frames))


def real(inputs: Inputs) -> list[np.ndarray]:
    assert inputs.frames is not None
    return [np.asarray(frames[:length]) for frames, length in zip(inputs.frames, inputs.length, strict=True)]


# --- Speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_speed_is_that_of_a_wave_played_faster(factor):
    """A rising tone, generated at the other speed, through the front end: the same ridge, the same length."""

    def tone(speed: float) -> np.ndarray:
        time = np.arange(round(24000 / speed)) / 16000 * speed
        phase = 2 * np.pi * (500 * time + 700 * time**2)
        return (0.3 * np.sin(phase)).astype(np.float32)

    before, expected = (log_mel(tone(speed), FRONT_END) for speed in (1.0, factor))
    padded = np.pad(before, ((0, 60), (0, 0)), constant_values=np.nan)
    frames, length = play(jnp.asarray(padded), jnp.int32(len(before)), jnp.float32(factor), Augmentation(**RANGE))
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
    found, length = play(jnp.asarray(frames), jnp.int32(20), jnp.float32(1), Augmentation(**RANGE))
    assert int(length) == 20
    np.testing.assert_allclose(found[:20], frames[:20], atol=2e-4)


@pytest.mark.parametrize(("length", "factor", "expected"), [(50, 0.8, 60), (1, 1.2, 1), (40, 1.25, 32)])
def test_length_stays_within_the_padded_one(length, factor, expected):
    frames = jnp.ones((60, 40))
    found, shorter = play(frames, jnp.int32(length), jnp.float32(factor), Augmentation(**RANGE))
    assert int(shorter) == expected
    np.testing.assert_allclose(found[:expected], 1, atol=1e-5)


# --- Loudness ---------------------------------------------------------------------------------------------------------


def test_loudness_is_that_of_a_louder_wave():
    wave = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.01
    before = log_mel(wave, FRONT_END)
    varied = vary_frames(
        *(Inputs(jnp.array([len(before)] * 6), frames=jnp.stack([before] * 6)), keys(6), STATISTICS),
        Augmentation(gain_db=6.0, **RANGE),
    )
    gains = []
    for frames in real(varied):
        gain_db = np.mean(frames - before) * 10 / np.log(10)
        np.testing.assert_allclose(frames, log_mel(wave * np.float32(10 ** (gain_db / 20)), FRONT_END), atol=2e-4)
        gains.append(gain_db)
    assert max(np.abs(gains)) <= 6 and np.ptp(gains) > 2


def test_nothing_is_quieter_than_silence():
    frames = jnp.full((8, 10, 40), SILENCE)
    found = vary_frames(
        Inputs(jnp.full(8, 10), frames=frames), keys(8), STATISTICS, Augmentation(gain_db=20.0, **RANGE)
    )
    assert found.frames is not None and float(found.frames.min()) == np.float32(SILENCE) < float(found.frames.max())


# --- Masks ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 80), st.integers(1, 50))
def test_a_mask_is_one_span_of_real_frames_or_bands(first, frames, bands):
    before = batch()
    over_time = Augmentation(time_masks=1, time_mask_frames=frames, **RANGE)
    over_bands = Augmentation(band_masks=1, band_mask_bands=bands, **RANGE)
    for number, (old, new) in enumerate(
        zip(real(before), real(vary_frames(before, keys(4, first), STATISTICS, over_time)), strict=True)
    ):
        hidden = np.all(new == 77, axis=1)
        assert hidden.sum() <= min(frames, 60 - 7 * number)
        assert np.count_nonzero(np.diff(hidden.astype(int))) <= 2, "one span"
        np.testing.assert_array_equal(new[~hidden], old[~hidden])
    for old, new in zip(real(before), real(vary_frames(before, keys(4, first), STATISTICS, over_bands)), strict=True):
        hidden = np.all(new == 77, axis=0)
        assert hidden.sum() <= min(bands, 40) and np.count_nonzero(np.diff(hidden.astype(int))) <= 2
        np.testing.assert_array_equal(new[:, ~hidden], old[:, ~hidden])


def test_masks_are_as_wide_as_they_may_be_and_anywhere():
    """300 rows: widths 0 … 10 all occur, and every frame is masked in some."""
    before = Inputs(jnp.full(300, 60), frames=jnp.zeros((300, 60, 40)))
    found = vary_frames(before, keys(300), STATISTICS, Augmentation(time_masks=1, time_mask_frames=10, **RANGE))
    hidden = np.stack([np.all(frames == 77, axis=1) for frames in real(found)])
    assert set(hidden.sum(axis=1)) == set(range(11)) and hidden.any(axis=0).all()


# --- What is drawn ----------------------------------------------------------------------------------------------------

EVERYTHING = Augmentation(
    speed=0.1, gain_db=3.0, time_masks=2, time_mask_frames=9, band_masks=1, band_mask_bands=5, hsf_noise=0.5, **RANGE
)


def test_a_row_is_varied_as_its_key_says():
    """Wherever it stands and whatever its padding holds."""
    before = batch()
    assert before.frames is not None
    together = real(vary_frames(before, keys(4), STATISTICS, EVERYTHING))
    other = before._replace(frames=jnp.where(jnp.isnan(before.frames), 1e9, before.frames))
    turned = jax.tree.map(lambda leaf: leaf[::-1], other)
    again = real(vary_frames(turned, keys(4)[::-1], STATISTICS, EVERYTHING))[::-1]
    for one, two in zip(together, again, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert not np.allclose(together[0][:20], real(vary_frames(before, keys(4, 9), STATISTICS, EVERYTHING))[0][:20])


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
