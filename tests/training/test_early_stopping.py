"""The end of an epoch: by hand, against scikit-learn and our metrics, and what must not change."""

import functools
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax import metrics
from ser_jax.training import early_stopping
from ser_jax.training.early_stopping import Best, Scores, Validation
from ser_jax.training.step import MOST_BAD_STEPS, Counters

LN2 = np.log(2.0)
OLD, NEW = {"w": np.array([1.0, -0.0], np.float32)}, {"w": np.array([2.0, 3.0], np.float32)}


@functools.cache
def compiled(patience: int) -> Any:
    return jax.jit(functools.partial(early_stopping.end_epoch, patience=patience))


def best_of(hits=(0, 0, 0), loss=0.0, epoch=0) -> Best:
    return Best(OLD, np.array(hits, np.int32), np.float32(loss), np.int32(epoch))


def counters_of(loss_sum=6.0, weight_sum=4.0, skipped=3, bad_steps=2, active=True) -> Counters:
    sums = np.float32(loss_sum), np.float32(weight_sum)
    return Counters(*sums, np.int32(skipped), np.int32(bad_steps), np.bool_(active))


def end_epoch(
    logits, targets, mask=None, *, best=None, counters=None, epoch=1, patience=0, params=NEW
) -> tuple[Any, Any, Any]:  # Best, Counters, Scores
    logits = logits if isinstance(logits, tuple) else (np.array(logits, np.float32),)
    mask = np.ones(len(targets), bool) if mask is None else np.array(mask, bool)
    arguments = best or best_of(), counters or counters_of(), np.int32(epoch), params, logits
    return jax.device_get(
        compiled(patience)(*arguments, Validation(np.array(targets, np.int32), mask))
    )


def end_fixed(epoch: int, last: int, counters: Counters, params: Any) -> tuple[Counters, Scores]:
    function = jax.jit(early_stopping.end_epoch_without_validation)
    return jax.device_get(function(counters, np.int32(epoch), np.int32(last), params))


def logits_of(class_: int, certainty: float = LN2) -> list[float]:
    """Logits of three classes: e**certainty to 1 to 1."""
    return [certainty * (k == class_) for k in range(3)]


# Recalls ½ and 1: UA ¾, WA ⅔. A class that is predicted has probability 2/(2 + 1 + 1), another ¼.
LOGITS, TARGETS = [logits_of(0), logits_of(1), logits_of(1)], [0, 0, 1]
HITS, LOSS = np.array([1, 1, 0], np.int32), (LN2 + 2 * LN2 + LN2) / 3
LOWER, HIGHER = (0, 1, 0), (2, 1, 0)  # UA ½ and 1


# --- Scores


def test_an_epoch_by_hand():
    """Class 2 has no utterance in the part: it takes no part in UA. The train loss is 6/4."""
    best, counters, scores = end_epoch(LOGITS, TARGETS)
    assert scores.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose([scores.train_loss, scores.loss], [1.5, LOSS], rtol=1e-6)
    flags = scores.trained, scores.diverged, scores.better, scores.stopped
    assert [bool(flag) for flag in flags] == [True, False, True, False]
    assert tiny.bits(best) == tiny.bits(Best(NEW, HITS, scores.loss, np.int32(1)))
    np.testing.assert_array_equal(counters, [0, 0, 3, 2, True])
    assert scores.confusion.dtype == np.int32


def test_an_epoch_in_which_nothing_was_trained():
    """Σ w is 0 where a trial had no batch: no 0/0."""
    assert end_epoch(LOGITS, TARGETS, counters=counters_of(0.0, 0.0))[2].train_loss == 0


@pytest.mark.parametrize(("value", "target"), [(0.0, 2), (1e30, -1), (np.nan, 0), (-np.inf, -1)])
def test_rows_that_are_not_real_take_no_part(value, target):
    """Whatever they hold, to the bit."""
    mask = [True, False, True, True, False]
    filled = [LOGITS[0], [value] * 3, *LOGITS[1:], [value] * 3]
    found = end_epoch(filled, [0, target, 0, 1, target], mask)
    assert tiny.bits(found) == tiny.bits(
        end_epoch([LOGITS[0], logits_of(0), *LOGITS[1:], logits_of(0)], [0, 0, 0, 1, 0], mask)
    )
    assert found[0].hits.tolist() == HITS.tolist() and found[2].better and not found[2].diverged
    np.testing.assert_allclose(found[2].loss, LOSS, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn_and_our_metrics(seed):
    """Random logits in several arrays, as the two executors give them: [B, K], [S, B, K]."""
    rng = np.random.default_rng(seed)
    classes = 4
    shapes = [(5,), (3, 7), (1,), (2, 2, 3)]
    logits = tuple((3 * rng.normal(size=(*shape, classes))).astype(np.float32) for shape in shapes)
    flat = np.concatenate([part.reshape(-1, classes) for part in logits])
    targets = rng.integers(3 if seed == 1 else 4, size=len(flat))  # once a class is missing
    mask = rng.random(len(flat)) < 0.7
    best, _, scores = end_epoch(logits, targets, mask, best=best_of([0] * classes))
    truth, predicted = targets[mask], flat[mask].argmax(axis=1)
    expected = metrics.confusion_matrix(truth, predicted, classes)
    assert scores.confusion.tolist() == expected.tolist()
    recall = sklearn.metrics.recall_score(
        truth, predicted, labels=np.unique(truth), average="macro"
    )
    np.testing.assert_allclose(metrics.unweighted_accuracy(expected), recall, rtol=1e-12)
    assert best.hits.tolist() == np.diagonal(expected).tolist()
    log_probabilities = scipy.special.log_softmax(flat[mask].astype(np.float64), axis=1)
    np.testing.assert_allclose(
        scores.loss, -log_probabilities[np.arange(len(truth)), truth].mean(), rtol=1e-6
    )


# --- The best epoch

BELOW, ABOVE = LOSS - 1e-5, LOSS + 1e-5


@pytest.mark.parametrize(
    ("hits", "loss", "better"),
    [(LOWER, 0.0, True), (HITS, ABOVE, True), (HITS, BELOW, False), (HIGHER, 9.0, False)],
    ids=["higher UA", "tie, lower loss", "tie, higher loss", "lower UA"],
)
def test_higher_ua_then_lower_loss(hits, loss, better):
    before = best_of(hits, loss, epoch=2)
    best, _, scores = end_epoch(LOGITS, TARGETS, best=before, epoch=5)
    assert scores.better == better
    assert tiny.bits(best) == tiny.bits(
        Best(NEW, HITS, scores.loss, np.int32(5)) if better else before
    )


TEN = [(7, 7, 7, 7), (9, 8, 6, 5), (9, 9, 9, 1)]  # of ten per class: UA 0.7


@pytest.mark.parametrize("first", TEN)
@pytest.mark.parametrize("second", TEN)
def test_equal_ua_is_decided_by_the_loss(first, second):
    """Every class has ten utterances; those that are not hit are taken for the next class."""
    wrong = [[k if n < hits else (k + 1) % 4 for n in range(10)] for k, hits in enumerate(second)]
    targets = np.repeat(np.arange(4), 10)
    logits = LN2 * np.eye(4, dtype=np.float32)[np.ravel(wrong)]
    for loss, better in ((9.0, True), (0.0, False)):
        found = end_epoch((logits,), targets, best=best_of(first, loss, 1), epoch=2)[2]
        assert found.better == better
        assert metrics.exact_unweighted_accuracy(found.confusion) == Fraction(7, 10)


compare = jax.jit(early_stopping.compare_ua)
counts_and_hits = st.lists(
    st.one_of(st.integers(0, 12), st.integers(0, 2**23 - 1)).flatmap(
        lambda count: st.tuples(st.just(count), st.integers(0, count), st.integers(0, count))
    ),
    min_size=4,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(counts_and_hits)
@example([(8388593, 4194296, 4194296), (8388587, 1, 0), (8388581, 0, 1), (0, 0, 0)])
@example([(3, 1, 0), (3, 1, 0), (3, 1, 0), (7, 0, 7)])
def test_uas_are_compared_without_rounding(classes):
    """Against fractions, also where the difference is 1e-14 or nothing."""
    counts, hits, others = np.array(classes, np.int32).T
    exact = sum(
        (Fraction(one - other, count) for count, one, other in classes if count), Fraction()
    )
    assert compare(hits, others, counts) == (exact > 0) - (exact < 0)
    assert compare(hits, hits, counts) == 0


def test_the_same_scores_again_are_not_better():
    """The earlier of two equal epochs stays."""
    best, _, _ = end_epoch(LOGITS, TARGETS)
    assert tiny.bits(end_epoch(LOGITS, TARGETS, best=best, epoch=2)[0]) == tiny.bits(best)


def test_the_first_epoch_is_the_best_so_far():
    """However bad: everything wrong, and with a loss that no epoch can be worse than."""
    found = end_epoch([logits_of(1, 3e38)], [0])
    assert found[2].better and found[0].epoch == 1 and not found[0].hits.any()
    assert tiny.bits(found[0].params) == tiny.bits(NEW)
    later = end_epoch(LOGITS, TARGETS, best=best_of(), epoch=4)  # the first that this trial has
    assert later[2].better and later[0].epoch == 4


def test_nothing_yet():
    best = early_stopping.no_best_epoch(jax.tree.map(jnp.asarray, OLD), 3)
    assert tiny.bits(best) == tiny.bits(best_of())
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(best)), (
        "or the next epoch compiles again"
    )


# --- What ends a trial


@pytest.mark.parametrize("patience", [1, 5])
def test_patience_to_the_epoch(patience):
    """Epoch 3 was the best: after `patience` epochs without a better one, not one earlier."""
    before = best_of(HIGHER, 0.0, epoch=3)
    for epoch in range(4, 4 + patience):
        best, counters, scores = end_epoch(
            LOGITS, TARGETS, best=before, epoch=epoch, patience=patience
        )
        last = epoch == 3 + patience
        assert (bool(scores.stopped), bool(counters.active)) == (last, not last)
        assert scores.trained and not scores.better and tiny.bits(best) == tiny.bits(before)
    _, counters, scores = end_epoch(
        LOGITS, TARGETS, best=best_of(LOWER, 0.0, 3), epoch=3 + patience, patience=patience
    )
    assert scores.better and not scores.stopped and counters.active
    never = end_epoch(LOGITS, TARGETS, best=best_of(HIGHER, 0.0, epoch=1), epoch=1000, patience=0)
    assert not never[2].stopped and never[1].active


@pytest.mark.parametrize(("value", "epoch"), [(np.nan, 1), (np.inf, 7), (-np.inf, 7)])
def test_scores_that_are_not_finite_are_divergence(value, epoch):
    """R18: one is enough, even in a class that no row has; the best epoch stays, to the bit."""
    before = best_of(LOWER, 1.0, epoch=1) if epoch > 1 else best_of()
    bad = [LOGITS[0], LOGITS[1], [*LOGITS[2][:2], value]]
    best, counters, scores = end_epoch(bad, TARGETS, best=before, epoch=epoch, patience=1)
    assert scores.diverged and scores.trained and not scores.better and not scores.stopped
    assert tiny.bits(best) == tiny.bits(before) and not counters.active


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_parameters_that_are_not_finite_are_divergence_whatever_they_score(value):
    """A saturated unit hides them from the logits; a checkpoint would not hold them."""
    lost = {name: np.full_like(leaf, value) for name, leaf in NEW.items()}
    best, counters, scores = end_epoch(LOGITS, TARGETS, params=lost)
    assert scores.diverged and not scores.better and not counters.active
    assert tiny.bits(best) == tiny.bits(best_of())
    counters, scores = end_fixed(3, 3, counters_of(), lost)
    assert scores.diverged and not scores.stopped and not counters.active


def test_a_loss_that_is_not_finite_is_divergence():
    """Logits so far apart that their difference overflows."""
    far = [[3e38, -3e38, 0.0], *LOGITS[1:]]
    _, _, scores = end_epoch(far, [1, *TARGETS[1:]])
    assert np.isinf(scores.loss) and scores.diverged and not scores.better


@pytest.mark.parametrize("bad_steps", [MOST_BAD_STEPS - 1, MOST_BAD_STEPS])
def test_five_bad_steps_in_a_row_are_divergence(bad_steps):
    best, counters, scores = end_epoch(LOGITS, TARGETS, counters=counters_of(bad_steps=bad_steps))
    diverged = bad_steps == 5
    flags = scores.diverged, not scores.better, not counters.active
    assert [bool(flag) for flag in flags] == [diverged] * 3
    assert tiny.bits(best) == tiny.bits(best_of()) or not diverged
    counters, scores = end_fixed(1, 3, counters_of(bad_steps=bad_steps), NEW)
    assert bool(scores.diverged) == (not counters.active) == diverged


@pytest.mark.parametrize("logits", [LOGITS, [[np.nan] * 3] * 3], ids=["better", "not finite"])
def test_a_trial_that_has_ended_stays_as_it_is(logits):
    """Neither better, nor diverged (again), nor stopped (again)."""
    ended = counters_of(0.0, 0.0, bad_steps=MOST_BAD_STEPS, active=False)
    before = best_of(LOWER, 1.0, epoch=1)
    best, counters, scores = end_epoch(
        logits, TARGETS, best=before, counters=ended, epoch=9, patience=2
    )
    assert tiny.bits((best, counters)) == tiny.bits((before, ended))
    assert not (scores.trained or scores.diverged or scores.better or scores.stopped)
    counters, scores = end_fixed(5, 3, ended, {"w": np.array([np.nan], np.float32)})
    assert tiny.bits(counters) == tiny.bits(ended)
    assert not (scores.trained or scores.diverged or scores.stopped)


def test_a_given_number_of_epochs_by_hand():
    """The train loss is 6/4; the trial ends with its last epoch, not one earlier."""
    for epoch, stopped in ((1, False), (2, False), (3, True), (4, True)):
        counters, scores = end_fixed(epoch, 3, counters_of(), NEW)
        assert scores.train_loss == 1.5
        assert (scores.loss, scores.confusion, scores.better) == (None, None, None)
        assert scores.trained and not scores.diverged
        assert (bool(scores.stopped), bool(counters.active)) == (stopped, not stopped)
        assert tiny.bits(counters) == tiny.bits(counters_of(0.0, 0.0, active=not stopped))
