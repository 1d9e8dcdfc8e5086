"""Predictions as lines on the terminal or as a CSV or JSON file, written whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_jax.prediction.batch import PLACE, WHY, Row
from ser_jax.prediction.ensemble import NO_SPEECH, Answer, Decision
from ser_jax.prediction.weights import STRANGER
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

SCHEMA = 1
KINDS = (".csv", ".json")
ABSTAINS = "(none)"
# Flags that are in tables, and not worth a word in lines.
USUAL = ("odd rate", "several channels", NO_SPEECH, STRANGER)


def check_output(path: Path) -> None:
    """Refuses a place for the table before any work is done.

    Raises:
      UserError: If it is no CSV or JSON file, its folder is not there, or nothing can be written
        there.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(
            f"--output={path}: write .csv or .json at its end, to say which table you want"
        )
    if not path.parent.is_dir():
        raise UserError(
            f"--output={path}: there is no folder {path.parent}; make it, or name another file"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--output={path} cannot be written; name another file")


def write(path: Path, rows: Sequence[Row], decision: Decision, model: str) -> None:
    """Writes all rows; shares keep all their digits.

    CSV: a line each with file, start, end, line, seconds, label (empty where no class is named),
    p_<class>… (empty without speech), flags, reason and detail. JSON: the same under "predictions",
    with model, classes and threshold beside it.

    Args:
      path: File that ends in .csv or .json.
      rows: The rows.
      decision: How answers were made.
      model: Which models predict, in words.

    Raises:
      UserError: If the file cannot be written.
    """
    try:
        if path.suffix.lower() == ".csv":
            shares = (f"p_{name}" for name in decision.classes)
            header = (*PLACE, "label", *shares, "flags", *WHY)
            files.write_csv(path, header, (_cells(row, decision) for row in rows))
            return
        table = {"schema": SCHEMA, "model": model, "classes": decision.classes}
        predictions = [_record(row) for row in rows]
        table |= {"threshold": decision.threshold, "predictions": predictions}
        files.write_json(path, table)
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written: {error.strerror}; name another file"
        ) from None


def text(rows: Sequence[Row]) -> str:
    """Returns a line per row: the file, the label, its probability, then those of all classes."""
    width = max(len(_name(row)) for row in rows)
    return "\n".join(f"{_name(row):<{width}}  {_prediction(row)}" for row in rows)


def summary(rows: Sequence[Row], path: Path | None) -> str:
    """Returns in one line how many recordings were given a class, and where the table is, if any.

    Empty if there is neither a table nor a recording that cannot be used.
    """
    bad = sum(row.answer is None for row in rows)
    labels = [row.answer.label for row in rows if row.answer is not None]
    silent, unsure = labels.count(NO_SPEECH), labels.count(None)
    parts = [f"{len(rows) - bad} of {counted(len(rows), 'recording')} predicted"]
    parts += [f"{unsure} of them below the threshold"] if unsure else []
    parts += [f"{silent} of them without speech"] if silent else []
    parts += [f"{bad} cannot be used"] if bad else []
    if path is None:
        return ", ".join(parts) if bad else ""
    return f"{', '.join(parts)}: {path}"


def _cells(row: Row, decision: Decision) -> tuple[Any, ...]:
    answer = row.answer or Answer(None, {})
    shares = [answer.probabilities.get(name) for name in decision.classes]
    place = (getattr(row, name) for name in PLACE)
    return *place, answer.label, *shares, "; ".join(row.flags), row.reason, row.detail


def _record(row: Row) -> dict[str, Any]:
    place = {name: getattr(row, name) for name in PLACE}
    answer = {name: getattr(row.answer, name, None) for name in ("label", "probabilities")}
    return {**place, **answer, "reason": row.reason, "detail": row.detail, "flags": row.flags}


def _name(row: Row) -> str:
    # A file name may hold bytes that no terminal can show.
    name = row.file.encode("utf-8", "backslashreplace").decode("utf-8")
    if row.line is not None:
        return f"{name}, line {row.line}"
    if row.start is None and row.end is None:
        return name
    return f"{name} {row.start or 0:g}-{'end' if row.end is None else format(row.end, 'g')} s"


def _prediction(row: Row) -> str:
    if row.answer is None:
        return f"cannot be used: {row.reason} ({row.detail})"
    shares = row.answer.probabilities
    listed = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
    odd = "; ".join(flag for flag in row.flags if flag not in USUAL)
    listed += f"  ({odd})" if odd else ""
    named = row.answer.label or ABSTAINS
    return f"{named:<{max(map(len, (*shares, ABSTAINS)))}}  {listed}".rstrip()
