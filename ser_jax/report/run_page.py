"""`report.html`: a run directory as one page without scripts or external files."""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np

from ser_jax import config as config_module
from ser_jax import metrics
from ser_jax.corpora import from_config
from ser_jax.evaluation import calibration, final_model, finished_run, groups, intervals, slices
from ser_jax.evaluation.examples import Explanation
from ser_jax.evaluation.finished_run import REMADE
from ser_jax.evaluation.predictions import Prediction, read_predictions
from ser_jax.evaluation.results import DIVERGED, diverged
from ser_jax.report import examples_page, figures, formats, page
from ser_jax.report.train_command import train_command
from ser_jax.runtime import errors, files, strict_json

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # rows of the table of answered predictions
MOST_OPEN_ROWS = 12  # longer tables are folded away
MOST_REJECTIONS_SHOWN = 200


def write_report(workdir: Path, explanation: Explanation | None = None) -> Path:
    """Writes the page.

    Args:
      workdir: A run directory with `config.json`, `protocol.json`, `versions.json`, `results.json`
        and `predictions.csv`; `metrics.jsonl` and `rejected.csv` are shown where they exist.
      explanation: What only recordings and models can show; None: the page says how to add it.

    Returns:
      Path of `report.html` in that directory.

    Raises:
      UserError: If a file is missing or unreadable.
    """
    results = _read_json(workdir / "results.json")
    protocol = _read_json(workdir / "protocol.json")
    rows, _ = read_predictions(_existing(workdir / "predictions.csv"))
    predictions = [row for row in rows if row.fold in results["pooled_folds"]]
    kept = [row for row in predictions if row.label and row.seed in results["seeds"]]
    epochs, unreadable = finished_run.read_history(workdir / "metrics.jsonl")
    rejected = workdir / "rejected.csv"
    rejections = from_config.read_rejected(rejected) if rejected.exists() else []
    reasons = collections.defaultdict(list)
    for rejection in rejections:
        reasons[rejection.reason].append(rejection)
    recordings = explanation.recordings if explanation else {}
    seconds = {name: recording.seconds for name, recording in recordings.items()}
    parts = {
        "speakers": slices.by_speaker(kept, results),
        "corpora": slices.by_corpus(kept, results),
        "lengths": slices.by_length(kept, results, seconds),
    }
    found = groups.by_attribute(kept, results)
    speakers = {row.speaker for row in predictions}
    classes = _class_rows(results, predictions)
    final = final_model.is_final(results)
    crossed = final_model.cross_validation(workdir, results) if final else None
    command, cross_command = _commands(workdir)
    runs, temperatures = results["runs"], results["calibration"]["temperature"]
    text = page.render(
        "report.html",
        results=results,
        protocol=protocol,
        method=formats.interval_method(results),
        versions=_read_json(workdir / "versions.json"),
        config=json.dumps(_read_json(workdir / "config.json"), indent=2, ensure_ascii=False),
        utterances=len({row.id for row in predictions}),
        speakers=None if "" in speakers else len(speakers),
        speakers_unnamed=len(speakers) > figures.MOST_NAMED_BARS,
        folds=sorted({run["fold"] for run in runs}),
        all_seeds=sorted({run["seed"] for run in runs}),
        failed=[run for run in runs if run["status"] == DIVERGED],
        diverged=diverged(results),
        ranked=sorted((r for r in runs if r["ua"] is not None), key=lambda run: run["ua"]),
        confusions=slices.most_confused(kept, results),
        slices={name: group.parts for name, group in found.items()}
        | {"corpus": parts["corpora"], "speaker": parts["speakers"], "length": parts["lengths"]},
        groups=found,
        coverage=_coverage_rows(kept, results["classes"]),
        classes=classes,
        largest=max(classes, key=lambda row: row["utterances"]),
        temperatures=[value for value in temperatures if value is not None],
        figures=_figures(results, kept, epochs, parts),
        final=final,
        validation=final_model.validation_scores(workdir, results) if final else [],
        cross_validation=crossed,
        command=command,
        cross_command=cross_command,
        explanation=examples_page.describe(explanation, predictions, results["classes"], workdir),
        unreadable=unreadable,
        unlike=formats.unlike_trainings(results),
        rejections=len(rejections),
        reasons=sorted(reasons.items(), key=lambda item: -len(item[1])),
        most_open_rows=MOST_OPEN_ROWS,
        most_rejections_shown=MOST_REJECTIONS_SHOWN,
    )
    path = workdir / "report.html"
    files.write_text(path, text)
    return path


def _commands(workdir: Path) -> tuple[str, str]:
    """Returns the command that trains the run, and that of the cross-validation of its recipe."""
    try:
        config = config_module.from_json(_read_json(workdir / "config.json"))
    except errors.UserError:  # The run is older or newer than this version can train.
        return "", ""
    if not all(map(config_module.preset_file, config.fusion.members)):  # made of finished runs
        return "", ""
    return train_command(config), train_command(config, protocol_name="auto")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise errors.UserError(
            f"{path} is missing; the report needs a finished run: start it again, it resumes"
        )
    return path


def _read_json(path: Path) -> dict[str, Any]:
    return strict_json.read(_existing(path), remedy=REMADE.format(path.parent))


def _figures(
    results: Mapping,
    kept: Sequence[Prediction],
    epochs: Sequence[Mapping],
    parts: Mapping[str, Sequence[slices.Slice]],
) -> dict[str, markupsafe.Markup]:
    """Returns name → SVG of the figures for which this run has data."""
    svg = {}
    classes = results["classes"]
    # The second phase has no validation figures.
    epochs = [line for line in epochs if line.get("phase", 1) == 1]
    if epochs:
        best = {(run["fold"], run["seed"]): run["best_epoch"] or 0 for run in results["runs"]}
        losses = {"training": "loss", "validation": "validation_loss"}
        svg["loss"] = figures.learning_curves(
            epochs, losses, label="loss", best={}, percent=False, name="loss"
        )
        scores = {"validation UA": "validation_ua"}
        svg["ua"] = figures.learning_curves(
            epochs, scores, label="UA in %", best=best, percent=True, name="ua"
        )
    if kept:
        confusion = np.array(results["confusion"])
        svg["confusion"] = figures.confusion_matrix(confusion, classes, name="confusion")
        points = metrics.recalls(slices.confusions_per_seed(kept, results)).T
        svg["recall"] = figures.bars(
            classes, metrics.recalls(confusion), label="recall in %", points=points, name="recall"
        )
        probabilities = np.array([row.probabilities for row in kept])
        bins = calibration.reliability(probabilities, intervals.class_numbers(kept, classes)[0])
        svg["reliability"] = figures.reliability_diagram(bins, name="reliability")
        svg["coverage"] = figures.accuracy_by_coverage(_coverage(kept, classes), name="coverage")
        counts = collections.Counter({row.id: row.label for row in kept}.values())
        values = np.array([counts[name] for name in classes], np.float64)
        svg["counts"] = figures.bars(
            classes, values, label="test utterances", percent=False, name="counts"
        )
    for name, found in parts.items():
        if found:
            svg[name] = figures.bars(
                [part.name for part in found],
                np.array([part.ua for part in found]),
                label="UA in %",
                points=np.stack([part.per_seed for part in found]),
                chance=1 / len(classes),
                name=name,
            )
    return svg


def _coverage(kept: Sequence[Prediction], classes: Sequence[str]) -> calibration.Coverage:
    probabilities = np.array([row.probabilities for row in kept], np.float64)
    labels, _ = intervals.class_numbers(kept, classes)
    return calibration.accuracy_by_coverage(probabilities.reshape(-1, len(classes)), labels)


def _coverage_rows(kept: Sequence[Prediction], classes: Sequence[str]) -> list[dict[str, float]]:
    """Returns threshold, fraction answered and accuracy where at most `COVERAGES` are answered."""
    found = _coverage(kept, classes)
    places = np.searchsorted(found.fraction, np.add(COVERAGES, 1e-9)) - 1
    names = found._fields
    return [
        dict(zip(names, (float(values[place]) for values in found), strict=True))
        for place in dict.fromkeys(places.tolist())
        if place >= 0
    ]


def _class_rows(results: Mapping, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Returns the table of classes: test utterances, recall with its interval, precision."""
    labels = {row.id: row.label for row in predictions if row.label}
    counts = collections.Counter(labels.values())
    confusion = np.array(results["confusion"])
    predicted = confusion.sum(axis=0)
    return [
        {
            "name": name,
            "utterances": counts[name],
            "fraction": counts[name] / len(labels) if labels else None,
            "recall": results["recall"][name],
            "ci95": results["class_recall"][name]["ci95"],
            "precision": confusion[index, index] / predicted[index] if predicted[index] else None,
        }
        for index, name in enumerate(results["classes"])
    ]
