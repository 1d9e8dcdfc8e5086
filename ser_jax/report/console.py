"""Tables that `ser-jax train`, `evaluate`, `compare` and `stress` print on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.evaluation.comparison import Group
from ser_jax.evaluation.finished_run import FinishedRun
from ser_jax.evaluation.results import diverged
from ser_jax.report import comparison_text, formats, stress_text
from ser_jax.runtime.progress import counted

MOST_SEEDS_SHOWN = 10
# Characters, so that a line has no more than 120; the end of a name tells more than its beginning.
LONGEST_NAME = 19
RUN_COLUMNS = (
    *("run", "system", "seeds", "UA in % [95 %]", "WA in %", "macro F1", "ECE"),
    *("parameters", "training"),
)
PAIR_COLUMNS = (
    *("first − second", "UA in points [95 %]", "p", "Holm p"),
    *("WA in points [95 %]", "p", "Holm p"),
)
LEFT_ALIGNED = ("run", "system", "first − second", *stress_text.LEFT_ALIGNED)


def summary_lines(results: Mapping[str, Any], report: Path | None = None) -> str:
    """Returns the scores of `results.json` as a small table, and the path of the report, if any."""
    runs = results["runs"]
    name = f"{results['system']} on {results['protocol']}"
    warnings = [f"  {sentence}" for sentence in _warnings(results)]
    footer = f"  report  {report}"
    if results["seeds"] and not results["utterances"]:
        models, them = ("model", "it") if len(runs) == 1 else ("models", "them")
        epochs = [str(run["best_epoch"]) for run in runs if run["best_epoch"] is not None]
        lines = [
            f"{name}: {len(runs)} {models} to use; nothing is left to test {them}, another"
            " protocol tells what to expect"
        ]
        lines += [f"  best epoch  {', '.join(epochs)}"] if epochs else []
        return "\n".join([*lines, *warnings, *([footer] if report else [])])
    folds, seeds = ({run[key] for run in runs} for key in ("fold", "seed"))
    recalls = (f"{label} {_percent(value).strip()}" for label, value in results["recall"].items())
    calibration = results["calibration"]
    figures = {"ECE": calibration["ece"], "NLL": calibration["nll"], "Brier": calibration["brier"]}
    lines = [
        f"{name}: {counted(results['utterances'], 'utterance')}, {counted(len(folds), 'fold')} x"
        f" {counted(len(seeds), 'seed')}",
        "",
        "              mean    std   95 % interval   per seed",
        _score_line("UA", results["ua"]),
        _score_line("WA", results["wa"]),
        _score_line("F1", results["macro_f1"]),
        *([f"  intervals by {method}"] if (method := formats.interval_method(results)) else []),
        "",
        f"  recall  {'   '.join(recalls)}",
        f"  calibration  {'   '.join(f'{k} {formats.decimals(x)}' for k, x in figures.items())}",
        *_member_lines(results.get("members", ())),
    ]
    return "\n".join([*lines, *warnings, *(["", footer] if report else [])])


def _member_lines(members: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what the members of a fusion score alone, and the fusion without each."""
    head = f"  {'member':<{LONGEST_NAME}} weight  UA alone  UA of the fusion without it"
    lines = [
        f"  {one['member'][-LONGEST_NAME:]:<{LONGEST_NAME}}  {formats.decimals(one['weight'])}"
        f"     {_percent(one['ua'])}  {_percent(one['ua_without'])}"
        for one in members
    ]
    return ["", head, *lines] if lines else []


def _score_line(name: str, score: Mapping[str, Any]) -> str:
    low, high = score["ci95"] or (None, None)
    seeds = " ".join(_percent(value) for value in score["per_seed"][:MOST_SEEDS_SHOWN])
    more = " …" if len(score["per_seed"]) > MOST_SEEDS_SHOWN else ""
    return (
        f"  {name}         {_percent(score['mean'])}  {_percent(score['std'])}   {_percent(low)} –"
        f"{_percent(high)}   {seeds}{more}"
    ).rstrip()


def _warnings(results: Mapping[str, Any]) -> list[str]:
    """Returns what a reader of the figures must know."""
    runs = results["runs"]
    failed, trainings = diverged(results)
    sentences = [f"intervals are {results['ci95_note']}"] if results["ci95_note"] else []
    if results["unlabelled"]:
        of = counted(results["utterances"], "utterance")
        sentences.append(f"{results['unlabelled']} of {of} have no label and no score")
    if found := results.get("left_out", {}).get("utterances"):
        sentences.append(
            f"{counted(found, 'utterance')} left out: they or their speakers were in the training"
        )
    if failed:
        voteless = ", without a vote in their ensembles" if trainings > len(runs) else ""
        of, names = counted(trainings, "trial"), ", ".join(failed)
        sentences.append(f"{len(failed)} of {of} diverged{voteless}: {names}")
    if results["seeds_left_out"]:
        left_out = ", ".join(map(str, results["seeds_left_out"]))
        sentences.append(f"seeds left out of the figures because a fold is missing: {left_out}")
    if unlike := formats.unlike_trainings(results):
        sentences.append(unlike)
    return sentences


def stress_lines(found: Mapping[str, Any]) -> str:
    """Returns the content of `stress.json` as sentences and a table."""
    rows = _aligned(stress_text.COLUMNS, list(map(stress_text.cells, found["changes"])))
    return "\n".join([*stress_text.sentences(found), "", *rows])


def _percent(fraction: float | None) -> str:
    """Returns a fraction as a percentage of five characters."""
    return f"{formats.points(fraction):>5}"


def comparison_lines(groups: Sequence[Group]) -> str:
    """Returns for every group of runs a table of scores and one of differences."""
    blocks = []
    for group in groups:
        blocks.append([f"{comparison_text.title(group)}: {comparison_text.scope(group)}"])
        blocks.append(_aligned(RUN_COLUMNS, [_run_cells(run) for run in group.runs]))
        if group.test:
            blocks.append([f"  {comparison_text.method(group)}"])
            blocks.append(_aligned(PAIR_COLUMNS, _pair_cells(group)))
        for attribute, header, rows in comparison_text.group_tables(group):
            blocks.append([f"  UA in % by {attribute} [95 %]"])
            blocks.append(_aligned(header, [[_short(row[0]), *row[1:]] for row in rows]))
        if remarks := comparison_text.remarks(group):
            blocks.append([f"  {remark}" for remark in remarks])
    if warning := comparison_text.not_comparable(groups):
        blocks.append([f"warning: {warning}"])
    return "\n\n".join("\n".join(block) for block in blocks)


def matrix_lines(matrix: Mapping[str, Any]) -> str:
    """Returns the UA of every pair of corpora as a table, a row per corpus trained on."""
    corpora = matrix["corpora"]
    rows = []
    for trained in corpora:
        cells = [matrix["cells"][trained].get(tested) for tested in corpora]
        rows.append([trained, *map(formats.spread_and_interval, cells)])
    return "\n".join(_aligned(["trained on", *corpora], rows))


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
        row = [" − ".join(_short(group.tested[index].name) for index in (pair.first, pair.second))]
        for score in (pair.ua, pair.wa):
            row.append(formats.difference(score.effect, score.ci95))
            row += [formats.p_value(score.p), formats.p_value(score.holm)]
        cells.append(row)
    return cells


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a header and lines with aligned columns."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if name in LEFT_ALIGNED else cell.rjust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else "…" + name[-LONGEST_NAME + 1 :]
