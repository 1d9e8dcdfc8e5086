"""Counting per unit, and the jackknife: against a loop, SciPy and simulated corpora."""

import dataclasses
from collections.abc import Sequence

import hypothesis
import numpy as np
import pytest
import scored
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from scipy import special, stats

from ser_jax import metrics
from ser_jax.evaluation import intervals
from ser_jax.evaluation.predictions import Prediction


def row(name: str, speaker: str, seed: int, label: str, prediction: str) -> Prediction:
    return Prediction(name, speaker, "f", seed, label, prediction, (1.0, 0.0, 0.0))


def test_counts_by_hand(monkeypatch):
    rows = [
        row("1", "b", 7, "angry", "sad"),
        row("2", "a", 7, "happy", "happy"),
        row("3", "b", 7, "angry", "sad"),
        row("1", "b", 9, "angry", "angry"),
    ]
    monkeypatch.setattr(intervals, "FEWEST_SPEAKERS", 2)
    found = intervals.count_units(rows, seeds=[7, 9], classes=scored.CLASSES)
    assert found.kind == "speaker"
    expected = np.zeros((2, 2, 3, 3))
    expected[1, 0, 0, 2], expected[0, 0, 1, 1], expected[1, 1, 0, 0] = 2, 1, 1
    np.testing.assert_array_equal(found.counts, expected)
    monkeypatch.undo()
    by_utterance = intervals.count_units(rows, seeds=[7, 9], classes=scored.CLASSES)
    assert by_utterance.kind == "utterance" and by_utterance.counts.shape == (3, 2, 3, 3)
    np.testing.assert_array_equal(by_utterance.counts.sum(axis=0), expected.sum(axis=0))


def test_few_or_unknown_speakers_are_no_unit():
    unknown = scored.make_rows(0)
    unknown[3] = dataclasses.replace(unknown[3], speaker="")
    cases = [(unknown, "utterance", 54), ([], "utterance", 0)]
    cases += [(scored.make_rows(0, speakers=4), "utterance", 36)]
    cases += [(scored.make_rows(0, speakers=5), "speaker", 5)]
    for rows, kind, units in cases:
        found = intervals.count_units(rows, seeds=[0, 1], classes=scored.CLASSES)
        assert (found.kind, len(found.counts)) == (kind, units)


def test_sessions_are_the_unit_where_folds_are_made_of_them():
    """If there are too few of them it is the speaker, then the utterance."""
    rows = scored.make_rows(0, speakers=10)
    for size, kind, units in ((2, "session", 5), (3, "speaker", 10)):
        sessions = {row.id: f"S{int(row.speaker[1:]) // size}" for row in rows}
        options = {"seeds": [0, 1], "classes": scored.CLASSES, "sessions": sessions}
        found = intervals.count_units(rows, **options)
        assert (found.kind, len(found.counts)) == (kind, units)
        results = scored.summarise(rows, sessions=sessions)
        note = None if kind == "session" else "by speaker, too narrow"
        assert (results["ci95_unit"], results["ci95_units"]) == (kind, units)
        assert (results["ci95_note"], results["ci95_method"]) == (note, "jackknife")


def loop_scores(matrices: Sequence[np.ndarray]) -> list[float]:
    """Returns WA, UA, macro F1 and recalls of drawn units (one matrix per seed each)."""
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
    """Returns counts [U, S, K, K]; the same examples per seed, the last class in unit 0 only."""
    generator = np.random.default_rng(seed)
    examples = generator.integers(3, 9, (units, classes))
    examples[1:, -1] = 0
    counts = np.zeros((units, seeds, classes, classes), np.int64)
    for unit, number, truth in np.ndindex(units, seeds, classes):
        probabilities = np.ones(classes) / classes
        counts[unit, number, truth] = generator.multinomial(examples[unit, truth], probabilities)
    return counts


@pytest.mark.parametrize("units", [2, 6])
def test_against_a_plain_loop(units):
    """Every unit left out once; t-interval in log-odds. No interval for what one unit has alone."""
    counts = example(units, seeds=2, classes=3, seed=0)
    value = np.array(loop_scores(list(counts)))
    others = (np.delete(counts, unit, axis=0) for unit in range(units))
    left_out = np.array([loop_scores(list(each)) for each in others])
    error = np.sqrt((units - 1) * left_out.var(axis=0))
    reach = stats.t.ppf(0.975, units - 1) * error / (value * (1 - value))
    expected = special.expit(special.logit(value) + np.outer([-1, 1], reach)).T
    found = intervals.score_intervals(counts)
    limits = np.array([found.wa, found.ua, found.macro_f1, *found.recall])
    np.testing.assert_allclose(limits, expected, rtol=1e-9)
    assert np.isnan(limits[5]).all() and not np.isnan(limits[:5]).any()


def test_a_mean_has_the_interval_of_student():
    """The jackknife of a mean is its standard error."""
    values = np.random.default_rng(2).normal(size=30)
    mean, reach = intervals.jackknife(values[:, None], lambda sums: sums / 30)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    # Sums of 29 values over 30 are 30/29 further apart than their means.
    np.testing.assert_allclose(mean + np.array([-1, 1]) * reach * 30 / 29, expected, rtol=1e-3)


def test_a_single_unit_tells_nothing():
    found = intervals.score_intervals(example(1, seeds=1, classes=3, seed=0))
    np.testing.assert_allclose(found.ua, [0, 1], atol=1e-9)


@pytest.mark.parametrize("speakers", [5, 10, 24])
def test_the_interval_covers(speakers):
    """500 corpora of speakers that differ; percentiles of a bootstrap reach 82 to 91 % here."""
    rng = np.random.default_rng(speakers)
    skill = rng.beta(6, 2, (500, speakers))
    hits = rng.binomial(20, skill)
    counts = np.stack([[hits, 20 - hits], [20 - hits, hits]]).transpose(2, 3, 0, 1)
    limits = np.array([intervals.score_intervals(corpus[:, None]).ua for corpus in counts])
    covered = np.mean((limits[:, 0] <= 0.75) & (0.75 <= limits[:, 1]))
    assert covered > 0.95 - 2 * np.sqrt(0.05 * 0.95 / 500)


def test_a_class_nobody_has_has_no_interval():
    counts = np.ones((4, 1, 3, 3), np.int64)
    counts[:, :, 2] = 0
    found = intervals.score_intervals(counts)
    assert np.isnan(found.recall[2]).all()
    assert found.ua == pytest.approx([1 / 3, 1 / 3]), "the mean is over the classes there are"


@hypothesis.given(
    arrays.arrays(np.int64, (3, 3), elements=strategies.integers(0, 9)), strategies.integers(2, 9)
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_units_that_are_all_alike_leave_no_doubt(matrix, units):
    matrix = matrix + np.eye(3, dtype=np.int64)
    expected = metrics.scores(matrix)
    found = intervals.score_intervals(np.stack([matrix[None]] * units))
    for limits, value in zip((found.wa, found.ua, found.macro_f1), expected, strict=False):
        np.testing.assert_allclose(limits, value)
    np.testing.assert_allclose(found.recall, np.stack([expected.recall] * 2, axis=1))


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (3, 3), (5, 8), (90, 200)])
def test_wilson_is_that_of_scipy(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    found = intervals.wilson(np.array([hits / count, np.nan]), np.array([count, 0]))
    np.testing.assert_allclose(found[0], expected)
    assert np.isnan(found[1]).all()
