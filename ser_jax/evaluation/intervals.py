"""Confidence intervals that respect who was speaking.

Utterances of one speaker resemble one another, so an interval that resamples utterances is too narrow. Here whole
speakers are drawn with replacement; each draw pools the counts of its speakers and the scores follow.
"""

from collections.abc import Callable

import numpy as np

from ser_jax import metrics

LEVEL = 0.95
RESAMPLES = 2000
GENERATOR_SEED = 20180902  # any fixed number: the same predictions always give the same interval
MOST_DRAWN_AT_ONCE = 4_000_000  # bounds the memory of corpora that are resampled by utterance


def bootstrap(units: int, statistic: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES) -> np.ndarray:
    """Computes percentile bootstrap intervals of several statistics of the same draws.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. The percentile method is
    chosen because it exists for every sample: BCa is undefined where all draws are equal, as with a perfect classifier.

    Args:
      units: Number U of what is drawn (speakers or utterances); each draw takes U of them with replacement.
      statistic: Takes [n, U] float64, how often each of n draws holds each unit, and returns [n, J] values; NaN where a
        draw leaves a value undefined (the recall of a class that no drawn unit has).
      resamples: Number of draws.

    Returns:
      [J, 2] float64: (low, high) over the draws that define the value; NaN where none does.
    """
    generator = np.random.default_rng(GENERATOR_SEED)
    batch = max(1, MOST_DRAWN_AT_ONCE // units)
    drawn = [statistic(_draw(generator, units, min(batch, resamples - i))) for i in range(0, resamples, batch)]
    return np.stack([_percentiles(values) for values in np.concatenate(drawn).T])


def score_intervals(counts: np.ndarray, resamples: int = RESAMPLES) -> metrics.Scores:
    """Computes the intervals of the scores, each averaged over seeds.

    Args:
      counts: [U, S, K, K] confusion matrices (rows = truth, columns = prediction) per unit and seed; U > 1 and every
        unit holds an example for every seed.
      resamples: Number of draws.

    Returns:
      WA, UA and macro F1 [2] and recall [K, 2], float64: (low, high).
    """
    units, seeds, classes, _ = counts.shape
    per_unit = counts.reshape(units, -1).astype(np.float64)

    def statistic(times: np.ndarray) -> np.ndarray:
        drawn = metrics.scores((times @ per_unit).reshape(-1, seeds, classes, classes))
        return np.column_stack([score.mean(axis=1) for score in drawn])

    wa, ua, macro_f1, *recall = bootstrap(units, statistic, resamples)
    return metrics.Scores(wa, ua, macro_f1, np.stack(recall))


def _draw(generator: np.random.Generator, units: int, count: int) -> np.ndarray:
    """Returns [count, U] float64: how often each draw holds each unit."""
    drawn = generator.integers(0, units, (count, units)) + units * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _percentiles(values: np.ndarray) -> np.ndarray:
    defined = values[~np.isnan(values)]
    tail = (1 - LEVEL) / 2
    return np.quantile(defined, [tail, 1 - tail]) if defined.size else np.full(2, np.nan)
