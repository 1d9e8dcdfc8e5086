"""The most confused pairs and their utterances, counted by hand."""

import pytest

from ser_jax.evaluation import confused
from ser_jax.evaluation.predictions import Prediction

CLASSES = ["a", "b", "c"]


def row(name: str, seed: int, label: str, *probabilities: float) -> Prediction:
    best = CLASSES[max(range(3), key=lambda number: probabilities[number])]
    return Prediction(name, "s", "f", seed, label, best, probabilities)


ROWS = [
    row("1", 0, "a", 0.1, 0.8, 0.1),
    row("1", 1, "a", 0.3, 0.6, 0.1),
    row("2", 0, "a", 0.0, 0.95, 0.05),
    row("2", 1, "a", 0.9, 0.1, 0.0),
    row("3", 0, "b", 0.0, 1.0, 0.0),
    row("3", 1, "b", 0.0, 0.4, 0.6),
]
RESULTS = {"classes": CLASSES, "confusion": [[1, 3, 0], [0, 1, 1], [0, 0, 0]]}


def test_pairs_and_utterances():
    first, second = confused.most_confused(ROWS, RESULTS)
    assert (first.truth, first.prediction, first.share, first.utterances) == ("a", "b", 0.75, 2)
    # In both seeds before in one, although the other is surer.
    assert [(mistake.id, mistake.seeds) for mistake in first.mistakes] == [("1", 2), ("2", 1)]
    assert (first.mistakes[0].probability, first.mistakes[0].truth) == pytest.approx((0.7, 0.2))
    assert (second.truth, second.prediction, second.utterances) == ("b", "c", 1)
    assert second.mistakes[0].probability == pytest.approx(0.6)


def test_no_more_than_some_are_shown_and_the_rest_is_counted():
    rows = [row(f"{number:02d}", 0, "a", 0.1, 0.5 + number / 100, 0.0) for number in range(20)]
    (pair,) = confused.most_confused(rows, {"classes": CLASSES, "confusion": [[0, 20, 0], [0] * 3, [0] * 3]})
    assert pair.utterances == 20
    assert [mistake.id for mistake in pair.mistakes] == [f"{number:02d}" for number in range(19, 11, -1)]


def test_nothing_is_confused_where_all_is_right():
    assert confused.most_confused(ROWS[4:5], {"classes": CLASSES, "confusion": [[0] * 3, [0, 1, 0], [0] * 3]}) == []
