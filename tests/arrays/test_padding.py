"""Padding and cutting into segments: by hand, against explicit loops, and indifferent to what the padding holds."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.arrays import padding

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


@pytest.mark.parametrize(("window", "hop", "segments"), [(30, 20, 21), (50, 25, 16)])
def test_the_segmentations_of_the_paper(window, hop, segments):
    """An utterance of 4.55 s (the mean of IEMOCAP) has 453 frames; both channels overlap as the paper says."""
    cut, mask = padding.cut_segments(ramp(453)[None], np.array([453]), window, hop)
    assert cut.shape == (1, (453 - window) // hop + 1, window, 2) and mask.sum() == (453 - window) // hop + 1
    assert len(cut[0]) == pytest.approx(segments, abs=1)
    np.testing.assert_array_equal(cut[0, 1, : window - hop], cut[0, 0, hop:])


@pytest.mark.parametrize(("size", "minimum"), [(4, 3), (5, 6)])
def test_what_does_not_fit_is_refused(size, minimum):
    with pytest.raises(ValueError, match=f"do not fit into {size}"):
        padding.pad_frames([ramp(5)], size=size, minimum=minimum, silence=SILENCE)


def test_pad_waves_by_hand():
    waves = [np.array([1, 2, 3, 4, 5], np.int16), np.array([6, 7], np.int16)]
    assert [padding.chunk_count(len(wave), 2) for wave in waves] == [3, 1]
    padded = padding.pad_waves(waves, chunks=4, size=2)
    assert padded.dtype == np.int16
    np.testing.assert_array_equal(padded, [[[1, 2], [3, 4], [5, 0], [0, 0]], [[6, 7], [0, 0], [0, 0], [0, 0]]])


def test_a_wave_that_does_not_fit_is_refused():
    padding.pad_waves([np.ones(8, np.int16)], chunks=2, size=4)
    with pytest.raises(ValueError, match="9 samples do not fit into 2 chunks of 4"):
        padding.pad_waves([np.ones(9, np.int16)], chunks=2, size=4)


def loop_segments(utterance, steps, window, hop):
    """The oracle: cuts one utterance without padding, frame by frame."""
    segments = np.zeros((steps, window, utterance.shape[1]), np.float32)
    mask = np.zeros(steps, bool)
    start = step = 0
    while start + window <= len(utterance) or step == 0:
        for frame in range(window):
            segments[step, frame] = utterance[start + frame] if start + frame < len(utterance) else SILENCE
        mask[step] = True
        step, start = step + 1, start + hop
    return segments, mask


segmentations = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda pair: (max(pair), min(pair)))


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
        np.testing.assert_array_equal(padded[row, length:window], np.full((max(window - length, 0), 3), SILENCE))
        padded[row, max(length, window) :] = fill
    segments, mask = padding.cut_segments(padded, np.array(lengths), window, hop)
    assert mask.dtype == bool and mask[:, 0].all(), "every utterance has a real segment"
    for row, utterance in enumerate(frames):
        expected, expected_mask = loop_segments(utterance, (size - window) // hop + 1, window, hop)
        np.testing.assert_array_equal(mask[row], expected_mask)
        np.testing.assert_array_equal(segments[row], expected)


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 60), segmentation=segmentations)
def test_only_the_tail_is_dropped(length, segmentation):
    """Segments hold every frame but fewer than `hop` at the end (no gaps where hop ≤ window)."""
    window, hop = segmentation
    size = max(length, window)
    padded = padding.pad_frames([ramp(length, 1)], size, minimum=window, silence=SILENCE)
    segments, mask = padding.cut_segments(padded, np.array([length]), window, hop)
    seen = set(segments[mask].ravel().astype(int)) - {int(SILENCE)}
    last = (mask.sum() - 1) * hop + window
    assert seen == set(range(1, min(last, length) + 1))
    assert length - last < hop


def test_aligned_copy_is_shared_by_all_cpu_devices():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    copy = padding.aligned(values)
    np.testing.assert_array_equal(copy, values)
    sharding = jax.sharding.NamedSharding(jax.make_mesh((4,), ("run",)), jax.sharding.PartitionSpec())
    on_devices = jax.device_put(copy, sharding)
    places = {shard.data.unsafe_buffer_pointer() for shard in on_devices.addressable_shards}
    assert places == {copy.ctypes.data}
