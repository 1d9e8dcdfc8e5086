"""The bootstrap: against all draws there are, against a plain loop, and where a draw lacks a class."""

import itertools
from collections.abc import Sequence

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from ser_jax import metrics
from ser_jax.evaluation import intervals


def loop_scores(matrices: Sequence[np.ndarray]) -> list[float]:
    """Returns WA, UA, macro F1 and recalls of drawn units (one matrix per seed each), written out."""
    per_seed = []
    for seed in range(len(matrices[0])):
        pooled = np.sum([unit[seed] for unit in matrices], axis=0).tolist()
        classes = range(len(pooled))
        recalls, f1 = [], []
        for k in classes:
            examples, predicted = sum(pooled[k]), sum(pooled[j][k] for j in classes)
            recalls.append(pooled[k][k] / examples if examples else float("nan"))
            if examples:
                f1.append(2 * pooled[k][k] / (examples + predicted))
        present = [value for value in recalls if value == value]
        wa = sum(pooled[k][k] for k in classes) / sum(map(sum, pooled))
        per_seed.append([wa, sum(present) / len(present), sum(f1) / len(f1), *recalls])
    return np.mean(per_seed, axis=0).tolist()


def example(units: int, seeds: int, classes: int, seed: int) -> np.ndarray:
    """Returns [U, S, K, K] counts; every seed has the same examples, and only the first unit has the last class."""
    generator = np.random.default_rng(seed)
    examples = generator.integers(3, 9, (units, classes))
    examples[1:, -1] = 0
    counts = np.zeros((units, seeds, classes, classes), np.int64)
    for unit, number, truth in np.ndindex(units, seeds, classes):
        counts[unit, number, truth] = generator.multinomial(examples[unit, truth], np.ones(classes) / classes)
    return counts


@pytest.mark.parametrize("units", [3, 4])
def test_percentiles_are_those_of_all_draws(units):
    """27 or 256 draws are all there are: no more than 2.5 % of them lie beyond either end, but for the sampling."""
    counts = example(units, seeds=2, classes=3, seed=units)
    exact = np.array([loop_scores([counts[u] for u in draw]) for draw in itertools.product(range(units), repeat=units)])
    drawn = 40_000
    found = intervals.score_intervals(counts, resamples=drawn)
    slack = 5 * np.sqrt(0.025 * 0.975 / drawn)
    limits = [found.wa, found.ua, found.macro_f1, *found.recall]
    assert np.isnan(exact[:, 5]).any(), "the last class is not in every draw"
    for values, (low, high) in zip(exact.T, limits, strict=True):
        values = values[~np.isnan(values)]
        assert (values < low - 1e-9).mean() <= 0.025 + slack and (values <= low + 1e-9).mean() >= 0.025 - slack
        assert (values > high + 1e-9).mean() <= 0.025 + slack and (values >= high - 1e-9).mean() >= 0.025 - slack


def test_against_a_plain_loop():
    counts = example(6, seeds=2, classes=3, seed=0)
    draws = np.random.default_rng(intervals.GENERATOR_SEED).integers(0, 6, (300, 6))
    scores = np.array([loop_scores([counts[unit] for unit in draw]) for draw in draws])
    expected = np.nanquantile(scores, [0.025, 0.975], axis=0).T
    found = intervals.score_intervals(counts, resamples=300)
    np.testing.assert_allclose([found.wa, found.ua, found.macro_f1, *found.recall], expected, rtol=1e-12)


def test_in_batches_is_the_same(monkeypatch):
    counts = example(7, seeds=2, classes=3, seed=1)
    whole = intervals.score_intervals(counts)
    monkeypatch.setattr(intervals, "MOST_DRAWN_AT_ONCE", 700)
    np.testing.assert_equal(intervals.score_intervals(counts), whole)


def test_a_class_nobody_has_has_no_interval():
    counts = np.ones((4, 1, 3, 3), np.int64)
    counts[:, :, 2] = 0
    found = intervals.score_intervals(counts)
    assert np.isnan(found.recall[2]).all()
    assert found.ua == pytest.approx([1 / 3, 1 / 3]), "the mean is over the classes there are"


@hypothesis.given(arrays.arrays(np.int64, (3, 3), elements=strategies.integers(0, 9)), strategies.integers(2, 9))
@hypothesis.settings(max_examples=30, deadline=None)
def test_units_that_are_all_alike_leave_no_doubt(matrix, units):
    matrix = matrix + np.eye(3, dtype=np.int64)
    expected = metrics.scores(matrix)
    found = intervals.score_intervals(np.stack([matrix[None]] * units), resamples=9)
    for limits, value in zip((found.wa, found.ua, found.macro_f1), expected, strict=False):
        np.testing.assert_allclose(limits, value)
    np.testing.assert_allclose(found.recall, np.stack([expected.recall] * 2, axis=1))


def test_a_mean_has_the_interval_of_scipy():
    from scipy import stats

    values = np.random.default_rng(2).normal(size=30)
    generator = np.random.default_rng(intervals.GENERATOR_SEED)
    expected = stats.bootstrap((values,), np.mean, n_resamples=500, method="percentile", rng=generator)
    found = intervals.bootstrap(30, lambda times: (times @ values / 30)[:, None], resamples=500)
    np.testing.assert_allclose(found[0], expected.confidence_interval, rtol=1e-12)
