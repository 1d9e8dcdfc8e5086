"""Predictions as lines for a person, or as a CSV or JSON file that appears whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_jax import atomic
from ser_jax.errors import UserError
from ser_jax.prediction.batch import Row
from ser_jax.prediction.rule import Rule

SCHEMA = 1
KINDS = (".csv", ".json")
PLACE = ("file", "start", "end", "line", "seconds")
ABSTAINS = "(none)"


def check_output(path: Path) -> None:
    """Refuses a place for the table before any work is done.

    Raises:
      UserError: If it is no CSV or JSON file, its folder is not there, or nothing can be written there.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"--output={path}: write .csv or .json at its end, to say which table you want")
    if not path.parent.is_dir():
        raise UserError(f"--output={path}: there is no folder {path.parent}; make it, or name another file")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--output={path} cannot be written; name another file")


def write(path: Path, rows: Sequence[Row], rule: Rule, model: str) -> None:
    """Writes all rows; shares keep all their digits.

    CSV: a line each with file, start, end, line, seconds, label (empty where no class is named), p_<class>…, reason and
    detail. JSON: the same under "predictions", with model, classes and threshold beside it.

    Args:
      path: File that ends in .csv or .json.
      rows: The rows.
      rule: How answers were made.
      model: Which models predict, in words.

    Raises:
      UserError: If the file cannot be written.
    """
    try:
        if path.suffix.lower() == ".csv":
            header = (*PLACE, "label", *(f"p_{name}" for name in rule.classes), "reason", "detail")
            atomic.write_csv(path, header, (_cells(row, rule) for row in rows))
            return
        table = {"schema": SCHEMA, "model": model, "classes": rule.classes, "threshold": rule.threshold}
        atomic.write_json(path, {**table, "predictions": [_record(row) for row in rows]})
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error.strerror}; name another file") from None


def text(rows: Sequence[Row]) -> str:
    """Returns a line per row: the file, the label, its probability, then those of all classes."""
    width = max(len(_name(row)) for row in rows)
    return "\n".join(f"{_name(row):<{width}}  {_said(row)}" for row in rows)


def summary(rows: Sequence[Row], path: Path) -> str:
    """Returns in one line how many recordings were given a class, and where the table is."""
    bad = sum(row.answer is None for row in rows)
    silent = sum(row.answer is not None and row.answer.label is None for row in rows)
    parts = [f"{len(rows) - bad} of {len(rows)} recordings predicted"]
    parts += [f"{silent} of them below the threshold"] if silent else []
    parts += [f"{bad} cannot be used"] if bad else []
    return f"{', '.join(parts)}: {path}"


def _cells(row: Row, rule: Rule) -> tuple[Any, ...]:
    shares = row.answer.probabilities.values() if row.answer else [None] * len(rule.classes)
    label = row.answer.label if row.answer else None
    return *(getattr(row, name) for name in PLACE), label, *shares, row.reason, row.detail


def _record(row: Row) -> dict[str, Any]:
    place = {name: getattr(row, name) for name in PLACE}
    said = {"label": row.answer.label, "probabilities": row.answer.probabilities} if row.answer else {}
    return {**place, "label": None, "probabilities": None, **said, "reason": row.reason, "detail": row.detail}


def _name(row: Row) -> str:
    # A file name may hold bytes that no terminal can show.
    name = row.file.encode("utf-8", "backslashreplace").decode("utf-8")
    if row.line is not None:
        return f"{name}, line {row.line}"
    if row.start is None and row.end is None:
        return name
    return f"{name} {row.start or 0:g}-{'end' if row.end is None else format(row.end, 'g')} s"


def _said(row: Row) -> str:
    if row.answer is None:
        return f"cannot be used: {row.reason} ({row.detail})"
    shares = row.answer.probabilities
    listed = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
    return f"{row.answer.label or ABSTAINS:<{max(map(len, (*shares, ABSTAINS)))}}  {listed}"
