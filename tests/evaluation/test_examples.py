"""Examples chosen for the report, and principal components against scikit-learn."""

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import decomposition

from ser_jax.evaluation import examples
from ser_jax.evaluation.examples import choose_examples, principal_plane
from ser_jax.evaluation.predictions import Prediction

CLASSES = ("a", "b")


def row(name, fold, label, prediction, confidence: float, classes=CLASSES) -> Prediction:
    rest = (1 - confidence) / (len(classes) - 1)
    probabilities = tuple(confidence if c == prediction else rest for c in classes)
    return Prediction(name, "", fold, 0, label, prediction, probabilities)


def test_the_most_confident_right_and_wrong_of_each_class():
    rows = [
        row("1", "f", "a", "a", 0.8),
        row("2", "g", "a", "a", 0.9),
        row("3", "f", "a", "b", 0.7),
        row("4", "f", "b", "b", 0.6),
        row("5", "h", "b", "b", 0.6),
        row("6", "h", "", "b", 1.0),
    ]
    assert [one.id for one in choose_examples(rows, CLASSES)] == ["2", "3", "4"]
    assert choose_examples([], CLASSES) == []


def test_a_fold_that_is_always_confident_does_not_fill_the_page():
    rows = [
        row(f"{f}{label}{p}", f, label, p, 1.0 if f == "f" else 0.7)
        for f in "fg"
        for label in "ab"
        for p in "ab"
    ]
    chosen = choose_examples(rows, CLASSES)
    assert [one.label + one.prediction for one in chosen] == ["aa", "ab", "bb", "ba"]
    assert [sum(one.fold == fold for one in chosen) for fold in "fg"] == [examples.MOST_OF_FOLD, 2]
    assert [one.fold for one in choose_examples(rows[:4], CLASSES)] == ["f"] * 4, "no other fold"


def test_of_many_classes_the_most_confident():
    classes = tuple("abcdefg")
    rows = []
    for number, label in enumerate(classes):
        confidence = 0.3 + number / 10
        rows.append(row(f"{label}1", f"{label}1", label, label, confidence, classes))
        if label != "a":
            rows.append(row(f"{label}0", f"{label}0", label, "a", confidence, classes))
    chosen = [one.id for one in choose_examples(rows, classes)]
    assert len(chosen) == examples.MOST_EXAMPLES
    assert chosen == [f"{label}{right}" for label in "defg" for right in (1, 0)]


SHAPES, NUMBERS = st.tuples(st.integers(1, 9), st.integers(1, 6)), st.floats(-100, 100, width=32)


def test_plane_by_hand():
    """Along (3, 4)/5 at −10, 0 and 10, across it at 1, −2 and 1."""
    along, across = np.array([3.0, 4.0]) / 5, np.array([-4.0, 3.0]) / 5
    points = np.outer([-10, 0, 10], along) + np.outer([1, -2, 1], across) + 7
    plane = principal_plane(points)
    np.testing.assert_allclose(plane.points[:, 0], [-10, 0, 10], atol=1e-12)
    # The largest weight of the second axis is that of the first value, so the axis is (4, −3)/5.
    np.testing.assert_allclose(plane.points[:, 1], [-1, 2, -1], atol=1e-12)
    np.testing.assert_allclose(plane.variance, [200 / 206, 6 / 206])


def test_as_scikit_learn_does():
    points = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9)
    oracle = decomposition.PCA(2).fit(points)
    plane = principal_plane(points)
    np.testing.assert_allclose(np.abs(plane.points), np.abs(oracle.transform(points)), atol=1e-9)
    np.testing.assert_allclose(plane.variance, oracle.explained_variance_ratio_)


@hypothesis.given(arrays.arrays(np.float64, SHAPES, elements=NUMBERS))
def test_any_points(points):
    """Distances do not grow, and the fractions of the variance are sorted and at most 1."""
    plane = principal_plane(points)
    assert plane.points.shape == (len(points), 2) and np.isfinite(plane.points).all()
    assert 0 <= plane.variance[1] <= plane.variance[0] + 1e-12 and plane.variance.sum() <= 1 + 1e-9
    before = np.linalg.norm(points[:, None] - points[None], axis=2)
    after = np.linalg.norm(plane.points[:, None] - plane.points[None], axis=2)
    assert (after <= before + 1e-6).all()


def test_one_point_and_equal_points_lie_in_the_middle():
    for points in (np.ones((1, 3)), np.ones((4, 3)), np.ones((4, 1))):
        plane = principal_plane(points)
        assert not plane.points.any() and not plane.variance.any()
