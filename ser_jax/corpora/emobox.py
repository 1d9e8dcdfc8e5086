"""EmoBox (Ma et al. 2024): lists, label maps and folds of 32 public corpora, without recordings.

One dataset's lists are a folder `data/<dataset>` of the benchmark: `label_map.json`,
`fold_N/<dataset>_{train,valid,test}_fold_N.jsonl` (valid in few of them) and `data.seg.wrd.stm`,
which alone names the speakers. A line of a list is a JSON object with key, wav, emo and, where a
recording holds several utterances, start and end.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ser_jax.corpora import iemocap, release_files
from ser_jax.corpora.release_files import SHOWN, BadRow, Listing, refusal
from ser_jax.corpora.table import Corpus, GivenFold, Utterance, utterance_id
from ser_jax.runtime.errors import UserError

LABEL_MAP = "label_map.json"
SPEAKERS = "data.seg.wrd.stm"
DOWNLOADS = "downloads"  # the folder that the benchmark's paths begin with
VIDEO = (".avi", ".mp4")  # their sound is expected as wav

# In the order of reading. An utterance in two lists of one fold stays in the first: the test part
# is what published scores are about, and training must not see it.
PARTS = {"test": "test", "valid": "devel", "train": "train"}

_FOLD = re.compile(r"fold_(\d+)", re.ASCII)
_SPOKEN = re.compile(r"(\S+) .*<id=\1,lang=[^,]*,spk=(.*),emotion=[^>]*>.*")


class Row(NamedTuple):
    """A line of a list."""

    key: str  # name of the utterance in the benchmark, such as "emodb-03a01Wa"
    file: str  # path of the recording as listed, such as "downloads/emodb/wav/03a01Wa.wav"
    start: float | None  # start of the span in seconds, or None
    end: float | None  # end of the span in seconds, or None
    raw_label: str  # label in the list
    label: str  # class in the label map, in lower case


def parse_row(line: str, label_map: Mapping[str, str]) -> Row:
    """Reads a line of a list; raises `BadRow` if it cannot be used.

    `label_map` is label in the lists → class. If a label is not found, case is ignored: some of the
    maps differ from their lists in it.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRow("bad line", f"not JSON: {line[:80]!r}") from None
    if not isinstance(value, dict):
        raise BadRow("bad line", f"not a JSON object: {line[:80]!r}")
    key, file, raw = (value.get(name) for name in ("key", "wav", "emo"))
    if not (
        isinstance(key, str) and isinstance(file, str) and isinstance(raw, str) and key and file
    ):
        raise BadRow("bad line", f"key, wav and emo must be texts: {line[:80]!r}")
    kind = value.get("type", "raw")
    if kind != "raw":
        raise BadRow("bad line", f"type {kind!r} of {key}; only recordings (raw) can be used")
    by_case = {name.lower(): name for name in label_map}
    found = label_map.get(raw) or label_map.get(by_case.get(raw.lower(), ""))
    if not found:
        raise BadRow("unknown label", f"{raw!r} of {key}; known: {', '.join(label_map)}")
    start, end = _seconds(value, "start_time"), _seconds(value, "end_time")
    if end is not None and (start or 0.0) >= end:
        raise BadRow("bad line", f"start_time {start or 0.0} of {key} is not before end_time {end}")
    if not start and end is None:
        start = None  # the whole file has one id, however it is written
    path = PurePosixPath(file)
    file = str(path.with_suffix(".wav") if path.suffix.lower() in VIDEO else path)
    return Row(key, file, start, end, raw, found.lower())


def _seconds(value: Mapping[str, Any], name: str) -> float | None:
    seconds = value.get(name)
    if seconds is None:
        return None
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and 0 <= seconds < math.inf):
        raise BadRow("bad line", f"{name} {seconds!r} is not a number of seconds from 0")
    return float(seconds)


def read(root: Path, *, manifest: str, allow_missing: bool) -> Corpus:
    """Reads one dataset of the benchmark; the folds are the published ones.

    Classes are those of `label_map.json` in lower case. A recording that the lists give as video
    (avi, mp4) is expected as wav with the same name. IEMOCAP's speakers are read from the turns,
    because the published list takes the letter of the dialog; where every utterance has a speaker
    of its own (MER2023), speakers are unknown.

    Args:
      root: The dataset's own folder (or its `wav/`), the folder that holds it, or the benchmark's
        with `downloads/`.
      manifest: Folder of the dataset's lists: absolute, or relative to the root or the working
        directory.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus; its default protocol is `emobox-<dataset>`, the published folds. It is modified if
      rows of the lists had to be rejected. Ids are paths under the dataset's own folder.

    Raises:
      UserError: The lists are absent or cannot be used, or recordings are missing.
    """
    folder = _lists_folder(root, manifest)
    label_map = _label_map(folder / LABEL_MAP)
    rows = list(_rows(folder, label_map))
    listed = dict.fromkeys(row.file for *_, row in rows if isinstance(row, Row))
    base, release = _release(root, listed)
    listing = Listing("emobox", release)
    speakers, warnings = _speakers(folder, listing)
    collected = _Collected(listing, base, speakers)
    for fold, part, source, number, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            collected.add(fold, part, source, number, row)
        except BadRow as bad:
            listing.reject(source, number, bad.reason, bad.detail)
    labels = {row.raw_label: row.label for row in collected.first.values()}
    corpus = listing.corpus(
        protocol=f"emobox-{folder.name}",
        label_mapping=dict(sorted(labels.items())),
        allow_missing=allow_missing,
        warnings=warnings,
    )
    given = tuple(GivenFold(name, splits) for name, splits in collected.folds.items())
    return dataclasses.replace(
        corpus, folds=given, modified=corpus.modified or bool(listing.rejected)
    )


class _Collected:
    """Collects utterances and folds; an utterance is listed once in every fold."""

    def __init__(self, listing: Listing, base: str, speakers: Mapping[str, str]):
        self.listing = listing
        self.base = base
        self.speakers = speakers
        self.first: dict[str, Row] = {}  # utterance id → its first row
        self.folds: dict[str, dict[str, str]] = {}
        self._refused: dict[str, str] = {}

    def add(self, fold: str, part: str, source: str, number: int, row: Row) -> None:
        file = row.file.removeprefix(self.base)
        if file not in self._refused:
            self._refused[file] = refusal(self.listing.root, file)
        if self._refused[file]:
            raise BadRow("refused path", f"{file[:80]!r}: {self._refused[file]}")
        name = utterance_id(file, row.start, row.end)
        splits = self.folds.setdefault(fold, {})
        if name in splits:
            raise BadRow("duplicate", f"{name!r} is already in the {splits[name]} part of {fold}")
        first = self.first.setdefault(name, row)
        if (first.key, first.label) != (row.key, row.label):
            detail = f"{name!r} is {first.key!r}, {first.label}, in another list; {row.label} here"
            raise BadRow("conflict", detail)
        if first is row:
            speaker = self.speakers.get(row.key, "")
            utterance = Utterance(name, file, row.start, row.end, row.label, speaker)
            self.listing.add(utterance, source, number)
        splits[name] = PARTS[part]


def _lists_folder(root: Path, lists: str) -> Path:
    for folder in (root / lists, Path(lists).expanduser()):
        if folder.is_dir():
            return Path(os.path.abspath(folder))
    raise UserError(
        f"corpus.manifest={lists} is not a folder; set it to the folder of one dataset's lists,"
        " such as data/emodb of the EmoBox benchmark"
    )


def _label_map(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(
            f"{path.parent} holds no {LABEL_MAP}; corpus.manifest must be data/<dataset> of the"
            " benchmark"
        )
    try:
        value = json.loads(release_files.read_list(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); download the list again") from None
    if isinstance(value, dict) and all(isinstance(name, str) and name for name in value.values()):
        return value
    raise UserError(f"{path}: not a JSON object from labels to classes; download the list again")


def _rows(
    folder: Path, label_map: Mapping[str, str]
) -> Iterator[tuple[str, str, str, int, Row | BadRow]]:
    """Yields (fold, part, list, line number, row) of all lists, fold by fold."""
    matches = map(_FOLD.fullmatch, os.listdir(folder))
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers:
        raise UserError(
            f"{folder} holds no fold_1; corpus.manifest must be data/<dataset> of the benchmark"
        )
    lists = [
        (f"fold_{number}", part, f"fold_{number}/{folder.name}_{part}_fold_{number}.jsonl")
        for number in numbers
        for part in PARTS
    ]
    absent = [
        source for _, part, source in lists if part != "valid" and not (folder / source).is_file()
    ]
    if absent:
        raise UserError(
            f"{folder} lacks {len(absent)} of its lists ({', '.join(absent[:SHOWN])}"
            f"{', …' if len(absent) > SHOWN else ''}); download the benchmark's lists again"
        )
    for fold, part, source in lists:
        if not (folder / source).is_file():
            continue
        for number, line in release_files.numbered_lines(folder / source):
            if line.strip():
                try:
                    yield fold, part, source, number, parse_row(line, label_map)
                except BadRow as bad:
                    yield fold, part, source, number, bad


def _release(root: Path, files: Iterable[str]) -> tuple[str, Path]:
    """Returns the common beginning of all listed paths, and the folder that takes its place.

    The folder does not change the ids: the user may have the benchmark's `downloads/`, the dataset
    alone, or its `wav/`.
    """
    root = Path(os.path.abspath(root))
    tops = {PurePosixPath(file).parts[:2] for file in files}
    top = tops.pop() if len(tops) == 1 else ()
    if len(top) < 2 or top[0] != DOWNLOADS:
        return "", root
    base = "/".join(top) + "/"
    above = [root.parent] if root.name == "wav" else []
    for folder in (root / DOWNLOADS / top[1], root / top[1], root, *above):
        inside = (file.removeprefix(base) for file in files)
        if folder.is_dir() and any(
            not refusal(folder, file) and (folder / file).is_file() for file in inside
        ):
            return base, folder
    return base, root


def _speakers(folder: Path, listing: Listing) -> tuple[dict[str, str], list[str]]:
    """Returns key → speaker, and warnings where speakers are unknown; bad lines are rejected."""
    if not (folder / SPEAKERS).is_file():
        return {}, [
            f"emobox: {folder} holds no {SPEAKERS}: speakers are unknown and may be on both sides"
            " of a fold"
        ]
    speakers = {}
    for number, line in release_files.numbered_lines(folder / SPEAKERS):
        match = _SPOKEN.fullmatch(line.rstrip())
        if match:
            key = match[1]
            # The benchmark takes the dialog's letter, which mixes both speakers of a session.
            speakers[key] = iemocap.speaker_of(key.removeprefix("iemocap-")) or match[2]
        elif line.strip():
            listing.reject(SPEAKERS, number, "bad line", f"{line[:80]!r}")
    if len(speakers) > 1 and len(set(speakers.values())) == len(speakers):
        return {}, [
            f"emobox: {SPEAKERS} gives every utterance its own speaker: speakers are taken as"
            " unknown"
        ]
    return speakers, []
