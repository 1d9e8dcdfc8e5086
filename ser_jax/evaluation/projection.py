"""Principal components: points of many dimensions on a plane."""

from typing import NamedTuple

import numpy as np


class Plane(NamedTuple):
    """Points on the plane in which they spread most.

    Attributes:
      points: [N, 2] f64, coordinates, in units of the values.
      shares: [2] f64, share of the variance along either axis, in [0, 1].
    """

    points: np.ndarray
    shares: np.ndarray


def principal_plane(values: np.ndarray) -> Plane:
    """Projects points onto their two first principal components.

    Args:
      values: [N, E], N ≥ 1.

    Returns:
      The plane. The sign of an axis is such that the largest of its weights is positive; an axis along which nothing
      varies is 0.
    """
    centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    points, shares = np.zeros((len(centred), 2)), np.zeros(2)
    axes = min(2, len(singular))
    points[:, :axes] = (left * singular * signs)[:, :axes]
    total = np.sum(singular**2)
    if total > 0:
        shares[:axes] = singular[:axes] ** 2 / total
    return Plane(points, shares)
