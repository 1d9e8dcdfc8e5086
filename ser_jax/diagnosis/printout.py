"""The doctor's output: a table for the terminal, a CSV file with every finding, and the error."""

import collections
import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ser_jax.corpora.findings import ERROR, SEVERITIES, SHOWN, Finding, grouped
from ser_jax.diagnosis.diagnose import Diagnosis, LabelCount
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

HEADER = ("file", "id", "severity", "finding", "detail")
LISTED = "listed utterance is", "listed utterances are"
MOST_KINDS = 5  # kinds of errors in the error message


def check_output(path: Path) -> None:
    """Checks the path of the CSV file before the examination, which may take long.

    Raises:
      UserError: The folder does not exist or cannot be written to, or the file exists and is not a
        list of findings.
    """
    if not path.parent.is_dir():
        raise UserError(
            f"--output={path}: there is no folder {path.parent}; make it, or name another file"
        )
    if not os.access(path.parent, os.W_OK):
        where = f"the folder {path.parent} cannot be written to"
        raise UserError(f"--output={path}: {where}; name another file")
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            header = next(csv.reader(file), [])
    except (OSError, csv.Error):
        header = []
    if tuple(header) != HEADER:
        raise UserError(
            f"--output={path} exists and was not written by the doctor; name another file or"
            " remove it"
        )


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Writes every finding, or the header alone; raises a UserError if that is impossible."""
    rows = ((row.file, row.id, row.severity, row.finding, row.detail) for row in findings)
    try:
        files.write_csv(path, HEADER, rows)
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written: {error.strerror}; name another file"
        ) from None


def report_lines(diagnosis: Diagnosis, output: Path) -> str:
    """Returns the table for the terminal, without control characters; it names the CSV file."""
    lines = [f"{diagnosis.corpus} in {diagnosis.root}, protocol {diagnosis.protocol or 'none'}"]
    lines += [f"  the reader says: {sentence}" for sentence in diagnosis.remarks]
    if diagnosis.listed:
        lines += [f"  {_lengths(diagnosis)}", "", *_label_table(diagnosis.labels)]
    for severity in SEVERITIES:
        rows = [row for row in diagnosis.findings if row.severity == severity]
        if rows:
            lines += ["", f"  {counted(len(rows), severity)}", *_groups(rows)]
    if not diagnosis.findings:
        lines += ["", "  nothing is wrong with it"]
    lines += ["", f"  every finding: {output.absolute()}"]
    return "\n".join(_printable(line) for line in lines)


def check_errors(diagnosis: Diagnosis, output: Path) -> None:
    """Raises a UserError with the number and kinds of errors, if there are any."""
    counts = collections.Counter(row.finding for row in diagnosis.findings if row.severity == ERROR)
    if counts:
        kinds = ", ".join(f"{count} {name}" for name, count in counts.most_common(MOST_KINDS))
        kinds += ", …" if len(counts) > MOST_KINDS else ""
        raise UserError(
            f"{counted(counts.total(), ERROR)} in {_printable(diagnosis.root)} ({kinds}): mend them"
            f" as the table says ({_printable(str(output))} names each), then run the doctor again"
        )


def _lengths(diagnosis: Diagnosis) -> str:
    seconds = diagnosis.seconds
    if not len(seconds):
        return f"none of {counted(diagnosis.listed, 'listed utterance')} is usable"
    return (
        f"{len(seconds)} of {counted(diagnosis.listed, *LISTED)} usable,"
        f" {seconds.sum() / 3600:.2f} h: shortest {seconds.min():.2f} s, median"
        f" {np.median(seconds):.2f} s, longest {seconds.max():.2f} s"
    )


def _label_table(labels: Sequence[LabelCount]) -> list[str]:
    names = [row.label or "(withheld)" for row in labels]
    width = max(len(name) for name in [*names, "label"])
    lines = [f"  {'label':<{width}}  utterances  expected  speakers   hours"]
    for name, row in zip(names, labels, strict=True):
        expected = "–" if row.expected is None else str(row.expected)
        cells = f"{row.utterances:>10}  {expected:>8}  {row.speakers or '–':>8}"
        used = "" if row.used else "  not used"
        lines.append(f"  {name:<{width}}  {cells}  {row.seconds / 3600:6.2f}{used}")
    return lines


def _groups(rows: Sequence[Finding]) -> list[str]:
    """Returns one line per finding with its count and remedy, and the worst examples below it."""
    lines = []
    for name, group in grouped(rows).items():
        lines.append(f"  {len(group):>6}  {name}: {group[0].remedy}")
        for row in group[:SHOWN]:
            lines.append(f"          {f'{row.file}: ' if row.file else ''}{row.detail}")
        if len(group) > SHOWN:
            lines.append(f"          and {len(group) - SHOWN} more")
    return lines


def _printable(text: str) -> str:
    """Escapes control characters and those that cannot be encoded, as in foreign file names."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
