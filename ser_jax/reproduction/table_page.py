"""The Markdown page of a reproduced table: published figures, ours, and the commands."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.evaluation import comparison, finished_run
from ser_jax.evaluation.finished_run import FinishedRun
from ser_jax.evaluation.predictions import read_predictions
from ser_jax.evaluation.results import summarise
from ser_jax.report import comparison_text, formats
from ser_jax.reproduction.tables import Column, Row, Table
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.machine import available_cores

SHORTENED = "shortened, not comparable"


@dataclasses.dataclass(frozen=True)
class Result:
    """A trained row, its run directory and command, and whether seeds or epochs were shortened."""

    row: Row
    workdir: Path
    command: str
    shortened: bool


def write_page(
    path: Path,
    table: Table,
    results: Sequence[Result],
    *,
    made_by: str,
    overridden: Sequence[str] = (),
) -> None:
    """Creates or replaces the page.

    It shows the rows so far, `made_by` (the command) and what the user has `overridden`.

    Raises:
      UserError: If a run directory is not finished or damaged.
    """
    runs = finished_run.read_runs(
        [result.workdir for result in results],
        names=[result.row.title.rpartition(": ")[2] for result in results],  # the protocol is said
    )
    versions = [_read(result.workdir / "versions.json") for result in results]
    protocols = [_read(result.workdir / "protocol.json") for result in results]
    published = any(figure is not None for row in table.rows for figure in row.published)
    cells = [
        _cells(table, *of, published=published) for of in zip(results, runs, versions, strict=True)
    ]
    blocks = [
        [f"# {table.title}"],
        ["```", made_by, "```", _made(results, versions)],
        _table(_header(table, published=published), cells),
        [_legend(runs)],
        ["## Differences", *_differences(table, results, runs)],
        [
            f"## {'How this differs from what was published' if published else 'Notes'}",
            *_deviations(table, protocols, overridden),
        ],
        ["## Commands", "`$ROOT` is the folder of the release.", "```"]
        + [*dict.fromkeys(result.command for result in results), "```"],
    ]
    files.write_text(path, "\n\n".join("\n".join(block) for block in blocks) + "\n")


def _read(path: Path) -> dict[str, Any]:
    return strict_json.read(path, remedy=f"delete {path.parent}, and the row is trained again")


def _header(table: Table, *, published: bool) -> list[str]:
    scores = []
    for column in table.columns:
        scores += [f"{column.title}, published"] if published else []
        scores += [f"{column.title}, ours", "95 % interval"]
    return ["system", *scores, "ECE", "seeds", "epochs", "time", "device", "protocol"]


def _cells(
    table: Table, result: Result, run: FinishedRun, versions: dict[str, str], *, published: bool
) -> list[str]:
    results = run.results
    config = _read(result.workdir / "config.json")
    cells = [result.row.title + (f" ({SHORTENED})" if result.shortened else "")]
    for column, figure in zip(table.columns, result.row.published, strict=True):
        score = _score(column, run, result.workdir)
        cells += [formats.value(figure)] if published else []
        if score["per_seed"]:
            cells += [formats.spread(score), formats.interval(score["ci95"])]
        else:
            cells += [formats.NO_VALUE, ""]
    trained = results["system"] != "svm" and "members" not in results
    return [
        *cells,
        formats.decimals(results["calibration"]["ece"]),
        str(len(results["seeds"])),
        str(config["training"]["epochs"]) if trained else formats.NO_VALUE,
        formats.duration(results["seconds"]["total"]),
        versions["devices"],
        f"{results['protocol']} `{results['protocol_sha256'][: comparison_text.SHOWN_DIGITS]}…`",
    ]


def _score(column: Column, run: FinishedRun, workdir: Path) -> dict[str, Any]:
    """Returns a score in the form of `results.json`; of one fold, if the column says so."""
    results = run.results
    if not column.fold:
        return results[column.score]
    rows, _ = read_predictions(workdir / "predictions.csv")
    same = "system parameters corpus corpus_sha256 protocol protocol_sha256 classes seconds".split()
    part = summarise(
        [row for row in rows if row.fold == column.fold],
        runs=[trial for trial in results["runs"] if trial["fold"] == column.fold],
        **{key: results[key] for key in same},
    )
    return part[column.score]


def _made(results: Sequence[Result], versions: Sequence[dict[str, str]]) -> str:
    """Returns in a sentence when the last row was scored, and by which machine and programs."""
    scored = max((result.workdir / "results.json").stat().st_mtime for result in results)
    date = datetime.date.fromtimestamp(scored)
    programs = {f"ser_jax {v['ser_jax']}, Python {v['python']}, jax {v['jax']}" for v in versions}
    processors = {v["processor"] for v in versions if "processor" in v}
    return (
        f"{date.isoformat()}, a machine with {available_cores()} CPU cores"
        f"{''.join(f' ({name})' for name in sorted(processors))}; {'; '.join(sorted(programs))}."
    )


def _legend(runs: Sequence[FinishedRun]) -> str:
    notes = sorted({run.results["ci95_note"] for run in runs if run.results["ci95_note"]})
    methods = sorted({formats.interval_method(run.results) for run in runs} - {""})
    intervals = f" interval of the mean by {' and '.join(methods)}" if methods else " no interval"
    return (
        "Scores in percent. Predictions are pooled over folds for every seed; mean ± standard"
        f" deviation over seeds;{intervals}{''.join(f' ({note})' for note in notes)}. UA is the"
        " mean recall of the classes, WA the fraction of correct predictions, ECE the expected"
        " calibration error (a fraction). The time is that of extraction, where features are not"
        " stored yet, training and scoring."
    )


def _differences(table: Table, results: Sequence[Result], runs: Sequence[FinishedRun]) -> list[str]:
    complete = [run for result, run in zip(results, runs, strict=True) if not result.shortened]
    groups = comparison.group_runs(complete, table.pairs)
    header = ["first − second", "UA in points [95 %]", "p", "p corrected (Holm)"]
    lines = []
    for group in groups:
        lines += [f"{comparison_text.title(group)}: {comparison_text.method(group)}.", ""]
        if group.test:
            rows = []
            for pair in group.test.pairs:
                ua, names = pair.ua, [group.tested[i].name for i in (pair.first, pair.second)]
                difference = formats.difference(ua.effect, ua.ci95)
                p, holm = formats.p_value(ua.p), formats.p_value(ua.holm)
                rows.append([" − ".join(names), difference, p, holm])
            lines += _table(header, rows)
        if remarks := comparison_text.remarks(group):
            lines += ["", *(f"- {remark}" for remark in remarks)]
        lines.append("")
    warning = comparison_text.not_comparable(groups)
    return [*lines[:-1], *(["", f"**{warning}**"] if warning else [])]


def _deviations(
    table: Table, protocols: Sequence[Mapping[str, Any]], overridden: Sequence[str]
) -> list[str]:
    found = list(table.deviations)
    for protocol in {one["sha256"]: one for one in protocols}.values():
        rules = f"validation part: {protocol['validation']}; then: {protocol['refit']}"
        found.append(f"`{protocol['name']}`, {rules}.")
        found += [f"`{protocol['name']}`: {note}." for note in protocol.get("notes", [])]
    typed = {item.removeprefix("--config.").partition("=")[0] for item in overridden}
    if kept := [item for item in table.overrides if item.partition("=")[0] not in typed]:
        same = [row.title for row in table.rows if row.overrides is None]
        rows = "Every row is" if len(same) == len(table.rows) else f"{', '.join(same)} are"
        found.append(f"{rows} trained with {_quoted(kept)}.")
    if overridden:
        own = [item.removeprefix("--config.") for item in overridden]
        found.append(f"Overridden on the command line: {_quoted(own)}.")
    shortened = [f"{row.title} with {_quoted(row.cpu)}" for row in table.rows if row.cpu]
    if shortened:
        found.append(f"Without an accelerator {'; '.join(shortened)}: {SHORTENED}.")
    return [f"- {text}" for text in found]


def _quoted(items: Sequence[str]) -> str:
    return ", ".join(f"`{item}`" for item in items)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
