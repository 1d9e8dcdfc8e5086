"""What an epoch decides: by hand, against scikit-learn and the metrics of the package, and what must not move."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tiny

from ser_jax import metrics
from ser_jax.training import selection
from ser_jax.training.selection import Best, Scores, Validation
from ser_jax.training.step import MOST_BAD_STEPS, Counters

LN2 = np.log(2.0)
OLD, NEW = {"w": np.array([1.0, -0.0], np.float32)}, {"w": np.array([2.0, 3.0], np.float32)}


@functools.cache
def compiled(patience: int) -> Any:
    return jax.jit(functools.partial(selection.judge, patience=patience))


def best_of(ua=-1.0, loss=0.0, epoch=0) -> Best:
    return Best(OLD, np.float32(ua), np.float32(loss), np.int32(epoch))


def counters_of(loss_sum=6.0, weight_sum=4.0, skipped=3, bad_steps=2, active=True) -> Counters:
    sums = np.float32(loss_sum), np.float32(weight_sum)
    return Counters(*sums, np.int32(skipped), np.int32(bad_steps), np.bool_(active))


def judge(
    logits, targets, mask=None, *, best=None, counters=None, epoch=1, patience=0, params=NEW
) -> tuple[Any, Any, Any]:  # Best, Counters, Scores
    logits = logits if isinstance(logits, tuple) else (np.array(logits, np.float32),)
    mask = np.ones(len(targets), bool) if mask is None else np.array(mask, bool)
    arguments = best or best_of(), counters or counters_of(), np.int32(epoch), params, logits
    return jax.device_get(compiled(patience)(*arguments, Validation(np.array(targets, np.int32), mask)))


def says(class_: int, certainty: float = LN2) -> list[float]:
    """Logits of three classes: e**certainty to 1 to 1."""
    return [certainty * (k == class_) for k in range(3)]


# Recalls ½ and 1: UA ¾, WA ⅔. A class that is said has probability 2/(2 + 1 + 1), another ¼.
LOGITS, TARGETS = [says(0), says(1), says(1)], [0, 0, 1]
UA, LOSS = 0.75, (LN2 + 2 * LN2 + LN2) / 3


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_an_epoch_by_hand():
    """Class 2 has no utterance in the part: it takes no part in UA. The train loss is 6/4."""
    best, counters, scores = judge(LOGITS, TARGETS)
    assert scores.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]] and scores.confusion.dtype == np.int32
    np.testing.assert_allclose([scores.train_loss, scores.loss], [1.5, LOSS], rtol=1e-6)
    flags = scores.trained, scores.diverged, scores.better, scores.stopped
    assert [bool(flag) for flag in flags] == [True, False, True, False]
    assert tiny.bits(best.params) == tiny.bits(NEW) and (best.ua, best.epoch) == (UA, 1) and best.loss == scores.loss
    np.testing.assert_array_equal(counters, [0, 0, 3, 2, True])
    assert [leaf.dtype for leaf in jax.tree.leaves(best)] == [np.float32, np.float32, np.float32, np.int32]


def test_an_epoch_in_which_nothing_was_trained():
    """Σ w is 0 where a run had no batch: no 0/0."""
    assert judge(LOGITS, TARGETS, counters=counters_of(0.0, 0.0))[2].train_loss == 0


@pytest.mark.parametrize("value", [0.0, 1e30, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("target", [0, 2, -1])
def test_rows_that_are_not_real_take_no_part(value, target):
    """Whatever they hold, to the bit."""
    mask = [True, False, True, True, False]
    filled = [LOGITS[0], [value] * 3, *LOGITS[1:], [value] * 3]
    found = judge(filled, [0, target, 0, 1, target], mask)
    assert tiny.bits(found) == tiny.bits(judge([LOGITS[0], says(0), *LOGITS[1:], says(0)], [0, 0, 0, 1, 0], mask))
    assert found[0].ua == UA and found[2].better and not found[2].diverged
    np.testing.assert_allclose(found[2].loss, LOSS, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn_and_our_metrics(seed):
    """Random logits in several arrays, as the two engines give them: [B, K], [S, B, K]."""
    rng = np.random.default_rng(seed)
    classes = 4
    shapes = [(5,), (3, 7), (1,), (2, 2, 3)]
    logits = tuple((3 * rng.normal(size=(*shape, classes))).astype(np.float32) for shape in shapes)
    flat = np.concatenate([part.reshape(-1, classes) for part in logits])
    targets = rng.integers(3 if seed == 1 else 4, size=len(flat))  # once a class is missing
    mask = rng.random(len(flat)) < 0.7
    best, _, scores = judge(logits, targets, mask)
    truth, said = targets[mask], flat[mask].argmax(axis=1)
    expected = metrics.confusion_matrix(truth, said, classes)
    assert scores.confusion.tolist() == expected.tolist()
    assert expected.tolist() == sklearn.metrics.confusion_matrix(truth, said, labels=range(classes)).tolist()
    np.testing.assert_allclose(best.ua, metrics.unweighted_accuracy(expected), rtol=1e-6)
    recall = sklearn.metrics.recall_score(truth, said, labels=np.unique(truth), average="macro")
    np.testing.assert_allclose(best.ua, recall, rtol=1e-6)
    log_probabilities = scipy.special.log_softmax(flat[mask].astype(np.float64), axis=1)
    np.testing.assert_allclose(scores.loss, -log_probabilities[np.arange(len(truth)), truth].mean(), rtol=1e-6)


# --- The best epoch ---------------------------------------------------------------------------------------------------

BELOW, ABOVE = LOSS - 1e-5, LOSS + 1e-5


@pytest.mark.parametrize(
    ("ua", "loss", "better"),
    [
        (0.5, 0.0, True),
        (0.74, BELOW, True),
        (0.75, ABOVE, True),
        (0.75, BELOW, False),
        (0.76, 9.0, False),
        (1.0, 9.0, False),
    ],
    ids=["UA", "UA despite the loss", "tie, lower loss", "tie, higher loss", "lower UA", "lower UA despite the loss"],
)
def test_higher_ua_then_lower_loss(ua, loss, better):
    before = best_of(ua, loss, epoch=2)
    best, _, scores = judge(LOGITS, TARGETS, best=before, epoch=5)
    assert scores.better == better
    assert tiny.bits(best) == tiny.bits(Best(NEW, np.float32(UA), scores.loss, np.int32(5)) if better else before)


def test_the_same_scores_again_are_not_better():
    """The earlier of two equal epochs stays."""
    best, _, _ = judge(LOGITS, TARGETS)
    assert tiny.bits(judge(LOGITS, TARGETS, best=best, epoch=2)[0]) == tiny.bits(best)


def test_the_first_epoch_is_the_best_so_far():
    """However bad: everything wrong, and with a loss that no epoch can be worse than."""
    found = judge([says(1, 3e38)], [0])
    assert found[2].better and found[0].epoch == 1 and found[0].ua == 0
    assert tiny.bits(found[0].params) == tiny.bits(NEW)
    later = judge(LOGITS, TARGETS, best=best_of(), epoch=4)  # the first that this run has
    assert later[2].better and later[0].epoch == 4


def test_nothing_yet():
    best = selection.nothing_yet(jax.tree.map(jnp.asarray, OLD))
    assert tiny.bits(best) == tiny.bits(best_of())
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(best)), "or the next epoch compiles `judge` again"


# --- What ends a run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience_to_the_epoch(patience):
    """Epoch 3 was the best: after `patience` epochs without a better one, not one earlier."""
    before = best_of(1.0, 0.0, epoch=3)
    for epoch in range(4, 4 + patience):
        best, counters, scores = judge(LOGITS, TARGETS, best=before, epoch=epoch, patience=patience)
        last = epoch == 3 + patience
        assert (bool(scores.stopped), bool(counters.active)) == (last, not last)
        assert scores.trained and not scores.better and tiny.bits(best) == tiny.bits(before)
    _, counters, scores = judge(LOGITS, TARGETS, best=best_of(0.5, 0.0, 3), epoch=3 + patience, patience=patience)
    assert scores.better and not scores.stopped and counters.active


def test_patience_0_never_ends_it():
    _, counters, scores = judge(LOGITS, TARGETS, best=best_of(1.0, 0.0, epoch=1), epoch=1000)
    assert not scores.stopped and counters.active


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("epoch", [1, 7])
def test_scores_that_are_not_finite_are_divergence(value, epoch):
    """R18: one is enough, even in a class that nobody asks for; the best epoch stays, to the bit."""
    before = best_of(0.5, 1.0, epoch=1) if epoch > 1 else best_of()
    bad = [LOGITS[0], LOGITS[1], [*LOGITS[2][:2], value]]
    best, counters, scores = judge(bad, TARGETS, best=before, epoch=epoch, patience=1)
    assert scores.diverged and scores.trained and not scores.better and not scores.stopped
    assert tiny.bits(best) == tiny.bits(before) and not counters.active


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_divergence_whatever_they_score(value):
    """A saturated unit hides them from the logits; a checkpoint would not hold them."""
    lost = {name: np.full_like(leaf, value) for name, leaf in NEW.items()}
    best, counters, scores = judge(LOGITS, TARGETS, params=lost)
    assert scores.diverged and not scores.better and not counters.active
    assert tiny.bits(best) == tiny.bits(best_of())


def test_a_loss_that_is_not_finite_is_divergence():
    """Logits so far apart that their difference overflows."""
    far = [[3e38, -3e38, 0.0], *LOGITS[1:]]
    _, _, scores = judge(far, [1, *TARGETS[1:]])
    assert np.isinf(scores.loss) and scores.diverged and not scores.better


@pytest.mark.parametrize("bad_steps", [MOST_BAD_STEPS - 1, MOST_BAD_STEPS])
def test_five_bad_steps_in_a_row_are_divergence(bad_steps):
    best, counters, scores = judge(LOGITS, TARGETS, counters=counters_of(bad_steps=bad_steps))
    diverged = bad_steps == 5
    assert (bool(scores.diverged), bool(scores.better), bool(counters.active)) == (diverged, not diverged, not diverged)
    assert tiny.bits(best) == tiny.bits(best_of()) or not diverged


@pytest.mark.parametrize("logits", [LOGITS, [[np.nan] * 3] * 3], ids=["better", "not finite"])
def test_a_run_that_has_ended_stays_as_it_is(logits):
    """Neither better, nor diverged (again), nor stopped (again); the host is told that it did not train."""
    ended, before = counters_of(0.0, 0.0, bad_steps=MOST_BAD_STEPS, active=False), best_of(0.5, 1.0, epoch=1)
    best, counters, scores = judge(logits, TARGETS, best=before, counters=ended, epoch=9, patience=2)
    assert tiny.bits((best, counters)) == tiny.bits((before, ended))
    assert not (scores.trained or scores.diverged or scores.better or scores.stopped)


# --- A given number of epochs -----------------------------------------------------------------------------------------


def close(epoch: int, last: int, counters: Counters, params: Any) -> tuple[Counters, Scores]:
    return jax.device_get(jax.jit(selection.close)(counters, np.int32(epoch), np.int32(last), params))


def test_a_given_number_of_epochs_by_hand():
    """The train loss is 6/4; the run ends with its last epoch, not one earlier."""
    for epoch, stopped in ((1, False), (2, False), (3, True), (4, True)):
        counters, scores = close(epoch, 3, counters_of(), NEW)
        assert (scores.train_loss, scores.loss, scores.confusion, scores.better) == (1.5, None, None, None)
        assert scores.trained and not scores.diverged
        assert (bool(scores.stopped), bool(counters.active)) == (stopped, not stopped)
        assert tiny.bits(counters) == tiny.bits(counters_of(0.0, 0.0, active=not stopped))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_divergence(value):
    counters, scores = close(3, 3, counters_of(), {"w": np.array([1.0, value], np.float32)})
    assert scores.diverged and not scores.stopped and not counters.active


def test_five_bad_steps_are_divergence_without_validation_too():
    for bad_steps in (MOST_BAD_STEPS - 1, MOST_BAD_STEPS):
        counters, scores = close(1, 3, counters_of(bad_steps=bad_steps), NEW)
        assert bool(scores.diverged) == (not counters.active) == (bad_steps == MOST_BAD_STEPS)


def test_a_run_that_has_reached_its_number_stays_as_it_is():
    ended = counters_of(0.0, 0.0, bad_steps=MOST_BAD_STEPS, active=False)
    counters, scores = close(5, 3, ended, {"w": np.array([np.nan], np.float32)})
    assert tiny.bits(counters) == tiny.bits(ended)
    assert not (scores.trained or scores.diverged or scores.stopped)
