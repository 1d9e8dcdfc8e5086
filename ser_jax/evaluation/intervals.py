"""Confidence intervals over speakers or sessions, by the jackknife.

Utterances of one speaker resemble one another, so an interval over utterances is too narrow. The
unit is what folds are made of: the speaker, or the session, as far as enough of them are known.
Every unit is left out once; how much a score moves then gives its standard error, and Student's t
with one degree of freedom less than there are units gives the interval. The bootstrap's percentiles
cover 89 % with ten speakers, this interval 95 % (bench/coverage.py).

Sources: Tukey (1958); Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 11.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from ser_jax import metrics
from ser_jax.evaluation.predictions import Prediction

SESSION, SPEAKER, UTTERANCE = "session", "speaker", "utterance"
METHOD = "jackknife"
FEWEST_SPEAKERS = 5  # or sessions: with fewer, the error of the standard error is too large
LEVEL = 0.95
MOST_EXPONENT = 700.0  # beyond it exp overflows


class Units(NamedTuple):
    """Predictions counted per unit."""

    kind: str  # the unit, "session", "speaker" or "utterance"
    counts: np.ndarray  # [U, S, K, K] i64, confusion matrices per unit (sorted by name) and seed


def count_units(
    rows: Sequence[Prediction],
    *,
    seeds: Sequence[int],
    classes: Sequence[str],
    sessions: Mapping[str, str] | None = None,
) -> Units:
    """Counts predictions per unit and seed.

    Args:
      rows: Rows with a label, of these seeds only.
      seeds: The S seeds.
      classes: The K classes of the protocol.
      sessions: Utterance id → session, of a protocol whose folds are made of sessions.

    Returns:
      Counts per session, per speaker where there are no `sessions` or fewer than `FEWEST_SPEAKERS`,
      or per utterance if that holds for speakers, or one is unknown.
    """
    kind, names = UTTERANCE, [row.id for row in rows]
    for expected, found in (
        (SPEAKER, [row.speaker for row in rows]),
        (SESSION, [sessions[row.id] for row in rows] if sessions else []),
    ):
        if "" not in found and len(set(found)) >= FEWEST_SPEAKERS:
            kind, names = expected, found
    units = sorted(set(names))
    shape = (len(units), len(seeds), len(classes), len(classes))
    cells = (
        _indices(names, units),
        _indices([row.seed for row in rows], seeds),
        *class_numbers(rows, classes),
    )
    flat = np.ravel_multi_index(cells, shape) if rows else np.zeros(0, np.int64)
    return Units(kind, np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape))


def class_numbers(
    rows: Sequence[Prediction], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels [N] i64 and predictions [N] i64 of labelled rows as indices of the classes."""
    return (
        _indices([row.label for row in rows], classes),
        _indices([row.prediction for row in rows], classes),
    )


def _indices(values: Sequence, names: Sequence) -> np.ndarray:
    number = {name: index for index, name in enumerate(names)}
    return np.fromiter((number[value] for value in values), np.int64, len(values))


def jackknife(
    per_unit: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns statistics of the sum over units, and how far their intervals reach to both sides.

    Args:
      per_unit: [U, ...] counts per unit; of a single one the intervals reach to infinity.
      statistic: Takes sums [n, ...] and returns [n, J] values; NaN where a sum leaves one undefined
        (the recall of a class that only the unit left out has).

    Returns:
      The J values [J] f64 and half the width of their intervals [J] f64.
    """
    units = len(per_unit)
    total = per_unit.sum(axis=0)
    values = statistic(total[None])[0]
    if units == 1:
        return values, np.full_like(values, np.inf)
    left_out = statistic(total - per_unit)
    squares = (left_out - left_out.mean(axis=0)) ** 2
    error = np.sqrt((units - 1) / units * squares.sum(axis=0))
    return values, special.stdtrit(units - 1, (1 + LEVEL) / 2) * error


def score_intervals(counts: np.ndarray) -> metrics.Scores:
    """Computes the intervals of the scores, each averaged over seeds.

    They are symmetric in log-odds, ln(p / (1 − p)), so they stay within [0, 1] and reach further
    towards 0.5; of scores that no unit changes, such as a perfect one, they have no width.

    Args:
      counts: [U, S, K, K] confusion matrices (rows = truth, columns = prediction) per unit and
        seed; U > 1 and every unit holds an example for every seed.

    Returns:
      WA, UA and macro F1 [2] and recall [K, 2], f64: (low, high).
    """

    def statistic(sums: np.ndarray) -> np.ndarray:
        return np.column_stack([score.mean(axis=1) for score in metrics.scores(sums)])

    p, reach = jackknife(counts, statistic)
    derivative = p * (1 - p)  # of p over its log-odds
    reach = np.divide(reach, derivative, out=np.zeros_like(reach), where=derivative != 0)
    factor = np.exp(np.minimum(reach, MOST_EXPONENT))
    limits = np.stack([p / (p + (1 - p) * factor), p / (p + (1 - p) / factor)], axis=1)
    wa, ua, macro_f1, *recall = limits
    return metrics.Scores(wa, ua, macro_f1, np.stack(recall))


def wilson(fractions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns Wilson's 95 % interval [..., 2] of fractions of so many utterances; NaN for none.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    Unlike the jackknife it has a width where all or none of few utterances are right.
    """
    z, n = 1.959963984540054, np.where(counts > 0, counts, np.nan)
    middle = fractions + z**2 / (2 * n)
    half = z * np.sqrt(fractions * (1 - fractions) / n + z**2 / (4 * n**2))
    return np.stack([middle - half, middle + half], axis=-1) / (1 + z**2 / n)[..., None]
