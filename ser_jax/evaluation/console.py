"""The few lines that a finished command prints on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ser_jax.evaluation import formats
from ser_jax.evaluation import results as results_module

MOST_SEEDS_SHOWN = 10


def summary_lines(results: Mapping[str, Any], report: Path | None = None) -> str:
    """Returns the scores as a small table of percentages.

    Args:
      results: The content of `results.json`.
      report: Where the report lies, if it was written.

    Returns:
      Lines of text without a final line end.
    """
    if results["seeds"] and not results["utterances"]:
        return "\n".join(_untested_lines(results, report))
    runs = results["runs"]
    lines = [
        f"{results['system']} on {results['protocol']}: {results['utterances']} utterances, "
        f"{len({run['fold'] for run in runs})} folds x {len({run['seed'] for run in runs})} seeds",
        "",
        "              mean    std   95 % interval   per seed",
        _score_line("UA", results["ua"]),
        _score_line("WA", results["wa"]),
        _score_line("F1", results["macro_f1"]),
        "",
        "  recall  " + "   ".join(f"{name} {_percent(value).strip()}" for name, value in results["recall"].items()),
    ]
    calibration = results["calibration"]
    figures = {"ECE": calibration["ece"], "NLL": calibration["nll"], "Brier": calibration["brier"]}
    lines.append("  calibration  " + "   ".join(f"{name} {formats.decimals(x)}" for name, x in figures.items()))
    lines += [f"  {sentence}" for sentence in _warnings(results)]
    if report:
        lines += ["", f"  report  {report}"]
    return "\n".join(lines)


def _untested_lines(results: Mapping[str, Any], report: Path | None) -> list[str]:
    """Returns what is said of models that are trained to be used, without a test part."""
    runs = results["runs"]
    epochs = ", ".join(str(run["best_epoch"]) for run in runs if run["best_epoch"] is not None)
    return [
        f"{results['system']} on {results['protocol']}: {len(runs)} {'model' if len(runs) == 1 else 'models'} to use; "
        f"nothing is left to test {'it' if len(runs) == 1 else 'them'}, another protocol tells what to expect",
        *([f"  best epoch  {epochs}"] if epochs else []),
        *[f"  {sentence}" for sentence in _warnings(results)],
        *([f"  report  {report}"] if report else []),
    ]


def _score_line(name: str, score: Mapping[str, Any]) -> str:
    low, high = score["ci95"] or (None, None)
    seeds = " ".join(_percent(value) for value in score["per_seed"][:MOST_SEEDS_SHOWN])
    more = " …" if len(score["per_seed"]) > MOST_SEEDS_SHOWN else ""
    interval = f"{_percent(low)} –{_percent(high)}"
    return f"  {name}         {_percent(score['mean'])}  {_percent(score['std'])}   {interval}   {seeds}{more}".rstrip()


def _warnings(results: Mapping[str, Any]) -> list[str]:
    """Returns what a reader of the figures must know."""
    runs = results["runs"]
    failed = [f"{run['fold']}-{run['seed']}" for run in runs if run["status"] == results_module.DIVERGED]
    sentences = [f"intervals are {results['ci95_note']}"] if results["ci95_note"] else []
    if results["unlabelled"]:
        sentences.append(f"{results['unlabelled']} of {results['utterances']} utterances have no label and no score")
    if failed:
        sentences.append(f"{len(failed)} of {len(runs)} runs diverged: {', '.join(failed)}")
    if results["seeds_left_out"]:
        left_out = ", ".join(map(str, results["seeds_left_out"]))
        sentences.append(f"seeds left out of the figures because a fold is missing: {left_out}")
    return sentences


def _percent(share: float | None) -> str:
    """Returns a share in [0, 1] as a percentage of five characters."""
    return "    –" if share is None else f"{100 * share:5.1f}"
