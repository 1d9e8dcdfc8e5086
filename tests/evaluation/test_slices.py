"""Recall by speaker and by length, and the most confused classes, by hand."""

import numpy as np
import pytest
import scipy.stats

from ser_jax import metrics
from ser_jax.evaluation import results as results_module
from ser_jax.evaluation import slices
from ser_jax.evaluation.predictions import Prediction

RESULTS = {"classes": ["a", "b"], "seeds": [0, 1]}


def row(name: str, speaker: str, seed: int, label: str, prediction: str) -> Prediction:
    return Prediction(name, speaker, "f", seed, label, prediction, (0.5, 0.5))


ROWS = [
    *(row("1", "x", seed, "a", "a") for seed in (0, 1)),
    *(row("2", "x", seed, "a", "ab"[seed]) for seed in (0, 1)),
    *(row("3", "x", seed, "b", "a") for seed in (0, 1)),
    *(row("4", "y", seed, "b", "b") for seed in (0, 1)),
]


def test_by_speaker():
    x, y = slices.by_speaker(ROWS, RESULTS)
    assert (x.name, x.utterances, x.ua) == ("x", 3, pytest.approx((0.5 + 0.25) / 2))
    np.testing.assert_allclose(x.recall, [0.75, 0])
    np.testing.assert_allclose(x.per_seed, [0.5, 0.25])
    assert (y.name, y.utterances, y.ua) == ("y", 1, 1.0)
    np.testing.assert_array_equal(y.recall, [np.nan, 1])
    np.testing.assert_array_equal([x.count, y.count], [[2, 1], [0, 1]])
    # Without 1, 2 or 3 the UA is 0.25, 0.5 or 0.75: the jackknife's standard error is sqrt(1/12).
    np.testing.assert_allclose(x.ua_interval, [0.0030, 0.9917], atol=1e-4)
    assert np.isnan(y.ua_interval).all() and np.isnan(y.recall_intervals[0]).all()
    low, high = scipy.stats.binomtest(1, 1).proportion_ci(method="wilson")
    np.testing.assert_allclose(y.recall_intervals[1], [low, high])


def test_speakers_that_are_not_known_are_left_out():
    unknown = row("5", "", 0, "a", "a")
    assert [part.name for part in slices.by_speaker([*ROWS, unknown], RESULTS)] == ["x", "y"]
    assert slices.by_speaker([unknown, *ROWS[:2]], RESULTS) == [], "one is compared with none"


def test_by_length():
    seconds = {"1": 1.0, "2": 1.5, "3": 2.0, "4": 4.0}
    found = slices.by_length(ROWS, RESULTS, seconds)
    # Quartiles 1.375, 1.75 and 2.5, rounded to 0.1 s; an edge belongs to the shorter part.
    names = ["up to 1.4 s", "1.4 to 1.8 s", "1.8 to 2.5 s", "over 2.5 s"]
    assert [(part.name, part.utterances) for part in found] == [(name, 1) for name in names]
    np.testing.assert_allclose([part.ua for part in found], [1, 0.5, 0, 1])


def test_parts_hold_every_utterance_once_and_their_names_give_the_limits():
    rng = np.random.default_rng(0)
    seconds = {str(number): float(rng.gamma(2, 2)) for number in range(200)}
    rows = [row(name, "", 0, "ab"[int(name) % 2], "ab"[int(name) % 3 % 2]) for name in seconds]
    results = {"classes": ["a", "b"], "seeds": [0]}
    found = slices.by_length(rows, results, seconds)
    assert len(found) == 4 and sum(part.utterances for part in found) == 200
    assert min(part.utterances for part in found) >= 40
    low = float(found[1].name.split()[0])
    part = [r for r in rows if low < round(seconds[r.id], 3) <= float(found[1].name.split()[2])]
    assert found[1].utterances == len(part)
    confusion = results_module.confusion_of(part, ["a", "b"])
    np.testing.assert_allclose(found[1].recall, metrics.recalls(confusion))


@pytest.mark.parametrize("seconds", [{}, dict.fromkeys("1234", 0.4), dict.fromkeys("1234", 0.41)])
def test_lengths_that_are_unknown_or_equal_make_no_parts(seconds):
    assert slices.by_length(ROWS, RESULTS, seconds) == []


def test_a_part_without_utterances_is_left_out():
    found = slices.by_length(ROWS, RESULTS, {"1": 1.0, "2": 1.0, "3": 2.0, "4": 2.0})
    # The median, 1.5 s, is an edge, too; nothing lies between 1.0 s and it.
    expected = [("up to 1.0 s", 2), ("over 1.5 s", 2)]
    assert [(part.name, part.utterances) for part in found] == expected


ABC = ["a", "b", "c"]


def confused(name: str, seed: int, label: str, *probabilities: float) -> Prediction:
    best = ABC[max(range(3), key=lambda number: probabilities[number])]
    return Prediction(name, "s", "f", seed, label, best, probabilities)


CONFUSED = [
    confused("1", 0, "a", 0.1, 0.8, 0.1),
    confused("1", 1, "a", 0.3, 0.6, 0.1),
    confused("2", 0, "a", 0.0, 0.95, 0.05),
    confused("2", 1, "a", 0.9, 0.1, 0.0),
    confused("3", 0, "b", 0.0, 1.0, 0.0),
    confused("3", 1, "b", 0.0, 0.4, 0.6),
]
CONFUSED_RESULTS = {"classes": ABC, "confusion": [[1, 3, 0], [0, 1, 1], [0, 0, 0]]}


def test_pairs_and_utterances():
    first, second = slices.most_confused(CONFUSED, CONFUSED_RESULTS)
    assert (first.truth, first.prediction, first.fraction, first.utterances) == ("a", "b", 0.75, 2)
    # In both seeds before in one, although the other is more probable.
    assert [(mistake.id, mistake.seeds) for mistake in first.mistakes] == [("1", 2), ("2", 1)]
    assert (first.mistakes[0].probability, first.mistakes[0].truth) == pytest.approx((0.7, 0.2))
    assert (second.truth, second.prediction, second.utterances) == ("b", "c", 1)
    assert second.mistakes[0].probability == pytest.approx(0.6)


def test_no_more_than_some_are_shown_and_the_rest_is_counted():
    rows = [confused(f"{number:02d}", 0, "a", 0.1, 0.5 + number / 100, 0.0) for number in range(20)]
    results = {"classes": ABC, "confusion": [[0, 20, 0], [0] * 3, [0] * 3]}
    (pair,) = slices.most_confused(rows, results)
    assert pair.utterances == 20
    assert [mistake.id for mistake in pair.mistakes] == [f"{n:02d}" for n in range(19, 11, -1)]
    assert slices.most_confused(rows, results | {"confusion": np.eye(3, dtype=int)}) == []
