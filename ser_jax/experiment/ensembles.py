"""Ensembles: trials of one fold that predict together, by their mean calibrated probabilities.

A seed of the protocol then stands for `protocol.ensemble` trials with consecutive seeds; the
ensemble has the name of the first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ser_jax.evaluation.results import DIVERGED
from ser_jax.training.trials import Trial

OUTCOME = ("fold", "seed", "best_epoch", "status", "temperature")
MEMBER = ("seed", "best_epoch", "status")


def members(trials: Sequence[Trial], size: int) -> dict[Trial, list[Trial]]:
    """Returns the `size` trials of every ensemble (consecutive seeds), by its first trial."""
    first = min(trial.seed for trial in trials)
    ensembles: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        key = (trial.fold.name, (trial.seed - first) // size)
        ensembles.setdefault(key, []).append(trial)
    return {trials[0]: trials for trials in ensembles.values()}


def outcomes(
    ensembles: Mapping[Trial, Sequence[Trial]], descriptions: Mapping[Trial, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns fold, seed, best epoch, status and temperature of every ensemble, for `summarise`.

    An ensemble has neither epoch nor temperature of its own, but lists its `members` with seed,
    best epoch and status. Diverged members do not vote; it has diverged if all of them have.
    `descriptions` are `model.json` of the finished trials; the others are left out.
    """
    rows = []
    for first, trials in ensembles.items():
        known = [descriptions[trial] for trial in trials if trial in descriptions]
        if len(trials) == 1:
            rows += [{name: description[name] for name in OUTCOME} for description in known]
        elif known:
            status = next((one["status"] for one in known if one["status"] != DIVERGED), DIVERGED)
            values = (first.fold.name, first.seed, None, status, None)
            members = [{name: one[name] for name in MEMBER} for one in known]
            rows.append({**dict(zip(OUTCOME, values, strict=True)), "members": members})
    return rows


def calibrated(probabilities: str, temperatures: Iterable[float | None]) -> str:
    """Describes the probabilities of trials with these temperatures, all None: uncalibrated."""
    return probabilities if any(temperatures) else f"{probabilities}, uncalibrated"


def describe(probabilities: str, size: int, diverged: int = 0) -> str:
    """Describes the probabilities of ensembles, given the description of those of a trial.

    `diverged` is the number of their trainings, over all ensembles, that have no vote.
    """
    if size == 1:
        return probabilities
    lost = f", without {diverged} that diverged" if diverged else ""
    return f"{probabilities}; mean of {size} trainings{lost}"
