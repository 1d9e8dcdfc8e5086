"""EmoBox (Ma et al. 2024): lists, label maps and folds of 32 public corpora, without their recordings.

One dataset's lists are a folder `data/<dataset>` of the benchmark: `label_map.json`, `fold_N/<dataset>_{train,valid,
test}_fold_N.jsonl` (valid in few of them) and `data.seg.wrd.stm`, which alone names the speakers.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from ser_jax.corpora import iemocap, list_file
from ser_jax.corpora.emobox_row import Row, parse_row
from ser_jax.corpora.listing import SHOWN, BadRow, Listing
from ser_jax.corpora.manifest_path import refusal
from ser_jax.corpora.table import Corpus, GivenFold, Utterance, utterance_id
from ser_jax.errors import UserError

LABEL_MAP = "label_map.json"
SPEAKERS = "data.seg.wrd.stm"
DOWNLOADS = "downloads"  # the folder that the benchmark's paths begin with

# In the order of reading. An utterance in two lists of one fold stays in the first: the test part is what published
# scores are about, and training must not see it.
PARTS = {"test": "test", "valid": "devel", "train": "train"}

_FOLD = re.compile(r"fold_(\d+)", re.ASCII)
_SPOKEN = re.compile(r"(\S+) .*<id=\1,lang=[^,]*,spk=(.*),emotion=[^>]*>.*")


def read(root: Path, *, lists: str, allow_missing: bool) -> Corpus:
    """Reads one dataset of the benchmark; the folds are the published ones.

    Classes are those of `label_map.json` in lower case. A recording that the lists give as video (avi, mp4) is expected
    as wav with the same name. IEMOCAP's speakers are read from the turns, because the published list takes the letter
    of the dialog; where every utterance has a speaker of its own (MER2023), speakers are unknown.

    Args:
      root: The dataset's own folder (or its `wav/`), the folder that holds it, or the benchmark's with `downloads/`.
      lists: Folder of the dataset's lists: absolute, relative to the root or to the working directory.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus; its default protocol is `emobox-<dataset>`, the published folds. It is a modified one if rows of the
      lists had to be rejected. Ids are paths under the dataset's own folder.

    Raises:
      UserError: The lists are absent or cannot be used, or recordings are missing.
    """
    folder = _lists_folder(root, lists)
    label_map = _label_map(folder / LABEL_MAP)
    rows = list(_rows(folder, label_map))
    base, release = _release(root, dict.fromkeys(row.file for *_, row in rows if isinstance(row, Row)))
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
    return dataclasses.replace(corpus, folds=given, modified=corpus.modified or bool(listing.rejected))


class _Collected:
    """Utterances and folds, while rows are read; an utterance is listed once in every fold."""

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
        before = self.first.setdefault(name, row)
        if (before.key, before.label) != (row.key, row.label):
            raise BadRow("conflict", f"{name!r} is {before.key!r}, {before.label}, in another list; {row.label} here")
        if before is row:
            speaker = self.speakers.get(row.key, "")
            self.listing.add(Utterance(name, file, row.start, row.end, row.label, speaker), source, number)
        splits[name] = PARTS[part]


def _lists_folder(root: Path, lists: str) -> Path:
    for folder in (root / lists, Path(lists).expanduser()):
        if folder.is_dir():
            return Path(os.path.abspath(folder))
    raise UserError(
        f"corpus.manifest={lists} is not a folder; set it to the folder of one dataset's lists, such as data/emodb of "
        f"the EmoBox benchmark"
    )


def _label_map(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {LABEL_MAP}; corpus.manifest must be data/<dataset> of the benchmark")
    try:
        value = json.loads(list_file.read_list(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch the list anew") from None
    if not isinstance(value, dict) or not all(isinstance(label, str) and label for label in value.values()):
        raise UserError(f"{path}: not a JSON object from labels to classes; fetch the list anew")
    return value


def _rows(folder: Path, label_map: Mapping[str, str]) -> Iterator[tuple[str, str, str, int, Row | BadRow]]:
    """Yields (fold, part, list, line number, row) of all lists, fold by fold.

    Raises:
      UserError: There is no fold, or one without its train or test list; all missing lists are counted.
    """
    numbers = sorted(int(match[1]) for name in os.listdir(folder) if (match := _FOLD.fullmatch(name)))
    if not numbers:
        raise UserError(f"{folder} holds no fold_1; corpus.manifest must be data/<dataset> of the benchmark")
    lists = [
        (f"fold_{number}", part, f"fold_{number}/{folder.name}_{part}_fold_{number}.jsonl")
        for number in numbers
        for part in PARTS
    ]
    absent = [source for _, part, source in lists if part != "valid" and not (folder / source).is_file()]
    if absent:
        raise UserError(
            f"{folder} lacks {len(absent)} of its lists ({', '.join(absent[:SHOWN])}"
            f"{', …' if len(absent) > SHOWN else ''}); fetch the benchmark's lists anew"
        )
    for fold, part, source in lists:
        for number, line in list_file.numbered_lines(folder / source) if (folder / source).is_file() else ():
            if line.strip():
                try:
                    yield fold, part, source, number, parse_row(line, label_map)
                except BadRow as bad:
                    yield fold, part, source, number, bad


def _release(root: Path, files: Iterable[str]) -> tuple[str, Path]:
    """Returns what all listed paths begin with, and the folder on this machine that stands for it.

    Which folder that is does not change the ids: the user may have the benchmark's `downloads/`, the dataset alone, or
    its `wav/`.
    """
    root = Path(os.path.abspath(root))
    tops = {PurePosixPath(file).parts[:2] for file in files}
    top = tops.pop() if len(tops) == 1 else ()
    if len(top) < 2 or top[0] != DOWNLOADS:
        return "", root
    base = "/".join(top) + "/"
    candidates = [root / DOWNLOADS / top[1], root / top[1], root, *([root.parent] if root.name == "wav" else [])]
    for folder in candidates:
        inside = (file.removeprefix(base) for file in files)
        if folder.is_dir() and any(not refusal(folder, file) and (folder / file).is_file() for file in inside):
            return base, folder
    return base, root


def _speakers(folder: Path, listing: Listing) -> tuple[dict[str, str], list[str]]:
    """Returns key → speaker, and warnings where speakers are unknown; bad lines are rejected."""
    if not (folder / SPEAKERS).is_file():
        return {}, [f"emobox: {folder} holds no {SPEAKERS}: speakers are unknown and may be on both sides of a fold"]
    speakers = {}
    for number, line in list_file.numbered_lines(folder / SPEAKERS):
        match = _SPOKEN.fullmatch(line.rstrip())
        if match:
            key = match[1]
            # The benchmark takes the dialog's letter, so that both speakers of a session are in each of its "speakers".
            speakers[key] = iemocap.speaker_of(key.removeprefix("iemocap-")) or match[2]
        elif line.strip():
            listing.reject(SPEAKERS, number, "bad line", f"{line[:80]!r}")
    if len(speakers) > 1 and len(set(speakers.values())) == len(speakers):
        return {}, [f"emobox: {SPEAKERS} gives every utterance its own speaker: speakers are taken as unknown"]
    return speakers, []
