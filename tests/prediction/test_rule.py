"""Answers from probabilities: the best class, a choice among some, and none where the best is too unlikely."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ser_jax.errors import UserError
from ser_jax.prediction.rule import make_rule

KNOWN = ("angry", "happy", "sad")
ROWS = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])


def test_the_most_probable_class_is_named():
    answers = make_rule(KNOWN, (), 0.0).answers(ROWS)
    assert [answer.label for answer in answers] == ["angry", "sad"]
    assert list(answers[0].probabilities.items()) == [("angry", 0.5), ("happy", 0.3), ("sad", 0.2)]


def test_shares_of_some_classes_are_divided_by_their_sum():
    first, second = make_rule(KNOWN, ("sad ", "happy", "happy"), 0.0).answers(ROWS)
    assert first.label == "happy" and first.probabilities == pytest.approx({"happy": 0.6, "sad": 0.4})
    assert second.label == "sad" and second.probabilities == pytest.approx({"happy": 1 / 3, "sad": 2 / 3})
    assert list(first.probabilities) == ["happy", "sad"], "in the model's order"


def test_below_the_threshold_no_class_is_named():
    assert [answer.label for answer in make_rule(KNOWN, (), 0.55).answers(ROWS)] == [None, "sad"]
    assert [answer.label for answer in make_rule(KNOWN, (), 0.5).answers(ROWS)] == ["angry", "sad"]
    # The threshold is for the shares that are told: 0.3 of 0.5.
    assert make_rule(KNOWN, ("happy", "sad"), 0.55).answers(ROWS)[0].label == "happy"


def test_classes_that_are_all_but_impossible_give_numbers():
    answer = make_rule(KNOWN, ("happy", "sad"), 0.5).answers(np.array([[1.0, 0.0, 0.0]]))[0]
    assert answer.label is None and list(answer.probabilities.values()) == [0.0, 0.0]


@given(arrays.arrays(np.float64, (4, 3), elements=st.floats(0.01, 1)), st.sets(st.sampled_from(KNOWN), min_size=2))
def test_shares_add_up_to_one_and_keep_their_ratios(values, asked):
    probabilities = values / values.sum(axis=1, keepdims=True)
    for answer, row in zip(make_rule(KNOWN, sorted(asked), 0.0).answers(probabilities), probabilities, strict=True):
        shares = np.array(list(answer.probabilities.values()))
        kept = row[[KNOWN.index(name) for name in answer.probabilities]]
        assert set(answer.probabilities) == asked
        np.testing.assert_allclose(shares.sum(), 1)
        np.testing.assert_allclose(shares * kept[0], kept * shares[0], atol=1e-12)


@pytest.mark.parametrize(
    ("classes", "threshold", "sentence"),
    [
        (["angry", "bored"], 0, "classes=bored: the model knows angry, happy, sad"),
        (["sad"], 0, "classes=sad leaves no choice; name two or more of angry, happy, sad"),
        ([], 1.5, r"threshold=1.5 is no share; choose one in \[0, 1\]"),
        ([], -0.1, "threshold=-0.1 is no share"),
        ([], float("nan"), "threshold=nan is no share"),
    ],
)
def test_rules_that_are_none_are_refused(classes, threshold, sentence):
    with pytest.raises(UserError, match=sentence):
        make_rule(KNOWN, classes, threshold)
