"""Predictions of all runs → the content of `results.json` (schema 1)."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ser_jax import metrics
from ser_jax.evaluation import intervals
from ser_jax.evaluation.predictions import Prediction

SCHEMA = 1
DIVERGED = "diverged"
FEWEST_SPEAKERS = 5  # with fewer, an interval over speakers says nothing; utterances are resampled instead


def summarise(
    predictions: Sequence[Prediction],
    *,
    system: str,
    parameters: int,
    corpus: str,
    corpus_sha256: str,
    protocol: str,
    protocol_sha256: str,
    classes: Sequence[str],
    runs: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Scores the predictions; shares in [0, 1], null where there is nothing to score.

    For each seed the predictions of all folds are pooled into one confusion matrix, and WA and UA are read from it. A
    seed with a fold that diverged or is absent is left out of every pooled figure (its pool would lack speakers) and
    named in `seeds_left_out`; its other runs keep their own scores in `runs`. Utterances without label count in
    `utterances` and `unlabelled` and in no score.

    Args:
      predictions: Rows of all runs that gave predictions.
      system: Name of the system.
      parameters: Number of trained parameters.
      corpus: Name of the corpus.
      corpus_sha256: Digest of its audio.
      protocol: Name of the protocol.
      protocol_sha256: Digest of the protocol.
      classes: Classes of the protocol, in the order of rows and columns of the confusion matrix.
      runs: One mapping per run: `fold`, `seed`, `best_epoch` (or None), `status` ("done", "diverged").
      seconds: Wall time in s: `features`, `compile`, `train`, `evaluate`, `total`.

    Returns:
      The content of `results.json`.

    Raises:
      ValueError: If a run is listed twice, a prediction belongs to no listed run, or a class is unknown.
    """
    _check(predictions, classes, runs)
    scored = [row for row in predictions if row.label]
    seeds, left_out = _seeds(runs)
    kept = [row for row in scored if row.seed in set(seeds)]
    pooled = [confusion_of([row for row in kept if row.seed == seed], classes) for seed in seeds]
    confusion = np.sum(pooled, axis=0) if seeds else np.zeros((len(classes), len(classes)), np.int64)
    unit, (wa_interval, ua_interval) = _intervals(kept, seeds, classes)
    return {
        "schema": SCHEMA,
        "system": system,
        "parameters": parameters,
        "corpus": corpus,
        "corpus_sha256": corpus_sha256,
        "protocol": protocol,
        "protocol_sha256": protocol_sha256,
        "classes": list(classes),
        "utterances": len({row.id for row in predictions}),
        "unlabelled": len({row.id for row in predictions if not row.label}),
        "seeds": seeds,
        "seeds_left_out": left_out,
        "ua": _spread([metrics.unweighted_accuracy(matrix) for matrix in pooled], ua_interval),
        "wa": _spread([metrics.weighted_accuracy(matrix) for matrix in pooled], wa_interval),
        "ci95_unit": unit,
        "macro_f1": _number(np.mean([_macro_f1(matrix) for matrix in pooled])) if seeds else None,
        "recall": dict(zip(classes, map(_number, metrics.recalls(confusion)), strict=True)),
        "confusion": confusion.tolist(),
        "runs": _run_rows(scored, classes, runs),
        "seconds": dict(seconds),
    }


def confusion_of(rows: Sequence[Prediction], classes: Sequence[str]) -> np.ndarray:
    """Counts labelled rows.

    Args:
      rows: Rows with a label.
      classes: The K classes of the protocol.

    Returns:
      [K, K] int64, rows = truth, columns = prediction.
    """
    number = {name: index for index, name in enumerate(classes)}
    truth = np.array([number[row.label] for row in rows], np.int64)
    predicted = np.array([number[row.prediction] for row in rows], np.int64)
    return metrics.confusion_matrix(truth, predicted, len(classes))


def _check(predictions: Sequence[Prediction], classes: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> None:
    known = {(run["fold"], run["seed"]) for run in runs}
    if len(known) < len(runs):
        raise ValueError("a run (fold, seed) is listed twice")
    for row in predictions:
        if (row.fold, row.seed) not in known:
            raise ValueError(f"{row.id}: fold {row.fold}, seed {row.seed} is not among the runs")
        if row.prediction not in classes or row.label not in (*classes, ""):
            raise ValueError(f"{row.id}: {row.label!r} or {row.prediction!r} is not among {', '.join(classes)}")


def _seeds(runs: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """Returns the seeds with every fold done, and the others."""
    folds = {run["fold"] for run in runs}
    done = collections.Counter(run["seed"] for run in runs if run["status"] != DIVERGED)
    seeds = sorted({run["seed"] for run in runs})
    return [seed for seed in seeds if done[seed] == len(folds)], [seed for seed in seeds if done[seed] < len(folds)]


def _intervals(rows: Sequence[Prediction], seeds: list[int], classes: Sequence[str]) -> tuple[str | None, list]:
    """Returns what is resampled, and the intervals of WA and UA as [low, high] (None without two units)."""
    speakers = {row.speaker for row in rows}
    unit = "speaker" if "" not in speakers and len(speakers) >= FEWEST_SPEAKERS else "utterance"
    groups = [row.speaker if unit == "speaker" else row.id for row in rows]
    place = {name: index for index, name in enumerate(sorted(set(groups)))}
    if len(place) < 2:
        return None, [None, None]
    number = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(place), len(seeds), len(classes), len(classes)), np.int64)
    for row, group in zip(rows, groups, strict=True):
        counts[place[group], seeds.index(row.seed), number[row.label], number[row.prediction]] += 1
    return unit, intervals.bootstrap(counts).tolist()


def _spread(per_seed: list[float], interval: list[float] | None) -> dict[str, Any]:
    """Returns mean, standard deviation and values over seeds."""
    return {
        "mean": _number(np.mean(per_seed)) if per_seed else None,
        "std": _number(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
        "ci95": interval,
        "per_seed": [_number(value) for value in per_seed],
    }


def _macro_f1(confusion: np.ndarray) -> float:
    """Returns the mean F1 over the classes that have examples; NaN for an empty matrix."""
    examples = confusion.sum(axis=1)
    scores = 2 * np.diag(confusion) / np.maximum(examples + confusion.sum(axis=0), 1)
    return float(scores[examples > 0].mean()) if examples.any() else float("nan")


def _run_rows(scored: Sequence[Prediction], classes: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Returns the runs with their own scores, those of the fold's test part."""
    rows = collections.defaultdict(list)
    for row in scored:
        rows[row.fold, row.seed].append(row)
    table = []
    for run in runs:
        confusion = confusion_of(rows[run["fold"], run["seed"]], classes)
        scores = {"wa": metrics.weighted_accuracy(confusion), "ua": metrics.unweighted_accuracy(confusion)}
        table.append(
            {
                "fold": run["fold"],
                "seed": run["seed"],
                **{name: _number(value) for name, value in scores.items()},
                "best_epoch": run["best_epoch"],
                "status": run["status"],
            }
        )
    return table


def _number(value: float | np.floating) -> float | None:
    """Returns a plain float, None for NaN."""
    return None if math.isnan(value) else float(value)
