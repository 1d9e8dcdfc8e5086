"""Length buckets: hand-computed, the dynamic programme against all choices there are, and properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.arrays import buckets


def choose(covered, shapes, batch_size, train_share=1.0):
    sizes = buckets.choose_sizes(np.array(covered), shapes=shapes, batch_size=batch_size, train_share=train_share)
    return sizes.tolist()


def test_padding_in_time_is_saved():
    """One bucket: 2 batches of 4 rows of 100 frames = 800; two: 4 rows of 10 and 4 rows of 100 = 440."""
    assert choose([10, 10, 10, 10, 100], shapes=2, batch_size=4) == [10, 100]


def test_padding_of_the_last_batch_counts_too():
    """One bucket: 8 rows of 100 frames = 800; two would compute 80 more."""
    assert choose([10, 10, 10, 10, 100], shapes=2, batch_size=8) == [100]


def test_only_the_training_part_counts():
    """Of 5 rows of 10 frames 4 are trained on: one batch. All five would need two, 40 frames more."""
    covered = [10] * 5 + [12] * 3
    assert choose(covered, shapes=2, batch_size=4, train_share=0.8) == [10, 12]
    assert choose(covered, shapes=2, batch_size=4, train_share=1.0) == [12]


def test_assign_by_hand():
    assert buckets.assign(np.array([1, 10, 11, 20]), np.array([10, 20])).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("train_share", [0.0, 1e-6, 0.5, 1.0])
def test_extreme_shares(train_share):
    sizes = choose([30, 50, 70, 70, 910], shapes=3, batch_size=2, train_share=train_share)
    assert sizes[-1] == 910
    if train_share == 1e-6:
        assert sizes == [910], "every further bucket costs a batch"


def epoch_frames(covered, sizes, batch_size, share):
    """Frames that an epoch computes; `share` = (numerator, denominator), so that the oracle rounds nothing."""
    total, before = 0, 0
    for size in sizes:
        rows = sum(before < length <= size for length in covered)
        batches = -(-rows * share[0] // (share[1] * batch_size))
        total += batches * batch_size * size
        before = size
    return total


@settings(deadline=None, max_examples=150)
@given(
    covered=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    shapes=st.integers(1, 6),
    batch_size=st.integers(1, 9),
    share=st.sampled_from([(1, 1), (1, 2), (4, 5), (9, 10), (1, 10), (8, 9)]),
)
def test_no_choice_of_buckets_is_cheaper(covered, shapes, batch_size, share):
    sizes = choose(covered, shapes, batch_size, share[0] / share[1])
    lengths = sorted(set(covered))
    assert sizes == sorted(set(sizes)) and set(sizes) <= set(lengths)
    assert sizes[-1] == lengths[-1] and len(sizes) <= shapes
    cheapest = min(
        epoch_frames(covered, (*chosen, lengths[-1]), batch_size, share)
        for count in range(min(shapes, len(lengths)))
        for chosen in itertools.combinations(lengths[:-1], count)
    )
    assert epoch_frames(covered, sizes, batch_size, share) == cheapest


@settings(deadline=None, max_examples=80)
@given(
    covered=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    shapes=st.integers(1, 8),
    batch_size=st.integers(1, 33),
    share=st.sampled_from([(1, 1), (4, 5)]),
)
def test_another_bucket_never_costs_more_and_the_order_of_rows_is_ignored(covered, shapes, batch_size, share):
    sizes = choose(covered, shapes, batch_size, share[0] / share[1])
    assert choose(covered[::-1], shapes, batch_size, share[0] / share[1]) == sizes
    more = choose(covered, shapes + 1, batch_size, share[0] / share[1])
    assert epoch_frames(covered, more, batch_size, share) <= epoch_frames(covered, sizes, batch_size, share)
    numbers = buckets.assign(np.array(covered), np.array(sizes))
    for length, number in zip(covered, numbers, strict=True):
        assert length <= sizes[number] and (number == 0 or length > sizes[number - 1])
