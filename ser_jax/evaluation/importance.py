"""Permutation importance of functionals: how much UA a trained model loses when they are shuffled.

Source: Breiman, "Random Forests" (Machine Learning 45, 2001), section 10. The functionals of one
contour, such as all of the pitch, say nearly the same, so that a model does well without any single
one of them; they are shuffled together.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ser_jax import metrics

REPEATS = 5
MOST_SINGLE = 100  # values of a set up to which each is shuffled alone, too


class Group(NamedTuple):
    """Functionals that are shuffled together."""

    name: str  # of the contour, such as "F0semitoneFrom27.5Hz"; of a single one its own
    columns: tuple[int, ...]  # their places among the D functionals


class Importance(NamedTuple):
    """What shuffling a group costs."""

    name: str  # of the group
    count: int  # functionals in it
    drop: float  # UA lost, mean over the repeats, in [−1, 1]
    lowest: float  # in one of the repeats
    highest: float  # in one of the repeats


class Importances(NamedTuple):
    """What the functionals of a system are worth to it, on validation parts."""

    feature_set: str  # its name
    utterances: int  # over all folds
    ua: float  # with nothing shuffled
    contours: tuple[Importance, ...]  # the highest drop first
    values: tuple[Importance, ...]  # single functionals; none of a set with many


def contours(names: Sequence[str]) -> list[Group]:
    """Groups functionals by the contour that they describe, derivatives with the contour itself.

    openSMILE's names are `<contour>_sma…_<functional>`; one without "_sma" is a group of its own.
    """
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name.partition("_sma")[0], []).append(number)
    return [Group(name, tuple(columns)) for name, columns in found.items()]


def singles(names: Sequence[str]) -> list[Group]:
    """Returns every functional alone; nothing for more than `MOST_SINGLE`."""
    if len(names) > MOST_SINGLE:
        return []
    return [Group(name, (number,)) for number, name in enumerate(names)]


def confusions(
    values: np.ndarray,
    targets: np.ndarray,
    classes: int,
    groups: Sequence[Group],
    logits: Callable[[np.ndarray, np.ndarray], np.ndarray],
    generator: np.random.Generator,
) -> np.ndarray:
    """Shuffles one group after the other among the utterances of a validation part.

    Args:
      values: [n, D], functionals.
      targets: [n] class numbers.
      classes: K.
      groups: G groups.
      logits: Of a batch of m functionals [m, D] and the numbers [m] of the utterances whose other
        inputs they come with: [m, K].
      generator: Draws the `REPEATS` permutations, the same for all groups.

    Returns:
      [1 + G, REPEATS, K, K] confusion matrices; first those with nothing shuffled.
    """
    count = len(values)
    own = np.tile(np.arange(count), REPEATS)
    others = np.concatenate([generator.permutation(count) for _ in range(REPEATS)])
    found = []
    for group in (Group("", ()), *groups):
        shuffled, columns = values[own], np.array(group.columns, np.int64)
        shuffled[:, columns] = values[others[:, None], columns]
        predictions = logits(shuffled, own).argmax(axis=1).reshape(REPEATS, count)
        found.append([metrics.confusion_matrix(targets, row, classes) for row in predictions])
    return np.array(found)


def summarise(feature_set: str, names: Sequence[str], pooled: np.ndarray) -> Importances:
    """Returns the drops, given `confusions` of the groups of a set's names, summed over folds."""
    groups, alone = contours(names), singles(names)
    ua = metrics.scores(pooled).ua  # [1 + G, REPEATS]
    drops = ua[0] - ua[1:]
    rows = [
        Importance(
            group.name, len(group.columns), *map(float, (lost.mean(), lost.min(), lost.max()))
        )
        for group, lost in zip([*groups, *alone], drops, strict=True)
    ]
    both = rows[: len(groups)], rows[len(groups) :]
    ranked = (tuple(sorted(part, key=lambda row: (-row.drop, row.name))) for part in both)
    return Importances(feature_set, int(pooled[0, 0].sum()), float(ua[0, 0]), *ranked)
