"""Recall by speaker, corpus and length of the utterance, and the classes that are confused most.

`rows` are labelled predictions of the seeds and folds that count, `results` is `results.json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ser_jax import metrics
from ser_jax.corpora.joined import PLUS, corpus_of
from ser_jax.evaluation import intervals
from ser_jax.evaluation.predictions import Prediction
from ser_jax.evaluation.results import confusion_of

LENGTHS = 4  # parts of about equal size
MOST_PAIRS = 3
MOST_UTTERANCES = 8  # of a pair


class Slice(NamedTuple):
    """A part of the test utterances."""

    name: str  # the speaker, or the range of lengths
    utterances: int  # how many there are
    ua: float  # mean recall over the classes that occur in them; mean over seeds
    recall: np.ndarray  # [K], mean over seeds; NaN for a class that does not occur
    per_seed: np.ndarray  # [S], UA of every seed
    count: np.ndarray  # [K], utterances of each class
    ua_interval: np.ndarray  # [2], 95 %, by jackknife; NaN where there is one utterance only
    recall_intervals: np.ndarray  # [K, 2], 95 %, by Wilson's formula; NaN as `recall`


class Mistake(NamedTuple):
    """An utterance that is mistaken for another class."""

    id: str  # its id
    speaker: str  # its speaker; empty if unknown
    seeds: int  # number of seeds in which it is mistaken for that class
    probability: float  # of the predicted class, mean over these seeds
    truth: float  # probability of the true class, mean over these seeds


class Confusion(NamedTuple):
    """A class that is mistaken for another one."""

    truth: str  # the true class
    prediction: str  # the predicted class
    fraction: float  # fraction of the true class that is predicted so, over all seeds
    utterances: int  # number of utterances to which that happens in any seed
    # those in most seeds, the most probable first; no more than `MOST_UTTERANCES`
    mistakes: tuple[Mistake, ...]


def by_speaker(rows: Sequence[Prediction], results: Mapping[str, Any]) -> list[Slice]:
    """Returns the speakers, sorted by name; none if fewer than two are known."""
    speakers = sorted({row.speaker for row in rows} - {""})
    part = {row.id: row.speaker for row in rows}
    return of_parts(rows, results, speakers, part) if len(speakers) > 1 else []


def by_corpus(rows: Sequence[Prediction], results: Mapping[str, Any]) -> list[Slice]:
    """Returns the corpora, with whose names ids begin where several are joined; else none."""
    if PLUS not in results["corpus"]:
        return []
    part = {row.id: corpus_of(row.id) for row in rows}
    return of_parts(rows, results, sorted(set(part.values())), part)


def by_length(
    rows: Sequence[Prediction], results: Mapping[str, Any], seconds: Mapping[str, float]
) -> list[Slice]:
    """Returns quarters of the utterances by length in s, short to long; none if all are alike."""
    lengths = {row.id: round(seconds[row.id], 3) for row in rows if row.id in seconds}
    names, part = quarters(lengths, " s")
    known = [row for row in rows if row.id in part]
    return of_parts(known, results, names, part)


def quarters(numbers: Mapping[str, float], unit: str = "") -> tuple[list[str], dict[str, str]]:
    """Divides utterances by a number into parts of about equal size.

    Returns:
      The names of the parts, the smallest numbers first, and utterance id → part; nothing if there
      are not two parts.
    """
    if not numbers:
        return [], {}
    # Edges are rounded first, so that the names give exactly the range of a part.
    quantiles = np.quantile(list(numbers.values()), np.arange(1, LENGTHS) / LENGTHS)
    edges = np.unique(np.round(quantiles, 1))
    edges = edges[(edges >= min(numbers.values())) & (edges < max(numbers.values()))]
    if not len(edges):
        return [], {}
    middle = [
        f"{low:.1f} to {high:.1f}{unit}" for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    names = [f"up to {edges[0]:.1f}{unit}", *middle, f"over {edges[-1]:.1f}{unit}"]
    return names, {key: names[int(np.searchsorted(edges, n))] for key, n in numbers.items()}


def of_parts(
    rows: Sequence[Prediction],
    results: Mapping[str, Any],
    names: Sequence[str],
    part: Mapping[str, str],
) -> list[Slice]:
    """Returns the slices of those parts (utterance id → name) that have utterances."""
    members: dict[str, list[Prediction]] = {name: [] for name in names}
    for row in rows:
        if (name := part.get(row.id, "")) in members:
            members[name].append(row)
    return [_slice(name, found, results) for name, found in members.items() if found]


def _slice(name: str, rows: Sequence[Prediction], results: Mapping[str, Any]) -> Slice:
    matrices = confusions_per_seed(rows, results)
    scores = metrics.scores(matrices)
    units = intervals.count_units(rows, seeds=results["seeds"], classes=results["classes"]).counts
    ua = intervals.score_intervals(units).ua if len(units) > 1 else np.full(2, np.nan)
    # Every seed has the same utterances, so a class is missing in all of them or in none.
    recall = scores.recall.mean(axis=0)
    count = matrices[0].sum(axis=1)
    return Slice(
        *(name, len({row.id for row in rows}), float(scores.ua.mean()), recall, scores.ua),
        *(count, ua, intervals.wilson(recall, count)),
    )


def confusions_per_seed(rows: Sequence[Prediction], results: Mapping[str, Any]) -> np.ndarray:
    """Returns the confusion matrices [S, K, K] of labelled rows, one per seed that counts."""
    seeds, classes = results["seeds"], results["classes"]
    matrices = [confusion_of([row for row in rows if row.seed == seed], classes) for seed in seeds]
    return np.stack(matrices)


def most_confused(rows: Sequence[Prediction], results: Mapping[str, Any]) -> list[Confusion]:
    """Returns the pairs of classes that are confused most often, relative to the true class."""
    confusion, classes = np.array(results["confusion"]), results["classes"]
    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cells = [c for c in np.ndindex(fractions.shape) if c[0] != c[1] and fractions[c] > 0]
    largest = sorted(cells, key=lambda cell: -fractions[cell])[:MOST_PAIRS]
    return [_confusion(rows, classes, cell, float(fractions[cell])) for cell in largest]


def _confusion(
    rows: Sequence[Prediction], classes: Sequence[str], cell: tuple[int, ...], fraction: float
) -> Confusion:
    truth, predicted = cell
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
    shown = tuple(mistakes[:MOST_UTTERANCES])
    return Confusion(classes[truth], classes[predicted], fraction, len(mistakes), shown)
