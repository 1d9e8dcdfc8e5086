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

from ser_jax.features.logmel import LogMelSettings, frame_count, log_mel, mel_filterbank, silence
from ser_jax.runtime.errors import UserError

PAPER = LogMelSettings(16000, 0.025, 0.010, 1024, 40, 0.0, 8000.0, 1e-10)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def librosa_filters(s: LogMelSettings):
    """Triangles of height 1: the norm is taken back, as librosa without one compiles for 15 s."""
    span = {"fmin": s.low_hz, "fmax": s.high_hz, "htk": True}
    edges = librosa.mel_frequencies(s.bands + 2, **span)
    filters = librosa.filters.mel(sr=s.sample_rate, n_fft=s.fft, n_mels=s.bands, **span)
    return filters.T * (edges[2:] - edges[:-2]) / 2


def written_out(wave, frame):
    """One frame in float64, from the definition."""
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    buffer = np.zeros(1024)
    buffer[:400] = wave[frame * 160 : frame * 160 + 400].astype(np.float64) * hamming
    turns = np.outer(np.arange(513), np.arange(1024)) / 1024
    power = (np.cos(2 * np.pi * turns) @ buffer) ** 2 + (np.sin(2 * np.pi * turns) @ buffer) ** 2
    return np.log(np.maximum(librosa_filters(PAPER).astype(np.float64).T @ power, 1e-10))


def test_window_and_hop():
    assert (PAPER.window, PAPER.hop) == (400, 160)
    assert [frame_count(n, PAPER) for n in (0, 399, 400, 559, 560, 5040)] == [0, 0, 1, 1, 2, 30]
    assert frame_count(round(0.515 * 16000), PAPER) == 50  # the paper's longer segment


def test_filterbank_equals_librosa():
    other = dataclasses.replace(PAPER, fft=512, bands=23, low_hz=20.0, high_hz=7600.0)
    for s in (PAPER, other):
        np.testing.assert_allclose(mel_filterbank(s), librosa_filters(s), atol=1e-6)
    assert not mel_filterbank(PAPER).flags.writeable


def test_frames_equal_the_written_out_transform():
    wave = noise(32000)[::-2]
    frames = log_mel(wave, PAPER)
    assert frames.shape == (98, 40) and frames.dtype == np.float32
    assert log_mel(wave[:399], PAPER).shape == log_mel(wave[:0], PAPER).shape == (0, 40)
    for frame in (0, 23, 24, 97):  # both sides of a block's edge
        np.testing.assert_allclose(frames[frame], written_out(wave, frame), atol=2e-4)


def test_a_window_covers_its_samples_only():
    assert silence(PAPER) == pytest.approx(np.log(1e-10), rel=1e-6)
    wave = np.zeros(4000, np.float32)
    wave[160 * 7 : 160 * 7 + 400] = noise(400)
    changed = np.any(log_mel(wave, PAPER) != np.float32(silence(PAPER)), axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [5, 6, 7, 8, 9])


def test_rows_in_jax_are_those_of_numpy():
    waves = np.stack([noise(4000, seed) for seed in range(3)])
    with jax.default_matmul_precision("highest"):
        together = jax.jit(lambda x: log_mel(x, PAPER, jnp))(waves)
    assert together.shape == (3, 23, 40) and together.dtype == jnp.float32
    np.testing.assert_allclose(together, [log_mel(wave, PAPER) for wave in waves], atol=1e-4)


def test_export_with_any_length():
    (samples,) = export.symbolic_shape("samples", constraints=["samples >= 400"])
    argument = jax.ShapeDtypeStruct((samples,), jnp.float32)
    exported = export.export(jax.jit(lambda x: log_mel(x, PAPER, jnp)))(argument)
    for length in (400, 5040, 9999):
        expected = log_mel(noise(length), PAPER)
        np.testing.assert_allclose(exported.call(noise(length)), expected, atol=1e-4)


def test_the_number_of_blas_threads_changes_no_bit():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    for bands in (40, 128):
        front_end = dataclasses.replace(PAPER, bands=bands)
        found = []
        for threads in (1, 2):
            with threadpoolctl.threadpool_limits(threads):
                found.append(log_mel(noise(48000), front_end).tobytes())
        assert found[0] == found[1]


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(400, 20000), offset=st.integers(0, 40))
def test_frames_do_not_depend_on_what_surrounds_them(samples, offset):
    wave = noise(samples + offset * 160)
    whole, part = log_mel(wave, PAPER), log_mel(wave[offset * 160 :], PAPER)
    assert part.shape == (frame_count(samples, PAPER), 40)
    np.testing.assert_allclose(whole[offset : offset + len(part)], part, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hop_seconds": 0.0}, "hop_seconds"),
        ({"window_seconds": 0.1}, "window_seconds"),
        ({"high_hz": 8001.0}, "high_hz"),
        ({"low_hz": -1.0}, "low_hz"),
        ({"bands": 0}, "bands"),
        ({"bands": 400}, "bands=400 are too many"),
        ({"floor": 0.0}, "floor"),
    ],
)
def test_settings_that_describe_no_front_end(changes, named):
    with pytest.raises(UserError, match=named):
        mel_filterbank(dataclasses.replace(PAPER, **changes))
