"""The dataset: what lies where, that nothing real is lost, and that the shift of the functionals cancels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.arrays import dataset as datasets
from ser_jax.arrays import padding, plans, standardise
from ser_jax.arrays.inputs import Channel, Inputs, covered_frames, segment_count
from ser_jax.corpora.table import Utterance
from ser_jax.protocols import folds

SHORT, LONG = Channel(30, 20), Channel(50, 25)
SILENCE = -23.0


def log_mel_of(lengths, bands=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(-8, 3, (length, bands)).astype(np.float32) for length in lengths]


def frames_in(inputs: Inputs) -> np.ndarray:
    assert inputs.frames is not None
    return inputs.frames


def segments_in(inputs: Inputs) -> tuple[np.ndarray, ...]:
    assert inputs.segments is not None
    return inputs.segments


def build(log_mel, hsf=None, *, channels=(SHORT, LONG), form="fast", shapes=3, batch_size=4, train_share=0.8):
    return datasets.build_dataset(
        log_mel,
        hsf,
        np.arange(len(log_mel), dtype=np.int32) % 4 - 1,
        channels=channels,
        form=form,
        silence=SILENCE,
        shapes=shapes,
        batch_size=batch_size,
        train_share=train_share,
    )


def test_by_hand():
    """Lengths 12, 100, 31, 104 cover 50, 100, 50, 100 frames: two buckets of two."""
    log_mel = log_mel_of([12, 100, 31, 104])
    data = build(log_mel, shapes=2, batch_size=2, train_share=1.0)
    assert data.bucket.tolist() == [0, 1, 0, 1] and data.row.tolist() == [0, 0, 1, 1]
    assert [frames_in(inputs).shape for inputs in data.buckets] == [(2, 50, 3), (2, 100, 3)]
    assert [inputs.length.tolist() for inputs in data.buckets] == [[12, 31], [100, 104]]
    assert [targets.tolist() for targets in data.targets] == [[-1, 1], [0, 2]]
    np.testing.assert_array_equal(frames_in(data.buckets[0])[0, :12], log_mel[0])
    np.testing.assert_array_equal(frames_in(data.buckets[1])[1], log_mel[3][:100])
    assert data.padding_ratio == pytest.approx((2 * 50 + 2 * 100) / (12 + 100 + 31 + 104))
    assert [rows.tolist() for rows in data.rows(np.array([3, 2, 1]))] == [[1], [1, 0]]
    assert data.utterances(1).tolist() == [1, 3]
    assert [rows.tolist() for rows in data.rows(np.zeros(0, np.int64))] == [[], []]


@pytest.mark.parametrize("form", ["fast", "literal"])
@pytest.mark.parametrize("length", [1, 12, 29, 30, 31, 49])
def test_short_utterances_are_filled_with_silence_for_both_channels(form, length):
    (frames,) = log_mel_of([length])
    inputs = build([frames], form=form).buckets[0]
    filled = np.concatenate([frames, np.full((50 - length, 3), SILENCE, np.float32)])
    if form == "fast":
        np.testing.assert_array_equal(frames_in(inputs)[0], filled)
    else:
        assert [segments.shape for segments in segments_in(inputs)] == [(1, 2, 30, 3), (1, 1, 50, 3)]
        np.testing.assert_array_equal(segments_in(inputs)[0][0, 0], filled[:30])
        np.testing.assert_array_equal(segments_in(inputs)[1][0, 0], filled)
        assert np.all(segments_in(inputs)[0][0, 1] == 0), (
            "the second short segment is padding: its frames are not all real"
        )


def test_literal_form_by_shape_and_mask():
    lengths = [12, 100, 31, 104, 260]
    log_mel = log_mel_of(lengths)
    fast, literal = build(log_mel), build(log_mel, form="literal")
    for a, b in zip(fast.buckets, literal.buckets, strict=True):
        assert b.frames is None and a.segments is None
        np.testing.assert_array_equal(a.length, b.length)
        for (window, hop), segments in zip((SHORT, LONG), segments_in(b), strict=True):
            steps = (frames_in(a).shape[1] - window) // hop + 1
            assert segments.shape == (len(frames_in(a)), steps, window, 3) and segments.dtype == np.float32
            expected, mask = padding.cut_segments(frames_in(a), a.length, window, hop)
            np.testing.assert_array_equal(segments, expected)
            np.testing.assert_array_equal(mask.sum(axis=1), segment_count(a.length, window, hop))
            assert np.all(segments[~mask] == 0)
    held = sum(np.prod(s.shape[:3]) for inputs in literal.buckets for s in segments_in(inputs))
    assert literal.padding_ratio == pytest.approx(held / sum(lengths))


lengths_lists = st.lists(st.integers(1, 300), min_size=1, max_size=25)


@settings(deadline=None, max_examples=60)
@given(
    lengths=lengths_lists,
    channels=st.sampled_from([(SHORT,), (LONG,), (SHORT, LONG), (LONG, SHORT)]),
    shapes=st.integers(1, 6),
    batch_size=st.integers(1, 32),
    train_share=st.sampled_from([0.0, 1e-6, 0.5, 0.9, 1.0]),
)
def test_truncation_loses_no_covered_frame(lengths, channels, shapes, batch_size, train_share):
    log_mel = log_mel_of(lengths)
    data = build(log_mel, channels=channels, shapes=shapes, batch_size=batch_size, train_share=train_share)
    assert sorted(np.concatenate([data.utterances(b) for b in range(len(data.buckets))])) == list(range(len(lengths)))
    covered = covered_frames(np.array(lengths), channels)
    for number, frames in enumerate(log_mel):
        inputs, row = data.buckets[data.bucket[number]], data.row[number]
        assert inputs.length[row] == lengths[number], "the length is the true one, so that segments count right"
        real = min(lengths[number], covered[number])
        np.testing.assert_array_equal(frames_in(inputs)[row, :real], frames[:real])
        np.testing.assert_array_equal(frames_in(inputs)[row, real : covered[number]], SILENCE)
        for window, hop in channels:
            room = (frames_in(inputs).shape[1] - window) // hop + 1
            assert segment_count(np.array(lengths[number]), window, hop) <= room


@settings(deadline=None, max_examples=40)
@given(lengths=lengths_lists, seed=st.integers(0, 2**31))
def test_rows_and_utterances_are_inverse(lengths, seed):
    data = build(log_mel_of(lengths, bands=1))
    some = np.random.default_rng(seed).permutation(len(lengths))[: (len(lengths) + 1) // 2]
    back = [data.utterances(bucket)[rows] for bucket, rows in enumerate(data.rows(some))]
    assert sorted(np.concatenate(back)) == sorted(some)
    everything = data.rows(np.arange(len(lengths)))
    for bucket, rows in enumerate(everything):
        assert rows.tolist() == list(range(len(data.utterances(bucket))))
        np.testing.assert_array_equal(data.targets[bucket], data.utterances(bucket) % 4 - 1)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 300), min_size=8, max_size=30), batch_size=st.integers(1, 9))
def test_an_epoch_of_every_fold_holds_its_training_part_once(lengths, batch_size):
    """R15 from the protocol's fold to the utterances behind the batches' rows."""
    speakers = [Utterance(f"{n:03}", "", label="angry", speaker=f"s{n % 4}") for n in range(len(lengths))]
    data = build(log_mel_of(lengths, bands=1), batch_size=batch_size)
    parts, _ = folds.leave_one_out(speakers, "speaker")
    fold_rows = [data.rows(fold.train) for fold in parts]
    steps = plans.steps_per_bucket(fold_rows, batch_size)
    for fold, rows in zip(parts, fold_rows, strict=True):
        batches = plans.training_batches(rows, steps, batch_size, protocol="p", seed=0, fold=fold.name, epoch=1)
        seen = [data.utterances(bucket)[b.rows[b.mask]] for bucket, b in enumerate(batches)]
        assert sorted(np.concatenate(seen)) == fold.train.tolist()


HUGE = pytest.mark.parametrize(
    ("centre", "spread"), [(0.0, 1.0), (5.0, 1e-3), (1e13, 2e7), (-4e9, 1e4), (3.0, 1e12)], ids=str
)


def hsf_of(centre, spread, rows=60, seed=0):
    """Functionals of which a tenth is missing; of the last one, two thirds."""
    rng = np.random.default_rng(seed)
    hsf = (centre + spread * rng.normal(size=(rows, 8))).astype(np.float32)
    hsf[rng.random(hsf.shape) < np.array([0.1] * 7 + [2 / 3])] = np.nan
    return hsf


def standardised_on_device(data, train):
    """Functionals of all utterances as the train step sees them: shifted, in float32."""
    statistics = data.device_statistics(data.statistics(train))
    result = np.zeros(data.hsf.shape, np.float32)
    for bucket, inputs in enumerate(data.buckets):
        result[data.utterances(bucket)] = standardise.standardise(inputs, statistics, np).hsf
    assert result.dtype == np.float32
    return result


@HUGE
def test_shifted_float32_equals_unshifted_float64(centre, spread):
    hsf = hsf_of(centre, spread)
    data = build(log_mel_of([40] * 60), hsf)
    train = np.arange(45)
    statistics = data.statistics(train)
    assert [value.dtype for value in statistics if value is not None] == [np.float64] * 4
    unshifted = Inputs(np.zeros(60), hsf=hsf.astype(np.float64))
    expected = np.asarray(standardise.standardise(unshifted, statistics, np).hsf)
    np.testing.assert_allclose(standardised_on_device(data, train), expected, atol=1e-5)


def test_without_the_shift_float32_would_be_wrong():
    """What the shift is for: 1e13 with a spread of 2e7 leaves float32 a few dozen values."""
    hsf = hsf_of(1e13, 2e7)
    mean, std = standardise.hsf_statistics(hsf, np.arange(60))
    exact = (hsf.astype(np.float64) - mean) / std
    assert np.nanmax(np.abs((hsf - mean.astype(np.float32)) / std.astype(np.float32) - exact)) > 1e-3


@HUGE
@pytest.mark.parametrize("poison", [np.nan, 1e30, -1e30])
def test_other_utterances_change_nothing(centre, spread, poison):
    """Statistics stay bit-equal; the shift is a median over all utterances, and cancels unless most are poisoned."""
    hsf = hsf_of(centre, spread)
    train, test = np.arange(52), np.arange(52, 60)
    log_mel = log_mel_of([40] * 60)
    before = build(log_mel, hsf)
    changed = hsf.copy()
    changed[test] = poison
    after = build([*log_mel[:52], *(np.full((40, 3), poison, np.float32) for _ in test)], changed)
    for a, b in zip(before.statistics(train), after.statistics(train), strict=True):
        np.testing.assert_array_equal(a, b)
    a, b = standardised_on_device(before, train), standardised_on_device(after, train)
    np.testing.assert_allclose(a[train], b[train], atol=1e-5)
    assert np.all(b[test] == (0 if np.isnan(poison) else np.sign(poison) * 10))


@pytest.mark.parametrize("value", [0.1, 1e13, -3e30])
def test_a_functional_that_never_varies_in_training_becomes_zero(value):
    hsf = np.random.default_rng(3).normal(size=(20, 2)).astype(np.float32)
    hsf[:12, 0] = value
    data = build(log_mel_of([40] * 20), hsf)
    assert np.all(standardised_on_device(data, np.arange(12))[:12, 0] == 0)


def test_systems_without_functionals_have_none():
    data = build(log_mel_of([40, 60]))
    statistics = data.device_statistics(data.statistics(np.array([0])))
    assert data.hsf is data.hsf_centre is statistics.hsf_mean is statistics.hsf_std is None
    assert {np.asarray(value).dtype for value in statistics[:2]} == {np.dtype(np.float32)}
    assert all(inputs.hsf is None for inputs in data.buckets)


# --- Waves ------------------------------------------------------------------------------------------------------------


def test_waves_by_hand():
    """1, 9, 5 and 12 samples are 1, 3, 2 and 3 chunks of 4: two buckets, nothing to standardise."""
    waves = [np.arange(1, size + 1, dtype=np.int16) for size in (1, 9, 5, 12)]
    targets = np.array([0, 1, 2, 3], np.int32)
    data = datasets.build_wave_dataset(waves, targets, chunk=4, shapes=2, batch_size=2, train_share=1.0)
    assert data.bucket.tolist() == [0, 1, 0, 1] and data.row.tolist() == [0, 0, 1, 1]
    assert [inputs.length.tolist() for inputs in data.buckets] == [[1, 2], [3, 3]]
    assert [part.tolist() for part in data.targets] == [[0, 2], [1, 3]]
    short, long = (inputs.wave for inputs in data.buckets)
    np.testing.assert_array_equal(short, [[[1, 0, 0, 0], [0, 0, 0, 0]], [[1, 2, 3, 4], [5, 0, 0, 0]]])
    np.testing.assert_array_equal(np.asarray(long).reshape(2, 12)[1], waves[3])
    assert all(inputs.frames is None and inputs.hsf is None and inputs.keys is None for inputs in data.buckets)
    assert data.padding_ratio == pytest.approx((2 * 2 + 2 * 3) / (1 + 3 + 2 + 3))
    nothing = data.device_statistics(data.statistics(np.array([0, 1])))
    assert nothing == standardise.Statistics() and all(value is None for value in nothing)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 4))
def test_every_sample_is_there_once(lengths, chunk, shapes):
    rng = np.random.default_rng(len(lengths))
    waves = [rng.integers(1, 9, length).astype(np.int16) for length in lengths]
    targets = np.zeros(len(waves), np.int32)
    data = datasets.build_wave_dataset(waves, targets, chunk=chunk, shapes=shapes, batch_size=3, train_share=0.7)
    for number, wave in enumerate(waves):
        inputs = data.buckets[data.bucket[number]]
        held = np.asarray(inputs.wave)[data.row[number]].ravel()
        np.testing.assert_array_equal(held[held != 0], wave)
        assert inputs.length[data.row[number]] == -(-len(wave) // chunk)
