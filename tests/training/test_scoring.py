"""Scoring: every utterance once, in the given order, for any batch size (R15); softmax."""

from typing import Any

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.data.standardise import standardise
from ser_jax.training import scoring
from ser_jax.training.execution.plan import ExecutionPlan
from ser_jax.training.model_files import Model

EVERYONE = len(tiny.protocol().ids)


class Echo:
    """Instead of an executor: the logits of a row say which trial requested which utterance."""

    plan = ExecutionPlan(per_step=True, trials=2, rows=1)

    def __init__(self, chunk: int = 0):
        self.chunk, self.scored = chunk, 0

    def score(
        self, params: Any, statistics: Any, order: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Returns [R, B, K] per batch or [R, chunk, B, K] per chunk, the last filled with −1."""
        self.scored += rows.size
        trials = np.broadcast_to(np.array(params)[:, None], rows.shape[1:])
        found = [
            np.stack([trials, tiny.dataset().utterances(bucket)[batch]], axis=-1)
            for bucket, batch in zip(order.tolist(), rows, strict=True)
        ]
        if not self.chunk:
            return tuple(found)
        found += [np.full_like(found[0], -1)] * (-len(found) % self.chunk)
        return tuple(
            np.stack(found[start : start + self.chunk], axis=1)
            for start in range(0, len(found), self.chunk)
        )


parts = st.lists(st.integers(0, EVERYONE - 1), unique=True).map(
    lambda numbers: np.array(numbers, np.int64)
)


@settings(deadline=None, max_examples=100)
@given(first=parts, second=parts, batch_size=st.integers(1, EVERYONE + 3), chunk=st.integers(0, 5))
def test_every_utterance_once_in_the_order_given(first, second, batch_size, chunk):
    echo: Any = Echo(chunk)
    found = scoring.group_logits(echo, tiny.dataset(), [10, 20], None, [first, second], batch_size)
    for trial, part, logits in ((10, first, found[0]), (20, second, found[1])):
        assert len(logits) == len(part) and logits.dtype == np.float64
        if len(part):
            assert logits.tolist() == [[trial, number] for number in part]
    needed = [[len(rows) for rows in tiny.dataset().rows(part)] for part in (first, second)]
    batches = sum(-(-max(counts) // batch_size) for counts in zip(*needed, strict=True))
    assert echo.scored == 2 * batches * batch_size, "no batch more than the longer part needs"


def direct(params: Any, statistics: Any, numbers: np.ndarray) -> np.ndarray:
    """One utterance at a time, standardised in NumPy."""
    data, rows = tiny.dataset(), []
    for number in numbers.tolist():
        inputs = jax.tree.map(
            lambda leaf, n=number: leaf[data.row[n]][None], data.buckets[data.bucket[number]]
        )
        rows.append(jitted_apply(params, standardise(inputs, statistics, np))[0])
    return np.stack(rows)


jitted_apply = jax.jit(tiny.apply)


def random_model(number: int) -> Model:
    params = tiny.member(tiny.executor(2, 2).init([number, 0])[0].params, 0)
    return Model({}, params, tiny.dataset().statistics(tiny.trials()[number].fold.train))


@pytest.mark.parametrize("chunk", [0, 7])
def test_group_and_models_against_one_utterance_at_a_time(chunk):
    """Three models in groups of two: the last group is not full; one model has nothing to score."""
    models = [random_model(number) for number in range(3)]
    rng = np.random.default_rng(0)
    wanted = [rng.permutation(EVERYONE)[:21], np.zeros(0, np.int64), rng.permutation(EVERYONE)]
    found = scoring.model_logits(
        tiny.executor(2, 2, chunk), tiny.dataset(), models, wanted, tiny.BATCH
    )
    assert [logits.shape for logits in found] == [(21, 4), (0, 4), (EVERYONE, 4)]
    for model, numbers, logits in zip(models, wanted, found, strict=True):
        if len(numbers):
            expected = direct(
                model.params, tiny.dataset().device_statistics(model.statistics), numbers
            )
            np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_nothing_to_score():
    none = np.zeros(0, np.int64)
    echo: Any = Echo()
    found = scoring.group_logits(echo, tiny.dataset(), [0, 1], None, [none, none], 4)
    assert [len(logits) for logits in found] == [0, 0]
    assert scoring.model_logits(tiny.executor(2, 2), tiny.dataset(), [], [], 4) == []


def test_temperature_by_hand():
    """Odds of 9 to 1 become 3 to 1 at T = 2; no order changes."""
    np.testing.assert_allclose(
        scoring.softmax(np.log([[9.0, 1.0]]), 2.0), [[0.75, 0.25]], rtol=1e-12
    )
    assert scoring.softmax(np.array([[1e300, -1e300]])).tolist() == [[1, 0]]
    logits = np.random.default_rng(0).normal(size=(50, 4))
    assert np.array_equal(scoring.softmax(logits, None), scoring.softmax(logits, 1.0))
    assert np.array_equal(scoring.softmax(logits, 7.5).argsort(axis=1), logits.argsort(axis=1))


def test_models_together_give_the_mean_of_their_probabilities():
    """9 : 1 at temperature 2 is 3 : 1, and 1 : 1 stays."""
    logits = [np.log([[9.0, 1.0]]), np.log([[1.0, 1.0]])]
    np.testing.assert_allclose(
        scoring.mean_probabilities(logits, [2.0, None]), [[0.625, 0.375]], rtol=1e-12
    )
