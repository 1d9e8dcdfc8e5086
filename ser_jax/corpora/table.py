"""The utterance table: what every corpus reader returns and everything after it consumes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

CANONICAL_CLASSES = ("angry", "happy", "neutral", "sad")


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled stretch of speech.

    Attributes:
      id: Unique name: the path under the corpus root without suffix, plus `#start-end` for spans.
      file: Path of the recording relative to the corpus root, with forward slashes.
      start: Start of the span in seconds, or None for the beginning of the file.
      end: End of the span in seconds, or None for the end of the file.
      label: Class name; empty where the corpus withholds it.
      speaker: Speaker name, unique in the corpus; empty if unknown.
      session: Recording session; empty if the corpus has none.
      split: Official partition ("train", "devel", "test"); empty if the corpus has none.
    """

    id: str
    file: str
    start: float | None = None
    end: float | None = None
    label: str = ""
    speaker: str = ""
    session: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Rejection:
    """One input that cannot be used: a row of `rejected.csv`.

    Attributes:
      file: Path relative to the corpus root, or the name of the list that holds the bad line.
      line: Line number in that list (from 1), or None.
      reason: Short fixed name of the reason, such as "unreadable" or "too short".
      detail: What was found, for a person.
    """

    file: str
    line: int | None
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class GivenFold:
    """One fold of a corpus that is published with its folds.

    Attributes:
      name: Its name in the release.
      splits: Utterance id → "train", "devel" or "test"; an utterance that is not in it is not used.
    """

    name: str
    splits: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus as read from disk, sorted by utterance id.

    Attributes:
      name: Name of the reader.
      root: Folder that `Utterance.file` is relative to.
      utterances: The usable rows, sorted by id; ids are unique.
      protocol: Name of the corpus's default protocol.
      label_mapping: Label in the release → label in the table.
      rejected: Listed rows that cannot be used, with reasons.
      warnings: Sentences for the user (missing files, odd lines).
      modified: True if listed recordings are missing (allowed by `corpus.allow_missing`) or published folds lost rows.
      folds: Published folds; empty for the corpora that have none or one (`Utterance.split`).
    """

    name: str
    root: Path
    utterances: tuple[Utterance, ...]
    protocol: str
    label_mapping: Mapping[str, str]
    rejected: tuple[Rejection, ...] = ()
    warnings: tuple[str, ...] = ()
    modified: bool = False
    folds: tuple[GivenFold, ...] = ()

    def path(self, utterance: Utterance) -> Path:
        """Returns the recording's path on this machine."""
        return self.root / utterance.file


def utterance_id(file: str, start: float | None = None, end: float | None = None) -> str:
    """Returns the id of a file (`a/b.wav` → `a/b`) or of a span of it (`a/b#1.500-3.250`; seconds)."""
    stem = str(PurePosixPath(file).with_suffix(""))
    if start is None and end is None:
        return stem
    return f"{stem}#{start or 0.0:.3f}-{'end' if end is None else format(end, '.3f')}"
