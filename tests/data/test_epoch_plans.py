"""Epoch plans: every training row once per epoch (R15), a pure function of their keys, pinned."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.data import epoch_plans

PROTOCOL = "0" * 64
STREAMS_CHANGED = (
    "the random streams of the plans have changed (this code, or NumPy's Generator): old runs"
    " cannot be resumed; if intended: CHANGELOG.md, schema of the run directory, new values"
)
BUCKETS = [np.arange(70), np.array([1, 4, 5, 8]), np.array([], np.int64), np.array([7])]
GOLDEN_INIT = [2809624087, 1664887255, 287088107]
GOLDEN_ORDER = [2, 0, 2, 0, 1, 2]
GOLDEN_ROWS = [[[2, 0], [9, 0], [5, 3]], [[1, 2], [0, 0]]]
GOLDEN_MASKS = [[[1, 1], [1, 0], [1, 1]], [[1, 1], [0, 0]]]


def batches_of(rows=BUCKETS, steps=(5, 1, 0, 2), batch_size=16, **key) -> list[epoch_plans.Batches]:
    key = {"protocol": PROTOCOL, "seed": 0, "fold": "spk1", "epoch": 1, **key}
    return epoch_plans.training_batches(rows, np.array(steps), batch_size, **key)


def order_of(steps=(5, 1, 0, 2), *, protocol=PROTOCOL, epoch=1):
    return epoch_plans.shape_order(np.array(steps), protocol=protocol, epoch=epoch).tolist()


def same(one, other):
    return all(
        np.array_equal(a, b)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_steps_by_hand():
    """Fold a needs ceil(5/2) = 3 and 0 batches, fold b ceil(2/2) = 1 and ceil(3/2) = 2."""
    folds = [[np.arange(5), np.arange(0)], [np.arange(2), np.arange(3)]]
    assert epoch_plans.steps_per_bucket(folds, 2).tolist() == [3, 2]


def test_scoring_by_hand():
    first, second = epoch_plans.scoring_batches([np.array([4, 6, 7]), np.array([], np.int64)], 2)
    assert first.rows.tolist() == [[4, 6], [7, 0]]
    assert first.mask.tolist() == [[True, True], [True, False]]
    assert second.rows.shape == second.mask.shape == (0, 2)
    (longer,) = epoch_plans.scoring_batches([np.array([4])], 2, [2])
    assert longer.rows.tolist() == [[4, 0], [0, 0]]
    assert longer.mask.tolist() == [[True, False], [False, False]]


def test_lining_up_by_hand():
    """Two trials, two and three batches per bucket. A step of a bucket takes its next batch."""

    def trial(first: int) -> list[epoch_plans.Batches]:
        numbers = first + np.arange(5, dtype=np.int32)[:, None]
        return [epoch_plans.Batches(part, part % 2 == 0) for part in (numbers[:2], numbers[2:])]

    rows, mask = epoch_plans.in_order(np.array([1, 0, 1, 1, 0]), [trial(10), trial(20)])
    assert rows.tolist() == [[[12], [22]], [[10], [20]], [[13], [23]], [[14], [24]], [[11], [21]]]
    assert mask.tolist() == (rows % 2 == 0).tolist()
    assert (rows.dtype, mask.dtype) == (np.int32, bool)
    empty = epoch_plans.scoring_batches([np.arange(0), np.arange(0)], 3)
    rows, mask = epoch_plans.in_order(np.array([], np.int64), [empty] * 2)
    assert rows.shape == mask.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("steps", "most", "chunk"),
    np.array([144, 64, 48, 11, 64, 11, 64, 64, 64, 65, 64, 33, 129, 64, 43, 5, 1, 1]).reshape(6, 3),
)
def test_chunks_by_hand(steps, most, chunk):
    assert epoch_plans.even_chunk(steps, most) == chunk


@given(steps=st.integers(1, 5000), most=st.integers(1, 300))
def test_chunks_are_few_and_even(steps, most):
    assert epoch_plans.even_chunk(0, most) >= 1, "a final model has nothing to be tested on"
    chunk = epoch_plans.even_chunk(steps, most)
    calls = -(-steps // chunk)
    assert 1 <= chunk <= most and calls == -(-steps // most), "as few calls as the limit allows"
    assert 0 <= calls * chunk - steps < calls, "no shorter chunk would do"


def test_losing_rows_is_refused():
    with pytest.raises(ValueError):
        epoch_plans.scoring_batches([np.arange(5)], 2, [2])
    with pytest.raises(ValueError):
        batches_of([np.arange(5)], [2], 2)


def test_a_golden_plan():
    drawn = epoch_plans.generator("init", 0, "spk1").integers(2**32, size=3).tolist()
    assert drawn == GOLDEN_INIT, STREAMS_CHANGED
    assert order_of((2, 1, 3)) == GOLDEN_ORDER, STREAMS_CHANGED
    plan = batches_of(
        [np.array([0, 2, 3, 5, 9]), np.array([1, 2])], (3, 2), 2, seed=7, fold="Session5", epoch=4
    )
    assert [batches.rows.tolist() for batches in plan] == GOLDEN_ROWS, STREAMS_CHANGED
    assert [batches.mask.astype(int).tolist() for batches in plan] == GOLDEN_MASKS, STREAMS_CHANGED


ROWS = st.sets(st.integers(0, 60), max_size=40)
row_arrays = ROWS.map(lambda rows: np.array(sorted(rows), np.int64))
folds_of_rows = st.lists(st.lists(row_arrays, min_size=3, max_size=3), min_size=1, max_size=4)


@settings(deadline=None, max_examples=80)
@given(
    folds=folds_of_rows,
    batch_size=st.integers(1, 17),
    seed=st.integers(0, 10**6),
    epoch=st.integers(1, 300),
    name=st.text(max_size=5),
)
def test_every_epoch_is_a_permutation(folds, batch_size, seed, epoch, name):
    """R15: every training row once, no other, in batches of one bucket; padding is row 0."""
    steps = epoch_plans.steps_per_bucket(folds, batch_size)
    for rows in folds:
        plan = batches_of(rows, steps, batch_size, seed=seed, fold=name, epoch=epoch)
        for bucket, batches in enumerate(plan):
            assert batches.rows.dtype == np.int32 and batches.mask.dtype == bool
            assert batches.rows.shape == batches.mask.shape == (steps[bucket], batch_size)
            assert sorted(batches.rows[batches.mask]) == rows[bucket].tolist()
            assert np.all(batches.rows[~batches.mask] == 0)
            filled = batches.mask.sum(axis=1)
            fewest = -(-len(rows[bucket]) // batch_size)
            assert np.sum(filled > 0) == fewest
            assert np.ptp([n for n in filled if n] or [0]) <= 1
            assert np.all(batches.mask[:, :-1] >= batches.mask[:, 1:]), "real rows come first"


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.sets(st.integers(0, 80), max_size=50).map(sorted), min_size=1, max_size=4),
    batch_size=st.integers(1, 64),
    spare=st.integers(0, 3),
)
def test_scoring_uses_each_row_once_and_in_order(rows, batch_size, spare):
    arrays = [np.array(bucket, np.int64) for bucket in rows]
    fitting = epoch_plans.scoring_batches(arrays, batch_size)
    steps = [len(batches.rows) + spare for batches in fitting]
    wider = epoch_plans.scoring_batches(arrays, batch_size, steps)
    for bucket, few, many in zip(rows, fitting, wider, strict=True):
        assert len(few.rows) == -(-len(bucket) // batch_size) == len(many.rows) - spare
        for batches in (few, many):
            assert batches.rows[batches.mask].tolist() == bucket
            assert np.all(batches.rows[~batches.mask] == 0)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    trials=st.integers(1, 3),
    batch_size=st.integers(1, 3),
    epoch=st.integers(1, 500),
)
def test_lining_up_uses_each_batch_once_and_in_order(steps, trials, batch_size, epoch):
    rng, order = np.random.default_rng(epoch), np.array(order_of(steps, epoch=epoch), np.int64)

    def draw(*shape):
        return epoch_plans.Batches(rng.integers(99, size=shape), rng.random(shape) < 0.5)

    batches = [[draw(n, batch_size) for n in steps] for _ in range(trials)]
    assert [list(order).count(bucket) for bucket in range(len(steps))] == steps, "a permutation"
    lined_up = epoch_plans.in_order(order, batches)
    assert lined_up.rows.shape == lined_up.mask.shape == (sum(steps), trials, batch_size)
    for number, trial in enumerate(batches):
        for bucket, expected in enumerate(trial):
            assert np.array_equal(lined_up.rows[order == bucket, number], expected.rows)
            assert np.array_equal(lined_up.mask[order == bucket, number], expected.mask)


def test_plans_are_a_pure_function_of_their_keys():
    """Nothing that happened before, and no global state, moves them."""
    first, order = batches_of(epoch=3), order_of(epoch=3)
    np.random.seed(1)
    batches_of(epoch=2)
    order_of(epoch=9)
    assert same(batches_of(epoch=3), first) and order_of(epoch=3) == order
    rows = [bucket.copy() for bucket in BUCKETS]
    batches_of(rows)
    unchanged = [np.array_equal(a, b) for a, b in zip(rows, BUCKETS, strict=True)]
    assert all(unchanged), "the caller's rows"


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"epoch": 2}, {"fold": "spk2"}, {"protocol": "1" * 64}],
    ids=lambda other: next(iter(other)),
)
def test_another_key_is_another_plan(other):
    """The order of shapes has no seed and no fold: trials side by side meet the same shapes."""
    assert not same(batches_of(), batches_of(**other))
    if other.keys() <= {"epoch", "protocol"}:
        assert order_of((20, 20, 20)) != order_of((20, 20, 20), **other)


def test_keys_do_not_run_into_each_other():
    keys = [("a", 1, 23), ("a", 12, 3), ("a", 123), ("a1", 23)]
    keys += [("a", "1", 23), ("a", "1, 23"), ("a",), ()]
    draws = [epoch_plans.generator(*key).integers(2**62) for key in keys]
    assert len(set(draws)) == len(keys)


def test_spare_steps_fall_anywhere():
    """A fold with fewer rows than another leaves steps empty: not always the same ones."""
    plans = (batches_of([np.arange(4)], [4], 2, epoch=epoch) for epoch in range(40))
    places = [tuple(plan[0].mask[:, 0]) for plan in plans]
    pairs = itertools.combinations(range(4), 2)
    assert set(places) == {tuple(step in pair for step in range(4)) for pair in pairs}
