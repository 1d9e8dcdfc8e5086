"""What the compare command prints: for every group of runs a table of scores and one of differences."""

from collections.abc import Sequence

from ser_jax.evaluation import formats
from ser_jax.evaluation.finished import FinishedRun
from ser_jax.evaluation.groups import Group, not_comparable

LONGEST_NAME = 19  # characters, so that a line has no more than 120; the end of a name tells more than its beginning
RUNS = ("run", "system", "seeds", "UA in % [95 %]", "WA in %", "macro F1", "ECE", "parameters", "training")
DIFFERENCES = ("first − second", "UA in points [95 %]", "p", "Holm p", "WA in points [95 %]", "p", "Holm p")
WORDS = ("run", "system", "first − second")  # columns that are set to the left


def comparison_lines(groups: Sequence[Group]) -> str:
    """Returns the tables.

    Args:
      groups: The groups of runs.

    Returns:
      Lines of text without a final line end.
    """
    blocks = []
    for group in groups:
        blocks.append([f"{group.title}: {group.scope}"])
        blocks.append(_aligned(RUNS, [_run_cells(run) for run in group.runs]))
        if group.test:
            blocks.append([f"  {group.method}"])
            blocks.append(_aligned(DIFFERENCES, _pair_cells(group)))
        if group.remarks:
            blocks.append([f"  {remark}" for remark in group.remarks])
    warning = not_comparable(groups)
    if warning:
        blocks.append([f"warning: {warning}"])
    return "\n\n".join("\n".join(block) for block in blocks)


def _run_cells(run: FinishedRun) -> list[str]:
    found = run.results
    return [
        _short(run.name),
        found["system"],
        str(len(found["seeds"])),
        f"{formats.spread(found['ua'])} {formats.interval(found['ua']['ci95'])}".strip(),
        formats.spread(found["wa"]),
        formats.spread(found["macro_f1"]),
        formats.decimals(found["calibration"]["ece"]),
        f"{found['parameters']:,}",
        formats.duration(found["seconds"].get("train")),
    ]


def _pair_cells(group: Group) -> list[list[str]]:
    assert group.test is not None
    cells = []
    for pair in group.test.pairs:
        row = [" − ".join(_short(group.tested[place].name) for place in (pair.first, pair.second))]
        for score in (pair.ua, pair.wa):
            row += [formats.difference(score.effect, score.ci95), formats.p_value(score.p), formats.p_value(score.holm)]
        cells.append(row)
    return cells


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a header and lines with the columns below one another."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if name in WORDS else cell.rjust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ).rstrip()
        for row in table
    ]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else "…" + name[-LONGEST_NAME + 1 :]
