"""The metrics log of a training, `metrics.jsonl`: one line per epoch and trial."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_jax import metrics
from ser_jax.runtime import files, strict_json
from ser_jax.training import early_stopping
from ser_jax.training.trials import Trial

FILE = "metrics.jsonl"


def make_line(
    trial: Trial, epoch: int, scores: early_stopping.Scores, seconds: float
) -> dict[str, Any]:
    """Returns the line of one trial and epoch, as docs/run-directory.md describes it.

    Args:
      trial: The trial.
      epoch: Number of the epoch, from 1.
      scores: Its scores; a trial without a validation part has no validation scores.
      seconds: Wall time of the epoch, for all trials of the group together.
    """
    line = {
        "fold": trial.fold.name,
        "seed": trial.seed,
        "phase": trial.phase,
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


def append_lines(workdir: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Appends lines with their checksums; NaN and infinities become null."""
    path = workdir / FILE
    with files.naming(path), path.open("a") as file:
        file.writelines(map(strict_json.line, lines))


def drop_lines(workdir: Path, trials: Sequence[Trial], after: int) -> None:
    """Drops the epochs after `after` of trials of one phase: they are about to be repeated."""
    path = workdir / FILE
    if not path.is_file():
        return
    repeated = {(trial.fold.name, trial.seed, trial.phase) for trial in trials}
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = strict_json.parse_line(line)
            trial = entry["fold"], entry["seed"], entry["phase"]
            if trial not in repeated or entry["epoch"] <= after:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # The last line of a process that was killed, or damage.
    files.write_text(path, "".join(kept))
