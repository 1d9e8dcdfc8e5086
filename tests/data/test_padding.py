"""Padding, segments and length buckets: by hand, against loops and exhaustive search."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.data import padding

SILENCE = -23.0


def ramp(frames, bands=2):
    """Log-mel frames that know their place: frame f holds f + 1 in every band."""
    return np.repeat(np.arange(1, frames + 1, dtype=np.float32)[:, None], bands, axis=1)


def test_pad_frames_by_hand():
    padded = padding.pad_frames([ramp(2, 1), ramp(4, 1)], size=5, minimum=3, silence=SILENCE)
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded[:, :, 0], [[1, 2, SILENCE, 0, 0], [1, 2, 3, 4, 0]])


def test_cut_segments_by_hand():
    padded = padding.pad_frames([ramp(2, 1), ramp(6, 1)], size=7, minimum=3, silence=SILENCE)
    segments, mask = padding.cut_segments(padded, np.array([2, 6]), window=3, hop=2)
    np.testing.assert_array_equal(mask, [[True, False, False], [True, True, False]])
    short = [[1, 2, SILENCE], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(segments[..., 0], [short, [[1, 2, 3], [3, 4, 5], [0, 0, 0]]])


@pytest.mark.parametrize(("size", "minimum"), [(4, 3), (5, 6)])
def test_what_does_not_fit_is_refused(size, minimum):
    with pytest.raises(ValueError, match=f"do not fit into {size}"):
        padding.pad_frames([ramp(5)], size=size, minimum=minimum, silence=SILENCE)
    with pytest.raises(ValueError, match="9 samples do not fit into 2 chunks of 4"):
        padding.pad_waves([np.ones(9, np.int16)], chunks=2, size=4)


def test_pad_waves_by_hand():
    waves = [np.array([1, 2, 3, 4, 5], np.int16), np.array([6, 7], np.int16)]
    assert [padding.chunk_count(len(wave), 2) for wave in waves] == [3, 1]
    padded = padding.pad_waves(waves, chunks=4, size=2)
    assert padded.dtype == np.int16
    np.testing.assert_array_equal(
        padded, [[[1, 2], [3, 4], [5, 0], [0, 0]], [[6, 7], [0, 0], [0, 0], [0, 0]]]
    )


def loop_segments(utterance, steps, window, hop):
    """The oracle: cuts one utterance without padding, frame by frame."""
    segments = np.zeros((steps, window, utterance.shape[1]), np.float32)
    mask = np.zeros(steps, bool)
    start = step = 0
    while start + window <= len(utterance) or step == 0:
        for frame in range(window):
            place = start + frame
            segments[step, frame] = utterance[place] if place < len(utterance) else SILENCE
        mask[step] = True
        step, start = step + 1, start + hop
    return segments, mask


pairs = st.tuples(st.integers(1, 9), st.integers(1, 9))
segmentations = pairs.map(lambda pair: (max(pair), min(pair)))


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    segmentation=segmentations,
    extra=st.integers(0, 12),
    fill=st.sampled_from([0.0, 1e30, np.nan, np.inf]),
    seed=st.integers(0, 2**31),
)
def test_against_a_loop_whatever_the_padding_holds(lengths, segmentation, extra, fill, seed):
    window, hop = segmentation
    rng = np.random.default_rng(seed)
    frames = [rng.normal(size=(length, 3)).astype(np.float32) for length in lengths]
    size = max(window, *lengths) + extra
    padded = padding.pad_frames(frames, size, minimum=window, silence=SILENCE)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(padded[row, :length], frames[row])
        assert np.all(padded[row, length:window] == SILENCE)
        padded[row, max(length, window) :] = fill
    segments, mask = padding.cut_segments(padded, np.array(lengths), window, hop)
    assert mask.dtype == bool and mask[:, 0].all(), "every utterance has a real segment"
    for row, utterance in enumerate(frames):
        expected, expected_mask = loop_segments(utterance, (size - window) // hop + 1, window, hop)
        np.testing.assert_array_equal(mask[row], expected_mask)
        np.testing.assert_array_equal(segments[row], expected)


def test_aligned_copy_is_shared_by_all_cpu_devices():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    copy = padding.aligned(values)
    np.testing.assert_array_equal(copy, values)
    mesh = jax.make_mesh((4,), ("run",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    on_devices = jax.device_put(copy, sharding)
    places = {shard.data.unsafe_buffer_pointer() for shard in on_devices.addressable_shards}
    assert places == {copy.ctypes.data}


def choose(covered, shapes, batch_size, train_fraction=1.0):
    options = {"shapes": shapes, "batch_size": batch_size, "train_fraction": train_fraction}
    return padding.choose_sizes(np.array(covered), **options).tolist()


def test_padding_in_time_is_saved():
    """One bucket: 2 batches of 4 rows of 100 frames = 800; two: 4 of 10 and 4 of 100 = 440."""
    assert choose([10, 10, 10, 10, 100], shapes=2, batch_size=4) == [10, 100]


def test_padding_of_the_last_batch_counts_too():
    """One bucket: 8 rows of 100 frames = 800; two would compute 80 more."""
    assert choose([10, 10, 10, 10, 100], shapes=2, batch_size=8) == [100]


def test_only_the_training_part_counts():
    """Of 5 rows of 10 frames 4 are trained on: one batch. All five need two, 40 frames more."""
    covered = [10] * 5 + [12] * 3
    assert choose(covered, shapes=2, batch_size=4, train_fraction=0.8) == [10, 12]
    assert choose(covered, shapes=2, batch_size=4, train_fraction=1.0) == [12]


@pytest.mark.parametrize("train_fraction", [0.0, 1e-6, 0.5, 1.0])
def test_extreme_fractions(train_fraction):
    sizes = choose([30, 50, 70, 70, 910], shapes=3, batch_size=2, train_fraction=train_fraction)
    assert sizes[-1] == 910
    if train_fraction == 1e-6:
        assert sizes == [910], "every further bucket costs a batch"


def epoch_frames(covered, sizes, batch_size, fraction):
    """Frames that an epoch computes; `fraction` is a pair of integers: nothing is rounded."""
    total, before = 0, 0
    for size in sizes:
        rows = sum(before < length <= size for length in covered)
        batches = -(-rows * fraction[0] // (fraction[1] * batch_size))
        total += batches * batch_size * size
        before = size
    return total


@settings(deadline=None, max_examples=150)
@given(
    covered=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    shapes=st.integers(1, 6),
    batch_size=st.integers(1, 9),
    fraction=st.sampled_from([(1, 1), (1, 2), (4, 5), (9, 10), (1, 10), (8, 9)]),
)
def test_no_choice_of_buckets_is_cheaper(covered, shapes, batch_size, fraction):
    sizes = choose(covered, shapes, batch_size, fraction[0] / fraction[1])
    lengths = sorted(set(covered))
    assert sizes == sorted(set(sizes)) and set(sizes) <= set(lengths)
    assert sizes[-1] == lengths[-1] and len(sizes) <= shapes
    cheapest = min(
        epoch_frames(covered, (*chosen, lengths[-1]), batch_size, fraction)
        for count in range(min(shapes, len(lengths)))
        for chosen in itertools.combinations(lengths[:-1], count)
    )
    assert epoch_frames(covered, sizes, batch_size, fraction) == cheapest


@settings(deadline=None, max_examples=80)
@given(
    covered=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    shapes=st.integers(1, 8),
    batch_size=st.integers(1, 33),
    fraction=st.sampled_from([(1, 1), (4, 5)]),
)
def test_another_bucket_never_costs_more_and_the_order_of_rows_is_ignored(
    covered, shapes, batch_size, fraction
):
    sizes = choose(covered, shapes, batch_size, fraction[0] / fraction[1])
    assert choose(covered[::-1], shapes, batch_size, fraction[0] / fraction[1]) == sizes
    more = choose(covered, shapes + 1, batch_size, fraction[0] / fraction[1])
    costs = [epoch_frames(covered, found, batch_size, fraction) for found in (more, sizes)]
    assert costs[0] <= costs[1]
    numbers = padding.assign(np.array(covered), np.array(sizes))
    for length, number in zip(covered, numbers, strict=True):
        assert length <= sizes[number] and (number == 0 or length > sizes[number - 1])
