"""Log-mel frames against a written-out DFT, librosa's filterbank and the jax.numpy form."""

import dataclasses

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from ser_jax.errors import UserError
from ser_jax.features.logmel import LogMelSettings, band_edges, frame_count, log_mel, mel_filterbank, silence

PAPER = LogMelSettings(
    sample_rate=16000,
    window_seconds=0.025,
    hop_seconds=0.010,
    fft=1024,
    bands=40,
    low_hz=0.0,
    high_hz=8000.0,
    floor=1e-10,
)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def written_out(wave, frame):
    """One frame in float64, from the definition."""
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    buffer = np.zeros(1024)
    buffer[:400] = wave[frame * 160 : frame * 160 + 400].astype(np.float64) * hamming
    turns = np.outer(np.arange(513), np.arange(1024)) / 1024
    power = (np.cos(2 * np.pi * turns) @ buffer) ** 2 + (np.sin(2 * np.pi * turns) @ buffer) ** 2
    filters = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=40, fmin=0, fmax=8000, htk=True, norm=None)
    return np.log(np.maximum(filters.astype(np.float64) @ power, 1e-10))


def test_window_and_hop():
    assert (PAPER.window, PAPER.hop) == (400, 160)
    assert [frame_count(n, PAPER) for n in (0, 399, 400, 559, 560, 5040)] == [0, 0, 1, 1, 2, 30]
    assert frame_count(round(0.515 * 16000), PAPER) == 50  # the paper's longer segment


def test_filterbank_equals_librosa():
    expected = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=40, fmin=0, fmax=8000, htk=True, norm=None).T
    np.testing.assert_allclose(mel_filterbank(PAPER), expected, atol=1e-6)
    other = dataclasses.replace(PAPER, fft=512, bands=23, low_hz=20.0, high_hz=7600.0)
    expected = librosa.filters.mel(sr=16000, n_fft=512, n_mels=23, fmin=20, fmax=7600, htk=True, norm=None).T
    np.testing.assert_allclose(mel_filterbank(other), expected, atol=1e-6)
    assert not mel_filterbank(PAPER).flags.writeable


def test_band_edges_equal_librosa():
    expected = librosa.mel_frequencies(n_mels=25, fmin=20, fmax=7600, htk=True)
    found = band_edges(dataclasses.replace(PAPER, bands=23, low_hz=20.0, high_hz=7600.0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_frames_equal_the_written_out_transform():
    wave = noise(16000)
    frames = log_mel(wave, PAPER)
    assert frames.shape == (98, 40) and frames.dtype == np.float32
    for frame in (0, 31, 32, 97):  # both sides of a block's edge
        np.testing.assert_allclose(frames[frame], written_out(wave, frame), atol=2e-4)


def test_a_window_covers_its_samples_only():
    wave = np.zeros(4000, np.float32)
    wave[160 * 7 : 160 * 7 + 400] = noise(400)
    changed = np.any(log_mel(wave, PAPER) != np.float32(silence(PAPER)), axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [5, 6, 7, 8, 9])


def test_waves_of_any_layout():
    wave = noise(4000)
    np.testing.assert_array_equal(log_mel(wave[::-2], PAPER), log_mel(wave[::-2].copy(), PAPER))
    assert log_mel(wave[:399], PAPER).shape == (0, 40) and log_mel(wave[:0], PAPER).shape == (0, 40)


def test_silence():
    assert silence(PAPER) == pytest.approx(np.log(1e-10), rel=1e-6)
    np.testing.assert_array_equal(log_mel(np.zeros(1000, np.float32), PAPER), np.float32(silence(PAPER)))


def test_jax_and_numpy_agree():
    wave = noise(16000)
    with jax.default_matmul_precision("highest"):
        other = jax.jit(lambda x: log_mel(x, PAPER, jnp))(wave)
    assert other.dtype == jnp.float32
    np.testing.assert_allclose(other, log_mel(wave, PAPER), atol=1e-4)


def test_rows_together_are_rows_alone():
    waves = np.stack([noise(4000, seed) for seed in range(3)])
    together = jax.jit(lambda x: log_mel(x, PAPER, jnp))(waves)
    assert together.shape == (3, 23, 40)
    np.testing.assert_allclose(together, [log_mel(wave, PAPER) for wave in waves], atol=1e-4)


def test_export_with_any_length():
    (samples,) = export.symbolic_shape("samples", constraints=["samples >= 400"])
    argument = jax.ShapeDtypeStruct((samples,), jnp.float32)
    exported = export.export(jax.jit(lambda x: log_mel(x, PAPER, jnp)))(argument)
    for length in (400, 5040, 9999):
        np.testing.assert_allclose(exported.call(noise(length)), log_mel(noise(length), PAPER), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(400, 20000), offset=st.integers(0, 40))
def test_frames_do_not_depend_on_what_surrounds_them(samples, offset):
    wave = noise(samples + offset * 160)
    whole, part = log_mel(wave, PAPER), log_mel(wave[offset * 160 :], PAPER)
    assert part.shape == (frame_count(samples, PAPER), 40)
    np.testing.assert_allclose(whole[offset : offset + len(part)], part, atol=1e-5)


def test_louder_by_a_factor_is_a_constant_more():
    wave = noise(4000)
    np.testing.assert_allclose(log_mel(4 * wave, PAPER) - log_mel(wave, PAPER), 2 * np.log(4), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hop_seconds": 0.0}, "hop_seconds"),
        ({"window_seconds": 0.1}, "window_seconds"),
        ({"high_hz": 8001.0}, "high_hz"),
        ({"low_hz": -1.0}, "low_hz"),
        ({"bands": 0}, "bands"),
        ({"floor": 0.0}, "floor"),
    ],
)
def test_settings_that_describe_no_front_end(changes, named):
    with pytest.raises(UserError, match=named):
        dataclasses.replace(PAPER, **changes)


def test_too_many_bands():
    with pytest.raises(UserError, match="bands=400"):
        mel_filterbank(dataclasses.replace(PAPER, bands=400))
