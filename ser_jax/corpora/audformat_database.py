"""Any database in audEERING's audformat (Wierstorf et al. 2023): a folder with db.yaml, tables and recordings."""

from pathlib import Path, PurePosixPath

from ser_jax.corpora.audformat_tables import HEADER, Database, Segment
from ser_jax.corpora.default_protocol import default_protocol
from ser_jax.corpora.listing import BadRow, Listing
from ser_jax.corpora.manifest_path import refusal
from ser_jax.corpora.release_root import release_root
from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.errors import UserError

EMOTION = "emotion"  # name of the scheme whose column holds the labels
SPLITS = {"train": "train", "dev": "devel", "test": "test"}
# Nouns of canonical classes; all other labels stay as they are.
CANONICAL = {"anger": "angry", "happiness": "happy", "sadness": "sad"}

_NO_CLASSES = ("float", "time", "date", "object")


def read(root: Path, *, labels: str, allow_missing: bool) -> Corpus:
    """Reads the segments (or whole files) of a table with their labels, speakers, sessions and splits.

    Speakers and sessions are the values of the columns of that name, or of a scheme of that name, in any table. Tables
    of a split of type train, dev or test say which split a recording is in. The labels anger, happiness and sadness
    become angry, happy and sad. Rows without a label are used in the test split only, as withheld ones.

    Args:
      root: Folder with `db.yaml`, or its `wav/`.
      labels: "table/column" that holds the labels; empty: the column of the scheme `emotion`, where it stands in one
        table only, or in one table that is of no split, or in one table per split.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus. Its default protocol is `audformat-split`, `audformat-speaker` or `audformat-session`: the first that
      is known of every row. In `rejected`, lines are rows of a table, from 1.

    Raises:
      UserError: audformat is not installed; the database or the column cannot be used; recordings are missing; or
        nothing says which rows belong together.
    """
    release = release_root(root, lambda folder: (folder / HEADER).is_file())
    if release is None:
        raise UserError(f"corpus.root={root} holds no {HEADER}, the header of an audformat database")
    database = Database(release)
    columns = _label_columns(database, labels)
    speakers, sessions, splits = _values(database, "speaker"), _values(database, "session"), _splits(database)
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
            listing.add(utterance, source, number)
            mapping[label] = utterance.label
    mapping.pop("", None)
    protocol, warnings = default_protocol(listing, f"{release.name}: {columns[0][0]}")
    return listing.corpus(
        protocol=protocol, label_mapping=dict(sorted(mapping.items())), allow_missing=allow_missing, warnings=warnings
    )


class _Values:
    """What tables say about whole files and about segments; of a segment, what is said of its file holds as well."""

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
            raise UserError(f"corpus.manifest={labels}: the database has no such table/column; it has {known}")
        chosen = [(table, column)]
    else:
        chosen = [name for name, scheme in there.items() if scheme == EMOTION]
        whole = [name for name in chosen if not database.split(name[0])]
        if len(whole) == 1:
            chosen = whole
        if not chosen or whole and len(chosen) > 1 or len({database.split(table) for table, _ in chosen}) < len(chosen):
            found = ", ".join(f"{table}/{column}" for table, column in chosen) or "none"
            raise UserError(
                f"which column holds the labels? of scheme {EMOTION!r}: {found}; set corpus.manifest to one of {known}"
            )
    for name in chosen:
        scheme = there[name]
        if scheme and database.dtype(scheme) in _NO_CLASSES:
            raise UserError(
                f"{'/'.join(name)} holds values of type {database.dtype(scheme)}, not classes; set corpus.manifest to "
                f"one of {known}"
            )
    return chosen


def _utterance(
    root: Path, segment: Segment, label: str, speakers: _Values, sessions: _Values, splits: _Values
) -> Utterance:
    file, start, end = segment
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
