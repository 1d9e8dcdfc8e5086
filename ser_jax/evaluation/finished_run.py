"""Reads finished runs back from their directories and checks that their files belong together."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.evaluation import intervals, predictions, results
from ser_jax.evaluation.predictions import Prediction
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

REMEDY = "ser-jax evaluate --model={} scores the run again"
REMADE = f"{strict_json.DELETE}ser-jax evaluate --model={{}} writes it again"
SCORES = ("ua", "wa", "macro_f1")
NEEDED = (
    "system parameters corpus corpus_sha256 protocol protocol_sha256 classes seeds seeds_left_out"
    " pooled_folds ci95_unit ci95_note calibration predictions_sha256 seconds probabilities"
).split() + list(SCORES)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run directory, or a folder with scores on another corpus."""

    name: str  # its name in tables
    results: Mapping[str, Any]  # content of `results.json`
    rows: tuple[Prediction, ...]  # labelled predictions of the seeds and folds that count
    # utterance id → session, where the intervals are over sessions; else empty
    sessions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_runs(folders: Sequence[Path], names: Sequence[str] = ()) -> list[FinishedRun]:
    """Reads several runs, in the order given.

    A run is called as in `names`, else by the name of its folder, or by its whole path where names
    repeat, with `×N` behind it if a prediction is the mean of N models.

    Raises:
      UserError: If a folder is named twice, is not a finished run, was written by a version with
        another form of results, or its predictions are not those that its results were taken from.
    """
    paths = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{folder} is named twice: name every run once")
    if not names:
        short = [path.name for path in paths]
        names = [
            name if short.count(name) == 1 else str(folder)
            for name, folder in zip(short, folders, strict=True)
        ]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> FinishedRun:
    found = read_results(folder)
    rows = read_rows(folder, found)
    mark = f" ×{found['ensemble']}" if found["ensemble"] > 1 else ""
    return FinishedRun(name + mark, found, rows, _sessions(folder, found))


def read_rows(folder: Path, found: Mapping[str, Any]) -> tuple[Prediction, ...]:
    """Returns the labelled predictions of the seeds and folds that count in `results.json`.

    Raises:
      UserError: The predictions are absent, or not those that the results were taken from.
    """
    path = folder / "predictions.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: {REMEDY.format(folder)}")
    digest = sha256(path)
    if digest != found["predictions_sha256"]:
        raise UserError(
            f"{path} has the SHA-256 {digest[:12]}…, the scores in results.json were taken from "
            f"{str(found['predictions_sha256'])[:12]}…: {REMEDY.format(folder)}"
        )
    rows, classes = predictions.read_predictions(path)
    if list(classes) != found["classes"]:
        raise UserError(
            f"{path} has the classes {', '.join(classes)}, results.json has"
            f" {', '.join(found['classes'])}: {REMEDY.format(folder)}"
        )
    seeds, folds = set(found["seeds"]), set(found["pooled_folds"])
    return tuple(row for row in rows if row.label and row.seed in seeds and row.fold in folds)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sessions(folder: Path, found: Mapping[str, Any]) -> dict[str, str]:
    if found["ci95_unit"] != intervals.SESSION:
        return {}
    path = folder / "protocol.json"
    remedy = REMEDY.format(folder)
    if not path.is_file():
        raise UserError(f"{path} is missing, which says who was in which session: {remedy}")
    protocol = strict_json.read(path, remedy=remedy)
    ids = (utterance[0] for utterance in protocol["utterances"])
    return dict(zip(ids, protocol["sessions"], strict=True))


def read_results(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's `results.json`, which has every key of `NEEDED`.

    Raises:
      UserError: If the file is missing, damaged or of a version with another form of results.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(
            f"{folder} is not a finished run: there is no results.json; ser-jax train writes it"
        )
    found = strict_json.read(path, remedy=REMEDY.format(folder))
    schema = found.get("schema")
    if schema != results.SCHEMA:
        raise UserError(
            f"{path} has schema {schema}, this version reads schema {results.SCHEMA}:"
            f" {REMEDY.format(folder)}"
        )
    lacking = [
        k for k in NEEDED if k not in found or k in SCORES and not isinstance(found[k], dict)
    ]
    if lacking:
        raise UserError(
            f"{path} was written by another version of ser_jax, whose results lack"
            f" {', '.join(lacking)} in the form of this one: {REMEDY.format(folder)}"
        )
    if "ensemble" not in found:  # Before there was this key, `parameters` were those of one model.
        size = re.search(r"; mean (?:of|over) (\d+) ", found["probabilities"])
        found["ensemble"] = int(size[1]) if size else 1
        found["parameters"] *= found["ensemble"]
    return found


def read_history(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Reads `metrics.jsonl`, if there is one, from which broken or repeated lines are dropped.

    Returns:
      One record per (fold, seed, phase, epoch), the latest where an interrupted epoch was repeated,
      in the order of the file; and the number of unreadable lines, not counting a last line that is
      cut off. Lines about a trial as a whole (a system without epochs) are skipped.
    """
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    records: dict[tuple, dict[str, Any]] = {}
    unreadable = 0
    for number, line in enumerate(lines, start=1):
        try:
            record = strict_json.parse_line(line)
            trial = record["fold"], record["seed"]
            if "epoch" in record:
                records[*trial, record.get("phase"), record["epoch"]] = record
        except (ValueError, KeyError, TypeError):
            unreadable += bool(line.strip()) and number < len(lines)
    return list(records.values()), unreadable
