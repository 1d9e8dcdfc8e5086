"""`rejected.csv`: the inputs that could not be used, one line each, with the reason."""

import csv
from collections.abc import Iterable
from pathlib import Path

from ser_jax import atomic
from ser_jax.corpora import table

HEADER = ("file", "line", "reason", "detail")


def write_rejected(path: Path, rejections: Iterable[table.Rejection]) -> None:
    """Writes the list; without rejections the file holds the header alone."""
    rows = ((rejection.file, rejection.line, rejection.reason, rejection.detail) for rejection in rejections)
    atomic.write_csv(path, HEADER, rows)


def read_rejected(path: Path) -> list[table.Rejection]:
    """Reads the list that `write_rejected` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        table.Rejection(row["file"], int(row["line"]) if row["line"] else None, row["reason"], row["detail"])
        for row in rows
    ]
