"""The utterance table: what every corpus reader returns and everything after it consumes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

CANONICAL_CLASSES = ("angry", "happy", "neutral", "sad")


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled stretch of speech."""

    # unique name: the path under the corpus root without suffix, plus `#start-end` for spans
    id: str
    file: str  # path of the recording relative to the corpus root, with forward slashes
    # start of the span in seconds, or None for the beginning of the file
    start: float | None = None
    end: float | None = None  # end of the span in seconds, or None for the end of the file
    label: str = ""  # class name; empty where the corpus withholds it
    speaker: str = ""  # speaker name, unique in the corpus; empty if unknown
    session: str = ""  # recording session; empty if the corpus has none
    split: str = ""  # official partition ("train", "devel", "test"); empty if the corpus has none
    corpus: str = ""  # which of several joined corpora it is from; empty if there is one
    text: str = ""  # what is said, the same for all who say it; empty if unknown
    # what else the release says of it, such as (("gender", "female"),), sorted by name
    attributes: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Rejection:
    """One input that cannot be used: a row of `rejected.csv`."""

    file: str  # path relative to the corpus root, or the name of the list that holds the bad line
    line: int | None  # line number in that list (from 1), or None
    reason: str  # short fixed name of the reason, such as "unreadable" or "too short"
    detail: str  # what was found, for a person


@dataclasses.dataclass(frozen=True, slots=True)
class GivenFold:
    """One fold of a corpus that is published with its folds."""

    name: str  # its name in the release
    # utterance id → "train", "devel" or "test"; an utterance that is not in it is not used
    splits: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus as read from disk, sorted by utterance id."""

    name: str  # name of the reader
    root: Path  # folder that `Utterance.file` is relative to
    utterances: tuple[Utterance, ...]  # the usable rows, sorted by id; ids are unique
    protocol: str  # name of the corpus's default protocol
    label_mapping: Mapping[str, str]  # label in the release → label in the table
    rejected: tuple[Rejection, ...] = ()  # listed rows that cannot be used, with reasons
    warnings: tuple[str, ...] = ()  # sentences for the user (missing files, odd lines)
    # true if listed recordings are missing (allowed by `corpus.allow_missing`) or published folds
    # lost rows
    modified: bool = False
    # published folds; empty for the corpora that have none or one (`Utterance.split`)
    folds: tuple[GivenFold, ...] = ()
    # file that is left out on purpose → name and detail of the finding that says so
    left_out: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    folders: tuple[Path, ...] = ()  # folders below `root` of joined corpora; empty if there is one

    def path(self, utterance: Utterance) -> Path:
        """Returns the recording's path on this machine."""
        return self.root / utterance.file


def utterance_id(file: str, start: float | None = None, end: float | None = None) -> str:
    """Returns the id of a file (`a/b.wav` → `a/b`) or a span of it in s (`a/b#1.500-3.250`)."""
    stem = str(PurePosixPath(file).with_suffix(""))
    if start is None and end is None:
        return stem
    return f"{stem}#{start or 0.0:.3f}-{'end' if end is None else format(end, '.3f')}"
