"""Any corpus as a CSV list with the columns file and label, and where known the other ones."""

import collections
import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ser_jax.corpora import findings, release_files
from ser_jax.corpora.labels import means_nothing
from ser_jax.corpora.release_files import (
    BadRow,
    Listing,
    default_protocol,
    is_absolute,
    refusal,
    relative,
    release_root,
)
from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

REQUIRED = ("file", "label")
OPTIONAL = ("start", "end", "speaker", "session", "split", "text")
# "eval" is left out on purpose: it means devel to some and test to others.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("devel", "dev", "val", "valid", "validation"), "devel"),
    "test": "test",
}

COLUMNS = (*REQUIRED, *OPTIONAL)
# What the columns are called elsewhere, without spaces and marks: read in lists that lack `file` or
# `label`, so that what is read of other lists depends on no column that was ignored before.
_MEANT = {
    name: column
    for column, names in {
        "file": "path filename filepath wav wavfile wavpath audio audiofile audiopath",
        "label": "emotion emo emotionlabel class category",
        "start": "starttime startms startsec begin",
        "end": "endtime endms endsec stop",
        "speaker": "speakerid speakername spk spkid actor actorid subject subjectid participant",
        "session": "sessionid",
        "split": "partition subset",
    }.items()
    for name in names.split()
}

# What is assumed of rows, of one and of several.
BACKSLASHES = (
    "path has backslashes, which are read as slashes",
    "paths have backslashes, which are read as slashes",
)
ABSOLUTE = (
    "absolute path is read relative to corpus.root",
    "absolute paths are read relative to corpus.root",
)
NO_ANSWER = (
    "rater gave no answer, which is passed over",
    "raters gave no answer, which is passed over",
)
MAJORITY = (
    "recording has the class that most of its raters chose",
    "recordings have the class that most of their raters chose",
)
NO_MAJORITY = (
    "recording is left out: no class has most of its raters",
    "recordings are left out: no class has most of their raters",
)

_DELIMITERS = (",", ";", "\t", "|")
_EXCEL = re.compile(r'"?sep=([^\w\s]|\t)"?\1*(\r\n|\r|\n)', re.IGNORECASE)  # its first line
_SECONDS = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read(
    root: Path, *, manifest: str, allow_missing: bool, raters: Mapping[str, str] | None = None
) -> Corpus:
    """Reads a manifest: UTF-8 text separated by commas, semicolons or tabs, with a header.

    Where `file` or `label` is absent, columns are also known by other names (`path`, `emotion`).
    Other columns whose values repeat are attributes (`gender`). Bad rows (an empty label, an empty
    span, an unknown split, a refused path, a second row of a recording that says something else)
    are rejected with their line numbers; the others are used.

    Args:
      root: Folder that the column `file` is relative to, or its `wav/`.
      manifest: Path of the manifest, absolute or relative to the root.
      allow_missing: Whether listed recordings may be missing.
      raters: See `registry.read_corpus`.

    Returns:
      The corpus. Its default protocol is `manifest-split`, `manifest-speaker` or
      `manifest-session`: the first whose column is filled in every row.

    Raises:
      UserError: The manifest is absent, is not such a text or lacks a column; or recordings are
        missing.
    """
    release = release_root(root, lambda folder: (folder / manifest).is_file())
    if release is None:
        absent = f"no file {Path(os.path.abspath(root)) / manifest}"
        expected = f"expected a CSV file with columns {_wanted()}"
        raise UserError(f"corpus.manifest={manifest}: {absent}; {expected}")
    path = release / manifest
    inside = path.is_relative_to(release)
    source = path.relative_to(release).as_posix() if inside else path.name
    listing = Listing("manifest", release)
    found: list[tuple[int, Utterance]] = []
    notes: list[str] = []
    listed = list(rows(path, COLUMNS, notes.append, others=True))
    attributes = _attributes([cells for _, cells in listed])
    for number, cells in relocated(release, listed, notes.append):
        if raters is not None and cells and not cells["label"]:
            listing.assume(*NO_ANSWER, f"line {number}")
            continue
        try:
            found.append((number, _utterance(release, cells, attributes)))
        except BadRow as bad:
            listing.reject(source, number, bad.reason, bad.detail)
            continue
        name = cells["file"]
        if "\\" in name:
            listing.assume(*BACKSLASHES, repr(name))
        if is_absolute(name):
            listing.assume(*ABSOLUTE, repr(name))
    for number, utterance in found if raters is None else _majority(listing, found, raters):
        listing.add(utterance, source, number)
    protocol, unfilled = default_protocol(listing, source)
    rated = [row for _, row in found] if raters is not None else listing.utterances
    return listing.corpus(
        protocol=protocol,
        label_mapping={label: label for label in sorted({row.label for row in rated})},
        allow_missing=allow_missing,
        warnings=[*(f"{source}: {note}" for note in notes), *unfilled],
    )


def _majority(
    listing: Listing, found: Sequence[tuple[int, Utterance]], classes: Mapping[str, str]
) -> Iterator[tuple[int, Utterance]]:
    """Yields one row per recording, with the class that most of its rows have; no ties."""
    groups: dict[str, list[tuple[int, Utterance]]] = {}
    for row in found:
        groups.setdefault(row[1].id, []).append(row)
    for name, group in groups.items():
        votes = collections.Counter(
            classes.get(row.label, row.label)
            for _, row in group
            if row.label in classes or not means_nothing(row.label)
        )
        (first, most), *others = [*votes.most_common(2), ("", 0)][:2]
        if others and most == others[0][1] > 0:
            listing.assume(*NO_MAJORITY, name)
            what = ", ".join(f"{label} {count}" for label, count in votes.most_common())
            listing.left_out[group[0][1].file] = findings.NO_MAJORITY, what
            continue
        if len(group) > 1:
            listing.assume(*MAJORITY, name)
        agreeing = (row for row in group if classes.get(row[1].label, row[1].label) == first)
        number, row = next(agreeing, group[0])
        # What differs from row to row is about the raters.
        common = set.intersection(*(set(other.attributes) for _, other in group))
        yield number, dataclasses.replace(row, attributes=tuple(sorted(common)))


def relocated(
    root: Path, listed: Sequence[tuple[int, dict[str, str]]], note: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the `rows` of a list with absolute paths of another machine relative to the root."""
    paths = [cells.get("file", "").replace("\\", "/") for _, cells in listed]
    folder = _folder_elsewhere(root, paths)
    moved = [bool(folder) and PurePosixPath(path).is_relative_to(folder) for path in paths]
    if any(moved):
        one, many = (f"absolute path{s} below {folder}" for s in ("", "s"))
        note(f"{counted(sum(moved), f'{one} is', f'{many} are')} read relative to {root}")
    for (number, cells), path, inside in zip(listed, paths, moved, strict=True):
        own = {"file": str(PurePosixPath(path).relative_to(folder))} if inside else {}
        yield number, cells | own


def _folder_elsewhere(root: Path, files: Sequence[str]) -> str:
    """Returns the folder that is the root on another machine, "" if absolute paths name none.

    It is what is common to the absolute paths that name no file here, or the nearest folder above,
    below which most of their recordings lie in the root.
    """
    paths = {PurePosixPath(file) for file in files if is_absolute(file)}
    gone = [path for path in paths if ".." not in path.parts and not os.path.exists(path)]
    if not gone:
        return ""
    parts = os.path.commonprefix([path.parent.parts for path in gone])
    for count in range(len(parts), 0, -1):
        there = (os.path.isfile(root.joinpath(*path.parts[count:])) for path in gone)
        if 2 * sum(there) > len(gone):
            return str(PurePosixPath(*parts[:count]))
    return ""


def _wanted(columns: Sequence[str] = COLUMNS) -> str:
    required, optional = ([c for c in columns if (c in REQUIRED) == one] for one in (True, False))
    return f"{', '.join(required)} and optionally {', '.join(optional)}"


def _attributes(listed: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the columns that make groups: their values repeat, as those of a text do not."""
    names = dict.fromkeys(name for cells in listed for name in cells)
    return [
        name
        for name in names
        if name not in COLUMNS
        and 2 * len({cells[name] for cells in listed if cells}) <= len(listed)
    ]


def rows(
    path: Path, columns: Sequence[str], note: Callable[[str], None], *, others: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields line number and cells of every row of a list.

    A row with a wrong number of cells comes as an empty dict. `note` is called with what is assumed
    about the columns; with `others` cells of all other columns come, too, by their names in lower
    case. Raises a `UserError` if the list is not CSV text, or lacks one of the
    required ones among the `columns`.
    """
    text = release_files.read_list(path)
    excel = _EXCEL.match(text)
    before = line = 1
    if excel:
        text, before = text[excel.end() :], 2
    try:
        delimiter = excel[1] if excel else _delimiter(re.split("[\r\n]", text, maxsplit=1)[0])
        # strict: a quote that is never closed would otherwise swallow the rest of the list.
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [cell.strip().lower() for cell in next(lines, [])]
        known = _known_columns(path, header, columns, note)
        for column, name in enumerate(header if others else ()):
            if name and not _meant(name) and header.count(name) == 1:
                known.setdefault(name, column)
        line = lines.line_num + before
        for cells in lines:
            # Tables that this program wrote can be read again.
            cells = [files.cell_text(cell.strip()) for cell in cells]
            if any(cells):
                fits = len(cells) >= len(header) and not any(cells[len(header) :])
                found = {name: cells[column] for name, column in known.items()} if fits else {}
                if delimiter != ",":  # as in countries with a decimal comma
                    found |= {n: found[n].replace(",", ".") for n in ("start", "end") if n in found}
                if fits:
                    found["file"] = files.file_name(found["file"])
                yield line, found
            line = lines.line_num + before
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not a CSV row ({error})") from None


def _delimiter(header_line: str) -> str:
    """Returns the delimiter that makes most known columns of the header."""

    def known_columns(delimiter: str) -> int:
        cells = next(csv.reader([header_line], delimiter=delimiter), [])
        return sum(cell.strip().lower() in COLUMNS or bool(_meant(cell)) for cell in cells)

    return max(_DELIMITERS, key=known_columns)


def _meant(name: str) -> str:
    """Returns the column that is often called so, or ""."""
    return _MEANT.get(re.sub(r"[\W_]+", "", name.lower()), "")


def _known_columns(
    path: Path, header: list[str], columns: Sequence[str], note: Callable[[str], None]
) -> dict[str, int]:
    """Returns name → number of the columns that are read; arguments and errors as of `rows`."""
    known = {name: header.index(name) for name in columns if name in header}
    required = [name for name in columns if name in REQUIRED]
    named = all(name in known for name in required)
    faults = [f"column {name} appears twice" for name in known if header.count(name) > 1]
    for column in columns:
        others = [name for name in header if _meant(name) == column and column not in known]
        if len(others) == 1 and not named:
            known[column] = header.index(others[0])
            note(f"column {others[0]!r} is read as {column}")
        elif others and column in required:
            faults.append(
                f"{' and '.join(map(repr, others))} may be the {column}: call one of them {column}"
            )
        elif others:
            note(f"column {others[0]!r} is not read: if it holds the {column}, call it {column}")
    if any(name not in known for name in required):
        faults.append("a required column is missing")
    if faults:
        found = ", ".join(map(repr, header))
        raise UserError(f"{path}, line 1: {faults[0]}; found {found}; expected {_wanted(columns)}")
    return known


def _utterance(root: Path, cells: dict[str, str], attributes: Sequence[str]) -> Utterance:
    file, start, end = place(root, cells)
    label = " ".join(cells["label"].split())
    if not label:
        raise BadRow("bad line", "empty label")
    split = _optional("split", cells)
    if split and split.lower() not in SPLITS:
        raise BadRow("bad line", f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    return Utterance(
        id=utterance_id(file, start, end),
        file=file,
        start=start,
        end=end,
        label=label,
        speaker=cells.get("speaker", ""),
        session=cells.get("session", ""),
        split=SPLITS.get(split.lower(), ""),
        text=_optional("text", cells),
        attributes=tuple(
            (name, value) for name in sorted(attributes) if (value := _optional(name, cells))
        ),
    )


def place(
    root: Path, cells: Mapping[str, str], called: str = "corpus.root"
) -> tuple[str, float | None, float | None]:
    """Returns the path that a row names, relative to the root, and start and end in seconds.

    Start and end are None where they are those of the recording. Raises `BadRow` if the path is
    refused (the root is `called` so in the sentence) or the span is empty.
    """
    file = cells.get("file", "")
    if not file:
        empty = "empty file" if cells else "the number of cells is not that of the header"
        raise BadRow("bad line", empty)
    inside = relative(root, file)
    why = refusal(root, inside, called)
    if why:
        raise BadRow("refused path", f"{file[:80]!r}: {why}")
    start, end = _seconds("start", cells), _seconds("end", cells)
    if end is not None and (start or 0.0) >= end:
        raise BadRow("bad line", f"start {start or 0.0} is not before end {end}")
    if not start and end is None:
        start = None  # the whole file has one id, however it is written
    return str(PurePosixPath(inside)), start, end


def _seconds(name: str, cells: Mapping[str, str]) -> float | None:
    text = _optional(name, cells)
    if not text:
        return None
    value = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise BadRow("bad line", f"{name} {text[:80]!r} is not a number of seconds from 0")
    return value


def _optional(name: str, cells: Mapping[str, str]) -> str:
    """Returns the cell of an optional column; "" if it says that there is nothing (`nan`, `NA`)."""
    text = cells.get(name, "")
    return "" if means_nothing(text) else text
