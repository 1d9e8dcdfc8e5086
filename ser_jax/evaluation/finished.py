"""A finished run, read back from its folder and checked: what may stand in a table beside others."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax import strict_json
from ser_jax.errors import UserError
from ser_jax.evaluation import predictions, results
from ser_jax.evaluation.predictions import Prediction

AGAIN = "python -m ser_jax.evaluate --model={} scores the run anew"
SCORES = ("ua", "wa", "macro_f1")
NEEDED = (
    *("system", "parameters", "corpus", "corpus_sha256", "protocol", "protocol_sha256", "classes", "seeds"),
    *("seeds_left_out", "pooled_folds", "ci95_unit", "ci95_note", "calibration", "predictions_sha256", "seconds"),
    "probabilities",
    *SCORES,
)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run directory, or a folder with scores on another corpus.

    Attributes:
      name: What it is called in tables.
      results: Content of `results.json`.
      rows: Labelled predictions of the seeds and folds that count.
    """

    name: str
    results: Mapping[str, Any]
    rows: tuple[Prediction, ...]


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Reads several runs.

    Args:
      folders: Their folders. Runs are called by the folder's own name, or by its whole path where names repeat.

    Returns:
      The runs in the same order.

    Raises:
      UserError: If a folder is named twice, is not a finished run, was written by a version with another form of
        results, or its predictions are not those that its results were taken from.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, resolved, strict=True):
        if resolved.count(place) > 1:
            raise UserError(f"{folder} is named twice: name every run once")
    names = [place.name for place in resolved]
    names = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> FinishedRun:
    found = read_results(folder)
    path = folder / "predictions.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: {AGAIN.format(folder)}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != found["predictions_sha256"]:
        raise UserError(
            f"{path} has the SHA-256 {digest[:12]}…, the scores in results.json were taken from "
            f"{str(found['predictions_sha256'])[:12]}…: {AGAIN.format(folder)}"
        )
    rows, classes = predictions.read_predictions(path)
    if list(classes) != found["classes"]:
        raise UserError(
            f"{path} has the classes {', '.join(classes)}, results.json has {', '.join(found['classes'])}: "
            f"{AGAIN.format(folder)}"
        )
    seeds, folds = set(found["seeds"]), set(found["pooled_folds"])
    kept = (row for row in rows if row.label and row.seed in seeds and row.fold in folds)
    return FinishedRun(name, found, tuple(kept))


def read_results(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's `results.json`, which has every key that is needed.

    Raises:
      UserError: If the file is missing or damaged, or was written by a version with another form of results.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a finished run: there is no results.json; python -m ser_jax.main writes it")
    found = strict_json.read(path, remedy=AGAIN.format(folder))
    schema = found.get("schema")
    if schema != results.SCHEMA:
        raise UserError(
            f"{path} has schema {schema}, this version reads schema {results.SCHEMA}: {AGAIN.format(folder)}"
        )
    lacking = [key for key in NEEDED if key not in found or key in SCORES and not isinstance(found[key], dict)]
    if lacking:
        raise UserError(
            f"{path} was written by another version of ser_jax, whose results lack {', '.join(lacking)} in the form of "
            f"this one: {AGAIN.format(folder)}"
        )
    return found
