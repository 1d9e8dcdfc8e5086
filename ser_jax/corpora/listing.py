"""From the rows of a release's lists to a corpus: bad rows, duplicates and recordings that are not there."""

import collections
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ser_jax.corpora.manifest_path import identity
from ser_jax.corpora.near_names import NearNames
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.errors import UserError

SHOWN = 3


class Unusable(UserError):
    """A corpus that cannot be used as it is.

    Attributes:
      rejected: Every bad row found, for the `rejected.csv` that is written before any exit.
    """

    def __init__(self, message: str, rejected: Sequence[Rejection]):
        """Keeps the rejected rows with the sentence for the user."""
        super().__init__(message)
        self.rejected = tuple(rejected)


class BadRow(Exception):
    """A row of a list that cannot be used.

    Attributes:
      reason: Short fixed name of the reason (`Rejection.reason`).
      detail: What was found, for a person.
    """

    def __init__(self, reason: str, detail: str):
        """Keeps both."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Listing:
    """Collects the rows of a corpus while its lists are read.

    Attributes:
      name: Name of the reader.
      root: Folder that the recordings' paths are relative to.
      rejected: Rows that cannot be used, in the order of the lists.
    """

    def __init__(self, name: str, root: Path):
        """Starts with no rows."""
        self.name = name
        self.root = root
        self.rejected: list[Rejection] = []
        self._rows: dict[str, Utterance] = {}
        self._places: dict[str, str] = {}
        self._spans: dict[tuple, str] = {}  # which file, from where to where → id of its first row

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """The rows accepted so far, sorted by id, whether or not their recordings exist."""
        return tuple(self._rows[key] for key in sorted(self._rows))

    def add(self, utterance: Utterance, source: str, line: int | None) -> None:
        """Adds a row, or rejects it if its id, or its stretch of its file, is taken: the first row stays.

        Args:
          utterance: The row.
          source: Path of the list, relative to the root.
          line: Line number in the list, or None where the release's list is the folder itself.
        """
        place = source if line is None else f"{source} line {line}"
        if utterance.id in self._rows:
            first = self._rows[utterance.id]
            detail = f"{utterance.id!r} ({utterance.label}) is already in {self._places[utterance.id]} ({first.label})"
            self.reject(source, line, "duplicate", detail)
            return
        same = self._spans.setdefault(self._span(utterance), utterance.id)
        if same != utterance.id:
            where = f"{same!r} in {self._places[same]} ({self._rows[same].label})"
            detail = f"{utterance.id!r} ({utterance.label}) is the file of {where} under another name"
            self.reject(source, line, "duplicate", detail)
            return
        self._rows[utterance.id] = utterance
        self._places[utterance.id] = place

    def _span(self, utterance: Utterance) -> tuple:
        """Returns which file it is and from where to where; of a file that is not there, the id."""
        file = identity(self.root / utterance.file)
        if file is None:
            return (utterance.id,)
        return (file, round(utterance.start or 0.0, 3), None if utterance.end is None else round(utterance.end, 3))

    def reject(self, source: str, line: int | None, reason: str, detail: str) -> None:
        """Notes a row that cannot be used (the fields of `Rejection`)."""
        self.rejected.append(Rejection(source, line, reason, detail))

    def corpus(
        self, *, protocol: str, label_mapping: Mapping[str, str], allow_missing: bool, warnings: Sequence[str] = ()
    ) -> Corpus:
        """Checks that the recordings exist and returns the corpus.

        Args:
          protocol: Name of the default protocol.
          label_mapping: Label in the release → label in the table.
          allow_missing: Whether listed recordings may be missing (`corpus.allow_missing`).
          warnings: Sentences for the user, from the reader.

        Raises:
          Unusable: Recordings are missing and may not be, or nothing usable is left.
        """
        listed = self.utterances
        missing = [row for row in listed if not os.path.isfile(self.root / row.file)]
        sentences = list(warnings)
        if self.rejected:
            sentences.append(f"{self.name}: {_summary(self.rejected)}")
        near = NearNames(self.root)
        spelt = {row.id: near.find(row.file) for row in missing}
        absent = [
            Rejection(row.file, None, "missing", f"listed in {self._places[row.id]}{_spelling(spelt[row.id])}")
            for row in missing
        ]
        rejected = (*self.rejected, *absent)
        if missing:
            found = (
                f"{len(missing)} of {len(listed)} listed recordings are missing from corpus.root={self.root} "
                f"({_first([f'{row.file}{_spelling(spelt[row.id])}' for row in missing])})"
            )
            if not allow_missing:
                remedy = "complete the release, or set corpus.allow_missing=true to go on without them"
                raise Unusable(f"{self.name}: {found}; {remedy}", rejected)
            sentences.append(f"{self.name}: {found}; going on without them, as a modified corpus")
        gone = {row.id for row in missing}
        present = tuple(row for row in listed if row.id not in gone)
        if not present:
            what = _summary(rejected) if rejected else "its lists name no recording"
            raise Unusable(f"{self.name}: corpus.root={self.root} holds no usable recording: {what}", rejected)
        return Corpus(
            name=self.name,
            root=self.root,
            utterances=present,
            protocol=protocol,
            label_mapping=dict(label_mapping),
            rejected=rejected,
            warnings=tuple(sentences),
            modified=bool(missing),
        )


def _summary(rejected: Sequence[Rejection]) -> str:
    """Names how many rows were rejected, why, and where the first few are."""
    counts = collections.Counter(row.reason for row in rejected)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    places = [
        f"{row.file}{'' if row.line is None else f' line {row.line}'}: {row.reason}: {row.detail}" for row in rejected
    ]
    return f"{len(rejected)} rows rejected ({reasons}): {_first(places)}"


def _spelling(name: str) -> str:
    return f"; the folder has {ascii(name)}, which is spelt otherwise" if name else ""


def _first(items: Sequence[str]) -> str:
    return "; ".join(items[:SHOWN]) + (f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
