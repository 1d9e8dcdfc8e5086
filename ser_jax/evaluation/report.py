"""A run directory → `report.html`: one page without scripts or outside files, for screen, phone and paper."""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np

from ser_jax import atomic, errors, metrics, strict_json
from ser_jax.evaluation import calibration, canvas, confused, history, inside_page, page, plots, rejected, slices, units
from ser_jax.evaluation import predictions as predictions_module
from ser_jax.evaluation import results as results_module
from ser_jax.evaluation.inside import Inside
from ser_jax.evaluation.predictions import Prediction

MOST_OPEN_ROWS = 12  # longer tables are folded away
MOST_REJECTIONS_SHOWN = 200


def write_report(workdir: Path, inside: Inside | None = None) -> Path:
    """Writes the page.

    Args:
      workdir: A run directory with `config.json`, `protocol.json`, `versions.json`, `results.json` and
        `predictions.csv`; `metrics.jsonl` and `rejected.csv` are shown where they exist.
      inside: What only recordings and models can say; None: the page says how to come by it.

    Returns:
      Path of `report.html` in that directory.

    Raises:
      UserError: If a file is missing or unreadable.
    """
    results = _read_json(workdir / "results.json")
    protocol = _read_json(workdir / "protocol.json")
    _require(workdir / "predictions.csv")
    every, _ = predictions_module.read_predictions(workdir / "predictions.csv")
    predictions = [row for row in every if row.fold in results["pooled_folds"]]
    epochs, unreadable = history.read_history(workdir / "metrics.jsonl")
    rejections = rejected.read_rejected(workdir / "rejected.csv") if (workdir / "rejected.csv").exists() else []
    reasons = collections.defaultdict(list)
    for rejection in rejections:
        reasons[rejection.reason].append(rejection)
    speakers = {row.speaker for row in predictions}
    classes = _class_rows(results, predictions)
    kept = [row for row in predictions if row.label and row.seed in results["seeds"]]
    seconds = {name: recording.seconds for name, recording in inside.recordings.items()} if inside else {}
    parts = {"speakers": slices.by_speaker(kept, results), "lengths": slices.by_length(kept, results, seconds)}
    text = page.render(
        "report.html",
        results=results,
        protocol=protocol,
        versions=_read_json(workdir / "versions.json"),
        config=json.dumps(_read_json(workdir / "config.json"), indent=2, ensure_ascii=False),
        utterances=len({row.id for row in predictions}),
        speakers=None if "" in speakers else len(speakers),
        speakers_unnamed=len(speakers) > canvas.MOST_NAMED_BARS,
        folds=sorted({run["fold"] for run in results["runs"]}),
        all_seeds=sorted({run["seed"] for run in results["runs"]}),
        failed=[run for run in results["runs"] if run["status"] == results_module.DIVERGED],
        ranked=sorted((run for run in results["runs"] if run["ua"] is not None), key=lambda run: run["ua"]),
        confusions=confused.most_confused(kept, results),
        slices=parts,
        classes=classes,
        largest=max(classes, key=lambda row: row["utterances"]),
        temperatures=[value for value in results["calibration"]["temperature"] if value is not None],
        figures=_figures(results, kept, epochs, parts),
        inside=inside_page.describe(inside, predictions, results["classes"], workdir),
        unreadable=unreadable,
        rejections=len(rejections),
        reasons=sorted(reasons.items(), key=lambda item: -len(item[1])),
        most_open_rows=MOST_OPEN_ROWS,
        most_rejections_shown=MOST_REJECTIONS_SHOWN,
    )
    path = workdir / "report.html"
    atomic.write_text(path, text)
    return path


def _require(path: Path) -> None:
    if not path.is_file():
        raise errors.UserError(f"{path} is missing; the report needs a finished run: start it again, it resumes")


def _read_json(path: Path) -> dict[str, Any]:
    _require(path)
    return strict_json.read(path, remedy="restore it or run the training again")


def _figures(
    results: Mapping,
    kept: Sequence[Prediction],
    epochs: Sequence[Mapping],
    parts: Mapping[str, Sequence[slices.Slice]],
) -> dict[str, Any]:
    """Returns name → SVG of the figures that this run can fill."""
    svg = {}
    classes = results["classes"]
    epochs = [line for line in epochs if line.get("phase", 1) == 1]  # The second phase has no validation figures.
    if epochs:
        best = {(run["fold"], run["seed"]): run["best_epoch"] or 0 for run in results["runs"]}
        losses = {"training": "loss", "validation": "validation_loss"}
        svg["loss"] = plots.learning_curves(epochs, losses, label="loss", best={}, percent=False, name="loss")
        scores = {"validation UA": "validation_ua"}
        svg["ua"] = plots.learning_curves(epochs, scores, label="UA in %", best=best, percent=True, name="ua")
    if kept:
        confusion = np.array(results["confusion"])
        svg["confusion"] = plots.confusion_matrix(confusion, classes, name="confusion")
        points = np.stack([metrics.recalls(matrix) for matrix in _per_seed(kept, results)], axis=1)
        svg["recall"] = plots.bars(
            classes, metrics.recalls(confusion), label="recall in %", points=points, name="recall"
        )
        counts = collections.Counter({row.id: row.label for row in kept}.values())
        values = np.array([counts[name] for name in classes], np.float64)
        probabilities = np.array([row.probabilities for row in kept])
        bins = calibration.reliability(probabilities, units.class_numbers(kept, classes)[0])
        svg["reliability"] = plots.reliability_diagram(bins, name="reliability")
        svg["counts"] = plots.bars(classes, values, label="test utterances", percent=False, name="counts")
    for name, found in parts.items():
        if found:
            names, values = [part.name for part in found], np.array([part.ua for part in found])
            points = np.stack([part.per_seed for part in found])
            chance = 1 / len(classes)
            svg[name] = plots.bars(names, values, label="UA in %", points=points, chance=chance, name=name)
    return {name: markupsafe.Markup(text) for name, text in svg.items()}


def _per_seed(rows: Sequence[Prediction], results: Mapping) -> list[np.ndarray]:
    """Returns one confusion matrix per seed that counts."""
    return [
        results_module.confusion_of([row for row in rows if row.seed == seed], results["classes"])
        for seed in results["seeds"]
    ]


def _class_rows(results: Mapping, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Returns per class: name, test utterances, their share, recall with its interval, precision."""
    labels = {row.id: row.label for row in predictions if row.label}
    counts = collections.Counter(labels.values())
    confusion = np.array(results["confusion"])
    predicted = confusion.sum(axis=0)
    return [
        {
            "name": name,
            "utterances": counts[name],
            "share": counts[name] / len(labels) if labels else None,
            "recall": results["recall"][name],
            "ci95": results["class_recall"][name]["ci95"],
            "precision": confusion[index, index] / predicted[index] if predicted[index] else None,
        }
        for index, name in enumerate(results["classes"])
    ]
