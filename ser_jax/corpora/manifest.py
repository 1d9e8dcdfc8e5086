"""Any corpus as a CSV list: columns file and label, and where known start, end, speaker, session, split."""

import csv
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ser_jax.corpora import list_file
from ser_jax.corpora.default_protocol import default_protocol
from ser_jax.corpora.listing import BadRow, Listing
from ser_jax.corpora.manifest_path import refusal
from ser_jax.corpora.release_root import release_root
from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.errors import UserError

REQUIRED = ("file", "label")
OPTIONAL = ("start", "end", "speaker", "session", "split")
# "eval" is left out on purpose: it means devel to some and test to others.
SPLITS = {
    "train": "train",
    "training": "train",
    "devel": "devel",
    "dev": "devel",
    "val": "devel",
    "valid": "devel",
    "validation": "devel",
    "test": "test",
}

_DELIMITERS = (",", ";", "\t")
_SECONDS = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read(root: Path, *, manifest: str, allow_missing: bool) -> Corpus:
    """Reads a manifest: UTF-8 text separated by commas, semicolons or tabs, with a header; other columns are ignored.

    Bad rows (an empty label, a span that is none, an unknown split, a refused path, a duplicate id) are rejected with
    their line numbers; the others are used.

    Args:
      root: Folder that the column `file` is relative to, or its `wav/`.
      manifest: Path of the manifest, absolute or relative to the root.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus. Its default protocol is `manifest-split`, `manifest-speaker` or `manifest-session`: the first whose
      column is filled in every row.

    Raises:
      UserError: The manifest is absent, is not such a text or lacks a column; recordings are missing; or no column
        says which rows belong together, so that no evaluation is free of leaks.
    """
    release = release_root(root, lambda folder: (folder / manifest).is_file())
    if release is None:
        where = Path(os.path.abspath(root)) / manifest
        raise UserError(f"corpus.manifest={manifest}: no file {where}; expected a CSV file with columns {_wanted()}")
    path = release / manifest
    inside = path.is_relative_to(release)
    source = path.relative_to(release).as_posix() if inside else path.name
    listing = Listing("manifest", release)
    for number, cells in rows(path, REQUIRED):
        try:
            listing.add(_utterance(release, cells), source, number)
        except BadRow as bad:
            listing.reject(source, number, bad.reason, bad.detail)
    protocol, warnings = default_protocol(listing, source)
    labels = sorted({row.label for row in listing.utterances})
    return listing.corpus(
        protocol=protocol,
        label_mapping={label: label for label in labels},
        allow_missing=allow_missing,
        warnings=warnings,
    )


def _wanted(required: Sequence[str] = REQUIRED) -> str:
    return f"{', '.join(required)} and optionally {', '.join(OPTIONAL)}"


def rows(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a list.

    Args:
      path: The list.
      required: Columns that it must have.

    Yields:
      Line number and cells of the known columns; a row with a wrong number of cells comes as an empty dict.

    Raises:
      UserError: If it is no such list.
    """
    text = list_file.read_list(path)
    delimiter = _delimiter(text.partition("\n")[0])
    # strict: a quote that is never closed would otherwise swallow the rest of the list without a word.
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [cell.strip().lower() for cell in next(lines, [])]
        known = _known_columns(path, header, required)
        line = lines.line_num + 1
        for cells in lines:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                fits = len(cells) >= len(header) and not any(cells[len(header) :])
                yield line, {name: cells[column] for name, column in known.items()} if fits else {}
            line = lines.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not a CSV row ({error})") from None


def _delimiter(header_line: str) -> str:
    """Returns the delimiter that makes most known columns of the header."""

    def known_columns(delimiter: str) -> int:
        cells = next(csv.reader([header_line], delimiter=delimiter), [])
        return len({cell.strip().lower() for cell in cells} & {*REQUIRED, *OPTIONAL})

    return max(_DELIMITERS, key=known_columns)


def _known_columns(path: Path, header: list[str], required: Sequence[str]) -> dict[str, int]:
    repeated = [name for name in (*REQUIRED, *OPTIONAL) if header.count(name) > 1]
    if repeated or not set(required) <= set(header):
        fault = f"column {repeated[0]} appears twice" if repeated else "a required column is missing"
        raise UserError(f"{path}, line 1: {fault}; found {', '.join(map(repr, header))}; expected {_wanted(required)}")
    return {name: header.index(name) for name in (*REQUIRED, *OPTIONAL) if name in header}


def _utterance(root: Path, cells: dict[str, str]) -> Utterance:
    file, start, end = place(root, cells)
    label = cells["label"]
    if not label:
        raise BadRow("bad line", "empty label")
    split = cells.get("split", "")
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
    )


def place(root: Path, cells: Mapping[str, str]) -> tuple[str, float | None, float | None]:
    """Returns which recording a row names, and which span of it.

    Args:
      root: Folder that the recording must be in.
      cells: Of the columns file and, where there are such, start and end.

    Returns:
      Path relative to the root; start and end in seconds, None for those of the recording.

    Raises:
      BadRow: If the path is refused or the span is none.
    """
    if not cells.get("file"):
        raise BadRow("bad line", "empty file" if cells else "the number of cells is not that of the header")
    file = cells["file"]
    why = refusal(root, file)
    if why:
        raise BadRow("refused path", f"{file[:80]!r}: {why}")
    file = str(PurePosixPath(file))
    start, end = _seconds("start", cells), _seconds("end", cells)
    if end is not None and (start or 0.0) >= end:
        raise BadRow("bad line", f"start {start or 0.0} is not before end {end}")
    if not start and end is None:
        start = None  # the whole file, however it is written, has one id
    return file, start, end


def _seconds(name: str, cells: Mapping[str, str]) -> float | None:
    text = cells.get(name, "")
    if not text:
        return None
    value = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise BadRow("bad line", f"{name} {text[:80]!r} is not a number of seconds from 0")
    return value
