"""A protocol as a page of plain text: what it is, its counts, its folds, and whether their parts overlap."""

import collections
import itertools
import textwrap
from collections.abc import Mapping, Sequence

from ser_jax.protocols.protocol import Fold, Protocol

WIDTH = 120  # columns at most
MANY_FOLDS = 20  # from here on a fold is one line
LONGEST_NAME = 20
PARTS = ("train", "validation", "test")
PAIRS: tuple[tuple[str, str], ...] = tuple(itertools.combinations(PARTS, 2))

Table = list[Sequence[object]]


def describe(protocol: Protocol, *, root: str, counts: Mapping[str, tuple[int, int]], notes: Sequence[str] = ()) -> str:
    """Describes a protocol.

    Args:
      protocol: The protocol.
      root: Where its corpus lies.
      counts: What the release is expected to hold → (found, expected); empty if nothing is expected.
      notes: Sentences for the user.

    Returns:
      Lines without a final line end, of at most 120 columns for up to a dozen classes (but no word is cut).
    """
    speakers = len(set(protocol.speakers) - {""})
    facts = {
        "sha256": protocol.sha256,
        "corpus": f"{protocol.corpus} at {root}",
        "size": f"{len(protocol.ids)} utterances, {speakers or 'unknown'} speakers, {len(protocol.folds)} folds",
        "metrics": ", ".join(protocol.value()["metrics"]),
        "labels": _mapping(protocol.label_mapping),
        "validation": protocol.validation_rule,
        "refit": protocol.refit_rule,
    }
    lines = [protocol.name]
    for name, text in facts.items():
        lines += [f"  {name if first else '':10}  {line}" for first, line in _wrapped(text, WIDTH - 14)]
    tables = [_class_table(protocol, counts), _overlap_table(protocol), _fold_table(protocol)]
    for table in tables:
        lines += ["", *_aligned(table)]
    lines += [""] if notes else []
    for note in notes:
        lines += [f"  {'note: ' if first else '      '}{line}" for first, line in _wrapped(note, WIDTH - 8)]
    return "\n".join(lines)


def overlaps(fold: Fold, names: Sequence[str]) -> dict[tuple[str, str], set[str]]:
    """Finds what stands in two parts of a fold.

    Args:
      fold: The fold.
      names: Speaker or id of every utterance of the protocol; "" where unknown.

    Returns:
      (part, part) → the names in both, for the three pairs of parts.
    """
    parts = {part: {names[int(row)] for row in getattr(fold, part)} - {""} for part in PARTS}
    return {(one, other): parts[one] & parts[other] for one, other in PAIRS}


def _mapping(label_mapping: Mapping[str, str]) -> str:
    changed = [f"{old} → {new}" for old, new in label_mapping.items() if old != new]
    if not changed:
        return "as they are"
    return ", ".join(changed) + ("" if len(changed) == len(label_mapping) else ", others as they are")


def _class_table(protocol: Protocol, counts: Mapping[str, tuple[int, int]]) -> Table:
    """Returns found and expected counts: first the classes, then what else is expected."""
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
    """Returns, for utterances and speakers, the most that two parts of one fold share, with that fold's name."""
    rows: Table = [("in both parts", *(f"{one} + {other}" for one, other in PAIRS))]
    for what, names in (("utterances", protocol.ids), ("speakers", protocol.speakers)):
        shared = [overlaps(fold, names) for fold in protocol.folds]
        cells = []
        for pair in PAIRS:
            most, name = max(
                ((len(found[pair]), _title(fold)) for found, fold in zip(shared, protocol.folds, strict=True)),
                key=lambda cell: cell[0],
            )
            cells.append(f"{most} in {name}" if most else "none")
        rows.append((what, *cells))
    unknown = sum(not name for name in protocol.speakers)
    return [*rows, (f"of {unknown} utterances the speaker is unknown",)] if unknown else rows


def _fold_table(protocol: Protocol) -> Table:
    """Returns a line per part of every fold; for many folds a line per fold with the classes of its test part."""
    many = len(protocol.folds) >= MANY_FOLDS
    rows = _line_per_fold(protocol) if many else _line_per_part(protocol)
    before, after = (("fold", *PARTS, "speakers"), ()) if many else (("fold", "part", "utterances"), ("speakers",))
    others = [*range(len(before)), *range(len(before) + len(protocol.classes), len(rows[0]))]
    widths = [max(len(str(row[column])) for row in [*rows, (*before, *protocol.classes, *after)]) for column in others]
    room = (WIDTH - sum(widths) - 2 * len(rows[0])) // len(protocol.classes)
    return [(*before, *(_short(name, max(room, 3)) for name in protocol.classes), *after), *rows]


def _line_per_part(protocol: Protocol) -> Table:
    rows: Table = []
    for fold in protocol.folds:
        for part in PARTS:
            classes, size, speakers = _part(protocol, fold, part)
            rows.append((_title(fold) if part == PARTS[0] else "", part, size, *classes, speakers))
    return rows


def _line_per_fold(protocol: Protocol) -> Table:
    """Returns the folds with the classes of their test parts, then the least and the most of every part."""
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
    """Returns the utterances of every class, of all, and the number of speakers ("?" if some are unknown)."""
    rows = getattr(fold, part).tolist()
    found = collections.Counter(protocol.labels[row] for row in rows)
    speakers = {protocol.speakers[row] for row in rows}
    return [found[name] for name in protocol.classes], len(rows), "?" if "" in speakers else len(speakers)


def _aligned(table: Table) -> list[str]:
    """Returns the lines of a table: texts to the left, numbers and the headings above them to the right."""
    cells = [[str(cell) for cell in row] for row in table]
    columns = max(map(len, cells))
    full = [row for row in cells if len(row) == columns]
    widths = [max(len(row[column]) for row in full) for column in range(columns)]
    numbers = [any(isinstance(row[column], int) for row in table if len(row) == columns) for column in range(columns)]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=False)
        ]
        lines.append(("  " + "  ".join(padded if len(row) == columns else row)).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[tuple[bool, str]]:
    """Cuts a text at its spaces into (is the first, line)."""
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [(number == 0, line) for number, line in enumerate(lines)]


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _title(fold: Fold) -> str:
    """Returns the name of a fold; of a long one beginning and end, because the names of a corpus often begin alike."""
    half = LONGEST_NAME // 2
    return fold.name if len(fold.name) <= LONGEST_NAME else f"{fold.name[: half - 1]}…{fold.name[-half:]}"
