"""Several trainings of one fold that predict together: the mean of their calibrated probabilities.

A seed of the protocol stands for `protocol.ensemble` trainings with seeds of their own; it is named by the first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ser_jax.evaluation.results import DIVERGED
from ser_jax.training.runs import Run

OUTCOME = ("fold", "seed", "best_epoch", "status", "temperature")


def members(runs: Sequence[Run], size: int) -> dict[Run, list[Run]]:
    """Returns the runs of every ensemble, by its first run.

    Args:
      runs: Runs with consecutive seeds, a multiple of `size` of them.
      size: Trainings of one ensemble; 1: every run is by itself.
    """
    first = min(run.seed for run in runs)
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        found.setdefault((run.fold.name, (run.seed - first) // size), []).append(run)
    return {part[0]: part for part in found.values()}


def outcomes(found: Mapping[Run, Sequence[Run]], descriptions: Mapping[Run, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what `summarise` needs to know of every ensemble.

    Args:
      found: See `members`.
      descriptions: Content of `model.json` of the runs that are finished; the others are left out.

    Returns:
      Fold, seed, best epoch, status and temperature. An ensemble has neither epoch nor temperature, but its members;
      it has diverged if all of them have.
    """
    rows = []
    for run, part in found.items():
        known = [descriptions[member] for member in part if member in descriptions]
        if len(part) == 1:
            rows += [{name: description[name] for name in OUTCOME} for description in known]
        elif known:
            status = next((one["status"] for one in known if one["status"] != DIVERGED), DIVERGED)
            rows.append(dict(zip(OUTCOME, (run.fold.name, run.seed, None, status, None), strict=True)))
    return rows


def describe(probabilities: str, size: int) -> str:
    """Returns what the probabilities of an ensemble are, given what those of its members are."""
    return probabilities if size == 1 else f"{probabilities}; mean of {size} trainings"
