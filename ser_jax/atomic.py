"""Text, JSON and CSV files that appear whole or not at all (NumPy only; every part may import it).

Each file is written beside its place, flushed to the disk and then renamed over the old one, so a job that is killed
leaves the old file or the new one, never half of one. Text is UTF-8 with Unix line ends on every platform; a file name
that is not valid Unicode is written with backslash escapes, so that other tools can always read the file.
"""

import contextlib
import csv
import io
import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_TEMPORARY = ".tmp"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be written piece by piece; it appears at the end, if no error came before.

    Args:
      path: The file to create or replace; the folder must exist.
    """
    # Not tempfile: its files are readable by the owner only, and run directories are shared within a group.
    unfinished = temporary(path)
    try:
        with naming(path), unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def temporary(path: Path) -> Path:
    """Returns the name beside a file under which this process writes it, and no other one on any host."""
    # Process numbers alone are not enough: in containers they are small, and the same on every host.
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}{_TEMPORARY}")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file; the folder must exist.

    Args:
      path: The file to create or replace.
      content: Its whole content.
    """
    with writing(path) as file:
        file.write(content)


def is_leftover(path: Path) -> bool:
    """Returns whether the file is one that a process was writing when it was killed."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has an error of writing name the file; that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file as UTF-8; the folder must exist."""
    write_bytes(path, _encode(text))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes strict JSON, keys in the order given.

    Args:
      path: The file to create or replace.
      value: Dictionaries, lists, tuples, strings, numbers, booleans, None, NumPy numbers and arrays. NaN and infinities
        become null, since JSON has no word for them.
      indent: Spaces per level; None for one line.

    Raises:
      TypeError: For any other kind of value.
    """
    write_text(path, json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a comma-separated table.

    Args:
      path: The file to create or replace.
      header: Column names.
      rows: One sequence per line, as long as the header; floats are written with all their digits, None as nothing.
    """
    write_bytes(path, csv_bytes(header, rows))


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Returns what `write_csv` writes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return _encode(text.getvalue())


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
