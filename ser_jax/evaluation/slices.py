"""Recall in parts of the test utterances: by speaker and by length."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ser_jax import metrics
from ser_jax.evaluation import results as results_module
from ser_jax.evaluation.predictions import Prediction

LENGTHS = 4  # parts of about equal size


class Slice(NamedTuple):
    """Some of the test utterances.

    Attributes:
      name: What they have in common.
      utterances: How many there are.
      ua: Mean recall over the classes that they have; mean over seeds.
      recall: [K], NaN for a class that they lack; mean over seeds.
      per_seed: [S], UA of every seed.
    """

    name: str
    utterances: int
    ua: float
    recall: np.ndarray
    per_seed: np.ndarray


def by_speaker(rows: Sequence[Prediction], results: Mapping[str, Any]) -> list[Slice]:
    """Returns the speakers, sorted by name; none if fewer than two are known.

    Args:
      rows: Labelled predictions of the seeds and folds that count.
      results: Content of `results.json`.
    """
    speakers = sorted({row.speaker for row in rows} - {""})
    return _slices(rows, results, speakers, lambda row: row.speaker) if len(speakers) > 1 else []


def by_length(rows: Sequence[Prediction], results: Mapping[str, Any], seconds: Mapping[str, float]) -> list[Slice]:
    """Returns the quarters of the utterances by length, from short to long; none if all are about equally long.

    Args:
      rows: Labelled predictions of the seeds and folds that count.
      results: Content of `results.json`.
      seconds: Id → length in s.
    """
    lengths = {row.id: round(seconds[row.id], 3) for row in rows if row.id in seconds}
    if not lengths:
        return []
    # Edges are rounded first, so that the names say exactly what is in a part.
    edges = np.unique(np.round(np.quantile(list(lengths.values()), np.arange(1, LENGTHS) / LENGTHS), 1))
    edges = edges[(edges >= min(lengths.values())) & (edges < max(lengths.values()))]
    if not len(edges):
        return []
    middle = [f"{low:.1f} to {high:.1f} s" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    names = [f"up to {edges[0]:.1f} s", *middle, f"over {edges[-1]:.1f} s"]
    part = {name: names[int(np.searchsorted(edges, length))] for name, length in lengths.items()}
    return _slices([row for row in rows if row.id in part], results, names, lambda row: part[row.id])


def _slices(
    rows: Sequence[Prediction], results: Mapping[str, Any], names: Sequence[str], part: Callable[[Prediction], str]
) -> list[Slice]:
    members: dict[str, list[Prediction]] = {name: [] for name in names}
    for row in rows:
        if (name := part(row)) in members:
            members[name].append(row)
    return [_slice(name, found, results) for name, found in members.items() if found]


def _slice(name: str, rows: Sequence[Prediction], results: Mapping[str, Any]) -> Slice:
    matrices = [
        results_module.confusion_of([row for row in rows if row.seed == seed], results["classes"])
        for seed in results["seeds"]
    ]
    scores = metrics.scores(np.stack(matrices))
    # Every seed has the same utterances, so a class is missing in all of them or in none.
    return Slice(name, len({row.id for row in rows}), float(scores.ua.mean()), scores.recall.mean(axis=0), scores.ua)
