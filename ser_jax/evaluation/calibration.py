"""Whether probabilities mean what they say, and the temperature that brings them nearer to it."""

from typing import NamedTuple

import numpy as np

BINS = 15
COLDEST, HOTTEST = 0.25, 20.0  # separable data would ask for a temperature of 0, labels at random for an infinite one
SMALLEST_PROBABILITY = np.finfo(np.float64).tiny  # a probability of 0 for the truth costs 708 nats, not infinitely many


class Bins(NamedTuple):
    """Predictions sorted by their confidence, the highest probability, into bins of equal width over [0, 1].

    A bin holds its upper edge, not its lower one.

    Attributes:
      count: [BINS] i64, predictions.
      confidence: [BINS] f64, their mean confidence; NaN in an empty bin.
      accuracy: [BINS] f64, their share that is correct; NaN in an empty bin.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> Bins:
    """Sorts predictions into bins of confidence.

    Args:
      probabilities: [N, K] shares in [0, 1].
      labels: [N] integers in [0, K), the truth; of equal maxima the first is the prediction.

    Returns:
      The bins, from low to high confidence.
    """
    confidence = probabilities.max(axis=1, initial=0.0)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.arange(BINS + 1) / BINS
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights=values, minlength=BINS) for values in (confidence, correct))
    return Bins(count, *(np.where(count > 0, values / np.maximum(count, 1), np.nan) for values in sums))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean distance between confidence and accuracy, weighted by the predictions in a bin.

    ECE = Σ_b n_b/N · |accuracy_b − confidence_b| over 15 bins of the highest probability. Source: Naeini, Cooper and
    Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (AAAI 2015); Guo, Pleiss, Sun and
    Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017), equation 3.

    Args:
      probabilities: [N, K] shares in [0, 1].
      labels: [N] integers in [0, K), the truth.

    Returns:
      A share in [0, 1], 0 at best; NaN without predictions.
    """
    bins = reliability(probabilities, labels)
    distance = np.abs(np.nan_to_num(bins.accuracy) - np.nan_to_num(bins.confidence))
    return float((bins.count * distance).sum() / len(labels)) if len(labels) else float("nan")


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean of −ln p(truth).

    Args:
      probabilities: [N, K] shares in [0, 1].
      labels: [N] integers in [0, K), the truth.

    Returns:
      Nats, 0 at best; NaN without predictions.
    """
    if not len(labels):
        return float("nan")
    return float(-np.log(np.maximum(_of_truth(probabilities, labels), SMALLEST_PROBABILITY)).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean squared distance between probabilities and truth, summed over the classes.

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability" (1950), equation 2.

    Args:
      probabilities: [N, K] shares in [0, 1].
      labels: [N] integers in [0, K), the truth.

    Returns:
      A number in [0, 2], 0 at best; NaN without predictions.
    """
    if not len(labels):
        return float("nan")
    squares = (probabilities**2).sum(axis=1) - 2 * _of_truth(probabilities, labels) + 1
    return float(squares.mean())


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Finds the temperature T that makes softmax(logits / T) likeliest on a validation part.

    T changes no prediction, only how sure it is: above 1 less sure, below 1 surer. The mean negative log-likelihood is
    convex in 1/T, so the one minimum between `COLDEST` and `HOTTEST` is found. Where T = 1 is as good (logits that do
    not differ, a validation part that is right beyond doubt) it stays 1. Source: Guo, Pleiss, Sun and Weinberger,
    "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2.

    Args:
      logits: [N, K], of the validation part; never of the test part.
      targets: [N] integers in [0, K); −1 where the label is withheld: such rows are left out.

    Returns:
      The temperature, 1.0 without labelled rows.

    Raises:
      ValueError: If the shapes disagree, a target is no class or a logit is not finite.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.int64)
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"logits of shape {logits.shape} for targets of shape {targets.shape}")
    if targets.size and not -1 <= targets.min() <= targets.max() < logits.shape[1]:
        raise ValueError(f"targets from {targets.min()} to {targets.max()} for {logits.shape[1]} classes")
    logits, targets = logits[targets >= 0], targets[targets >= 0]
    if not np.isfinite(logits).all():
        raise ValueError("logits hold non-finite values")
    if not targets.size:
        return 1.0
    below = logits - logits.max(axis=1, keepdims=True)  # ≤ 0: no overflow at any temperature
    truth = _of_truth(below, targets).mean()

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.log(np.exp(scale * below).sum(axis=1)).mean() - scale * truth)

    from scipy import optimize  # Takes a while to load, and only finished runs need it.

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
    return float(np.exp(best)) if loss(best) < loss(0.0) else 1.0


def _of_truth(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns [N] the value of each row's true class."""
    return np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
