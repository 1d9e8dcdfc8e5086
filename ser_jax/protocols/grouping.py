"""Spreads groups (speakers, sessions) over folds so that every fold has about the same share of every class."""

from collections.abc import Sequence

import numpy as np

# Shares are counted in whole steps of a millionth of a class: integers have no rounding that differs between machines,
# and with it no hash of a protocol that does.
STEPS = 1 << 20


def spread(groups: Sequence[str], labels: Sequence[str], folds: int) -> dict[str, int]:
    """Gives every group to one fold.

    Groups are taken from the largest to the smallest, each to the fold that has least of what the group brings: the
    sum over classes of (share of the class in the fold) x (share of the class in the group) is smallest. Among equals
    the fold with the smallest sum of shares wins, then the first. Nothing is random.

    Args:
      groups: The group of every utterance.
      labels: The class of every utterance.
      folds: How many folds; at most as many as there are groups.

    Returns:
      Group → number of its fold from 0; every fold gets at least one group.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    classes, class_of = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (group_of, class_of), 1)
    shares = counts * STEPS // counts.sum(axis=0)
    # Stable, so that equally large groups keep their sorted order.
    order = np.argsort(-shares.sum(axis=1), kind="stable")
    loads = np.zeros((folds, len(classes)), np.int64)
    chosen = {}
    for number in order.tolist():
        overlap = loads @ shares[number]
        best = min(range(folds), key=lambda fold: (overlap[fold], loads[fold].sum()))
        loads[best] += shares[number]
        chosen[str(names[number])] = best
    return chosen
