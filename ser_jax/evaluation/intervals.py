"""Confidence intervals of WA and UA that respect who was speaking.

Utterances of one speaker resemble one another, so an interval that resamples utterances is too narrow. Here whole
speakers are drawn with replacement; each draw pools the confusion matrices of its speakers and the scores follow.
"""

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
GENERATOR_SEED = 20180902  # any fixed number: the same predictions always give the same interval
MOST_DRAWN_AT_ONCE = 4_000_000  # bounds the memory of corpora that are resampled by utterance


def bootstrap(counts: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """Computes the percentile bootstrap interval of WA and UA, each averaged over seeds.

    The percentile method is chosen because it exists for every sample: BCa is undefined where all draws are equal, as
    with a perfect classifier.

    Args:
      counts: [U, S, K, K] confusion matrices (rows = truth, columns = prediction) per unit that is drawn (a speaker or
        an utterance) and seed; U > 1 and every unit holds an example for every seed.
      resamples: Number of draws.

    Returns:
      [2, 2] float64: (WA, UA) x (low, high).
    """
    units, seeds, classes, _ = counts.shape
    per_unit = counts.reshape(units, -1).astype(np.float64)

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        """Returns [2, draws] scores of unit numbers [draws, U]."""
        del axis  # always the last
        offsets = units * np.arange(len(drawn))[:, None]
        times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape)
        pooled = (times @ per_unit).reshape(-1, seeds, classes, classes)
        return np.stack([_accuracy(pooled).mean(axis=1), _mean_recall(pooled).mean(axis=1)])

    from scipy import stats  # Takes most of a second to load; training should not wait for it.

    result = stats.bootstrap(
        (np.arange(units),),
        statistic,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, MOST_DRAWN_AT_ONCE // units),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(GENERATOR_SEED),
    )
    return np.stack(result.confidence_interval, axis=-1)


# The scores of ser_jax.metrics over leading axes: one call per draw would take a hundred times as long.


def _accuracy(confusions: np.ndarray) -> np.ndarray:
    """Returns [...] WA of [..., K, K]."""
    return np.trace(confusions, axis1=-2, axis2=-1) / confusions.sum(axis=(-2, -1))


def _mean_recall(confusions: np.ndarray) -> np.ndarray:
    """Returns [...] UA of [..., K, K], over the classes that a draw holds."""
    examples = confusions.sum(axis=-1)
    recalls = np.diagonal(confusions, axis1=-2, axis2=-1) / np.maximum(examples, 1)
    return recalls.sum(axis=-1) / (examples > 0).sum(axis=-1)
