"""Standardisation: by hand, against scikit-learn, blind to all but the training part, exact where values are huge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from ser_jax.arrays import standardise
from ser_jax.arrays.inputs import Inputs


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
    frames = np.asarray(standardise.standardise(inputs, standardise.Statistics(mean, std), np).frames)
    np.testing.assert_allclose(frames[0, :, 0], [0, 1], atol=1e-15)


def test_functionals_by_hand():
    """Columns: two values, one missing, never varying, infinite in training, huge outlier when scored."""
    nan, inf = np.nan, np.inf
    train = np.array([[1.0, 4.0, 7.0, 2.0, 0.0], [3.0, nan, 7.0, inf, 1.0], [2.0, 6.0, 7.0, 4.0, 2.0]], np.float32)
    statistics = hsf_statistics(train, [0, 1, 2])
    mean, std = standardise.hsf_statistics(train, np.arange(3))
    np.testing.assert_allclose(mean, [2, 5, 7, 3, 1])
    np.testing.assert_allclose(std, [np.sqrt(2 / 3), 1, standardise.SMALLEST_STD, 1, np.sqrt(2 / 3)])
    scored = np.array([[2.0, nan, 7.0, inf, 1e30], [nan, 5.5, 7.0, -inf, -1e30]], np.float32)
    np.testing.assert_allclose(standardised_hsf(scored, statistics), [[0, 0, 0, 10, 10], [0, 0.5, 0, -10, -10]])


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=12), seed=st.integers(0, 2**31))
def test_log_mel_against_scikit_learn(lengths, seed):
    log_mel = frames_of(lengths, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(lengths))[: max(1, len(lengths) // 2)]
    scaler = StandardScaler().fit(np.concatenate([log_mel[row] for row in rows]).astype(np.float64))
    mean, std = standardise.log_mel_statistics(standardise.band_sums(log_mel), rows)
    np.testing.assert_allclose(mean, np.asarray(scaler.mean_), rtol=1e-10)
    if sum(lengths[row] for row in rows) > 1:  # scikit-learn has another floor than ours for one frame
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
    before = standardise.log_mel_statistics(standardise.band_sums(log_mel), train), hsf_statistics(hsf, train)
    for row in test:
        log_mel[row][:] = poison
        hsf[row] = poison
    after = standardise.log_mel_statistics(standardise.band_sums(log_mel), train), hsf_statistics(hsf, train)
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)))
def test_the_order_of_the_training_rows_does_not_matter(order):
    sums = standardise.band_sums(frames_of([3, 9, 1, 14, 5, 8]))
    one = standardise.log_mel_statistics(sums, np.arange(6))
    other = standardise.log_mel_statistics(sums, np.array(order))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-13)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e5, 1e13, 3e38])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_value_that_never_varies_becomes_zero(value, rows):
    """Exactly: the floor of the deviation would blow the smallest rounding up to the limit."""
    hsf = np.full((rows, 1), value, np.float32)
    assert np.all(standardised_hsf(hsf.astype(np.float64), hsf_statistics(hsf, np.arange(rows))) == 0)
    frames = [np.full((5, 1), min(value, 100), np.float32)] * rows
    _, std = standardise.log_mel_statistics(standardise.band_sums(frames), np.arange(rows))
    assert np.all(np.isfinite(std)) and np.all(std > 0)


def test_huge_values_of_small_spread_keep_their_differences():
    """Neighbours of 1e13 in float32 are 2**20 apart: five steps of them, standardised in float64, are ±√2, ±√½, 0."""
    hsf = (1e13 + 2.0**20 * np.arange(-2, 3)).astype(np.float32)[:, None]
    steps = np.round((hsf.astype(np.float64) - hsf[2].astype(np.float64)) / 2**20)[:, 0]
    assert steps.tolist() == [-2, -1, 0, 1, 2], "the test needs distinct neighbours"
    result = standardised_hsf(hsf.astype(np.float64), hsf_statistics(hsf, np.arange(5)))
    np.testing.assert_allclose(result[:, 0], steps / np.sqrt(2), rtol=1e-9)


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
    statistics = standardise.Statistics(*(rng.uniform(1, 2, size).astype(np.float32) for size in (4, 4, 5, 5)))
    expected = standardise.standardise(inputs, statistics, np)
    result = jax.jit(lambda inputs, statistics: standardise.standardise(inputs, statistics, jnp))(inputs, statistics)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    loop = (values.reshape(-1, 4) - statistics.mean) / statistics.std
    np.testing.assert_allclose((result.frames if form == "frames" else result.segments[0]).reshape(-1, 4), loop, 1e-5)


def test_what_a_system_does_not_use_stays_none():
    statistics = standardise.Statistics(np.zeros(4), np.ones(4))
    result = standardise.standardise(Inputs(np.array([1]), frames=np.zeros((1, 2, 4))), statistics, np)
    assert result.segments is None and result.hsf is None


def test_waves_are_scaled_and_nothing_else():
    """Raw amplitude: no mean, no deviation, whatever the training part."""
    wave = np.array([[[-32768, 0, 16384, 32767]]], np.int16)
    result = standardise.standardise(Inputs(np.array([1]), wave=wave), standardise.Statistics(), np).wave
    assert result is not None and result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array([[[-1, 0, 0.5, 32767 / 32768]]], np.float32))
