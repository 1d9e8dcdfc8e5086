"""Principal components, against a case by hand and scikit-learn."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ser_jax.evaluation.projection import principal_plane

values = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.floats(-100, 100, width=32)
)


def test_by_hand():
    """Along (3, 4)/5 at −10, 0 and 10, across it at 1, −2 and 1."""
    along, across = np.array([3.0, 4.0]) / 5, np.array([-4.0, 3.0]) / 5
    points = np.outer([-10, 0, 10], along) + np.outer([1, -2, 1], across) + 7
    plane = principal_plane(points)
    np.testing.assert_allclose(plane.points[:, 0], [-10, 0, 10], atol=1e-12)
    # The largest weight of the second axis is that of the first value, so the axis is (4, −3)/5.
    np.testing.assert_allclose(plane.points[:, 1], [-1, 2, -1], atol=1e-12)
    np.testing.assert_allclose(plane.shares, [200 / 206, 6 / 206])


def test_as_scikit_learn_does():
    decomposition = pytest.importorskip("sklearn.decomposition")
    points = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9)
    oracle = decomposition.PCA(2).fit(points)
    plane = principal_plane(points)
    np.testing.assert_allclose(np.abs(plane.points), np.abs(oracle.transform(points)), atol=1e-9)
    np.testing.assert_allclose(plane.shares, oracle.explained_variance_ratio_)


@hypothesis.given(values)
def test_any_points(points):
    """Distances do not grow, the shares are no more than all, and the order of the points means nothing."""
    plane = principal_plane(points)
    assert plane.points.shape == (len(points), 2) and np.isfinite(plane.points).all()
    assert 0 <= plane.shares[1] <= plane.shares[0] + 1e-12 and plane.shares.sum() <= 1 + 1e-9
    before = np.linalg.norm(points[:, None] - points[None], axis=2)
    after = np.linalg.norm(plane.points[:, None] - plane.points[None], axis=2)
    assert (after <= before + 1e-6).all()


def test_one_point_and_equal_points_lie_in_the_middle():
    for points in (np.ones((1, 3)), np.ones((4, 3)), np.ones((4, 1))):
        plane = principal_plane(points)
        assert not plane.points.any() and not plane.shares.any()


def test_adding_a_constant_or_turning_the_space_changes_no_share():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(20, 5))
    turned = points @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + 3
    np.testing.assert_allclose(principal_plane(turned).shares, principal_plane(points).shares)
