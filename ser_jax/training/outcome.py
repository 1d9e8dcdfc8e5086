"""What is written of a run: what its validation part has chosen, and what `model.json` says of its model."""

from typing import Any

from ser_jax.training.group import Record
from ser_jax.training.runs import Run

DONE, DIVERGED = "done", "diverged"


def describe_choice(run: Run, record: Record, temperature: float | None) -> dict[str, Any]:
    """Describes a run whose validation part has chosen the epoch.

    Args:
      run: The run.
      record: How it went.
      temperature: What its validation logits at the best epoch are to be divided by; None if it has diverged.

    Returns:
      The content of `choice.json` or, if the run is not trained again, its share of `model.json`.
    """
    return {
        **_describe(run, record, record.best_epoch),
        "validation": {"ua": record.best_ua, "wa": record.best_wa, "loss": record.best_loss},
        "temperature": temperature,
        "seconds": round(record.seconds, 3),
    }


def describe_given(run: Run, record: Record, choice: dict[str, Any]) -> dict[str, Any]:
    """Describes a run that was trained for a given number of epochs.

    Args:
      run: The run.
      record: How it went.
      choice: What gave it the number: `choice.json` of the same run (its temperature and validation scores are then
        those of the first pass, as `first_pass` tells) or the description of the fold that it takes its epochs from.

    Returns:
      Its share of `model.json`.
    """
    again = choice["fold"] == run.fold.name
    return {
        **_describe(run, record, run.epochs),
        "epochs_from": choice["fold"],
        "first_pass": {name: choice[name] for name in ("epochs", "seconds")} if again else None,
        "validation": choice["validation"] if again else None,
        "temperature": choice["temperature"] if again else None,
        "temperature_from": "first_pass" if again else None,
        "seconds": round(record.seconds + (choice["seconds"] if again else 0), 3),
    }


def _describe(run: Run, record: Record, best_epoch: int | None) -> dict[str, Any]:
    return {
        "fold": run.fold.name,
        "seed": run.seed,
        "status": DIVERGED if record.status == DIVERGED else DONE,
        "best_epoch": best_epoch,
        "epochs": record.epochs,
        "skipped": record.skipped,
    }
