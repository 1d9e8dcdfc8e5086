"""Findings about the table of a corpus: rejected rows; unused, left-out, unlisted recordings."""

import os
from collections.abc import Sequence
from pathlib import Path

from ser_jax.corpora import file_names
from ser_jax.corpora.findings import Finding
from ser_jax.corpora.table import Corpus, Rejection


def rejection_findings(
    rejected: Sequence[Rejection], *, allow_missing: bool, allow_bad: bool = False
) -> list[Finding]:
    """Returns the rows that the reader could not use as findings of the same names.

    `allow_bad`: whether training goes on without so many of them (`features.max_bad_share`).
    """
    return [
        Finding(
            row.reason,
            row.detail if row.line is None else f"line {row.line}: {row.detail}",
            row.file,
            allowed=allow_missing if row.reason == "missing" else allow_bad,
        )
        for row in rejected
    ]


def unlisted_findings(corpus: Corpus) -> list[Finding]:
    """Finds recordings in the folders of a corpus that no row names, or that are left out.

    Hidden files are skipped.
    """
    listed = {row.file for row in (*corpus.utterances, *corpus.rejected)}
    unlisted = "unlisted", "no usable row of the corpus names it"
    return [
        Finding(*corpus.left_out.get(file, unlisted), file)
        for folder in corpus.folders or [corpus.root]
        for file in _below(corpus.root, folder)
        if file not in listed
    ]


def _below(root: Path, folder: Path) -> list[str]:
    """Returns the recordings in a folder, sorted by their paths relative to the root."""
    names = (os.path.relpath(folder / name, root) for name in file_names.recordings(folder))
    return sorted(names)


def unused_findings(corpus: Corpus, used: Corpus) -> list[Finding]:
    """Returns the utterances that the protocol does not use, for their label or by its rule."""
    kept = {utterance.id for utterance in used.utterances}
    labels = {utterance.label for utterance in used.utterances}
    left_out = [utterance for utterance in corpus.utterances if utterance.id not in kept]
    reasons = {
        row.id: "by the protocol's rule" if row.label in labels else f"label {row.label!r}"
        for row in left_out
    }
    return [Finding("not used", reasons[row.id], row.file, row.id) for row in left_out]
