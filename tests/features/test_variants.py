"""Variants: waves changed before features are computed, by hand; draws; entries of the store."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.features import extraction, functionals, variants
from ser_jax.features.audio import Mix
from ser_jax.features.header import Changed, content_sha256
from ser_jax.features.logmel import LogMelSettings, log_mel
from ser_jax.features.variants import Recipe, Settings, Sound

RATE = 16000
FRONT_END = LogMelSettings(16000, 0.025, 0.010, 1024, 40, 0.0, 8000.0, 1e-10)
MIX = Mix(remove_dc=True, level="rms")
SETTINGS = Settings(
    seed=0,
    gain_db=10.0,
    noise=0.5,
    noise_snr_db=(0.0, 30.0),
    noise_slope_db=6.0,
    room=0.5,
    room_seconds=(0.2, 0.8),
    telephone=0.5,
    codec=0.5,
)
PLAIN = Recipe(7, None, None, None, 0.0, None, None)


def sound(path: Path, samples: np.ndarray, rate: int = RATE) -> Sound:
    """Writes a file of noise or an impulse response; returns it as the listing does."""
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return Sound(path, content_sha256(path)[0], len(samples) / rate)


def recording(folder: Path) -> np.ndarray:
    """Writes a.wav, 0.8 s of noise that gets louder, with an offset; returns its samples."""
    rng = np.random.default_rng(1)
    wave = np.linspace(0.02, 0.2, 12800) * rng.standard_normal(12800) + 0.01
    soundfile.write(folder / "a.wav", wave, RATE, subtype="FLOAT")
    return wave.astype(np.float32).astype(np.float64)


def extracted(folder: Path, recipe: Recipe | None, **how: Any) -> extraction.Features:
    corpus = Corpus("test", folder, (Utterance("a", "a.wav", label="sad"),), "none", {})
    how = {"hsf": False, "mix": MIX, **how}
    return extraction.extract(
        *(corpus, FRONT_END),
        recipes={"a": recipe} if recipe else {},
        store_root=folder / "store",
        max_seconds=10.0,
        max_bad_share=0.0,
        workers=1,
        **how,
    )


def test_log_mel_and_functionals_are_those_of_the_changed_wave(tmp_path):
    """A room, noise, a recorder that clips, then the preparation: all of it by hand."""
    wave = recording(tmp_path)
    response = np.zeros(1600, np.float32)
    response[[20, 130, 470]] = [0.9, 0.45, -0.3]
    noise = (0.1 * np.random.default_rng(2).standard_normal(RATE)).astype(np.float32)
    recipe = dataclasses.replace(
        PLAIN,
        room=sound(tmp_path / "room.wav", response),
        noise=dataclasses.replace(sound(tmp_path / "noise.wav", noise), start=0.25, end=0.5),
        snr_db=5.0,
        gain_db=14.0,
    )
    heard = np.convolve(wave, response.astype(np.float64))[20 : 20 + len(wave)]
    heard *= np.sqrt(np.sum(wave**2) / np.sum(heard**2))
    added = np.resize(noise[4000:8000].astype(np.float64), len(wave))
    added *= np.sqrt(np.mean(heard**2) / np.mean(added**2) / 10**0.5)
    louder = 10 ** (14 / 20) * (heard + added)
    assert 0.01 < np.mean(np.abs(louder) > 1) < 0.5, "some of it clips"
    clipped = np.clip(louder, -1, 1)
    prepared = clipped - clipped.mean()
    prepared *= min(10 ** (-26 / 20) / np.sqrt(np.mean(prepared**2)), 1 / np.abs(prepared).max())
    expected = log_mel(prepared.astype(np.float32), FRONT_END)

    pytest.importorskip("opensmile")
    found = extracted(tmp_path, recipe, hsf=True, feature_set="eGeMAPSv02")
    np.testing.assert_allclose(found.log_mel[0], expected, atol=0.01)
    assert found.hsf is not None
    values = functionals.functionals(prepared.astype(np.float32), "eGeMAPSv02")
    # A frame that is hardly voiced may become unvoiced by the last bit of a sample.
    assert np.isclose(found.hsf[0], values, rtol=0.02, atol=0.02).mean() > 0.8
    clean = extracted(tmp_path, None)
    assert np.abs(found.log_mel[0] - clean.log_mel[0]).mean() > 0.1


def test_a_recipe_that_changes_nothing_gives_the_features_of_the_recording(tmp_path):
    recording(tmp_path)
    plain, own = extracted(tmp_path, None), extracted(tmp_path, PLAIN)
    np.testing.assert_array_equal(plain.log_mel[0], own.log_mel[0])
    assert plain.sha256 != own.sha256, "it has its own entries"


def test_a_telephone_and_a_codec_leave_their_band(tmp_path):
    recording(tmp_path)
    line = extracted(tmp_path, dataclasses.replace(PLAIN, telephone_hz=(300.0, 3400.0)))
    lost = (extracted(tmp_path, None).log_mel[0] - line.log_mel[0]).mean(axis=0)
    assert lost[-5:].min() > 3 > np.abs(lost[10:20]).max()
    if variants.writes_mp3():
        coded = extracted(tmp_path, dataclasses.replace(PLAIN, mp3_kbits=16))
        assert coded.log_mel[0][:, -1].mean() < line.log_mel[0].max()


def test_nothing_is_computed_twice(tmp_path):
    """The store knows a variant by its recipe, and a noise by its bytes, wherever they lie."""
    recording(tmp_path)
    noise = sound(tmp_path / "noise.wav", np.random.default_rng(2).normal(0, 0.1, 3000))
    recipe = dataclasses.replace(PLAIN, noise=noise, snr_db=10.0)
    moved = dataclasses.replace(noise, path=noise.path.rename(tmp_path / "moved.wav"))
    found = [
        extracted(tmp_path, one).extracted
        for one in (
            None,
            dataclasses.replace(recipe, noise=moved),
            recipe,
            dataclasses.replace(recipe, noise=moved, seed=8),
            dataclasses.replace(recipe, noise=moved, snr_db=11.0),
        )
    ]
    assert found == [1, 1, 0, 1, 1]


def test_a_noise_that_has_become_another_is_not_taken_for_it(tmp_path):
    recording(tmp_path)
    noise = sound(tmp_path / "noise.wav", np.random.default_rng(2).normal(0, 0.1, 3000))
    recipe = dataclasses.replace(PLAIN, noise=noise, snr_db=10.0)
    sound(tmp_path / "noise.wav", np.random.default_rng(3).normal(0, 0.1, 3001))
    with pytest.raises(Changed, match=r"noise.wav has been changed"):
        extracted(tmp_path, recipe)
    noise.path.unlink()
    with pytest.raises(Changed, match=r"noise.wav has been changed"):
        extracted(tmp_path, recipe)


# --- Draws


NOISES = tuple(Sound(Path(f"/{n}.wav"), f"{n:064}", 60.0) for n in range(3))


@given(st.text("0123456789abcdef", min_size=1, max_size=64), st.integers(1, 9), st.integers(0, 9))
def test_draws_follow_from_digest_number_and_seed_and_stay_in_their_ranges(digest, number, seed):
    settings = SETTINGS._replace(seed=seed)
    draw = variants.draw(settings, (digest, None, None), number, 2.0, NOISES)
    assert draw == variants.draw(settings, (digest, None, None), number, 2.0, NOISES)
    others = (
        variants.draw(settings, (digest + "0", None, None), number, 2.0, NOISES),
        variants.draw(settings, (digest, 0.5, None), number, 2.0, NOISES),
        variants.draw(settings, (digest, None, None), number + 1, 2.0, NOISES),
        variants.draw(settings._replace(seed=seed + 1), (digest, None, None), number, 2.0, NOISES),
    )
    assert len({draw.seed, *(other.seed for other in others)}) == 5
    assert abs(draw.gain_db) <= 10
    assert draw.room is None or isinstance(draw.room, float) and 0.2 <= draw.room <= 0.8
    assert (draw.noise is None) == (draw.snr_db is None)
    if isinstance(draw.noise, Sound):
        assert draw.noise.start is not None and draw.noise.end is not None
        assert 0 <= draw.noise.start and draw.noise.end <= 60 + 1e-9
        assert draw.noise.end - draw.noise.start == pytest.approx(2.0, abs=2e-3)
    if draw.telephone_hz:
        assert 200 <= draw.telephone_hz[0] <= 400 and 3000 <= draw.telephone_hz[1] <= 3800
    # Another fraction changes nothing of what else is drawn.
    quiet = variants.draw(settings._replace(noise=0.0), (digest, None, None), number, 2.0, NOISES)
    assert quiet == dataclasses.replace(draw, noise=None, snr_db=None)


def test_fractions():
    """Of 2000 recordings each change has its share: three deviations are 3.4 percent."""
    settings = SETTINGS._replace(noise=0.6, room=0.4, telephone=0.25, codec=1.0)
    drawn = [variants.draw(settings, (str(n), None, None), 1, 1.0) for n in range(2000)]
    for name, fraction in (("noise", 0.6), ("room", 0.4), ("telephone_hz", 0.25)):
        share = np.mean([getattr(recipe, name) is not None for recipe in drawn])
        assert share == pytest.approx(fraction, abs=0.034), name
    rates = {recipe.mp3_kbits for recipe in drawn}
    assert rates == (set(variants.MP3_KBITS) if variants.writes_mp3() else {None})
    slopes = [recipe.noise for recipe in drawn if isinstance(recipe.noise, float)]
    assert 0 <= min(slopes) < 0.1 and 5.9 < max(slopes) <= 6
    others = [variants.draw(settings, (str(n), None, None), 1, 9.0, NOISES) for n in range(100)]
    used = {one.noise.sha256 for one in others if isinstance(one.noise, Sound)}
    assert used == {one.sha256 for one in NOISES}
