"""Confusion matrix and the scores that follow from it (NumPy only; every part may import it).

WA (weighted accuracy) is the plain accuracy. UA (unweighted accuracy; UAR, balanced accuracy) is the mean of the
recalls over the classes of the protocol, macro F1 the mean of their F1 scores. All are shares in [0, 1]. They are
computed from sums of counts, divided once.
"""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """The scores of a stack of confusion matrices; NaN where nothing defines them.

    Attributes:
      wa: [...] share of correct predictions.
      ua: [...] mean recall over the classes that have examples.
      macro_f1: [...] mean F1 over the classes that have examples.
      recall: [..., K] recall per class; NaN for a class without examples.
    """

    wa: np.ndarray
    ua: np.ndarray
    macro_f1: np.ndarray
    recall: np.ndarray


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts predictions per true class.

    Args:
      labels: [N] integers in [0, classes), the truth.
      predictions: [N] integers in [0, classes).
      classes: Number of classes K of the protocol (never inferred from the data).

    Returns:
      [K, K] int64, rows = truth, columns = prediction.
    """
    flat = np.asarray(labels, np.int64) * classes + np.asarray(predictions, np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def scores(confusions: np.ndarray) -> Scores:
    """Scores many confusion matrices at once.

    F1 of a class is the harmonic mean of its recall and precision, 2·hits / (examples + predictions); 0 without a hit.

    Args:
      confusions: [..., K, K] counts, rows = truth, columns = prediction.

    Returns:
      The scores, float64, with the leading axes of `confusions`.
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
    """Returns WA, the share of correct predictions; NaN for an empty matrix."""
    return float(scores(confusion).wa)


def unweighted_accuracy(confusion: np.ndarray) -> float:
    """Returns UA, the mean recall over the classes that have examples; NaN for an empty matrix."""
    return float(scores(confusion).ua)


def macro_f1(confusion: np.ndarray) -> float:
    """Returns the mean F1 over the classes that have examples; NaN for an empty matrix."""
    return float(scores(confusion).macro_f1)


def _divided(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns sums / counts, NaN where the count is 0."""
    return np.where(counts > 0, sums / np.where(counts > 0, counts, 1), np.nan)
