"""Any database in audEERING's audformat (Wierstorf et al. 2023): db.yaml, tables and recordings.

The root may be the name of a published database, `audb:emodb==1.4.1`, which audb downloads.

Tables are read without running anything that a file says: the library's own loader unpickles
`db.<table>.pkl` where there is one, and builds any Python object that `db.yaml` names. A database
may come from someone else, so only the header's plain values and csv or parquet tables are read.
"""

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ser_jax.config import DEFAULT_MANIFEST
from ser_jax.corpora import release_files
from ser_jax.corpora.release_files import (
    BadRow,
    Listing,
    default_protocol,
    refusal,
    relative,
    release_root,
)
from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.runtime.errors import UserError

PREFIX = "audb:"
HEADER = "db.yaml"
FORMATS = ("parquet", "csv")  # in the order of preference
ATTRIBUTES = ("age", "gender", "intensity", "language")  # columns, or schemes of columns
EMOTION = "emotion"  # name of the scheme whose column holds the labels
SPLITS = {"train": "train", "dev": "devel", "test": "test"}
# Nouns of canonical classes; all other labels are kept.
CANONICAL = {"anger": "angry", "happiness": "happy", "sadness": "sad"}

# File, start and end in seconds; None: those of the recording.
Segment = tuple[str, float | None, float | None]

_NO_CLASSES = ("float", "time", "date", "object")

_NAMED = re.compile(r"audb:([\w.-]+)==([\w.+-]+)", re.ASCII)


def fetch(root: str) -> Path:
    """Downloads a database with audb and returns its folder in audb's cache.

    Repositories and cache are set in the library's configuration (`~/.config/audb.yaml`,
    `AUDB_CACHE_ROOT`); it trusts the header and the tables of its repositories.

    Args:
      root: `audb:NAME==VERSION`; without a default version, since a protocol is about one version.

    Raises:
      UserError: audb is not installed, the name has another form, or loading fails.
    """
    match = _NAMED.fullmatch(root)
    if match is None:
        raise UserError(
            f"corpus.root={root}: write it as audb:NAME==VERSION, for example audb:emodb==1.4.1"
        )
    try:
        import audb
    except ImportError:
        raise UserError(f"corpus.root={root} needs audb: pip install 'ser_jax[data]'") from None
    library: Any = audb  # Type checkers take audb.load for the module of that name.
    try:
        database = library.load(match[1], version=match[2], full_path=False, pickle_tables=False)
    except Exception as error:  # of audb, its storage or the network
        raise UserError(
            f"corpus.root={root} cannot be loaded ({_short(error, 300)}); check name, version, the"
            " connection and the repositories in ~/.config/audb.yaml"
        ) from None
    if database is None or database.root is None:
        remedy = "try again when it has finished"
        raise UserError(f"corpus.root={root}: another process holds audb's cache; {remedy}")
    return Path(database.root)


class Database:
    """An audformat database whose tables are loaded on demand."""

    def __init__(self, folder: Path):
        """Reads `db.yaml` and the tables of schemes; a `UserError` if that is impossible."""
        try:
            import audformat
            import yaml
        except ImportError:
            remedy = "pip install 'ser_jax[data]'"
            raise UserError(f"corpus.name=audformat needs audformat: {remedy}") from None
        self.folder = folder
        try:
            header = yaml.safe_load(release_files.read_list(folder / HEADER))
            self._header = audformat.Database.load_header_from_yaml(header)
        except UserError:
            raise
        except Exception as error:  # of the library, for a damaged header
            raise UserError(
                f"{folder / HEADER}: not the header of an audformat database ({_short(error)})"
            ) from None
        self._loaded: set[str] = set()
        for scheme in self._header.schemes.values():
            if isinstance(scheme.labels, str):  # the name of a table that holds them
                self._load(scheme.labels)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables about recordings."""
        return tuple(self._header.tables)

    @property
    def columns(self) -> dict[tuple[str, str], str]:
        """(table, column) → the column's scheme or "", for all tables about recordings."""
        return {
            (name, column): table.columns[column].scheme_id or ""
            for name, table in self._header.tables.items()
            for column in table.columns
        }

    def split(self, table: str) -> str:
        """Returns the split of a table: "train", "dev", "test", "other"; "" if it has none."""
        name = self._header.tables[table].split_id
        return self._header.splits[name].type if name else ""

    def dtype(self, scheme: str) -> str:
        """Returns the type of a scheme's values, such as "str" or "float"."""
        return self._header.schemes[scheme].dtype

    def is_filewise(self, table: str) -> bool:
        """Returns whether the rows of a table are whole files."""
        return self._header.tables[table].type == "filewise"

    def source(self, table: str) -> str:
        """Returns the name of the file that holds a table; a `UserError` if there is none."""
        for kind in FORMATS:
            if (self.folder / f"db.{table}.{kind}").is_file():
                return f"db.{table}.{kind}"
        pickled = (self.folder / f"db.{table}.pkl").is_file()
        why = "; a pickled table is not read, because it could run code" if pickled else ""
        raise UserError(
            f"{self.folder} holds no db.{table}.csv or .parquet{why}; complete the database"
        )

    def rows(self, table: str, column: str = "") -> Iterator[tuple[Segment, str]]:
        """Yields (segment, value as text) of every row; "" if missing or without column."""
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
            # The whole file is one segment, however it is written.
            yield (file, start if start or end is not None else None, end), value

    def _load(self, table: str) -> None:
        """Loads a table from a copy in an empty folder, where no pickled one is."""
        if table in self._loaded:
            return
        source = self.source(table)
        with tempfile.TemporaryDirectory() as folder:
            try:
                shutil.copyfile(self.folder / source, Path(folder) / source)
                self._header[table].load(str(Path(folder) / f"db.{table}"))
            except Exception as error:  # of the library, for a damaged table
                raise UserError(
                    f"{self.folder / source}: not a table of the database ({_short(error)})"
                ) from None
        self._loaded.add(table)


def _seconds(level: Any) -> list[float | None]:
    absent = level.isna().tolist()
    return [None if no else time.total_seconds() for time, no in zip(level, absent, strict=True)]


def _texts(values: Any) -> list[str]:
    absent = values.isna().tolist()
    return ["" if no else str(value) for value, no in zip(values.tolist(), absent, strict=True)]


def _short(error: Exception, length: int = 200) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:length]}"


def read(root: Path, *, manifest: str, allow_missing: bool) -> Corpus:
    """Reads the segments (or whole files) of a table with labels, speakers, sessions and splits.

    Speakers, sessions and `ATTRIBUTES` are the values of the columns of that name, or of a scheme
    of that name, in any table. Tables of a split of type train, dev or test say which split a
    recording is in. The labels anger, happiness and sadness become angry, happy and sad. Rows
    without a label are used in the test split only, as withheld ones.

    Args:
      root: Folder with `db.yaml`, or its `wav/`.
      manifest: "table/column" that holds the labels; empty or the default of `corpus.manifest`: the
        column of the scheme `emotion`, if one table has it, or one table without a split, or one
        table per split.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus. Its default protocol is `audformat-split`, `audformat-speaker` or
      `audformat-session`: the first that is known of every row. In `rejected`, lines are rows of a
      table, from 1.

    Raises:
      UserError: audformat is not installed; the database or the column cannot be used; recordings
        are missing; or nothing says which rows belong together.
    """
    release = release_root(root, lambda folder: (folder / HEADER).is_file())
    if release is None:
        what = "the header of an audformat database"
        raise UserError(f"corpus.root={root} holds no {HEADER}, {what}")
    database = Database(release)
    columns = _label_columns(database, "" if manifest == DEFAULT_MANIFEST else manifest)
    speakers, sessions = _values(database, "speaker"), _values(database, "session")
    attributes = {name: _values(database, name) for name in ATTRIBUTES}
    splits = _splits(database)
    listing = Listing("audformat", release)
    mapping = {}
    for table, column in columns:
        source = database.source(table)
        for number, (segment, label) in enumerate(database.rows(table, column), 1):
            try:
                utterance = _utterance(release, segment, label, speakers, sessions, splits)
            except BadRow as bad:
                listing.reject(source, number, bad.reason, bad.detail)
                continue
            known = ((name, "".join(v.of(segment)[:1])) for name, v in attributes.items())
            known = tuple((name, value) for name, value in known if value)
            listing.add(dataclasses.replace(utterance, attributes=known), source, number)
            mapping[label] = utterance.label
    mapping.pop("", None)
    protocol, warnings = default_protocol(listing, f"{release.name}: {columns[0][0]}")
    return listing.corpus(
        protocol=protocol,
        label_mapping=dict(sorted(mapping.items())),
        allow_missing=allow_missing,
        warnings=warnings,
    )


class _Values:
    """Values of whole files and of segments; a segment without its own has those of its file."""

    def __init__(self):
        self._found: dict[str | Segment, list[str]] = {}

    def add(self, segment: Segment, value: str, *, filewise: bool) -> None:
        known = self._found.setdefault(segment[0] if filewise else segment, [])
        if value and value not in known:
            known.append(value)

    def of(self, segment: Segment) -> list[str]:
        return self._found.get(segment) or self._found.get(segment[0], [])


def _values(database: Database, name: str) -> _Values:
    """Reads every column that has a name, or a scheme of that name."""
    values = _Values()
    for (table, column), scheme in database.columns.items():
        if name in (column, scheme):
            for segment, value in database.rows(table, column):
                values.add(segment, value, filewise=database.is_filewise(table))
    return values


def _splits(database: Database) -> _Values:
    values = _Values()
    for table in database.tables:
        split = SPLITS.get(database.split(table), "")
        for segment, _ in database.rows(table) if split else ():
            values.add(segment, split, filewise=database.is_filewise(table))
    return values


def _label_columns(database: Database, labels: str) -> list[tuple[str, str]]:
    """Returns the columns that hold the labels; see `read`."""
    there = database.columns
    known = ", ".join(f"{table}/{column}" for table, column in there)
    if labels:
        table, _, column = labels.rpartition("/")
        if (table, column) not in there:
            raise UserError(
                f"corpus.manifest={labels}: the database has no such table/column; it has {known}"
            )
        chosen = [(table, column)]
    else:
        chosen = [name for name, scheme in there.items() if scheme == EMOTION]
        whole = [name for name in chosen if not database.split(name[0])]
        if len(whole) == 1:
            chosen = whole
        splits = {database.split(table) for table, _ in chosen}
        if not chosen or whole and len(chosen) > 1 or len(splits) < len(chosen):
            found = ", ".join(f"{table}/{column}" for table, column in chosen) or "none"
            raise UserError(
                f"which column holds the labels? of scheme {EMOTION!r}: {found}; set"
                f" corpus.manifest to one of {known}"
            )
    for name in chosen:
        scheme = there[name]
        if scheme and database.dtype(scheme) in _NO_CLASSES:
            raise UserError(
                f"{'/'.join(name)} holds values of type {database.dtype(scheme)}, not classes; set"
                f" corpus.manifest to one of {known}"
            )
    return chosen


def _utterance(
    root: Path, segment: Segment, label: str, speakers: _Values, sessions: _Values, splits: _Values
) -> Utterance:
    file, start, end = segment
    file = relative(root, file)
    why = refusal(root, file)
    if why:
        raise BadRow("refused path", f"{file[:80]!r}: {why}")
    if end is not None and (start or 0.0) >= end:
        raise BadRow("bad line", f"{file}: start {start or 0.0} is not before end {end}")
    split = splits.of(segment)
    if len(split) > 1:
        raise BadRow("bad line", f"{file} is in several splits: {', '.join(split)}")
    if not label and split != ["test"]:
        raise BadRow("bad line", f"{file} has no label")
    file = str(PurePosixPath(file))
    speaker, session = ("".join(values.of(segment)[:1]) for values in (speakers, sessions))
    return Utterance(
        id=utterance_id(file, start, end),
        file=file,
        start=start,
        end=end,
        label=CANONICAL.get(label, label),
        speaker=speaker,
        session=session,
        split="".join(split),
    )
