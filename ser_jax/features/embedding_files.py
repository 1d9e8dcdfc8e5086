"""Files of embeddings, as other tools write them: which names they hold, and one array per name.

A folder tree of `.npy`, `.npz` and `.safetensors`; one `.npz` or `.safetensors` with an array per
name; a table, CSV or Parquet, with the column `file` (and `start`, `end`). Nothing is unpickled.
"""

import csv
import functools
import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_jax.corpora import release_files
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

ARRAYS = (".npy", ".npz", ".safetensors")
CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")
FORMS = (
    "a folder of .npy, .npz or .safetensors, an .npz or .safetensors with an array per utterance,"
    " or a table (.csv, .parquet) with the column file (docs/embeddings.md)"
)
EMBEDDER = "embedder.json"  # what made the arrays of a folder; `ser-jax embed` writes it
_NAMES = ("file", "id")  # columns that name the recording
_TIME = re.compile(r"(?:(?P<days>-?\d+) days?,? ?)?\+?(?:(?P<h>\d+):(?P<m>\d+):(?P<s>[\d.]+))?")


class Entry(NamedTuple):
    """One array of the files."""

    name: str  # path or id, as the files say it
    read: Callable[[], np.ndarray]  # returns it; a row of a table as [1, D]
    place: str  # where it lies, for messages
    start: float | None = None  # start of a span in s, or None
    end: float | None = None  # its end in s, or None


def entries(path: Path) -> list[Entry]:
    """Lists the embeddings below a path; arrays are read later, tables now.

    Raises:
      UserError: If it is none of `FORMS`, holds nothing, or cannot be read.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in ARRAYS and not file.name.startswith(".")
        )
        found = [entry for file in files for entry in _of_file(file, path)]
    elif not path.is_file():
        raise UserError(f"features.embeddings={path} does not exist; name {FORMS}")
    elif ending in (".npz", ".safetensors"):
        found = _named(path)
    elif ending in CSV:
        found = _csv(path)
    elif ending in PARQUET:
        found = _parquet(path)
    else:
        raise UserError(f"features.embeddings={path} is not read; name {FORMS}")
    if not found:
        raise UserError(f"features.embeddings={path} holds no embedding; name {FORMS}")
    return found


def made_by(path: Path) -> dict[str, Any] | None:
    """Returns what `ser-jax embed` says of its model in a folder; None: another tool wrote it."""
    facts = path / EMBEDDER
    if not facts.is_file():
        return None
    remedy = "make the embeddings again with ser-jax embed"
    return strict_json.read(facts, remedy=remedy, sealed=True)


# --- Arrays


def _of_file(file: Path, root: Path) -> list[Entry]:
    """Returns the array of a file of a tree, under its path; several under their own names."""
    name = file.relative_to(root).with_suffix("").as_posix()
    if file.suffix.lower() == ".npy":
        return [Entry(name, functools.partial(_npy, file), str(file))]
    found = _named(file)
    return [found[0]._replace(name=name)] if len(found) == 1 else found


def _npy(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(file, error) from None


def _named(file: Path) -> list[Entry]:
    """Returns the arrays of an .npz or safetensors file, under their names.

    An .npz of two arrays, N texts and [N, …] numbers, holds N embeddings under these names.
    """
    try:
        if file.suffix.lower() == ".npz":
            archive = np.load(file, allow_pickle=False)
            names, get = archive.files, archive.__getitem__
            texts = [] if len(names) != 2 else [n for n in names if get(n).dtype.kind in "US"]
            if len(texts) == 1:
                (values,) = (get(name) for name in names if name not in texts)
                return _rows(file, [str(text) for text in get(texts[0])], values)
        else:
            from safetensors import safe_open

            opened = safe_open(file, "numpy")
            names, get = list(opened.keys()), opened.get_tensor
    except Exception as error:  # NumPy, zipfile and safetensors raise what they like.
        raise _unreadable(file, error) from None

    one_at_a_time = threading.Lock()  # Threads share the file; Python 3.13's zipfile mixes them up.

    def read(name: str) -> np.ndarray:
        try:
            with one_at_a_time:
                return get(name)
        except Exception as error:
            raise _unreadable(f"{file}: {name}", error) from None

    return [Entry(name, functools.partial(read, name), f"{file}: {name}") for name in names]


def _rows(file: Path, names: Sequence[str], values: np.ndarray) -> list[Entry]:
    if len(names) != len(values):
        raise UserError(
            f"{file} holds {counted(len(names), 'name')} for {counted(len(values), 'embedding')}"
        )
    return [
        Entry(name, functools.partial(values.__getitem__, number), f"{file}: {name}")
        for number, name in enumerate(names)
    ]


def _unreadable(place: Path | str, error: Exception) -> UserError:
    pickled = any(word in str(error) for word in ("pickle", "objects")) or isinstance(
        error, zipfile.BadZipFile
    )
    why = "no plain array of numbers" if pickled else str(error) or type(error).__name__
    return UserError(f"{place} cannot be read ({why}): save it again as an array of numbers")


# --- Tables


def _csv(path: Path) -> list[Entry]:
    text = release_files.read_list(path)
    first = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        header = next(lines, [])
        rows = [(lines.line_num, cells) for cells in lines if cells]
    except csv.Error as error:
        raise UserError(f"{path}: line {lines.line_num} is no CSV ({error})") from None
    places = [f"{path}: line {number}" for number, _ in rows]
    wrong = [place for place, (_, row) in zip(places, rows, strict=True) if len(row) != len(header)]
    if wrong:
        raise UserError(
            f"{wrong[0]} has another number of cells than the header ({len(header)}), as have"
            f" {counted(len(wrong) - 1, 'more line')}: write the table again"
        )
    cells = list(zip(*(row for _, row in rows), strict=True)) or [()] * len(header)
    columns: dict[str, Any] = dict(zip(header, cells, strict=True))
    if len(columns) != len(header):
        raise UserError(f"{path} names a column twice: give each its own name")

    def numbers(name: str) -> np.ndarray:
        try:
            return np.array([cell or "nan" for cell in columns[name]], np.float32)
        except ValueError:
            bad = next(n for n, cell in enumerate(columns[name]) if not _is_number(cell))
            raise UserError(
                f"{places[bad]}: column {name} holds {columns[name][bad]!r:.40}, which is no"
                " number: leave columns of text out of the table"
            ) from None

    return _table(path, columns, numbers, places)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _parquet(path: Path) -> list[Entry]:
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow: pip install 'ser_jax[parquet]'") from None
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is no Parquet file ({error})") from None
    if len(set(table.column_names)) != len(table.column_names):
        raise UserError(f"{path} names a column twice: give each its own name")
    columns = dict(zip(table.column_names, table.columns, strict=True))
    if "__index_level_0__" in columns:  # an index of pandas without a name
        columns["file" if "file" not in columns else ""] = columns.pop("__index_level_0__")
    for name in {"start", "end"} & columns.keys():
        if pa.types.is_duration(columns[name].type):
            microseconds = columns[name].cast(pa.duration("us"), safe=False)
            columns[name] = [t and t.total_seconds() for t in microseconds.to_pylist()]

    def numbers(name: str) -> np.ndarray:
        try:
            if pa.types.is_list(kind := columns[name].type) or pa.types.is_fixed_size_list(kind):
                return np.array(columns[name].to_pylist(), np.float32)
            return columns[name].cast(pa.float32(), safe=False).to_numpy()
        except (pa.ArrowException, ValueError, TypeError):
            raise UserError(
                f"{path}: column {name} ({columns[name].type}) holds no numbers, or lists of"
                " unlike lengths: leave it out of the table, or write it again"
            ) from None

    return _table(path, columns, numbers, [f"{path}: row {n}" for n in range(len(table))])


def _table(
    path: Path, columns: dict[str, Any], numbers: Callable[[str], np.ndarray], places: Sequence[str]
) -> list[Entry]:
    """Returns the rows of a table; columns without a name hold row numbers of pandas."""
    name = next((name for name in _NAMES if name in columns), None)
    values = [key for key in columns if key and key not in (name, "start", "end")]
    if name is None or not values:
        raise UserError(
            f"{path} has the columns {', '.join(columns)[:80]}: expected file (and start, end),"
            " then one column per value"
        )
    parts = [numbers(key) for key in values]
    array = np.column_stack(parts) if places else np.zeros((0, 1), np.float32)
    times = [_times(columns.get(key), places) for key in ("start", "end")]
    names = columns[name] if isinstance(columns[name], tuple) else columns[name].to_pylist()
    return [
        Entry(str(key), functools.partial(array.__getitem__, slice(n, n + 1)), places[n], *span)
        for n, (key, span) in enumerate(zip(names, zip(*times, strict=True), strict=True))
    ]


def _times(column: Any, places: Sequence[str]) -> list[float | None]:
    if column is None:
        return [None] * len(places)
    values = column.to_pylist() if hasattr(column, "to_pylist") else column
    return list(_seconds(values, places))


def _seconds(values: Sequence[Any], places: Sequence[str]) -> Iterator[float | None]:
    """Yields times in s of numbers, of `0 days 00:00:01.5`, and None for NaT and nothing."""
    for value, place in zip(values, places, strict=True):
        text = "" if value is None else str(value).strip()
        if text.lower() in ("", "nat", "nan"):
            yield None
        elif _is_number(text):
            yield float(text)
        elif match := _TIME.fullmatch(text):
            days, h, m, s = (float(part or 0) for part in match.groups())
            yield ((days * 24 + h) * 60 + m) * 60 + s
        else:
            raise UserError(
                f"{place}: {text!r:.40} is no time: write seconds, or 0 days 00:00:01.5"
            )
