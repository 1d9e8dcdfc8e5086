"""Recall by speaker and by length: cases by hand, and the pooled scores as oracle."""

import numpy as np
import pytest

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


def test_speakers_that_are_not_known_are_left_out():
    unknown = row("5", "", 0, "a", "a")
    assert [part.name for part in slices.by_speaker([*ROWS, unknown], RESULTS)] == ["x", "y"]
    assert slices.by_speaker([unknown, *ROWS[:2]], RESULTS) == [], "a single one is compared with none"


def test_by_length():
    seconds = {"1": 1.0, "2": 1.5, "3": 2.0, "4": 4.0}
    found = slices.by_length(ROWS, RESULTS, seconds)
    # Quartiles 1.375, 1.75 and 2.5, rounded to 0.1 s; an edge belongs to the shorter part.
    assert [(part.name, part.utterances) for part in found] == [
        ("up to 1.4 s", 1),
        ("1.4 to 1.8 s", 1),
        ("1.8 to 2.5 s", 1),
        ("over 2.5 s", 1),
    ]
    np.testing.assert_allclose([part.ua for part in found], [1, 0.5, 0, 1])


def test_parts_hold_every_utterance_once_and_say_where_they_end():
    rng = np.random.default_rng(0)
    seconds = {str(number): float(rng.gamma(2, 2)) for number in range(200)}
    rows = [row(name, "", 0, "ab"[int(name) % 2], "ab"[int(name) % 3 % 2]) for name in seconds]
    results = {"classes": ["a", "b"], "seeds": [0]}
    found = slices.by_length(rows, results, seconds)
    assert len(found) == 4 and sum(part.utterances for part in found) == 200
    assert min(part.utterances for part in found) >= 40
    low = float(found[1].name.split()[0])
    inside = [r for r in rows if low < round(seconds[r.id], 3) <= float(found[1].name.split()[2])]
    assert found[1].utterances == len(inside)
    confusion = results_module.confusion_of(inside, ["a", "b"])
    np.testing.assert_allclose(found[1].recall, metrics.recalls(confusion))


@pytest.mark.parametrize("seconds", [{}, dict.fromkeys("1234", 0.4), dict.fromkeys("1234", 0.41)])
def test_lengths_that_are_unknown_or_equal_make_no_parts(seconds):
    assert slices.by_length(ROWS, RESULTS, seconds) == []


def test_a_part_without_utterances_is_left_out():
    found = slices.by_length(ROWS, RESULTS, {"1": 1.0, "2": 1.0, "3": 2.0, "4": 2.0})
    # The median, 1.5 s, is an edge, too; nothing lies between 1.0 s and it.
    assert [(part.name, part.utterances) for part in found] == [("up to 1.0 s", 2), ("over 1.5 s", 2)]
