"""Predictions of all trials → the content of `results.json` (schema 1)."""

import collections
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ser_jax import metrics
from ser_jax.evaluation import calibration, intervals
from ser_jax.evaluation import predictions as predictions_module
from ser_jax.evaluation.predictions import Prediction

SCHEMA = 1
DIVERGED = "diverged"
MORE = ("members", "weights", "validation")  # keys of a trial that ensembles and fusions have
TOO_NARROW = "by {}, too narrow"  # intervals where the right unit is unknown or there are too few


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
    ensemble: int = 1,
    probabilities: str = "softmax",
    pooled_folds: Collection[str] | None = None,
    trained_with: Sequence[Mapping[str, Any]] = (),
    sessions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Computes all scores, in [0, 1]; null where there is nothing to score.

    For each seed the predictions of its folds are pooled into one confusion matrix, from which WA,
    UA, macro F1 and recalls follow; their intervals are those of the mean over seeds, over speakers
    or, with `sessions` (see `intervals.count_units`), over sessions. Calibration figures are means
    over seeds of pooled predictions, too. A seed with a fold that diverged or is absent is left out
    of every pooled figure (its pool would lack speakers) and named in `seeds_left_out`; its other
    trials keep their own scores in `runs`.
    Utterances without label count in `utterances` and `unlabelled` and in no score.

    Each of `runs` is a trial: `fold`, `seed`, `best_epoch` (or None), `status` ("done", "diverged")
    and, if its probabilities were made with one, `temperature`. If it is an ensemble, `members` are
    its trainings. `ensemble` is their number and `parameters` counts those of all of them.
    `predictions` are in the order of `predictions.csv`, `seconds` wall times in s, `probabilities`
    says how these were made. Folds
    outside `pooled_folds` (`Protocol.pooled_folds`; None: all) have scores in `runs` only.
    `trained_with` is what fixed the bits of the trainings, as far as it is known.

    Raises:
      ValueError: If a trial is listed twice, a prediction belongs to no listed trial, or a class is
        unknown.
    """
    _check(predictions, classes, runs)
    scored = [row for row in predictions if row.label]
    pooled_folds = {run["fold"] for run in runs} if pooled_folds is None else set(pooled_folds)
    seeds, left_out = _complete_seeds([run for run in runs if run["fold"] in pooled_folds])
    kept = [row for row in scored if row.seed in set(seeds) and row.fold in pooled_folds]
    counted = intervals.count_units(kept, seeds=seeds, classes=classes, sessions=sessions)
    expected = intervals.SESSION if sessions else intervals.SPEAKER
    unit, limits = _intervals(counted)
    pooled = counted.counts.sum(axis=0)
    scores = metrics.scores(pooled)
    confusion = pooled.sum(axis=0)
    return {
        "schema": SCHEMA,
        "system": system,
        "parameters": parameters,
        "ensemble": ensemble,
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
        "ci95_units": len(counted.counts) if unit else None,
        "ci95_method": intervals.METHOD if unit else None,
        "ci95_note": TOO_NARROW.format(unit) if unit not in (expected, None) else None,
        "recall": dict(zip(classes, map(_number, metrics.recalls(confusion)), strict=True)),
        "class_recall": {
            name: _spread(scores.recall[:, index], limits.recall[index])
            for index, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "probabilities": probabilities,
        "calibration": {
            **_calibration(kept, seeds, classes),
            "temperature": [run.get("temperature") for run in runs],
        },
        "predictions_sha256": predictions_module.digest(predictions, classes),
        "runs": _trial_rows(scored, classes, runs),
        "trained_with": list(map(dict, trained_with)),
        "seconds": dict(seconds),
    }


def confusion_of(rows: Sequence[Prediction], classes: Sequence[str]) -> np.ndarray:
    """Returns the confusion matrix [K, K] i64 of labelled rows: truth x prediction."""
    return metrics.confusion_matrix(*intervals.class_numbers(rows, classes), len(classes))


def diverged(found: Mapping[str, Any]) -> tuple[list[str], int]:
    """Returns the names of diverged trainings in `results.json`, members of ensembles too.

    And how many trainings there are.
    """
    trainings = [{**run, **one} for run in found["runs"] for one in run.get("members", [run])]
    failed = [
        "/".join([*filter(None, [one.get("member")]), f"{one['fold']}-{one['seed']}"])
        for one in trainings
        if one["status"] == DIVERGED
    ]
    return failed, len(trainings)


def _check(
    predictions: Sequence[Prediction], classes: Sequence[str], runs: Sequence[Mapping[str, Any]]
) -> None:
    known = {(run["fold"], run["seed"]) for run in runs}
    if len(known) < len(runs):
        raise ValueError("a run (fold, seed) is listed twice")
    for row in predictions:
        if (row.fold, row.seed) not in known:
            raise ValueError(f"{row.id}: fold {row.fold}, seed {row.seed} is not among the runs")
        if row.prediction not in classes or row.label not in (*classes, ""):
            raise ValueError(
                f"{row.id}: {row.label!r} or {row.prediction!r} is not among {', '.join(classes)}"
            )


def _complete_seeds(runs: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """Returns the seeds with every fold done, and the others."""
    folds = {run["fold"] for run in runs}
    done = collections.Counter(run["seed"] for run in runs if run["status"] != DIVERGED)
    seeds = sorted({run["seed"] for run in runs})
    complete = [seed for seed in seeds if done[seed] == len(folds)]
    return complete, [seed for seed in seeds if seed not in complete]


def _intervals(counted: intervals.Units) -> tuple[str | None, metrics.Scores]:
    """Returns what is left out (None without two units), and the intervals (NaN without them)."""
    units, seeds, classes, _ = counted.counts.shape
    if units < 2 or not seeds:
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


def _calibration(
    rows: Sequence[Prediction], seeds: Sequence[int], classes: Sequence[str]
) -> dict[str, float | None]:
    """Returns the calibration figures, each the mean over the seeds."""
    measures = {
        "ece": calibration.expected_calibration_error,
        "nll": calibration.negative_log_likelihood,
        "brier": calibration.brier_score,
    }
    if not seeds:
        return dict.fromkeys(measures)
    probabilities = np.array([row.probabilities for row in rows], np.float64)
    probabilities = probabilities.reshape(-1, len(classes))
    labels, _ = intervals.class_numbers(rows, classes)
    seed = np.array([row.seed for row in rows], np.int64)
    parts = [(probabilities[seed == s], labels[seed == s]) for s in seeds]
    return {
        name: _number(np.mean([measure(*part) for part in parts]))
        for name, measure in measures.items()
    }


def _trial_rows(
    scored: Sequence[Prediction], classes: Sequence[str], runs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the trials with their own scores, those of the fold's test part."""
    rows = collections.defaultdict(list)
    for row in scored:
        rows[row.fold, row.seed].append(row)
    table = []
    for run in runs:
        scores = metrics.scores(confusion_of(rows[run["fold"], run["seed"]], classes))
        table.append({"fold": run["fold"], "seed": run["seed"]})
        table[-1] |= {"wa": _number(scores.wa), "ua": _number(scores.ua)}
        table[-1] |= {"best_epoch": run["best_epoch"], "status": run["status"]}
        table[-1] |= {key: run[key] for key in MORE if key in run}
    return table


def _number(value: float | np.floating | np.ndarray) -> float | None:
    """Returns a plain float, None for NaN."""
    return None if math.isnan(value) else float(value)
