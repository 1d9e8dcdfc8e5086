"""Text, JSON and CSV files that appear whole or not at all (NumPy only; every part may import it).

Each file is written beside its place, flushed to the disk and then renamed over the old one, so a
job that is killed leaves the old file or the new one, never half of one. Text is UTF-8 with Unix
line ends on every platform; a file name that is not valid Unicode is written with backslash
escapes, so that other tools can always read the file; `file_name` undoes them.
"""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ser_jax.runtime.signals import removing

_TEMPORARY = ".tmp"
_ESCAPE = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # of a byte that is not UTF-8
# How a cell begins that a spreadsheet takes for a formula; behind apostrophes, one of which
# `write_csv` may have put there, so that every text can be read back.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be written piece by piece; it appears at the end, if there was no error."""
    # Not tempfile: only the owner may read its files, and run directories are shared in a group.
    unfinished = temporary(path)
    try:
        with removing(unfinished), naming(path), unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def temporary(path: Path) -> Path:
    """Returns the name under which this process alone, of all hosts, writes a file."""
    # Process numbers alone are not enough: in containers they are the same on every host.
    process = f"{socket.gethostname()}-{os.getpid()}"
    name = path.name
    if len(os.fsencode(name)) > 100:  # With the rest it might be longer than file systems allow.
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.{process}{_TEMPORARY}")


def write_bytes(path: Path, content: bytes) -> None:
    """Creates or replaces a file; the folder must exist."""
    with writing(path) as file:
        file.write(content)


def is_leftover(path: Path) -> bool:
    """Returns whether the file is one that a process was writing when it was killed."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file name to an error of writing, which that of a full disk lacks."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file as UTF-8; the folder must exist."""
    write_bytes(path, _encode(text))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes strict JSON, keys in the order given; `indent=None` for one line.

    The value is made of what JSON knows, tuples, and NumPy numbers and arrays, else a TypeError.
    NaN and infinities become null, since JSON has no word for them.
    """
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    write_text(path, text + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a comma-separated table; floats have all their digits, None is written as nothing.

    A text that a spreadsheet would run as a formula (it begins with =, +, -, @, a tab or a line
    end) gets an apostrophe before it, which `cell_text` takes away.
    """
    write_bytes(path, csv_bytes(header, rows))


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Returns what `write_csv` writes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_harmless(cell) for cell in row] for row in itertools.chain([header], rows))
    return _encode(text.getvalue())


def file_name(text: str) -> str:
    """Returns the file name that a table written here means: escapes become the bytes they are."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def cell_text(cell: str) -> str:
    """Returns the text for which `write_csv` wrote a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")


def plain(value: Any) -> Any:
    """Returns the same value made of what the json module knows; see `write_json`."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
