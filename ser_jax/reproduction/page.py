"""The page of a reproduced table: published figures beside ours, with everything needed to make them again."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_jax import atomic, strict_json
from ser_jax.cores import available_cores
from ser_jax.evaluation import finished, formats, groups
from ser_jax.evaluation.finished import FinishedRun
from ser_jax.evaluation.predictions import read_predictions
from ser_jax.evaluation.results import summarise
from ser_jax.reproduction.tables import Column, Row, Table

SHORTENED = "shortened, not comparable"


@dataclasses.dataclass(frozen=True)
class Result:
    """A row that has been trained.

    Attributes:
      row: The row.
      workdir: Its run directory.
      command: What trained it.
      shortened: Whether it had fewer seeds or epochs than it needs.
    """

    row: Row
    workdir: Path
    command: str
    shortened: bool


def write_page(
    path: Path, table: Table, results: Sequence[Result], *, made_by: str, overridden: Sequence[str] = ()
) -> None:
    """Writes a page in Markdown.

    Args:
      path: The file to create or replace.
      table: The table.
      results: Its rows so far.
      made_by: The command that made the page.
      overridden: The user's own overrides of every row.

    Raises:
      UserError: If a run directory is not finished or damaged.
    """
    runs = finished.read_runs([result.workdir for result in results])
    versions = [_read(result.workdir / "versions.json") for result in results]
    published = any(figure is not None for row in table.rows for figure in row.published)
    cells = [_cells(table, *of, published=published) for of in zip(results, runs, versions, strict=True)]
    blocks = [
        [f"# {table.title}"],
        ["```", made_by, "```", _made(versions)],
        _table(_header(table, published=published), cells),
        [_legend(runs)],
        ["## Differences", *_differences(results, runs)],
        ["## How this differs from what was published", *(f"- {text}" for text in _deviations(table, overridden))],
        ["## Commands", "`$ROOT` is the folder of the release.", "```", *(r.command for r in results), "```"],
    ]
    atomic.write_text(path, "\n\n".join("\n".join(block) for block in blocks) + "\n")


def _read(path: Path) -> dict[str, Any]:
    return strict_json.read(path, remedy=f"delete {path.parent}, and the row is trained anew")


def _header(table: Table, *, published: bool) -> list[str]:
    scores = []
    for column in table.columns:
        scores += [f"{column.title}, published"] if published else []
        scores += [f"{column.title}, ours", "95 % interval"]
    return ["system", *scores, "seeds", "epochs", "time", "device", "protocol"]


def _cells(table: Table, result: Result, run: FinishedRun, versions: dict[str, str], *, published: bool) -> list[str]:
    title = result.row.title + (f" ({SHORTENED})" if result.shortened else "")
    config = _read(result.workdir / "config.json")
    cells = [title]
    for column, figure in zip(table.columns, result.row.published, strict=True):
        score = _score(column, run, result.workdir)
        cells += [formats.value(figure)] if published else []
        cells += [formats.spread(score), formats.interval(score["ci95"])] if score["per_seed"] else ["–", ""]
    return [
        *cells,
        str(len(run.results["seeds"])),
        "–" if run.results["system"] == "svm" else str(config["training"]["epochs"]),
        formats.duration(run.results["seconds"]["total"]),
        versions["devices"],
        f"{run.results['protocol']} `{run.results['protocol_sha256'][: groups.SHOWN]}…`",
    ]


def _score(column: Column, run: FinishedRun, workdir: Path) -> dict[str, Any]:
    """Returns a score as `results.json` has it; of one fold, if the column says so."""
    if not column.fold:
        return run.results[column.score]
    found = run.results
    rows, _ = read_predictions(workdir / "predictions.csv")
    part = summarise(
        [row for row in rows if row.fold == column.fold],
        runs=[kept for kept in found["runs"] if kept["fold"] == column.fold],
        **{key: found[key] for key in ("system", "parameters", "corpus", "corpus_sha256", "protocol")},
        **{key: found[key] for key in ("protocol_sha256", "classes", "seconds")},
    )
    return part[column.score]


def _made(found: Sequence[dict[str, str]]) -> str:
    versions = sorted({f"ser_jax {v['ser_jax']}, Python {v['python']}, jax {v['jax']}" for v in found})
    cores = available_cores()
    return f"{datetime.date.today().isoformat()}, a machine with {cores} CPU cores; {'; '.join(versions)}."


def _legend(runs: Sequence[FinishedRun]) -> str:
    notes = sorted({run.results["ci95_note"] for run in runs if run.results["ci95_note"]})
    units = sorted({formats.value(run.results["ci95_unit"]) for run in runs})
    return (
        "Percent. Predictions are pooled over folds for every seed; mean ± standard deviation over seeds; interval of "
        f"the mean by bootstrap over {'s and '.join(units)}s{''.join(f' ({note})' for note in notes)}. UA is the mean "
        "recall of the classes, WA the share of correct answers."
    )


def _differences(results: Sequence[Result], runs: Sequence[FinishedRun]) -> list[str]:
    complete = [run for result, run in zip(results, runs, strict=True) if not result.shortened]
    found = groups.group_runs(complete)
    lines = []
    for group in found:
        lines += [f"{group.title}: {group.method}.", ""]
        if group.test:
            rows = []
            for pair in group.test.pairs:
                names = " − ".join(group.tested[place].name for place in (pair.first, pair.second))
                ua = pair.ua
                rows.append([names, formats.difference(ua.effect, ua.ci95), *map(formats.p_value, (ua.p, ua.holm))])
            lines += _table(["first − second", "UA in points [95 %]", "p", "p corrected (Holm)"], rows)
        lines += ["", *(f"- {remark}" for remark in group.remarks)] if group.remarks else []
    warning = groups.not_comparable(found)
    return [*lines, *(["", f"**{warning}**"] if warning else [])]


def _deviations(table: Table, overridden: Sequence[str]) -> list[str]:
    found = list(table.deviations)
    if table.overrides:
        found.append(f"Every row is trained with {', '.join(f'`{item}`' for item in table.overrides)}.")
    own = [item.removeprefix("--config.") for item in overridden]
    if own:
        found.append(f"Overridden on the command line: {', '.join(f'`{item}`' for item in own)}.")
    shortened = [f"{row.title} with {', '.join(f'`{item}`' for item in row.cpu)}" for row in table.rows if row.cpu]
    if shortened:
        found.append(f"Without an accelerator {'; '.join(shortened)}: {SHORTENED}.")
    return found


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
