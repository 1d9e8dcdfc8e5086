"""Predictions of all runs → the content of `results.json` (schema 1)."""

import collections
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ser_jax import metrics
from ser_jax.evaluation import calibration, intervals, units
from ser_jax.evaluation import predictions as predictions_module
from ser_jax.evaluation.predictions import Prediction

SCHEMA = 1
DIVERGED = "diverged"
TOO_NARROW = "by utterance, too narrow"  # what an interval is called whose speakers are unknown or too few


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
    probabilities: str = "softmax",
    pooled_folds: Collection[str] | None = None,
) -> dict[str, Any]:
    """Scores the predictions; shares in [0, 1], null where there is nothing to score.

    For each seed the predictions of its folds are pooled into one confusion matrix, and WA, UA, macro F1 and recalls
    are read from it; their intervals are those of the mean over seeds, by bootstrap over speakers. Calibration figures
    are means over seeds of pooled predictions, too. A seed with a fold that diverged or is absent is left out of every
    pooled figure (its pool would lack speakers) and named in `seeds_left_out`; its other runs keep their own scores in
    `runs`. Utterances without label count in `utterances` and `unlabelled` and in no score.

    Args:
      predictions: Rows of all runs that gave predictions, in the order in which `predictions.csv` holds them.
      system: Name of the system.
      parameters: Number of trained parameters.
      corpus: Name of the corpus.
      corpus_sha256: Digest of its audio.
      protocol: Name of the protocol.
      protocol_sha256: Digest of the protocol.
      classes: Classes of the protocol, in the order of rows and columns of the confusion matrix.
      runs: One mapping per run: `fold`, `seed`, `best_epoch` (or None), `status` ("done", "diverged") and, if its
        probabilities were made with one, `temperature`.
      seconds: Wall time in s: `features`, `compile`, `train`, `evaluate`, `total`.
      probabilities: What the probabilities are.
      pooled_folds: Names of the folds that are pooled, see `Protocol.pooled_folds`; None: all. The others have scores
        in `runs` only.

    Returns:
      The content of `results.json`.

    Raises:
      ValueError: If a run is listed twice, a prediction belongs to no listed run, or a class is unknown.
    """
    _check(predictions, classes, runs)
    scored = [row for row in predictions if row.label]
    pooled_folds = {run["fold"] for run in runs} if pooled_folds is None else set(pooled_folds)
    seeds, left_out = _seeds([run for run in runs if run["fold"] in pooled_folds])
    kept = [row for row in scored if row.seed in set(seeds) and row.fold in pooled_folds]
    counted = units.count_units(kept, seeds=seeds, classes=classes)
    unit, limits = _intervals(counted)
    pooled = counted.counts.sum(axis=0)
    scores = metrics.scores(pooled)
    confusion = pooled.sum(axis=0)
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
        "pooled_folds": sorted(pooled_folds),
        "ua": _spread(scores.ua, limits.ua),
        "wa": _spread(scores.wa, limits.wa),
        "macro_f1": _spread(scores.macro_f1, limits.macro_f1),
        "ci95_unit": unit,
        "ci95_note": TOO_NARROW if unit == units.UTTERANCE else None,
        "recall": dict(zip(classes, map(_number, metrics.recalls(confusion)), strict=True)),
        "class_recall": {
            name: _spread(scores.recall[:, place], limits.recall[place]) for place, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "probabilities": probabilities,
        "calibration": {
            **_calibration(kept, seeds, classes),
            "temperature": [run.get("temperature") for run in runs],
        },
        "predictions_sha256": predictions_module.digest(predictions, classes),
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
    return metrics.confusion_matrix(*units.class_numbers(rows, classes), len(classes))


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


def _intervals(counted: units.Units) -> tuple[str | None, metrics.Scores]:
    """Returns what is resampled (None without two units), and the intervals (NaN without them)."""
    number, seeds, classes, _ = counted.counts.shape
    if number < 2 or not seeds:
        return None, metrics.Scores(*np.full((3, 2), np.nan), recall=np.full((classes, 2), np.nan))
    return counted.kind, intervals.score_intervals(counted.counts)


def _spread(per_seed: np.ndarray, interval: np.ndarray) -> dict[str, Any]:
    """Returns mean, standard deviation, interval and values over seeds."""
    return {
        "mean": _number(np.mean(per_seed)) if len(per_seed) else None,
        "std": _number(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
        "ci95": None if np.isnan(interval).any() else interval.tolist(),
        "per_seed": [_number(value) for value in per_seed],
    }


def _calibration(rows: Sequence[Prediction], seeds: Sequence[int], classes: Sequence[str]) -> dict[str, float | None]:
    """Returns the calibration figures, each the mean over the seeds."""
    probabilities = np.array([row.probabilities for row in rows], np.float64).reshape(-1, len(classes))
    labels, _ = units.class_numbers(rows, classes)
    seed = np.array([row.seed for row in rows], np.int64)
    measures = {
        "ece": calibration.expected_calibration_error,
        "nll": calibration.negative_log_likelihood,
        "brier": calibration.brier_score,
    }
    return {
        name: _number(np.mean([measure(probabilities[seed == s], labels[seed == s]) for s in seeds])) if seeds else None
        for name, measure in measures.items()
    }


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
