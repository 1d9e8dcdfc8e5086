"""Expected calibration error and temperature scaling (Guo et al., 2017), and related scores.

`probabilities` are [N, K] in [0, 1], `labels` [N] integers in [0, K), the truth.
"""

from typing import NamedTuple

import numpy as np

BINS = 15
# Separable data would be fitted best by a temperature of 0, random labels by an infinite one.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 20.0
# Standard deviation of the prior of ln T: few utterances that are all right ask for certainty.
SPREAD = 0.5
# A probability of 0 for the true class costs 708 nats, not infinitely many.
SMALLEST_PROBABILITY = np.finfo(np.float64).tiny


class Bins(NamedTuple):
    """Predictions by confidence (their highest probability), in bins of equal width over [0, 1].

    A bin includes its upper edge, not its lower one.
    """

    count: np.ndarray  # [BINS] i64, predictions
    confidence: np.ndarray  # [BINS] f64, their mean confidence; NaN in an empty bin
    accuracy: np.ndarray  # [BINS] f64, the fraction that is correct; NaN in an empty bin


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> Bins:
    """Sorts predictions (the first of equal maxima) into bins of confidence, from low to high."""
    confidence = probabilities.max(axis=1, initial=0.0)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.arange(BINS + 1) / BINS
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights=values, minlength=BINS) for values in (confidence, correct))
    means = [np.where(count > 0, values / np.maximum(count, 1), np.nan) for values in sums]
    return Bins(count, *means)


class Coverage(NamedTuple):
    """What is answered, and how well, with every threshold, from the highest to the lowest."""

    threshold: np.ndarray  # [T] f64, the confidences that occur: what is below is not answered
    fraction: np.ndarray  # [T] f64, the fraction of predictions that are answered
    accuracy: np.ndarray  # [T] f64, the fraction of those that are correct


def accuracy_by_coverage(probabilities: np.ndarray, labels: np.ndarray) -> Coverage:
    """Computes the accuracy of the most confident predictions, for every number of them.

    Predictions with the same confidence are answered together. Source: El-Yaniv and Wiener, "On the
    Foundations of Noise-free Selective Classification" (JMLR 2010), the risk-coverage curve.
    """
    confidence = probabilities.max(axis=1, initial=0.0)
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    correct = np.cumsum((probabilities.argmax(axis=1) == labels)[order])
    last = np.flatnonzero(np.diff(confidence, append=-1.0))
    return Coverage(confidence[last], (last + 1) / len(labels), correct[last] / (last + 1))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean distance between confidence and accuracy, weighted by the bins' counts.

    ECE = Σ_b n_b/N · |accuracy_b − confidence_b| over 15 bins of the highest probability. Sources:
    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"
    (AAAI 2015); Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (ICML
    2017), equation 3.

    Returns:
      A number in [0, 1], 0 at best; NaN without predictions.
    """
    bins = reliability(probabilities, labels)
    distance = np.abs(np.nan_to_num(bins.accuracy) - np.nan_to_num(bins.confidence))
    return float((bins.count * distance).sum() / len(labels)) if len(labels) else float("nan")


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean of −ln p(true class), in nats; NaN without predictions."""
    if not len(labels):
        return float("nan")
    truth = np.maximum(_at_labels(probabilities, labels), SMALLEST_PROBABILITY)
    return float(-np.log(truth).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean squared distance between probabilities and truth, summed over the classes.

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability" (1950), equation 2.

    Returns:
      A number in [0, 2], 0 at best; NaN without predictions.
    """
    if not len(labels):
        return float("nan")
    squares = (probabilities**2).sum(axis=1) - 2 * _at_labels(probabilities, labels) + 1
    return float(squares.mean())


def fit_temperature(logits: np.ndarray, targets: np.ndarray, size: float = 1.0) -> float:
    """Fits the most probable temperature T of softmax(logits / T).

    T changes no prediction, only its confidence: above 1 lowers it, below 1 raises it. Beside the
    likelihood there is a prior, ln T normal around ln size with the deviation `SPREAD`: without it
    a validation part of 30 utterances, nearly all of them right, gives a T that is far too low for
    other speakers. T is in [`MIN_TEMPERATURE`, `MAX_TEMPERATURE`] · size. Where T = size is as good
    (logits that do not differ, or all predictions right with probability 1) it stays that. Source,
    but for the prior: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks"
    (ICML 2017), section 4.2.

    Args:
      logits: [N, K], of the validation part; never of the test part.
      targets: [N] integers in [0, K); −1 where the label is withheld: such rows are left out.
      size: Usual size of the logits, above 0, such as the standard deviation of an SVM's decision
        values; those of networks are about 1.

    Returns:
      The temperature; `size` without labelled rows.

    Raises:
      ValueError: If the shapes disagree, a target is no class or a logit is not finite.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.int64)
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"logits of shape {logits.shape} for targets of shape {targets.shape}")
    if targets.size and not -1 <= targets.min() <= targets.max() < logits.shape[1]:
        raise ValueError(
            f"targets from {targets.min()} to {targets.max()} for {logits.shape[1]} classes"
        )
    logits, targets = logits[targets >= 0], targets[targets >= 0]
    if not np.isfinite(logits).all():
        raise ValueError("logits hold non-finite values")
    if not targets.size:
        return size
    logits = logits / size
    shifted = logits - logits.max(axis=1, keepdims=True)  # ≤ 0: no overflow at any temperature
    truth = _at_labels(shifted, targets).mean()

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        nats = np.log(np.exp(scale * shifted).sum(axis=1)).mean() - scale * truth
        return float(nats + (log_temperature / SPREAD) ** 2 / 2 / len(targets))

    from scipy import optimize  # Slow to import, and only finished trials need it.

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    best = found.x
    return size * float(np.exp(best)) if loss(best) < loss(0.0) else size


def _at_labels(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns [N] the value of each row's true class."""
    return np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
