"""Spreading groups over folds: by hand, and never worse than what chance or a well-known tool makes of it."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from ser_jax.protocols.grouping import spread


def imbalance(fold_of_row: np.ndarray, labels: np.ndarray, folds: int) -> float:
    """Sums over classes how far the folds' shares of the class are from equal ones (squared)."""
    shares = [[np.mean(fold_of_row[labels == name] == fold) for fold in range(folds)] for name in np.unique(labels)]
    return float(np.sum((np.array(shares) - 1 / folds) ** 2))


def random_table(seed: int) -> tuple[list[str], np.ndarray, int]:
    """Draws groups of 1 to 60 utterances whose classes are more or less alike; returns groups, labels and k."""
    rng = np.random.default_rng(seed)
    names, classes = int(rng.integers(3, 40)), int(rng.integers(2, 8))
    groups, labels = [], []
    for number in range(names):
        shares = rng.dirichlet(np.full(classes, rng.choice([0.3, 1.0, 5.0])))
        size = int(rng.integers(1, 60))
        groups += [f"g{number:02}"] * size
        labels += rng.choice(classes, size, p=shares).tolist()
    return groups, np.array(labels), int(rng.integers(3, min(names, 10) + 1))


def test_by_hand():
    """b has all of y and goes first, then a with half of x; c and d go where less of x is."""
    groups = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"] * 2
    labels = ["x"] * 4 + ["y"] * 3 + ["x"] * 2 + ["x"] * 2
    assert spread(groups, labels, 2) == {"b": 0, "a": 1, "c": 0, "d": 0}


def test_equal_groups_are_dealt_in_sorted_order():
    assert spread(list("fbdaec"), ["x"] * 6, 3) == {"a": 0, "b": 1, "c": 2, "d": 0, "e": 1, "f": 2}


def test_the_order_of_rows_does_not_matter():
    groups, labels, folds = random_table(3)
    order = np.random.default_rng(0).permutation(len(groups))
    shuffled = spread([groups[row] for row in order], labels[order].tolist(), folds)
    assert shuffled == spread(groups, labels.tolist(), folds)


@pytest.mark.parametrize("seed", range(40))
def test_balance_is_no_worse_than_that_of_the_median_random_assignment(seed):
    groups, labels, folds = random_table(seed)
    chosen = spread(groups, labels.tolist(), folds)
    assert set(chosen) == set(groups) and set(chosen.values()) == set(range(folds))
    rng = np.random.default_rng(seed)
    names = sorted(chosen)
    by_chance = []
    for _ in range(101):
        dealt = np.concatenate([np.arange(folds), rng.integers(0, folds, len(names) - folds)])
        place = dict(zip(names, rng.permutation(dealt).tolist(), strict=True))
        by_chance.append(imbalance(np.array([place[name] for name in groups]), labels, folds))
    assert imbalance(np.array([chosen[name] for name in groups]), labels, folds) <= np.median(by_chance)


def test_balance_is_on_average_no_worse_than_that_of_scikit_learn():
    ours, theirs = [], []
    for seed in range(40):
        groups, labels, folds = random_table(seed)
        chosen = spread(groups, labels.tolist(), folds)
        ours.append(imbalance(np.array([chosen[name] for name in groups]), labels, folds))
        place = np.zeros(len(groups), int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It says that small classes are smaller than k.
            splits = StratifiedGroupKFold(folds).split(groups, labels, groups)
            for number, (_, test) in enumerate(splits):
                place[test] = number
        theirs.append(imbalance(place, labels, folds))
    assert np.mean(ours) <= np.mean(theirs)
