"""Confusion matrix and the scores that follow from it (NumPy only; every part may import it).

WA (weighted accuracy) is the plain accuracy. UA (unweighted accuracy; UAR, balanced accuracy) is the mean of the
recalls over the classes of the protocol. Both are shares in [0, 1]. They are computed from sums of counts, divided
once.
"""

import numpy as np


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


def recalls(confusion: np.ndarray) -> np.ndarray:
    """Returns [K] recall per class; NaN for a class without examples."""
    counts = confusion.sum(axis=1)
    return np.where(counts > 0, np.diag(confusion) / np.maximum(counts, 1), np.nan)


def weighted_accuracy(confusion: np.ndarray) -> float:
    """Returns WA, the share of correct predictions; NaN for an empty matrix."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def unweighted_accuracy(confusion: np.ndarray) -> float:
    """Returns UA, the mean recall over the classes that have examples; NaN for an empty matrix."""
    present = recalls(confusion)
    present = present[~np.isnan(present)]
    return float(present.mean()) if present.size else float("nan")
