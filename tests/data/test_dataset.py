"""Datasets: rows and buckets, no real frame lost, and the shift of the functionals cancels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.corpora.table import Utterance
from ser_jax.data import dataset as datasets
from ser_jax.data import epoch_plans, padding, standardise
from ser_jax.data.inputs import Inputs, Segmentation, covered_frames, segment_count
from ser_jax.models import crnn
from ser_jax.models.layers import ComputeOptions
from ser_jax.protocols import folds

SHORT, LONG = Segmentation(30, 20), Segmentation(50, 25)
SILENCE = -23.0


def log_mel_of(lengths, bands=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(-8, 3, (length, bands)).astype(np.float32) for length in lengths]


def frames_in(inputs: Inputs) -> Any:
    return inputs.frames


def segments_in(inputs: Inputs) -> Any:
    return inputs.segments


def build(log_mel, hsf=None, **options):
    defaults = {"segmentations": (SHORT, LONG), "form": "fast", "silence": SILENCE}
    defaults |= {"shapes": 3, "batch_size": 4, "train_fraction": 0.8}
    source, targets = datasets.frames_source(log_mel, hsf), np.arange(len(log_mel)) % 4 - 1
    return datasets.frames_dataset(source, targets, **{**defaults, **options}).loaded()


def build_waves(waves, **options):
    source, targets = datasets.waves_source(waves), np.arange(len(waves))
    return datasets.waves_dataset(source, targets, **options).loaded()


def test_by_hand():
    """Lengths 12, 100, 31, 104 cover 50, 100, 50, 100 frames: two buckets of two."""
    log_mel = log_mel_of([12, 100, 31, 104])
    data = build(log_mel, shapes=2, batch_size=2, train_fraction=1.0)
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


# --- Variants


VERSIONS = np.array([[0, 1, 2, 3], [4, 1, 5, 3], [6, 1, 2, 7]])  # utterance 1 has no variant


def build_variants(log_mel, hsf=None, **options):
    """Four utterances of classes -1 to 2, and their variants."""
    defaults: Any = {"segmentations": (SHORT, LONG), "form": "fast", "silence": SILENCE}
    defaults |= {"shapes": 2, "batch_size": 1, "train_fraction": 1.0}
    source = datasets.frames_source(log_mel, hsf)._replace(versions=VERSIONS)
    return datasets.frames_dataset(source, np.arange(4) - 1, **{**defaults, **options})


def test_variants_share_the_bucket_of_their_utterance():
    """By hand: utterance 2 covers 50 frames and its variant 100, so that it goes with the long."""
    log_mel = log_mel_of([12, 100, 31, 104, 13, 90, 49, 70])
    data = build_variants(log_mel).loaded()
    assert data.bucket.tolist() == [0, 1, 1, 1]
    # The rows of all utterances, then arrays 4 and 6, and 5 and 7.
    assert [len(inputs.length) for inputs in data.buckets] == [3, 5]
    assert data.buckets[0].length.tolist() == [12, 13, 49]
    assert data.buckets[1].length.tolist() == [100, 31, 104, 90, 70]
    assert data.versions.tolist() == [[0, 0, 1, 2], [1, 0, 3, 2], [2, 0, 1, 4]]
    assert [targets.tolist() for targets in data.targets] == [[-1] * 3, [0, 1, 2, 1, 2]]
    for version, utterance in np.ndindex(VERSIONS.shape):
        frames = log_mel[VERSIONS[version, utterance]]
        stored = frames_in(data.buckets[data.bucket[utterance]])[data.versions[version, utterance]]
        np.testing.assert_array_equal(stored[: len(frames)], frames[: len(stored)])


def test_only_who_asks_for_a_version_gets_one():
    """Scoring never does: rows are those of the utterances, statistics as well."""
    log_mel = log_mel_of([12, 100, 31, 104, 13, 90, 49, 70])
    rng = np.random.default_rng(0)
    hsf = rng.normal(size=(8, 5)).astype(np.float32)
    data = build_variants(log_mel, hsf)
    part = np.array([3, 0, 2])
    assert [rows.tolist() for rows in data.rows(part)] == [[0], [2, 1]]
    version = np.array([2, 1, 1, 2])
    assert [rows.tolist() for rows in data.rows(part, version)] == [[2], [4, 3]]
    assert data.utterances(1).tolist() == [1, 2, 3]
    clean = build(log_mel[:4], hsf[:4]).statistics(part)
    for own, other in zip(data.statistics(part), clean, strict=True):
        np.testing.assert_array_equal(own, other)
    by_speaker = data.by_speaker(np.array([1, 2, 1, 2])).loaded()
    np.testing.assert_array_equal(by_speaker.buckets[1].speaker, [2, 1, 2, 1, 2])


@pytest.mark.parametrize("form", ["fast", "literal"])
@pytest.mark.parametrize("length", [1, 12, 29, 30, 31, 49])
def test_short_utterances_are_filled_with_silence_for_both_segmentations(form, length):
    (frames,) = log_mel_of([length])
    inputs = build([frames], form=form).buckets[0]
    filled = np.concatenate([frames, np.full((50 - length, 3), SILENCE, np.float32)])
    if form == "fast":
        np.testing.assert_array_equal(frames_in(inputs)[0], filled)
    else:
        short, long = segments_in(inputs)
        assert (short.shape, long.shape) == ((1, 2, 30, 3), (1, 1, 50, 3))
        np.testing.assert_array_equal(short[0, 0], filled[:30])
        np.testing.assert_array_equal(long[0, 0], filled)
        assert np.all(short[0, 1] == 0), "it is padding: its frames are not all real"


def test_literal_form_by_shape_and_mask():
    lengths = [12, 100, 31, 104, 260]
    log_mel = log_mel_of(lengths)
    fast, literal = build(log_mel), build(log_mel, form="literal")
    for a, b in zip(fast.buckets, literal.buckets, strict=True):
        assert b.frames is None and a.segments is None
        np.testing.assert_array_equal(a.length, b.length)
        for (window, hop), segments in zip((SHORT, LONG), segments_in(b), strict=True):
            steps = (frames_in(a).shape[1] - window) // hop + 1
            assert segments.shape == (len(frames_in(a)), steps, window, 3)
            assert segments.dtype == np.float32
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
    segmentations=st.sampled_from([(SHORT,), (LONG,), (SHORT, LONG), (LONG, SHORT)]),
    options=st.fixed_dictionaries(
        {
            "shapes": st.integers(1, 6),
            "batch_size": st.integers(1, 32),
            "train_fraction": st.sampled_from([0.0, 1e-6, 0.5, 0.9, 1.0]),
            "whole": st.booleans(),
        }
    ),
)
def test_truncation_loses_no_covered_frame(lengths, segmentations, options):
    log_mel = log_mel_of(lengths)
    data = build(log_mel, segmentations=segmentations, **options)
    numbers = np.concatenate([data.utterances(bucket) for bucket in range(len(data.buckets))])
    assert sorted(numbers) == list(range(len(lengths)))
    for bucket, targets in enumerate(data.targets):
        np.testing.assert_array_equal(targets, data.utterances(bucket) % 4 - 1)
    covered = covered_frames(np.array(lengths), segmentations)
    for number, frames in enumerate(log_mel):
        inputs, row = data.buckets[data.bucket[number]], data.row[number]
        assert inputs.length[row] == lengths[number], "not truncated, so that segments count right"
        real = lengths[number] if options["whole"] else min(lengths[number], covered[number])
        np.testing.assert_array_equal(frames_in(inputs)[row, :real], frames[:real])
        np.testing.assert_array_equal(frames_in(inputs)[row, real : covered[number]], SILENCE)
        for window, hop in segmentations:
            room = (frames_in(inputs).shape[1] - window) // hop + 1
            assert segment_count(np.array(lengths[number]), window, hop) <= room


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 300), min_size=8, max_size=30), batch_size=st.integers(1, 9))
def test_an_epoch_of_every_fold_holds_its_training_part_once(lengths, batch_size):
    """R15 from the protocol's fold to the utterances behind the batches' rows."""
    numbers = range(len(lengths))
    speakers = [Utterance(f"{n:03}", "", label="angry", speaker=f"s{n % 4}") for n in numbers]
    data = build(log_mel_of(lengths, bands=1), batch_size=batch_size)
    parts, _ = folds.leave_one_out(speakers, "speaker")
    fold_rows = [data.rows(fold.train) for fold in parts]
    steps = epoch_plans.steps_per_bucket(fold_rows, batch_size)
    for fold, rows in zip(parts, fold_rows, strict=True):
        key = {"protocol": "p", "seed": 0, "fold": fold.name, "epoch": 1}
        batches = epoch_plans.training_batches(rows, steps, batch_size, **key)
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
    unshifted = Inputs(np.zeros(60), hsf=hsf.astype(np.float64))
    expected = np.asarray(standardise.standardise(unshifted, statistics, np).hsf)
    np.testing.assert_allclose(standardised_on_device(data, train), expected, atol=1e-5)


@HUGE
@pytest.mark.parametrize("poison", [np.nan, 1e30, -1e30])
def test_other_utterances_change_nothing(centre, spread, poison):
    """Statistics stay bit-equal; the shift, a median over all utterances, cancels."""
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


# --- Waves


def test_waves_by_hand():
    """1, 9, 5 and 12 samples are 1, 3, 2 and 3 chunks of 4: two buckets, nothing to standardise."""
    waves = [np.arange(1, size + 1, dtype=np.int16) for size in (1, 9, 5, 12)]
    data = build_waves(waves, chunk=4, shapes=2, batch_size=2, train_fraction=1.0)
    assert data.bucket.tolist() == [0, 1, 0, 1] and data.row.tolist() == [0, 0, 1, 1]
    assert [inputs.length.tolist() for inputs in data.buckets] == [[1, 2], [3, 3]]
    assert [part.tolist() for part in data.targets] == [[0, 2], [1, 3]]
    short, long = (inputs.wave for inputs in data.buckets)
    expected = [[[1, 0, 0, 0], [0, 0, 0, 0]], [[1, 2, 3, 4], [5, 0, 0, 0]]]
    np.testing.assert_array_equal(short, expected)
    np.testing.assert_array_equal(np.asarray(long).reshape(2, 12)[1], waves[3])
    for inputs in data.buckets:
        assert inputs.frames is inputs.hsf is inputs.keys is None
    assert data.padding_ratio == pytest.approx((2 * 2 + 2 * 3) / (1 + 3 + 2 + 3))
    nothing = data.device_statistics(data.statistics(np.array([0, 1])))
    assert nothing == standardise.Statistics() and all(value is None for value in nothing)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 4))
def test_every_sample_is_there_once(lengths, chunk, shapes):
    rng = np.random.default_rng(len(lengths))
    waves = [rng.integers(1, 9, length).astype(np.int16) for length in lengths]
    data = build_waves(waves, chunk=chunk, shapes=shapes, batch_size=3, train_fraction=0.7)
    for number, wave in enumerate(waves):
        inputs = data.buckets[data.bucket[number]]
        held = np.asarray(inputs.wave)[data.row[number]].ravel()
        np.testing.assert_array_equal(held[held != 0], wave)
        assert inputs.length[data.row[number]] == -(-len(wave) // chunk)


# --- Rows that are read on access

UTTERANCES = np.array([7, 3, 9, 4])  # of the rows
VALUES = np.repeat(UTTERANCES, 2).reshape(-1, 2).astype(np.float32)


def rows_of(reads: list) -> datasets.Rows:
    def read(part: np.ndarray) -> np.ndarray:
        reads.append(part.tolist())
        return np.repeat(part, 2).reshape(-1, 2).astype(np.float32)

    return datasets.Rows(UTTERANCES, (2,), np.float32, read)


@given(st.lists(st.integers(0, 3), max_size=9).map(lambda rows: np.array(rows, np.int64)))
def test_only_the_given_rows_are_read(numbers):
    assert (rows_of([]).nbytes, rows_of([]).ndim, len(rows_of([]))) == (VALUES.nbytes, 2, 4)
    np.testing.assert_array_equal(rows_of([])[1:3], VALUES[1:3])
    reads = []
    np.testing.assert_array_equal(rows_of(reads)[numbers], VALUES[numbers])
    assert reads == ([UTTERANCES[numbers].tolist()] if len(numbers) else []), "nothing if empty"


SPEAKERS = np.array([1, 2, 0, 1, 2, 1, 0], np.int32)


def by_speaker(log_mel, hsf, **options):
    source = datasets.frames_source(log_mel, hsf)
    options = {"segmentations": (SHORT, LONG), "form": "fast", "silence": SILENCE} | options
    options |= {"shapes": 3, "batch_size": 4, "train_fraction": 0.8}
    return datasets.frames_dataset(source, np.zeros(7, np.int32), **options).by_speaker(SPEAKERS)


def standardised(data, training) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Returns the standardised frames and functionals of every utterance."""
    found = {}
    statistics = data.device_statistics(data.statistics(training))
    for number, inputs in enumerate(data.buckets):
        batch: Any = standardise.standardise(inputs, statistics, np)
        for row, utterance in enumerate(data.utterances(number).tolist()):
            found[utterance] = batch.frames[row, : inputs.length[row]], batch.hsf[row]
    return found


def test_every_speaker_has_statistics_of_their_own_recordings():
    """Oracle: z-scores of one speaker at a time; speakers 0 have those of the training part."""
    log_mel = log_mel_of([60, 80, 100, 52, 77, 90, 64])
    hsf = (np.random.default_rng(1).normal(size=(7, 5)) * 10.0 ** np.arange(5)).astype(np.float32)
    hsf[[0, 3, 5], 4] = 7  # constant for this speaker
    training = np.array([0, 1, 2])
    data = by_speaker(log_mel, hsf).loaded()
    found = standardised(data, training)
    for speaker in (0, 1, 2):
        members = np.flatnonzero(SPEAKERS == speaker)
        sources = training if speaker == 0 else members
        frames = np.concatenate([log_mel[n] for n in sources]).astype(np.float64)
        functionals = hsf[sources].astype(np.float64)
        deviation = functionals.std(axis=0)
        for n in members.tolist():
            length = len(found[n][0])
            expected = (log_mel[n][:length] - frames.mean(axis=0)) / frames.std(axis=0)
            np.testing.assert_allclose(found[n][0], expected, atol=1e-4)
            expected = (hsf[n] - functionals.mean(axis=0)) / np.where(deviation, deviation, np.inf)
            np.testing.assert_allclose(found[n][1], np.clip(expected, -10, 10), atol=1e-4)
    statistics: Any = data.statistics(training)  # what a model file keeps
    np.testing.assert_allclose(statistics.hsf_mean, hsf[training].mean(axis=0), rtol=1e-6)


def test_nothing_of_other_speakers_enters():
    """Other training parts and recordings of others leave those of speaker 1 as they are."""
    lengths = [60, 80, 100, 52, 77, 90, 64]
    log_mel, hsf = log_mel_of(lengths), np.random.default_rng(1).normal(size=(7, 5))
    before = standardised(by_speaker(log_mel, hsf).loaded(), np.array([0, 1, 2]))
    for n in (1, 2, 4):
        log_mel[n], hsf[n] = 2 * log_mel[n] + 3, hsf[n] - 1
    after = standardised(by_speaker(log_mel, hsf).loaded(), np.array([3, 4]))
    for n in (0, 3, 5):
        np.testing.assert_array_equal(after[n][0], before[n][0])
        np.testing.assert_allclose(after[n][1], before[n][1], atol=1e-6)


@pytest.mark.parametrize("form", ["fast", "literal"])
def test_padding_has_no_gradient_with_speaker_normalisation(form):
    log_mel = log_mel_of([12, 80, 100, 52, 77, 90, 64])
    data = by_speaker(log_mel, np.random.default_rng(1).normal(size=(7, 5)), form=form).loaded()
    statistics = data.device_statistics(data.statistics(np.array([0, 1, 2])))
    system = crnn.CRNN(SHORT, 4, (5, 3), 6, ComputeOptions())

    def score(values, inputs, statistics, params):
        key = "frames" if form == "fast" else "segments"
        batch: Any = standardise.standardise(inputs._replace(**{key: values}), statistics, jnp)
        values = batch.frames if form == "fast" else batch.segments[0]
        states: Any = system.apply(params, values, batch.length)
        return jnp.sum(states**2)

    inputs: Any = data.buckets[-1]
    values = inputs.frames if form == "fast" else inputs.segments
    first = values if form == "fast" else values[0]
    params = jax.jit(system.init)(jax.random.key(0), first, inputs.length)
    gradient = jax.jit(jax.grad(score))(values, inputs, statistics, params)
    gradient = gradient if form == "fast" else gradient[0]
    count = segment_count(inputs.length, *SHORT)
    real = (count - 1) * SHORT.hop + SHORT.window if form == "fast" else count
    for row, end in enumerate(real.tolist()):
        assert np.any(gradient[row, :end]) and not np.any(gradient[row, end:])


def test_rows_that_are_read_on_access_are_the_same():
    log_mel, hsf = log_mel_of([60, 80, 100, 52, 77, 90, 64]), np.ones((7, 5), np.float32)
    streamed = by_speaker(log_mel, hsf)
    assert streamed.streamed
    for one, other in zip(streamed.loaded().buckets, streamed.buckets, strict=True):
        np.testing.assert_array_equal(one.speaker, other.speaker)
        np.testing.assert_array_equal(frames_in(one), frames_in(other)[:])
