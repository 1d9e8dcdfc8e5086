"""Confusion matrix and the scores that follow from it: WA, UA, macro F1 and recall.

WA (weighted accuracy) is the plain accuracy. UA (unweighted accuracy; UAR, balanced accuracy) is
the mean of the recalls over the classes of the protocol, macro F1 the mean of their F1 scores. All
are in [0, 1]. They are computed from sums of counts, divided once.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """The scores of a stack of confusion matrices; NaN where nothing defines them."""

    wa: np.ndarray  # [...] fraction of correct predictions
    ua: np.ndarray  # [...] mean recall over the classes that have examples
    macro_f1: np.ndarray  # [...] mean F1 over the classes that have examples
    recall: np.ndarray  # [..., K] recall per class; NaN for a class without examples


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confusion matrix [K, K] i64, rows = truth, columns = prediction.

    Args:
      labels: [N] integers in [0, K), the truth.
      predictions: [N] integers in [0, K).
      classes: Number of classes K of the protocol (never inferred from the data).
    """
    flat = np.asarray(labels, np.int64) * classes + np.asarray(predictions, np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def scores(confusions: np.ndarray) -> Scores:
    """Scores confusion matrices [..., K, K] (rows = truth, columns = prediction) at once.

    F1 of a class is the harmonic mean of its recall and precision, 2·hits / (examples +
    predictions); 0 without a hit.
    """
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    examples = confusions.sum(axis=-1)
    present = examples > 0
    recall = _divided(hits, examples)
    f1 = _divided(2 * hits, examples + confusions.sum(axis=-2))
    counted = present.sum(axis=-1)
    return Scores(
        wa=_divided(hits.sum(axis=-1), examples.sum(axis=-1)),
        ua=_divided(np.where(present, recall, 0).sum(axis=-1), counted),
        macro_f1=_divided(np.where(present, f1, 0).sum(axis=-1), counted),
        recall=recall,
    )


def recalls(confusion: np.ndarray) -> np.ndarray:
    """Returns [K] recall per class; NaN for a class without examples."""
    return scores(confusion).recall


def weighted_accuracy(confusion: np.ndarray) -> float:
    """Returns WA, the fraction of correct predictions; NaN for an empty matrix."""
    return float(scores(confusion).wa)


def unweighted_accuracy(confusion: np.ndarray) -> float:
    """Returns UA, the mean recall over the classes that have examples; NaN for an empty matrix."""
    return float(scores(confusion).ua)


def exact_unweighted_accuracy(confusion: np.ndarray) -> Fraction:
    """Returns UA without rounding, to be compared with others; 0 for an empty matrix."""
    rows = [(int(row[k]), int(row.sum())) for k, row in enumerate(confusion)]
    found = [Fraction(hits, examples) for hits, examples in rows if examples]
    return sum(found, Fraction()) / max(len(found), 1)


def macro_f1(confusion: np.ndarray) -> float:
    """Returns the mean F1 over the classes that have examples; NaN for an empty matrix."""
    return float(scores(confusion).macro_f1)


def _divided(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns sums / counts, NaN where the count is 0."""
    return np.where(counts > 0, sums / np.where(counts > 0, counts, 1), np.nan)
