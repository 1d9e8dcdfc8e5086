"""Length buckets: the few padded lengths that every batch has one of."""

import numpy as np


def choose_sizes(covered: np.ndarray, *, shapes: int, batch_size: int, train_share: float) -> np.ndarray:
    """Chooses padded lengths that minimise the frames an epoch computes, by dynamic programming.

    A bucket of n utterances costs ceil(n/B) batches of B rows of its padded length: padding in time and padding of the
    last batch are weighed together, so a small corpus gets few buckets.

    Args:
      covered: [N] frames that every utterance needs.
      shapes: Largest number of buckets.
      batch_size: Rows B of a batch.
      train_share: Share of the utterances in a training part.

    Returns:
      Padded lengths in frames, ascending; the last is max(covered).
    """
    lengths, counts = np.unique(covered, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)]) * train_share
    # cost[i, j]: one bucket for the distinct lengths i…j.
    rows = below[None, 1:] - below[:-1, None]
    cost = np.ceil(rows / batch_size - 1e-9) * batch_size * lengths[None, :]
    cost = np.where(np.tri(len(lengths), k=-1, dtype=bool), np.inf, cost)
    best = cost[0]
    choices = []
    for _ in range(min(shapes, len(lengths)) - 1):
        # split[i, j]: the last bucket starts at i + 1.
        split = best[:-1, None] + cost[1:, :]
        start = np.argmin(split, axis=0)
        improved = np.minimum(best, split[start, np.arange(len(lengths))])
        choices.append(np.where(improved < best, start, -1))
        best = improved
    sizes = [len(lengths) - 1]
    for choice in reversed(choices):
        if choice[sizes[-1]] >= 0:
            sizes.append(int(choice[sizes[-1]]))
    return lengths[sizes[::-1]]


def assign(covered: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns [N], the number of the smallest bucket that holds each utterance."""
    return np.searchsorted(sizes, covered)
