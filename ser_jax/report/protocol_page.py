"""A protocol as a page of plain text: its counts, its folds, and whether their parts overlap."""

import collections
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from ser_jax.config import Config
from ser_jax.corpora import from_config
from ser_jax.features import audio
from ser_jax.protocols import list_checks, named
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

WIDTH = 120  # columns at most
MANY_FOLDS = 20  # from here on a fold is one line
LONGEST_NAME = 20
PARTS = ("train", "validation", "test")
PAIRS: tuple[tuple[str, str], ...] = tuple(itertools.combinations(PARTS, 2))

Table = list[Sequence[object]]


def describe(
    protocol: Protocol,
    *,
    root: str,
    counts: Mapping[str, tuple[int, int]],
    notes: Sequence[str] = (),
) -> str:
    """Returns the page, at most 120 columns wide for up to a dozen classes (no word is cut).

    `counts`: expected content of the release → (found, expected); empty if nothing is expected.
    """
    speakers = len(set(protocol.speakers) - {""})
    facts = {
        "sha256": protocol.sha256,
        "corpus": f"{protocol.corpus} at {root}",
        "size": (
            f"{counted(len(protocol.ids), 'utterance')},"
            f" {counted(speakers, 'speaker') if speakers else 'unknown speakers'},"
            f" {counted(len(protocol.folds), 'fold')}"
        ),
        "metrics": ", ".join(protocol.value()["metrics"]),
        "labels": _mapping(protocol.label_mapping),
        "validation": protocol.validation_rule,
        "refit": protocol.refit_rule,
    }
    lines = [protocol.name]
    for name, text in facts.items():
        lines += _wrapped(f"  {name:10}  ", text)
    for table in (_class_table(protocol, counts), _overlap_table(protocol), _fold_table(protocol)):
        lines += ["", *_aligned(table)]
    lines += [""] if notes else []
    for note in notes:
        lines += _wrapped("  note: ", note)
    return "\n".join(lines)


def overlaps(fold: Fold, names: Sequence[str]) -> dict[tuple[str, str], set[str]]:
    """Returns for the three pairs of parts of a fold the names (not "") that are in both."""
    parts = {part: {names[int(row)] for row in getattr(fold, part)} - {""} for part in PARTS}
    return {(one, other): parts[one] & parts[other] for one, other in PAIRS}


def _mapping(label_mapping: Mapping[str, str]) -> str:
    changed = [f"{old} → {new}" for old, new in label_mapping.items() if old != new]
    if not changed:
        return "as they are"
    return ", ".join(changed + ["others as they are"] * (len(changed) < len(label_mapping)))


def _class_table(protocol: Protocol, counts: Mapping[str, tuple[int, int]]) -> Table:
    """Returns found and expected counts: first of the classes, then of the other keys."""
    found = collections.Counter(protocol.labels)
    expected = {name: number for name, (_, number) in counts.items()}
    rows: Table = [("class", "found", "expected", "")]
    for name in protocol.classes:
        rows.append((name, found[name], *_compared(found[name], expected.get(name))))
    if found[""]:
        rows.append(("(no label)", found[""], "", ""))
    for name, (number, _) in counts.items():
        if name not in protocol.classes:
            rows.append((name, number, *_compared(number, expected[name])))
    return rows if counts else [row[:2] for row in rows]


def _compared(found: int, expected: int | None) -> tuple[object, str]:
    return ("", "") if expected is None else (expected, "" if found == expected else "differs")


def _overlap_table(protocol: Protocol) -> Table:
    """Returns how many utterances and speakers two parts of a fold share at most, and where."""
    rows: Table = [("in both parts", *(f"{one} + {other}" for one, other in PAIRS))]
    for what, names in (("utterances", protocol.ids), ("speakers", protocol.speakers)):
        shared = [overlaps(fold, names) for fold in protocol.folds]
        cells = []
        for pair in PAIRS:
            sizes = [len(found[pair]) for found in shared]
            fold = protocol.folds[sizes.index(max(sizes))]
            cells.append(f"{max(sizes)} in {_title(fold)}" if max(sizes) else "none")
        rows.append((what, *cells))
    unknown = sum(not name for name in protocol.speakers)
    return (
        [*rows, (f"of {counted(unknown, 'utterance')} the speaker is unknown",)]
        if unknown
        else rows
    )


def _fold_table(protocol: Protocol) -> Table:
    """Returns a line per part of every fold; for many folds a line per fold."""
    many = len(protocol.folds) >= MANY_FOLDS
    rows = _line_per_fold(protocol) if many else _line_per_part(protocol)
    before = ("fold", *PARTS, "speakers") if many else ("fold", "part", "utterances")
    after = () if many else ("speakers",)
    header = (*before, *protocol.classes, *after)
    others = [*range(len(before)), *range(len(before) + len(protocol.classes), len(header))]
    widths = [max(len(str(row[column])) for row in [*rows, header]) for column in others]
    room = max((WIDTH - sum(widths) - 2 * len(header)) // len(protocol.classes), 3)
    short = [name if len(name) <= room else name[: room - 1] + "…" for name in protocol.classes]
    return [(*before, *short, *after), *rows]


def _line_per_part(protocol: Protocol) -> Table:
    rows: Table = []
    for fold in protocol.folds:
        for part in PARTS:
            classes, size, speakers = _part(protocol, fold, part)
            rows.append((_title(fold) if part == PARTS[0] else "", part, size, *classes, speakers))
    return rows


def _line_per_fold(protocol: Protocol) -> Table:
    """Returns the folds with the classes of their test parts, then minima and maxima of parts."""
    found = {part: [_part(protocol, fold, part) for fold in protocol.folds] for part in PARTS}
    rows: Table = []
    for fold, *parts in zip(protocol.folds, *found.values(), strict=True):
        speakers = "/".join(str(speakers) for _, _, speakers in parts)
        rows.append((_title(fold), *(size for _, size, _ in parts), speakers, *parts[2][0]))
    for part, counts in found.items():
        for word, choose in (("least", min), ("most", max)):
            columns = zip(*(classes for classes, _, _ in counts), strict=True)
            rows.append((f"{part}, {word}", "", "", "", "", *map(choose, columns)))
    return rows


def _part(protocol: Protocol, fold: Fold, part: str) -> tuple[list[int], int, object]:
    """Returns utterances per class, in all, and the number of speakers ("?" if unknown)."""
    rows = getattr(fold, part).tolist()
    found = collections.Counter(protocol.labels[row] for row in rows)
    names = {protocol.speakers[row] for row in rows}
    speakers = "?" if "" in names else len(names)
    return [found[name] for name in protocol.classes], len(rows), speakers


def _aligned(table: Table) -> list[str]:
    """Returns the lines of a table: texts to the left, numbers and their headings to the right."""
    cells = [[str(cell) for cell in row] for row in table]
    columns = max(map(len, cells))
    full = [row for row in cells if len(row) == columns]
    widths = [max(len(row[column]) for row in full) for column in range(columns)]
    numbers = [
        any(isinstance(row[column], int) for row in table if len(row) == columns)
        for column in range(columns)
    ]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=False)
        ]
        lines.append(("  " + "  ".join(padded if len(row) == columns else row)).rstrip())
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    """Returns the lines of a text, cut at spaces only, after a head on the first line."""
    width = WIDTH - len(head)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [f"{' ' * len(head) if number else head}{line}" for number, line in enumerate(lines)]


def _title(fold: Fold) -> str:
    """Returns the name of a fold, of a long one beginning and end: names often begin alike."""
    half = LONGEST_NAME // 2
    short = f"{fold.name[: half - 1]}…{fold.name[-half:]}"
    return fold.name if len(fold.name) <= LONGEST_NAME else short


def make_page(config: Config, rejected: Path) -> tuple[Protocol, str]:
    """Makes the protocol that training would use if all recordings are readable, and its page.

    Neither features nor jax are needed. Rows that cannot be used are listed in the file `rejected`.

    Raises:
      UserError: If the corpus or the protocol cannot be used; missing recordings are all listed in
        `rejected`.
    """
    corpus = from_config.read(config, rejected, audio.length)
    name, spec = named.find_spec(config.protocol.name, corpus)
    listed = list_checks.examine(config, corpus, name, spec)
    if corpus.rejected:
        from_config.list_rejected(rejected, corpus.rejected)
    list_checks.refuse_errors(listed)
    chosen, protocol = listed.corpus, listed.protocol
    assert chosen is not None and protocol is not None  # else there is an error
    counts = named.compare_counts(spec.counts, chosen.utterances)
    notes = [*corpus.warnings, *listed.warnings]
    if corpus.rejected:
        notes.append(
            f"{counted(len(corpus.rejected), 'row')} cannot be used, all listed in {rejected}"
        )
    return protocol, describe(protocol, root=str(corpus.root), counts=counts, notes=notes)


def write(path: Path, protocol: Protocol) -> None:
    """Writes a protocol in the form of a run directory's `protocol.json`, or raises a UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        strict_json.write(path, protocol.to_json(), indent=None)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error.strerror}") from None
