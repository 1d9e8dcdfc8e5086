"""The classes that are confused most often, and the utterances behind it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ser_jax.evaluation.predictions import Prediction

MOST_PAIRS = 3
MOST_UTTERANCES = 8  # of a pair


class Mistake(NamedTuple):
    """An utterance that is taken for another class.

    Attributes:
      id: Its id.
      speaker: Its speaker; empty if unknown.
      seeds: In how many seeds it is taken for that class.
      probability: Of the class that it is taken for, the mean over these seeds.
      truth: Probability of the true class there.
    """

    id: str
    speaker: str
    seeds: int
    probability: float
    truth: float


class Pair(NamedTuple):
    """A class that is taken for another one.

    Attributes:
      truth: The true class.
      prediction: The class that it is taken for.
      share: Share of the true class, over all seeds.
      utterances: How many utterances that happens to in any seed.
      mistakes: Those in most seeds, the surest first; no more than `MOST_UTTERANCES`.
    """

    truth: str
    prediction: str
    share: float
    utterances: int
    mistakes: tuple[Mistake, ...]


def most_confused(rows: Sequence[Prediction], results: Mapping[str, Any]) -> list[Pair]:
    """Returns the pairs of classes with the largest shares of confusion, largest first.

    Args:
      rows: Labelled predictions of the seeds and folds that count.
      results: Content of `results.json`.
    """
    confusion, classes = np.array(results["confusion"]), results["classes"]
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cells = [cell for cell in np.ndindex(shares.shape) if cell[0] != cell[1] and shares[cell] > 0]
    largest = sorted(cells, key=lambda cell: -shares[cell])[:MOST_PAIRS]
    return [_pair(rows, classes, truth, predicted, float(shares[truth, predicted])) for truth, predicted in largest]


def _pair(rows: Sequence[Prediction], classes: Sequence[str], truth: int, predicted: int, share: float) -> Pair:
    found: dict[str, list[Prediction]] = {}
    for row in rows:
        if (row.label, row.prediction) == (classes[truth], classes[predicted]):
            found.setdefault(row.id, []).append(row)
    mistakes = [
        Mistake(
            name,
            members[0].speaker,
            len(members),
            float(np.mean([row.probabilities[predicted] for row in members])),
            float(np.mean([row.probabilities[truth] for row in members])),
        )
        for name, members in found.items()
    ]
    mistakes.sort(key=lambda mistake: (-mistake.seeds, -mistake.probability, mistake.id))
    return Pair(classes[truth], classes[predicted], share, len(mistakes), tuple(mistakes[:MOST_UTTERANCES]))
