"""Fusion: the weighted mean of the calibrated probabilities of several systems, from their tables.

What is fitted, weights and a temperature, is fitted per trial on its validation part.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ser_jax import metrics
from ser_jax.evaluation import calibration
from ser_jax.evaluation.predictions import Prediction
from ser_jax.evaluation.results import DIVERGED, confusion_of

PRIOR = 1.0  # utterances that every member is taken to have explained beforehand
ITERATIONS = 1000  # of the fit of weights; the likelihood of 30 utterances has settled before
TRAINING = ("seed", "best_epoch", "status")  # what is repeated of every training of a member

Key = tuple[str, int]  # fold and seed of a trial
Rows = list[Prediction]


@dataclasses.dataclass(frozen=True)
class Member:
    """A finished run whose probabilities are averaged with those of others."""

    name: str  # its name in the fusion
    results: Mapping[str, Any]  # content of its `results.json`
    test: Mapping[Key, Rows]  # predictions of the test part of every trial
    validation: Mapping[Key, Rows]  # the same of the validation part; none of a refitted trial


class Fused(NamedTuple):
    """The predictions of a fusion."""

    test: Rows  # of test parts
    validation: Rows  # of validation parts
    # for `results.summarise`: fold, seed, status, temperature, `members` (their trainings),
    # `weights` (name → weight) and `validation` (scores, or None)
    trials: list[dict[str, Any]]


def by_trial(rows: Sequence[Prediction]) -> dict[Key, Rows]:
    """Returns the rows of every trial, in their order."""
    found: dict[Key, Rows] = {}
    for row in rows:
        found.setdefault((row.fold, row.seed), []).append(row)
    return found


def fuse(members: Sequence[Member], *, fit: bool) -> Fused:
    """Averages the predictions of members that have the same trials.

    In every trial all members that have not diverged vote. A temperature is fitted to their mean
    on the validation part, since the mean of calibrated probabilities is too cautious; where a
    member has no validation predictions there is none, and weights are equal.

    Args:
      members: One or more, of the same protocol and seeds.
      fit: Whether weights are fitted as well; else they are equal.

    Returns:
      Predictions and trials, in the order of the first member's.
    """
    classes = members[0].results["classes"]
    own = {
        member.name: {(run["fold"], run["seed"]): run for run in member.results["runs"]}
        for member in members
    }
    fused = Fused([], [], [])
    for fold, seed in own[members[0].name]:
        runs = {member.name: own[member.name][fold, seed] for member in members}
        voters = [one for one in members if runs[one.name]["status"] != DIVERGED]
        weights, temperature, scores = np.full(len(voters), 1 / max(len(voters), 1)), None, None
        if voters and all((fold, seed) in voter.validation for voter in voters):
            rows = [voter.validation[fold, seed] for voter in voters]
            stacked, targets = stack(rows), _targets(rows[0], classes)
            if fit:
                weights = fit_weights(stacked[:, targets >= 0], targets[targets >= 0])
            logits = np.log(np.maximum(average(stacked, weights), calibration.SMALLEST_PROBABILITY))
            temperature = calibration.fit_temperature(logits, targets)
            held_out = predicted(rows[0], average(stacked, weights, temperature), classes)
            scores = _scores(held_out, classes)
            fused.validation.extend(held_out)
        if voters and (fold, seed) in voters[0].test:
            rows = [voter.test[fold, seed] for voter in voters]
            mean = average(stack(rows), weights, temperature)
            fused.test.extend(predicted(rows[0], mean, classes))
        trainings = [
            {"member": name, **{key: one[key] for key in TRAINING}}
            for name, run in runs.items()
            for one in run.get("members", [run])
        ]
        names = (voter.name for voter in voters)
        fused.trials.append(
            {
                **{"fold": fold, "seed": seed, "best_epoch": None},
                **{"status": "done" if voters else DIVERGED, "temperature": temperature},
                **{"members": trainings, "validation": scores},
                "weights": dict(zip(names, weights.tolist(), strict=True)),
            }
        )
    return fused


def average(
    probabilities: np.ndarray, weights: np.ndarray, temperature: float | None = None
) -> np.ndarray:
    """Returns the weighted mean [N, K] f64 of the probabilities of M members.

    Args:
      probabilities: [M, N, K], rows that add up to 1.
      weights: [M], not negative; they add up to 1.
      temperature: Divides the logarithms of the mean, whose rows then add up to 1 again; None: 1.
    """
    mean = np.tensordot(weights, np.asarray(probabilities, np.float64), 1)
    if temperature is None:
        return mean
    logits = np.log(np.maximum(mean, calibration.SMALLEST_PROBABILITY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_weights(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fits the most probable weights of the weighted mean, by EM from equal ones.

    The prior (Dirichlet) counts `PRIOR` utterances for every member: without it 30 utterances give
    one member all the weight by chance. There is one maximum. Source: Dempster, Laird and Rubin,
    "Maximum Likelihood from Incomplete Data via the EM Algorithm" (1977), section 4.3.

    Args:
      probabilities: [M, n, K] of the validation part; never of the test part.
      labels: [n] integers in [0, K).

    Returns:
      [M] f64, not negative; they add up to 1. Equal without labels.
    """
    truth = probabilities[:, np.arange(len(labels)), labels]
    truth = np.maximum(truth, calibration.SMALLEST_PROBABILITY)
    weights = np.full(len(truth), 1 / len(truth))
    for _ in range(ITERATIONS):
        shares = weights[:, None] * truth
        counts = (shares / shares.sum(axis=0)).sum(axis=1) + PRIOR
        weights = counts / counts.sum()
    return weights


def stack(rows: Sequence[Rows]) -> np.ndarray:
    """Returns the probabilities [M, N, K] of tables with the same utterances."""
    ids = [[row.id for row in table] for table in rows]
    if any(one != ids[0] for one in ids):
        raise ValueError("members have predicted different utterances")
    return np.array([[row.probabilities for row in table] for table in rows], np.float64)


def _targets(rows: Rows, classes: Sequence[str]) -> np.ndarray:
    return np.array([classes.index(row.label) if row.label else -1 for row in rows], np.int64)


def predicted(rows: Rows, probabilities: np.ndarray, classes: Sequence[str]) -> Rows:
    """Returns the rows with other probabilities [N, K]."""
    best = [classes[int(number)] for number in probabilities.argmax(axis=1)]
    return [
        dataclasses.replace(row, prediction=name, probabilities=tuple(values))
        for row, name, values in zip(rows, best, probabilities.tolist(), strict=True)
    ]


def _scores(rows: Rows, classes: Sequence[str]) -> dict[str, float] | None:
    """Returns UA, WA and cross-entropy in nats of labelled rows; None without any."""
    rows = [row for row in rows if row.label]
    if not rows:
        return None
    confusion = confusion_of(rows, classes)
    probabilities = np.array([row.probabilities for row in rows])
    return {
        "ua": metrics.unweighted_accuracy(confusion),
        "wa": metrics.weighted_accuracy(confusion),
        "loss": calibration.negative_log_likelihood(probabilities, _targets(rows, classes)),
    }
