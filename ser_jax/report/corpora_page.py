"""The table of corpora, as text and as Markdown, and what a proposed pattern would read."""

import collections
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ser_jax.corpora import pattern_guess, registry
from ser_jax.corpora.named_releases import RELEASES
from ser_jax.corpora.release_files import SHOWN
from ser_jax.protocols import named
from ser_jax.runtime.progress import counted

MOST_VALUES = 8  # speakers, texts or values of an attribute that are named
_COLUMNS = ("corpus.name", "corpus", "recordings", "speakers", "texts", "file", "licence")
# Corpora that are read by lists of their own.
LISTED = {
    "iemocap": "IEMOCAP, by its EmoEvaluation files",
    "emotass": "ComParE 2018 Atypical Affect, by its list",
    "meld": "MELD, by its lists; the clips' sound needs the extra [media]",
    "msp_podcast": "MSP-Podcast, by labels_consensus.csv",
    "emobox": "32 corpora, by the lists and folds of the EmoBox benchmark",
    "audformat": "databases in audformat, also those of audb",
    "manifest": "any corpus, by a CSV list of yours",
    "files": "any corpus, by a pattern of its file names (corpus.pattern)",
}


def table() -> str:
    """Returns the corpora whose file names say everything, and the others, as text."""
    rows = [_COLUMNS, *(_cells(name) for name in RELEASES)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for name, release in RELEASES.items():
        labels = ", ".join(f"{label} {count}" for label, count in sorted(release.counts.items()))
        lines += ["", f"{name}: {release.source}", f"  {labels}", f"  {', '.join(protocols(name))}"]
    lines.append("")
    lines += [f"{name:<12} {what}" for name, what in LISTED.items()]
    return "\n".join(lines)


def markdown() -> str:
    """Returns the same as two Markdown tables."""
    blocks = []
    for header, rows in (
        (_COLUMNS, [_cells(name, "`") for name in RELEASES]),
        (
            ("corpus.name", "classes", "protocols", "where to get it"),
            [
                (
                    f"`{name}`",
                    ", ".join(f"{label} {n}" for label, n in sorted(release.counts.items())),
                    ", ".join(f"`{protocol}`" for protocol in protocols(name)),
                    release.source,
                )
                for name, release in RELEASES.items()
            ],
        ),
    ):
        cells = [header, ["---"] * len(header), *rows]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
    return "\n\n".join(blocks)


def protocols(name: str) -> list[str]:
    """Returns the names of the protocols of a corpus, the default first."""
    return [protocol for protocol, spec in named.SPECS.items() if spec.corpus == name]


def _cells(name: str, mark: str = "") -> list[str]:
    row = RELEASES[name]
    return [
        *(f"{mark}{name}{mark}", row.title, f"{sum(row.counts.values()):,}", str(row.speakers)),
        *(str(row.texts or "–"), f"{mark}{row.example}{mark}", row.licence),
    ]


def guess(root: str) -> str:
    """Returns a proposal for a folder, and what it would read.

    Raises:
      UserError: The folder holds no recording, or nothing can be proposed.
    """
    proposal = pattern_guess.propose(Path(os.path.expanduser(root)))
    corpus = registry.read_corpus(
        *(proposal.corpus, root), manifest="", pattern=proposal.pattern, allow_missing=False
    )
    rows = corpus.utterances
    flags = [f"--config.corpus.name={proposal.corpus}", f"--config.corpus.root={root}"]
    flags += [f"--config.corpus.pattern={proposal.pattern}"] if proposal.pattern else []
    head = "the recordings are named as in a published corpus"
    lines = [f"corpus.pattern={proposal.pattern}" if proposal.pattern else head]
    every = counted(len(rows) + len(corpus.rejected), "recording")
    lines.append(f"  reads {len(rows)} of {every}")
    values = {"label": [row.label for row in rows], "speaker": [row.speaker for row in rows]}
    values |= {"text": [row.text for row in rows], "split": [row.split for row in rows]}
    for attribute in sorted({key for row in rows for key, _ in row.attributes}):
        values[attribute] = [dict(row.attributes).get(attribute, "") for row in rows]
    lines += [f"  {field:<10} {_described(v)}" for field, v in values.items() if any(v)]
    for row in rows[:SHOWN]:
        fields = [("label", row.label), ("speaker", row.speaker), ("text", row.text)]
        said = ", ".join(f"{key} {value}" for key, value in (*fields, *row.attributes) if value)
        lines.append(f"  {row.file}: {said}")
    lines += [f"  not read: {row.file}" for row in corpus.rejected[:SHOWN]]
    lines += [f"  note: {sentence}" for sentence in corpus.warnings]
    shown = " ".join(map(shlex.quote, flags))
    return "\n".join([*lines, f"  if that is right: ser-jax protocol {shown}"])


def _described(values: Sequence[str]) -> str:
    counts = collections.Counter(value or "(none)" for value in values)
    shown = ", ".join(f"{value} {counts[value]}" for value in sorted(counts)[:MOST_VALUES])
    more = f", … ({len(counts)} in all)" if len(counts) > MOST_VALUES else ""
    return shown + more
