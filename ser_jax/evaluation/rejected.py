"""`rejected.csv`: the inputs that could not be used, one line each, with the reason."""

import csv
from collections.abc import Iterable
from pathlib import Path

from ser_jax import atomic
from ser_jax.corpora import table
from ser_jax.errors import UserError

HEADER = ("file", "line", "reason", "detail")


def write_rejected(path: Path, rejections: Iterable[table.Rejection]) -> None:
    """Writes the list; without rejections the file holds the header alone."""
    rows = ((rejection.file, rejection.line, rejection.reason, rejection.detail) for rejection in rejections)
    atomic.write_csv(path, HEADER, rows)


def read_rejected(path: Path) -> list[table.Rejection]:
    """Reads the list that `write_rejected` wrote.

    Raises:
      UserError: If the file is not such a list.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            if tuple(next(lines, ())) != HEADER:
                raise ValueError
            return [
                table.Rejection(name, int(line) if line else None, reason, detail)
                for name, line, reason, detail in lines
            ]
        except (ValueError, csv.Error):
            raise UserError(f"{path} is not the list {','.join(HEADER)}; delete it and run the command again") from None
