"""Standardisation: by hand, against scikit-learn, of the training part only, exact if huge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from ser_jax.data import standardise
from ser_jax.data.inputs import Inputs


def frames_of(lengths, bands=4, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(-8, 3, (length, bands)).astype(np.float32) for length in lengths]


def standardised_hsf(hsf, statistics, xp=np):
    batch = standardise.standardise(Inputs(length=np.zeros(len(hsf)), hsf=hsf), statistics, xp)
    return np.asarray(batch.hsf)


def hsf_statistics(hsf, rows):
    mean, std = standardise.hsf_statistics(hsf, np.asarray(rows))
    return standardise.Statistics(np.zeros(1), np.ones(1), mean, std)


def test_log_mel_by_hand():
    """Frames 1, 3 and 8 of the first and third utterance: mean 4, variance (9 + 1 + 16) / 3."""
    log_mel = [np.array([[1.0], [3.0]]), np.array([[100.0]]), np.array([[8.0]])]
    sums = standardise.band_sums([frames.astype(np.float32) for frames in log_mel])
    assert sums.frames.tolist() == [2, 1, 1]
    mean, std = standardise.log_mel_statistics(sums, np.array([0, 2]))
    np.testing.assert_allclose(mean, [4], rtol=1e-15)
    np.testing.assert_allclose(std, [np.sqrt(26 / 3)], rtol=1e-14)
    inputs = Inputs(np.array([1]), frames=np.array([[[4.0], [4.0 + np.sqrt(26 / 3)]]]))
    result = standardise.standardise(inputs, standardise.Statistics(mean, std), np)
    np.testing.assert_allclose(np.asarray(result.frames)[0, :, 0], [0, 1], atol=1e-15)


def test_functionals_by_hand():
    """Columns: two values, one missing, constant, infinite in training, huge when scored."""
    nan, inf = np.nan, np.inf
    train = [[1.0, 4.0, 7.0, 2.0, 0.0], [3.0, nan, 7.0, inf, 1.0], [2.0, 6.0, 7.0, 4.0, 2.0]]
    train = np.array(train, np.float32)
    statistics = hsf_statistics(train, [0, 1, 2])
    mean, std = standardise.hsf_statistics(train, np.arange(3))
    np.testing.assert_allclose(mean, [2, 5, 7, 3, 1])
    deviation = np.sqrt(2 / 3)
    np.testing.assert_allclose(std, [deviation, 1, np.inf, 1, deviation])
    scored = np.array([[2.0, nan, 7.0, inf, 1e30], [nan, 5.5, 7.0, -inf, -1e30]], np.float32)
    expected = [[0, 0, 0, 10, 10], [0, 0.5, 0, -10, -10]]
    np.testing.assert_allclose(standardised_hsf(scored, statistics), expected)


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=12), seed=st.integers(0, 2**31))
def test_log_mel_against_scikit_learn(lengths, seed):
    log_mel = frames_of(lengths, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(lengths))[: max(1, len(lengths) // 2)]
    scaler = StandardScaler().fit(np.concatenate([log_mel[row] for row in rows]).astype(np.float64))
    mean, std = standardise.log_mel_statistics(standardise.band_sums(log_mel), rows)
    np.testing.assert_allclose(mean, np.asarray(scaler.mean_), rtol=1e-10)
    if sum(lengths[row] for row in rows) > 1:  # scikit-learn has another floor for one frame
        np.testing.assert_allclose(std, np.asarray(scaler.scale_), rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(3, 40), missing=st.floats(0, 0.4), seed=st.integers(0, 2**31))
def test_functionals_against_scikit_learn(rows, missing, seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 12, 7)
    hsf = (scale * rng.normal(1, 1, (rows, 7))).astype(np.float32)
    hsf[rng.random(hsf.shape) < missing] = np.nan
    hsf[:2] = scale * [[1], [2]]  # two different values that are there, in every column
    scaled = StandardScaler().fit_transform(hsf.astype(np.float64))
    ours = standardised_hsf(hsf.astype(np.float64), hsf_statistics(hsf, np.arange(rows)))
    np.testing.assert_allclose(ours, np.nan_to_num(np.clip(scaled, -10, 10)), atol=1e-8)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30, -1e30])
def test_statistics_come_from_the_training_rows_only(poison):
    log_mel = frames_of([12, 40, 7, 30, 22], seed=1)
    hsf = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    train, test = np.array([3, 0, 2]), [1, 4]

    def statistics():
        sums = standardise.band_sums(log_mel)
        return (*standardise.log_mel_statistics(sums, train), *hsf_statistics(hsf, train))

    before = statistics()
    for row in test:
        log_mel[row][:] = poison
        hsf[row] = poison
    for old, new in zip(before, statistics(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e5, 1e13, 3e38])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_functional_that_never_varies_becomes_zero(value, rows):
    """Also where it is a little or far off, or missing, when scored."""
    hsf = np.full((rows, 1), value, np.float32)
    statistics = hsf_statistics(hsf, np.arange(rows))
    scored = np.array([[value], [value + 1e-7], [-value], [1e30], [np.nan]])
    assert np.all(standardised_hsf(scored, statistics) == 0)
    nothing = hsf_statistics(np.full((3, 1), np.nan, np.float32), np.arange(3))
    assert np.all(standardised_hsf(scored, nothing) == 0)


@settings(deadline=None, max_examples=60)
@given(st.floats(-25, 15, width=32), st.lists(st.integers(1, 3000), min_size=1, max_size=9))
def test_a_band_that_never_varies_becomes_zero(value, lengths):
    """Such as one of digital silence; sums of squares are not exact."""
    sums = standardise.band_sums([np.full((length, 1), value, np.float32) for length in lengths])
    mean, std = standardise.log_mel_statistics(sums, np.arange(len(lengths)))
    statistics = standardise.Statistics(mean.astype(np.float32), std.astype(np.float32))
    scored = np.array([[[value], [value + 1e-5], [value + 8]]], np.float32)
    found = standardise.standardise(Inputs(np.array([3]), frames=scored), statistics, np)
    assert np.all(found.frames == 0)


def test_small_values_that_vary_are_standardised():
    """Of EMO-DB's functionals the least has a deviation of 7e-8."""
    hsf = np.array([[1e-12], [3e-12]], np.float32)
    found = standardised_hsf(hsf.astype(np.float64), hsf_statistics(hsf, [0, 1]))
    np.testing.assert_allclose(found, [[-1], [1]], rtol=1e-6)


def test_centre_is_the_median_of_what_is_there():
    nan, inf, huge = np.nan, np.inf, np.float32(1e13)
    hsf = np.array([[1, nan, huge, nan], [5, 3, nan, -inf], [2, inf, nan, nan]], np.float32)
    centre = standardise.centre(hsf)
    assert centre.dtype == np.float64
    np.testing.assert_array_equal(centre, [2, 3, huge, 0])


@pytest.mark.parametrize("form", ["frames", "segments"])
def test_numpy_and_jax_agree_under_jit(form):
    rng = np.random.default_rng(4)
    shapes = {"frames": (3, 20, 4), "segments": (3, 2, 10, 4)}
    values = rng.normal(-8, 3, shapes[form]).astype(np.float32)
    hsf = rng.normal(size=(3, 5)).astype(np.float32)
    hsf[0, 0], hsf[1, 1] = np.nan, 1e9
    arrays = {form: values if form == "frames" else (values, values + 1)}
    inputs = Inputs(np.array([20, 20, 20]), hsf=hsf, **arrays)
    moments = (rng.uniform(1, 2, size).astype(np.float32) for size in (4, 4, 5, 5))
    statistics = standardise.Statistics(*moments)
    expected = standardise.standardise(inputs, statistics, np)
    result = jax.jit(lambda x, s: standardise.standardise(x, s, jnp))(inputs, statistics)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    loop = (values.reshape(-1, 4) - statistics.mean) / statistics.std
    found = result.frames if form == "frames" else result.segments[0]
    np.testing.assert_allclose(found.reshape(-1, 4), loop, 1e-5)


def test_waves_are_scaled_and_nothing_else():
    """Raw amplitude: no mean, no deviation, whatever the training part."""
    wave = np.array([[[-32768, 0, 16384, 32767]]], np.int16)
    inputs = Inputs(np.array([1]), wave=wave)
    result = standardise.standardise(inputs, standardise.Statistics(), np).wave
    assert result is not None and result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array([[[-1, 0, 0.5, 32767 / 32768]]], np.float32))
