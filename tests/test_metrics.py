"""The scores: by hand, against scikit-learn and audmetric, and by their properties."""

import audmetric
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn_metrics

from ser_jax import metrics

CLASSES = 4
SCORES = (metrics.weighted_accuracy, metrics.unweighted_accuracy, metrics.macro_f1)
confusions = arrays.arrays(np.int64, (CLASSES, CLASSES), elements=st.integers(0, 30))
pairs = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60
).map(lambda rows: np.array(rows).T)


def test_by_hand():
    # Two angry, one of them found; four happy, three found; no sad.
    labels, predictions = np.array([[0, 0, 1, 1, 1, 1], [0, 2, 1, 1, 1, 0]])
    confusion = metrics.confusion_matrix(labels, predictions, 3)
    assert confusion.tolist() == [[1, 0, 1], [1, 3, 0], [0, 0, 0]]
    np.testing.assert_array_equal(metrics.recalls(confusion), [0.5, 0.75, np.nan])
    assert metrics.weighted_accuracy(confusion) == 4 / 6
    assert metrics.unweighted_accuracy(confusion) == 0.625
    # F1 of angry: precision 1/2, recall 1/2; of happy: precision 1, recall 3/4. No sad occurs, so
    # it has none.
    assert metrics.macro_f1(confusion) == pytest.approx((1 / 2 + 6 / 7) / 2)


def test_equal_ua_is_equal():
    """Recalls of which float64 makes different means: 0.7 and 0.7000000000000001."""
    equal = [
        np.diag(hits) + np.roll(np.diag(10 - np.array(hits)), 1, axis=1)
        for hits in ([7, 7, 7, 7], [9, 8, 6, 5], [9, 9, 9, 1])
    ]
    assert len({metrics.exact_unweighted_accuracy(confusion) for confusion in equal}) == 1
    assert len({metrics.unweighted_accuracy(confusion) for confusion in equal}) > 1
    assert metrics.exact_unweighted_accuracy(np.zeros((2, 2), int)) == 0


def test_nothing_to_score():
    empty = metrics.confusion_matrix(np.array([], int), np.array([], int), 3)
    assert empty.shape == (3, 3)
    assert all(np.isnan(score(empty)) for score in SCORES)
    assert np.isnan(metrics.recalls(empty)).all()


@pytest.mark.parametrize("guess", range(CLASSES))
def test_a_constant_guess_reaches_chance(guess):
    labels = np.repeat(np.arange(CLASSES), [1, 2, 30, 400])
    confusion = metrics.confusion_matrix(labels, np.full_like(labels, guess), CLASSES)
    assert metrics.unweighted_accuracy(confusion) == 1 / CLASSES


@hypothesis.given(pairs)
@hypothesis.settings(deadline=None)
def test_against_scikit_learn(rows):
    labels, predictions = rows
    confusion = metrics.confusion_matrix(labels, predictions, CLASSES)
    expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=range(CLASSES))
    np.testing.assert_array_equal(confusion, expected)
    assert metrics.weighted_accuracy(confusion) == pytest.approx(
        sklearn_metrics.accuracy_score(labels, predictions)
    )
    present = np.unique(labels)
    recall = sklearn_metrics.recall_score(labels, predictions, labels=present, average="macro")
    assert metrics.unweighted_accuracy(confusion) == pytest.approx(recall)
    f1 = sklearn_metrics.f1_score(labels, predictions, labels=present, average="macro")
    assert metrics.macro_f1(confusion) == pytest.approx(f1)


@hypothesis.given(pairs)
@hypothesis.settings(deadline=None)
def test_against_audmetric(rows):
    # Every class occurs.
    labels, predictions = (np.concatenate([part, np.arange(CLASSES)]) for part in rows)
    confusion = metrics.confusion_matrix(labels, predictions, CLASSES)
    columns = labels.tolist(), predictions.tolist()
    ua = metrics.unweighted_accuracy(confusion)
    assert ua == pytest.approx(audmetric.unweighted_average_recall(*columns))
    assert ua == pytest.approx(sklearn_metrics.balanced_accuracy_score(*columns))
    assert metrics.weighted_accuracy(confusion) == pytest.approx(audmetric.accuracy(*columns))
    f1 = audmetric.unweighted_average_fscore(*columns)
    assert metrics.macro_f1(confusion) == pytest.approx(f1)


@hypothesis.given(arrays.arrays(np.int64, (2, 3, CLASSES, CLASSES), elements=st.integers(0, 3)))
@hypothesis.settings(deadline=None)
def test_a_stack_is_scored_like_its_matrices(stack):
    found = metrics.scores(stack)
    for place in np.ndindex(2, 3):
        matrix = stack[place]
        values = [found.wa[place], found.ua[place], found.macro_f1[place]]
        np.testing.assert_array_equal(values, [score(matrix) for score in SCORES])
        np.testing.assert_array_equal(found.recall[place], metrics.recalls(matrix))


@hypothesis.given(confusions, arrays.arrays(np.int64, CLASSES, elements=st.integers(1, 9)))
@hypothesis.settings(deadline=None)
def test_ua_ignores_how_often_a_class_occurs(confusion, times):
    ua = metrics.unweighted_accuracy(confusion)
    assert metrics.unweighted_accuracy(confusion * times[:, None]) == pytest.approx(ua, nan_ok=True)


@hypothesis.given(confusions, st.permutations(range(CLASSES)))
@hypothesis.settings(deadline=None)
def test_order_of_classes_does_not_matter(confusion, order):
    shuffled = confusion[np.ix_(order, order)]
    for score in SCORES:
        assert score(shuffled) == pytest.approx(score(confusion), nan_ok=True)


@hypothesis.given(confusions)
@hypothesis.settings(deadline=None)
def test_scores_are_fractions(confusion):
    hypothesis.assume(confusion.sum() > 0)
    assert all(0 <= score(confusion) <= 1 for score in SCORES)
