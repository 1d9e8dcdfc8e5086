"""Epoch plans: every training row once per epoch (R15), a pure function of their keys, pinned to the byte."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.arrays import plans

PROTOCOL = "0" * 64
STREAMS_CHANGED = (
    "the random streams of the plans have changed (this code, or NumPy's Generator): results of old run directories "
    "cannot be resumed or reproduced; if that is intended, say so in CHANGELOG.md, raise the schema of the run "
    "directory and pin the new values"
)
BUCKETS = [np.arange(70), np.array([1, 4, 5, 8]), np.array([], np.int64), np.array([7])]


GOLDEN_INIT = [2809624087, 1664887255, 287088107]
GOLDEN_ORDER = [2, 0, 2, 0, 1, 2]
GOLDEN_ROWS = [[[2, 0], [9, 0], [5, 3]], [[1, 2], [0, 0]]]
GOLDEN_MASKS = [[[1, 1], [1, 0], [1, 1]], [[1, 1], [0, 0]]]


def batches_of(
    rows=BUCKETS, steps=(5, 1, 0, 2), batch_size=16, *, protocol=PROTOCOL, seed=0, fold="spk1", epoch=1
) -> list[plans.Batches]:
    return plans.training_batches(
        rows, np.array(steps), batch_size, protocol=protocol, seed=seed, fold=fold, epoch=epoch
    )


def order_of(steps=(5, 1, 0, 2), *, protocol=PROTOCOL, epoch=1):
    return plans.shape_order(np.array(steps), protocol=protocol, epoch=epoch).tolist()


def same(one, other):
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_steps_by_hand():
    """Fold a needs ceil(5/2) = 3 and 0 batches, fold b ceil(2/2) = 1 and ceil(3/2) = 2."""
    folds = [[np.arange(5), np.arange(0)], [np.arange(2), np.arange(3)]]
    assert plans.steps_per_bucket(folds, 2).tolist() == [3, 2]


def test_scoring_by_hand():
    first, second = plans.scoring_batches([np.array([4, 6, 7]), np.array([], np.int64)], 2)
    assert first.rows.tolist() == [[4, 6], [7, 0]] and first.mask.tolist() == [[True, True], [True, False]]
    assert second.rows.shape == second.mask.shape == (0, 2)
    (longer,) = plans.scoring_batches([np.array([4])], 2, [2])
    assert longer.rows.tolist() == [[4, 0], [0, 0]] and longer.mask.tolist() == [[True, False], [False, False]]


def test_lining_up_by_hand():
    """Two runs; the first bucket has two batches, the second three. A step of a bucket takes its next batch."""

    def run(first: int) -> list[plans.Batches]:
        numbers = first + np.arange(5, dtype=np.int32)[:, None]
        return [plans.Batches(part, part % 2 == 0) for part in (numbers[:2], numbers[2:])]

    rows, mask = plans.in_order(np.array([1, 0, 1, 1, 0]), [run(10), run(20)])
    assert rows.tolist() == [[[12], [22]], [[10], [20]], [[13], [23]], [[14], [24]], [[11], [21]]]
    assert mask.tolist() == (rows % 2 == 0).tolist() and (rows.dtype, mask.dtype) == (np.int32, bool)
    rows, mask = plans.in_order(np.array([], np.int64), [plans.scoring_batches([np.arange(0), np.arange(0)], 3)] * 2)
    assert rows.shape == mask.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("steps", "most", "chunk"),
    [(144, 64, 48), (11, 64, 11), (64, 64, 64), (65, 64, 33), (128, 64, 64), (129, 64, 43), (5, 1, 1), (1, 64, 1)],
)
def test_chunks_by_hand(steps, most, chunk):
    assert plans.even_chunk(steps, most) == chunk


def test_no_steps_are_a_chunk_all_the_same():
    """A final model has nothing to be tested on; chunks of 0 steps would mean: no chunks."""
    assert plans.even_chunk(0, 64) >= 1


@given(steps=st.integers(1, 5000), most=st.integers(1, 300))
def test_chunks_are_few_and_even(steps, most):
    chunk = plans.even_chunk(steps, most)
    calls = -(-steps // chunk)
    assert 1 <= chunk <= most and calls == -(-steps // most), "as few calls as the limit allows"
    assert 0 <= calls * chunk - steps < calls, "no shorter chunk would do"


def test_scoring_refuses_to_lose_rows():
    with pytest.raises(ValueError):
        plans.scoring_batches([np.arange(5)], 2, [2])


def test_training_refuses_to_lose_rows():
    with pytest.raises(ValueError):
        batches_of([np.arange(5)], [2], 2)


def test_rows_are_spread_evenly():
    """70 rows at 16 a batch need 5 batches: of 14 each, not four full ones and one of 6."""
    assert batches_of()[0].mask.sum(axis=1).tolist() == [14] * 5


def test_a_golden_plan():
    """Pinned; see the message."""
    assert plans.generator("init", 0, "spk1").integers(2**32, size=3).tolist() == GOLDEN_INIT, STREAMS_CHANGED
    assert order_of((2, 1, 3)) == GOLDEN_ORDER, STREAMS_CHANGED
    plan = batches_of([np.array([0, 2, 3, 5, 9]), np.array([1, 2])], (3, 2), 2, seed=7, fold="Session5", epoch=4)
    assert [batches.rows.tolist() for batches in plan] == GOLDEN_ROWS, STREAMS_CHANGED
    assert [batches.mask.astype(int).tolist() for batches in plan] == GOLDEN_MASKS, STREAMS_CHANGED


folds_of_rows = st.lists(
    st.lists(st.sets(st.integers(0, 60), max_size=40), min_size=3, max_size=3), min_size=1, max_size=4
).map(lambda folds: [[np.array(sorted(rows), np.int64) for rows in fold] for fold in folds])


@settings(deadline=None, max_examples=80)
@given(
    folds=folds_of_rows,
    batch_size=st.integers(1, 17),
    seed=st.integers(0, 10**6),
    epoch=st.integers(1, 300),
    name=st.text(max_size=5),
)
def test_every_epoch_is_a_permutation(folds, batch_size, seed, epoch, name):
    """R15: every training row exactly once, no other row, in batches of one bucket; what is masked out is row 0."""
    steps = plans.steps_per_bucket(folds, batch_size)
    for rows in folds:
        plan = batches_of(rows, steps, batch_size, seed=seed, fold=name, epoch=epoch)
        for bucket, batches in enumerate(plan):
            assert batches.rows.dtype == np.int32 and batches.mask.dtype == bool
            assert batches.rows.shape == batches.mask.shape == (steps[bucket], batch_size)
            assert sorted(batches.rows[batches.mask]) == rows[bucket].tolist()
            assert np.all(batches.rows[~batches.mask] == 0)
            filled = batches.mask.sum(axis=1)
            assert np.sum(filled > 0) == -(-len(rows[bucket]) // batch_size), "as few batches as hold the rows"
            assert np.ptp([n for n in filled if n] or [0]) <= 1
            assert np.all(batches.mask[:, :-1] >= batches.mask[:, 1:]), "real rows come first"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 500))
def test_the_shapes_of_an_epoch_are_a_permutation_of_its_steps(steps, epoch):
    order = order_of(steps, epoch=epoch)
    assert [order.count(bucket) for bucket in range(len(steps))] == steps
    assert order == order_of(steps, epoch=epoch)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.sets(st.integers(0, 80), max_size=50).map(sorted), min_size=1, max_size=4),
    batch_size=st.integers(1, 64),
    spare=st.integers(0, 3),
)
def test_scoring_uses_each_row_once_and_in_order(rows, batch_size, spare):
    arrays = [np.array(bucket, np.int64) for bucket in rows]
    fitting = plans.scoring_batches(arrays, batch_size)
    wider = plans.scoring_batches(arrays, batch_size, [len(batches.rows) + spare for batches in fitting])
    for bucket, few, many in zip(rows, fitting, wider, strict=True):
        assert len(few.rows) == -(-len(bucket) // batch_size) and len(many.rows) == len(few.rows) + spare
        for batches in (few, many):
            assert batches.rows[batches.mask].tolist() == bucket
            assert np.all(batches.rows[~batches.mask] == 0)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    runs=st.integers(1, 3),
    batch_size=st.integers(1, 3),
    epoch=st.integers(1, 500),
)
def test_lining_up_uses_each_batch_once_and_in_order(steps, runs, batch_size, epoch):
    rng, order = np.random.default_rng(epoch), np.array(order_of(steps, epoch=epoch), np.int64)
    batches = [
        [
            plans.Batches(rng.integers(99, size=shape), rng.random(shape) < 0.5)
            for shape in ((n, batch_size) for n in steps)
        ]
        for _ in range(runs)
    ]
    lined_up = plans.in_order(order, batches)
    assert lined_up.rows.shape == lined_up.mask.shape == (sum(steps), runs, batch_size)
    for number, run in enumerate(batches):
        for bucket, expected in enumerate(run):
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
    assert all(np.array_equal(a, b) for a, b in zip(rows, BUCKETS, strict=True)), "the caller's rows are left alone"


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"epoch": 2}, {"fold": "spk2"}, {"protocol": "1" * 64}], ids=lambda other: next(iter(other))
)
def test_another_key_is_another_plan(other):
    assert not same(batches_of(), batches_of(**other))


@pytest.mark.parametrize("other", [{"epoch": 2}, {"protocol": "1" * 64}], ids=lambda other: next(iter(other)))
def test_the_order_of_shapes_depends_on_protocol_and_epoch_alone(other):
    """It has no seed and no fold to depend on: runs side by side meet the same shapes."""
    steps = (20, 20, 20)
    assert order_of(steps) != order_of(steps, **other)


def test_epochs_do_not_repeat():
    seen = {tuple(batches_of(epoch=epoch, seed=seed)[0].rows.ravel()) for epoch in range(1, 21) for seed in range(3)}
    assert len(seen) == 60


def test_keys_do_not_run_into_each_other():
    keys = [("a", 1, 23), ("a", 12, 3), ("a", 123), ("a1", 23), ("a", "1", 23), ("a", "1, 23"), ("a",), ()]
    draws = [plans.generator(*key).integers(2**62) for key in keys]
    assert len(set(draws)) == len(keys)


def test_spare_steps_fall_anywhere():
    """A fold with fewer rows than another leaves steps empty: not always the same ones."""
    places = [tuple(batches_of([np.arange(4)], [4], 2, epoch=epoch)[0].mask[:, 0]) for epoch in range(40)]
    assert set(places) == {tuple(step in pair for step in range(4)) for pair in itertools.combinations(range(4), 2)}
