"""The tables of an audformat database, read without running anything that a file says.

The library's own loader unpickles `db.<table>.pkl` where there is one, and builds any Python object that `db.yaml`
names. A database may come from someone else, so only the header's plain values and the csv or parquet tables are read.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ser_jax.corpora import list_file
from ser_jax.errors import UserError

HEADER = "db.yaml"
FORMATS = ("parquet", "csv")  # in the order of preference

Segment = tuple[str, float | None, float | None]  # file, start and end in seconds; None: from its beginning, to its end


class Database:
    """An audformat database whose tables are loaded when they are asked for."""

    def __init__(self, folder: Path):
        """Reads the header and the tables that describe schemes.

        Args:
          folder: Holds `db.yaml` and the tables.

        Raises:
          UserError: audformat is not installed, or the database cannot be read.
        """
        try:
            import audformat
            import yaml
        except ImportError:
            raise UserError("corpus.name=audformat needs audformat: pip install 'ser_jax[data]'") from None
        self.folder = folder
        try:
            header = yaml.safe_load(list_file.read_list(folder / HEADER))
            self._header = audformat.Database.load_header_from_yaml(header)
        except UserError:
            raise
        except Exception as error:  # Whatever the library makes of a damaged header.
            raise UserError(f"{folder / HEADER}: not the header of an audformat database ({_short(error)})") from None
        self._loaded: set[str] = set()
        for scheme in self._header.schemes.values():
            if isinstance(scheme.labels, str):  # They stand in a table of their own.
                self._load(scheme.labels)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables about recordings."""
        return tuple(self._header.tables)

    @property
    def columns(self) -> dict[tuple[str, str], str]:
        """(table, column) → name of the column's scheme, "" without one; of all tables about recordings."""
        return {
            (table, column): self._header.tables[table].columns[column].scheme_id or ""
            for table in self._header.tables
            for column in self._header.tables[table].columns
        }

    def split(self, table: str) -> str:
        """Returns the partition that a table is of: "train", "dev", "test", "other"; "" if of none."""
        name = self._header.tables[table].split_id
        return self._header.splits[name].type if name else ""

    def dtype(self, scheme: str) -> str:
        """Returns the type of a scheme's values, such as "str" or "float"."""
        return self._header.schemes[scheme].dtype

    def is_filewise(self, table: str) -> bool:
        """Returns whether the rows of a table are whole files."""
        return self._header.tables[table].type == "filewise"

    def source(self, table: str) -> str:
        """Returns the name of the file that holds a table.

        Raises:
          UserError: There is none.
        """
        for kind in FORMATS:
            if (self.folder / f"db.{table}.{kind}").is_file():
                return f"db.{table}.{kind}"
        pickled = "; a pickled table is not read, because it could run code" if self._pickle(table).is_file() else ""
        raise UserError(f"{self.folder} holds no db.{table}.csv or .parquet{pickled}; complete the database")

    def rows(self, table: str, column: str = "") -> Iterator[tuple[Segment, str]]:
        """Yields (segment, value as text) of every row; the value is "" where it is missing or no column is asked for.

        Raises:
          UserError: The table cannot be read.
        """
        self._load(table)
        frame = self._header.tables[table].get()
        index = frame.index
        files = index.get_level_values("file").tolist()
        if self.is_filewise(table):
            starts = ends = [None] * len(files)
        else:
            starts, ends = (_seconds(index.get_level_values(level)) for level in ("start", "end"))
        values = _texts(frame[column]) if column else [""] * len(files)
        for file, start, end, value in zip(files, starts, ends, values, strict=True):
            # The whole file, however it is written, is one segment.
            yield (file, start if start or end is not None else None, end), value

    def _pickle(self, table: str) -> Path:
        return self.folder / f"db.{table}.pkl"

    def _load(self, table: str) -> None:
        """Loads a table from a copy, beside which there is no pickled one."""
        if table in self._loaded:
            return
        source = self.source(table)
        with tempfile.TemporaryDirectory() as folder:
            try:
                shutil.copyfile(self.folder / source, Path(folder) / source)
                self._header[table].load(str(Path(folder) / f"db.{table}"))
            except Exception as error:  # Whatever the library makes of a damaged table.
                raise UserError(f"{self.folder / source}: not a table of the database ({_short(error)})") from None
        self._loaded.add(table)


def _seconds(level: Any) -> list[float | None]:
    return [
        None if absent else value.total_seconds() for value, absent in zip(level, level.isna().tolist(), strict=True)
    ]


def _texts(values: Any) -> list[str]:
    absent = values.isna().tolist()
    return ["" if missing else str(value) for value, missing in zip(values.tolist(), absent, strict=True)]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
