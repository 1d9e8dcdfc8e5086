"""`metrics.jsonl` as training writes it: a line for every epoch of every run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_jax import atomic, metrics, strict_json
from ser_jax.training import selection
from ser_jax.training.runs import Run

FILE = "metrics.jsonl"


def make_line(run: Run, epoch: int, scores: selection.Scores, seconds: float) -> dict[str, Any]:
    """Makes the line of an epoch; without a validation part it carries no validation figures.

    Args:
      run: The run.
      epoch: Number of the epoch, from 1.
      scores: Its scores, on the host.
      seconds: Wall time of the epoch for the whole group.
    """
    line = {
        "fold": run.fold.name,
        "seed": run.seed,
        "phase": run.phase,
        "epoch": epoch,
        "loss": float(scores.train_loss),
        "skipped": int(scores.skipped),
    }
    if scores.loss is not None:
        line |= {
            "validation_loss": float(scores.loss),
            "validation_ua": metrics.unweighted_accuracy(scores.confusion),
            "validation_wa": metrics.weighted_accuracy(scores.confusion),
        }
    return line | {"seconds": round(seconds, 4)}


def append(workdir: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Writes lines behind those that are there; NaN and infinities become null."""
    path = workdir / FILE
    with atomic.naming(path), path.open("a") as file:
        file.writelines(json.dumps(atomic.plain(line), allow_nan=False) + "\n" for line in lines)


def forget(workdir: Path, runs: Sequence[Run], after: int) -> None:
    """Drops the epochs of these runs that are about to be trained again.

    Args:
      workdir: The run directory.
      runs: Runs of one phase; the lines of another one stay.
      after: Number of the last epoch to keep.
    """
    path = workdir / FILE
    if not path.is_file():
        return
    again = {(run.fold.name, run.seed, run.phase) for run in runs}
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = strict_json.parse(line)
            if (entry["fold"], entry["seed"], entry["phase"]) not in again or entry["epoch"] <= after:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # The last line of a process that was killed, or damage.
    atomic.write_text(path, "".join(kept))
