"""What is wrong or odd with the table of a corpus: labels, speakers, sessions, and recordings that no row names."""

import collections
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.diagnosis.findings import Finding

FEW_UTTERANCES = 5  # of a speaker or session: the recall of four classes cannot be told from fewer

_COLUMNS = ("speaker", "session", "split")
_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def rejection_findings(rejected: Sequence[Rejection], *, allow_missing: bool) -> list[Finding]:
    """Returns the rows that the reader could not use as findings of the same names.

    Args:
      rejected: The rows.
      allow_missing: Whether listed recordings may be missing (`corpus.allow_missing`).
    """
    return [
        Finding(
            row.reason,
            row.detail if row.line is None else f"line {row.line}: {row.detail}",
            row.file,
            allowed=allow_missing and row.reason == "missing",
        )
        for row in rejected
    ]


def unlisted_findings(corpus: Corpus) -> list[Finding]:
    """Finds recordings under the corpus root that no row of its table names; hidden files are skipped."""
    listed = {utterance.file for utterance in corpus.utterances} | {row.file for row in corpus.rejected}
    return [
        Finding("unlisted", "no usable row of the corpus names it", file)
        for file in _recordings(corpus.root)
        if file not in listed
    ]


def _recordings(root: Path) -> Iterator[str]:
    """Yields recordings relative to the root; follows links to folders, since a release's wav/ may be one, but once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(_SUFFIXES):
                yield Path(folder, name).relative_to(root).as_posix()


def unused_findings(corpus: Corpus, used: Corpus) -> list[Finding]:
    """Names the utterances of a corpus that are not `used` by the protocol: for their label, or by its own rule."""
    kept = {utterance.id for utterance in used.utterances}
    labels = {utterance.label for utterance in used.utterances}
    left_out = [utterance for utterance in corpus.utterances if utterance.id not in kept]
    reasons = {row.id: "by the protocol's rule" if row.label in labels else f"label {row.label!r}" for row in left_out}
    return [Finding("not used", reasons[row.id], row.file, row.id) for row in left_out]


def group_findings(utterances: Sequence[Utterance]) -> list[Finding]:
    """Looks for labels, speakers and sessions that spoil training or its figures.

    Args:
      utterances: The usable rows of the protocol.

    Returns:
      Labels that differ in spelling only, classes of one speaker, speakers and sessions with few utterances, and
      columns that are filled in some rows only; about the corpus, so without file and id.
    """
    return [
        *_similar_labels(utterances),
        *_classes_of_one_speaker(utterances),
        *_small_groups(utterances),
        *_half_filled_columns(utterances),
    ]


def _similar_labels(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    counts = collections.Counter(utterance.label for utterance in utterances)
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts):
        plain = "".join(letter for letter in label.casefold() if letter.isalnum())
        spellings.setdefault(plain or label, []).append(label)
    for labels in spellings.values():
        if len(labels) > 1:
            yield Finding("similar labels", ", ".join(f"{label!r} ({counts[label]} utterances)" for label in labels))


def _classes_of_one_speaker(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    speakers: dict[str, set[str]] = {}
    for utterance in utterances:
        if utterance.label and utterance.speaker:
            speakers.setdefault(utterance.label, set()).add(utterance.speaker)
    for label, names in sorted(speakers.items()):
        if len(names) == 1:
            yield Finding("one speaker", f"label {label!r} is spoken by {min(names)} only")


def _small_groups(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    for column in ("speaker", "session"):
        counts = collections.Counter(getattr(utterance, column) for utterance in utterances if utterance.label)
        for name, count in sorted(counts.items()):
            if name and count < FEW_UTTERANCES:
                detail = f"{column} {name}: {count} utterances; fewer than {FEW_UTTERANCES}"
                yield Finding("few utterances", detail, rank=-count)


def _half_filled_columns(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    for column in _COLUMNS:
        empty = [utterance for utterance in utterances if not getattr(utterance, column)]
        if 0 < len(empty) < len(utterances):
            detail = f"{column} is empty in {len(empty)} of {len(utterances)} rows, for example {empty[0].id}"
            yield Finding("unfilled", detail)
