"""Label maps (`corpus.labels`, `evaluate --labels`), and labels that cannot be classes."""

import collections
import csv
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from ser_jax.corpora.findings import LEFT_OUT_LABEL
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

KEY = "corpus.labels"
LEFT_OUT = "-"  # the class of labels that are left out

# How people and programs write that there is nothing, as a whole cell in any case.
_NOTHING = re.compile(
    r"#?n/?a|n\.a\.?|<na>|nan|none|null|nil|nat|missing|empty|undefined|unknown|tbd|todo"
    r"|un-?(labell?ed|annotated)|(no|without)[ _-]?(label|agreement|annotation)|x{2,}|[?._-]+",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?\s*%?", re.IGNORECASE | re.ASCII)
_SHOWN = 8  # entries of a map in a message


def means_nothing(text: str) -> bool:
    """Returns whether a cell says that there is no value, such as `nan`, `NA`, `?` or `xxx`."""
    return not text or _NOTHING.fullmatch(text) is not None


def parse(text: str, key: str = KEY) -> dict[str, str]:
    """Parses a label map `theirs=ours,…`; `theirs=-` leaves a label out.

    An entry with a comma is quoted: `"sad, very=sad"`. Raises a `UserError` that names the `key`
    if it has another form or maps a label twice.
    """
    items = next(csv.reader([" ".join(text.split())], skipinitialspace=True), [])
    pairs = [[part.strip() for part in item.split("=")] for item in items if item.strip()]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise UserError(
            f"{key}={text!r}: write it as theirs=ours,theirs=ours (theirs=- leaves a label out)"
        )
    counts = collections.Counter(theirs for theirs, _ in pairs)
    twice = [label for label, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{key}={text!r}: it maps {', '.join(twice)} more than once; keep one")
    return {theirs: ours for theirs, ours in pairs}


def write(labels: Mapping[str, str]) -> str:
    """Returns a label map as text that `parse` reads."""
    entries = (f"{theirs}={ours}" for theirs, ours in labels.items())
    return ",".join(f'"{entry}"' if "," in entry else entry for entry in entries)


def relabel(corpus: Corpus, labels: Mapping[str, str], key: str = KEY) -> Corpus:
    """Returns the corpus with labels renamed and merged, without what is mapped to `LEFT_OUT`.

    The map becomes part of `Corpus.label_mapping` and with it of the protocol's hash.

    Raises:
      UserError: A mapped label is not one of the corpus, or nothing would be left.
    """
    if not labels:
        return corpus
    there = {utterance.label for utterance in corpus.utterances} | {*corpus.label_mapping.values()}
    absent = sorted(labels.keys() - there)
    if absent:
        found = ", ".join(sorted(there - {""}))
        raise UserError(
            f"{key} maps {', '.join(absent)}, which is no label of the corpus; it has {found}"
        )
    kept = tuple(
        dataclasses.replace(utterance, label=labels.get(utterance.label, utterance.label))
        for utterance in corpus.utterances
        if labels.get(utterance.label) != LEFT_OUT  # which an unmapped label may be: refused later
    )
    if not kept:
        raise UserError(
            f"{key} leaves out all {counted(len(corpus.utterances), 'utterance')} of the corpus"
        )
    mapping = {old: labels.get(new, new) for old, new in corpus.label_mapping.items()}
    gone = left_out(u for u in corpus.utterances if labels.get(u.label) == LEFT_OUT)
    return dataclasses.replace(
        corpus, utterances=kept, label_mapping=mapping, left_out={**corpus.left_out, **gone}
    )


def left_out(utterances: Iterable[Utterance]) -> dict[str, tuple[str, str]]:
    """Returns utterances that are left out for their labels, as in `Corpus.left_out`."""
    return {row.file: (LEFT_OUT_LABEL, f"label {row.label!r}") for row in utterances}


def check_classes(corpus: Corpus, requested: Iterable[str]) -> None:
    """Refuses labels that mean "no label" and numbers, unless they are `requested` for as classes.

    Raises:
      UserError: With counts, an example and the value of `corpus.labels` that says what is meant.
    """
    rows: dict[str, list[str]] = {}
    for utterance in corpus.utterances:
        rows.setdefault(utterance.label, []).append(utterance.id)
    others = sorted(rows.keys() - {"", *requested})
    nothing = [label for label in others if means_nothing(label)]
    if nothing:
        raise UserError(
            f"{_found(nothing, rows)} say that there is no label: leave these rows out with"
            f" --config.{KEY}='{_entries(nothing, LEFT_OUT)}', or name the class that is meant"
            f" ({nothing[0]}=other)"
        )
    numbers = [label for label in others if _NUMBER.fullmatch(label)]
    if numbers:
        few = numbers if len(numbers) <= _SHOWN else ["1", "2", "3"]
        raise UserError(
            f"{_found(numbers, rows)} are numbers: this program tells classes apart (angry, sad, …)"
            " and does not predict ratings such as arousal; write class names, or say which"
            f" numbers are which classes: --config.{KEY}='{_entries(few, 'low')}'"
            f" ({few[0]}={few[0]} keeps one as it is)"
        )


def _found(labels: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Names labels with their counts and the first utterance."""
    named = ", ".join(f"{label!r} ({len(rows[label])})" for label in labels[:3])
    more = ", …" if len(labels) > 3 else ""
    count = sum(len(rows[label]) for label in labels)
    total = sum(map(len, rows.values()))
    return (
        f"{count} of {counted(total, 'label')}, {named}{more}, for example of {rows[labels[0]][0]},"
    )


def _entries(labels: Sequence[str], target: str) -> str:
    """Returns entries of a label map, as typed in a shell."""
    written = write({label: target for label in labels[:_SHOWN]})
    return written + (",…" if len(labels) > _SHOWN else "")
