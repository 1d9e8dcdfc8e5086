"""Streams: they predict as `predict` does for the same samples, however these are cut."""

import functools
from typing import Any

import jax
import made_runs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ser_jax
from ser_jax.data.inputs import segment_count
from ser_jax.features import logmel
from ser_jax.models import build
from ser_jax.prediction.streaming import Moment, Stream
from ser_jax.runtime.errors import UserError

SYSTEMS = ("plain_crnn", "multi_crnn")


@pytest.fixture(scope="module")
def predictors(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    return {system: ser_jax.load(made_runs.make_run(folder / system, system)) for system in SYSTEMS}


def pieces(samples: np.ndarray, seed: int, longest: int = 9000) -> list[np.ndarray]:
    rng, cut = np.random.default_rng(seed), []
    while len(samples):
        size = int(rng.integers(0, longest))
        cut.append(samples[:size])
        samples = samples[size:]
    return cut


def shares(said: dict[str, float]) -> list[float]:
    assert tuple(said) == made_runs.CLASSES
    return list(said.values())


def assert_alike(found, expected) -> None:
    np.testing.assert_allclose(
        shares(found.probabilities), shares(expected.probabilities), atol=1e-5
    )


def run_through(stream: Stream, parts: list[np.ndarray]) -> list[Moment]:
    return [moment for part in parts for moment in stream.push(part)] + stream.drain()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
def test_the_end_of_a_stream_is_what_predict_says(predictors, system, rate, channels):
    predictor, samples = predictors[system], made_runs.speech(4.13, rate)
    if channels == 2:
        samples = np.stack([samples, np.roll(samples, 9)], axis=1)
    for part in (samples, (samples * 32767).astype(np.int16)):
        following = Stream(predictor, rate)
        run_through(following, pieces(part, seed=rate))
        found, expected = following.finish(), predictor.predict(part, rate)
        assert_alike(found, expected)
        for field in ("label", "seconds", "flags"):
            assert getattr(found, field) == getattr(expected, field)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_moment_says_of_the_past_what_predict_says_of_it(predictors, system):
    predictor, samples = predictors[system], made_runs.speech(2.07)
    moments = run_through(Stream(predictor, 16000), pieces(samples, seed=1))
    times = [(m.start, m.end) for m in moments]
    assert times[:3] == [(0.0, 0.315), (0.2, 0.515), (0.4, 0.715)] and len(times) == 9
    for moment in moments:
        cut = predictor.predict(samples[: round(moment.end * 16000)], 16000)
        np.testing.assert_allclose(shares(moment.so_far), shares(cut.probabilities), atol=1e-5)
    assert len({tuple(np.round(shares(m.so_far), 3)) for m in moments}) > 5


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_window_is_the_last_segments_only(predictors, system, tmp_path):
    """Oracle: the network on the frames of the window, as if they were a recording of their own."""
    run = made_runs.make_run(tmp_path / "one", system, models=1)
    predictor, samples = ser_jax.load(run), made_runs.speech(5)
    last = run_through(Stream(predictor, 16000, window_seconds=1.5), [samples])[-1]
    model: Any = build.build_model(predictor.config, 4)
    [one] = predictor._models
    front_end = predictor._settings
    frames = logmel.log_mel(samples, front_end)[: round((last.end - 0.025) * 100) + 1]
    frames = ((frames - one.statistics.mean) / one.statistics.std).astype(np.float32)
    pooled = []
    names, segmentations = (
        build.spec(predictor.config).streams,
        build.segmentations(predictor.config),
    )
    for name, segmentation in zip(names, segmentations, strict=True):
        crnn, length = getattr(model, name), np.array([len(frames)])
        count = segment_count(np.array(148), *segmentation)  # 1.5 s are 148 frames
        begin = (segment_count(length[0], *segmentation) - count) * segmentation.hop
        part = frames[begin : begin + (count - 1) * segmentation.hop + segmentation.window]
        assert begin > 0
        arguments = {"params": one.params[name]}, part[None], np.array([len(part)])
        pooled.append(jax.jit(crnn.apply)(*arguments))
    answer = jax.jit(functools.partial(model.apply, method="answer"))
    logits = answer({"params": one.params}, tuple(pooled))
    expected = jax.nn.softmax(logits[0] / one.description["temperature"])
    np.testing.assert_allclose(shares(last.window), expected, atol=1e-4)
    assert np.abs(np.array(shares(last.so_far)) - shares(last.window)).max() > 1e-3


@pytest.mark.parametrize("system", SYSTEMS)
def test_before_the_window_is_full_it_is_everything(predictors, system):
    stream = Stream(predictors[system], 16000, window_seconds=2.0)
    for moment in run_through(stream, [made_runs.speech(1.9)]):
        np.testing.assert_allclose(shares(moment.window), shares(moment.so_far), atol=1e-6)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("seconds", [0.06, 0.2, 0.4, 0.51])
def test_shorter_than_a_segment(predictors, system, seconds):
    """As `predict` does, silence fills the segments; of no whole one there is a moment."""
    predictor, samples = predictors[system], made_runs.speech(seconds)
    following = Stream(predictor, 16000)
    assert len(run_through(following, pieces(samples, 3, longest=500))) == (seconds > 0.315)
    assert_alike(following.finish(), predictor.predict(samples, 16000))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 24000), max_size=12), multi=st.booleans())
def test_the_pieces_do_not_matter(predictors, cuts, multi):
    predictor, samples = predictors[SYSTEMS[multi]], made_runs.speech(1.5)
    together = run_through(Stream(predictor, 16000), [samples])
    apart = run_through(Stream(predictor, 16000), np.split(samples, sorted(cuts)))
    assert [(m.start, m.end) for m in apart] == [(m.start, m.end) for m in together]
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(shares(one.so_far), shares(other.so_far), atol=1e-6)
        np.testing.assert_allclose(shares(one.window), shares(other.window), atol=1e-6)


def test_segments_that_lie_apart(tmp_path):
    """A hop longer than a segment skips frames, also across pieces."""
    run = made_runs.make_run(tmp_path / "run", "plain_crnn", short_window=30, short_hop=45)
    predictor, samples = ser_jax.load(run), made_runs.speech(2)
    following = Stream(predictor, 16000)
    run_through(following, pieces(samples, 4, longest=900))
    assert_alike(following.finish(), predictor.predict(samples, 16000))


@pytest.mark.parametrize("system", SYSTEMS)
def test_memory_does_not_grow(predictors, system):
    following, sizes = Stream(predictors[system], 22050, window_seconds=1.0), []
    for number in range(12):
        following.push(made_runs.speech(2.0, 22050, seed=number))
        kept = [following._samples, following._frames]
        assert all(array.base is None for array in kept), "no view of what is gone"
        for pool in following._pools:
            kept += [pool._maximum, pool._minimum, pool._total]
        sizes.append(sum(array.nbytes for array in kept))
    assert max(sizes[3:]) <= 1.5 * min(sizes[3:])


def test_few_programs_serve_pieces_of_any_length(predictors):
    network = predictors["multi_crnn"].segments
    following = Stream(predictors["multi_crnn"], 16000)
    for seconds in np.geomspace(0.01, 9, 25):
        following.push(made_runs.speech(float(seconds)))
    assert all(program._cache_size() <= 5 for program in network._hidden)  # 1, 2, 4, 8, 16 segments
    assert network._answer._cache_size() <= 6  # twice as many answers, and one at the end


def test_a_refused_piece_is_as_if_it_had_not_been(predictors):
    predictor, samples = predictors["plain_crnn"], made_runs.speech(6)
    following, bad = Stream(predictor, 16000), made_runs.speech(5, seed=9)
    bad[-1] = np.nan
    following.push(samples[:30000])
    for piece, sentence in (
        (bad, "the samples cannot be used: non-finite"),
        (np.array([3000.0]), "over the limits: samples up to 3000"),
        (np.ones((5, 2), np.float32), "2 channels after 1; a stream keeps its channels"),
        (np.ones(5, np.int64), r"an array of int64 of shape \(5,\)"),
        (np.ones(()), r"an array of float64 of shape \(\)"),
    ):
        with pytest.raises(UserError, match=sentence):
            following.push(piece)
    following.push(samples[30000:])
    assert_alike(following.finish(), predictor.predict(samples, 16000))


def test_clipping_is_noticed_across_pieces(predictors):
    samples = made_runs.speech(0.5)
    samples[100:103] = 1.0
    following = Stream(predictors["plain_crnn"], 16000)
    for part in np.split(samples, [101, 102]):
        following.push(part)
    assert following.finish().flags == ("clipped",)


def test_what_is_no_recording_has_no_answer(predictors):
    for samples, sentence in (
        (np.zeros(0), "too short"),
        (made_runs.speech(0.05), "too short"),
        (np.stack([made_runs.speech(0.5), -made_runs.speech(0.5)], axis=1), "silent"),
    ):
        following = Stream(predictors["plain_crnn"], 16000)
        following.push(samples)
        with pytest.raises(UserError, match=f"the stream cannot be used: {sentence}"):
            following.finish()


def test_a_stream_ends_once(predictors):
    following = Stream(predictors["plain_crnn"], 16000)
    following.push(made_runs.speech(0.5))
    following.finish()
    assert following.drain() == []
    with pytest.raises(UserError, match="has ended and takes no more samples; start another one"):
        following.push(np.zeros(0))
    with pytest.raises(UserError, match="has been finished before"):
        following.finish()


def test_impossible_windows_and_rates_are_refused(predictors):
    for seconds in (0, -1, float("nan"), float("inf"), 601):
        with pytest.raises(UserError, match="choose more than 0 and up to 600 s"):
            Stream(predictors["plain_crnn"], 16000, window_seconds=seconds)
    sentence = "a stream of 100 Hz cannot be used: over the limits: 100 Hz; 4000 to 192000"
    with pytest.raises(UserError, match=sentence):
        Stream(predictors["plain_crnn"], 100)


def test_systems_that_need_the_whole_utterance_are_refused(tmp_path):
    predictor = ser_jax.load(made_runs.make_run(tmp_path / "run", "hsf_crnn", models=1))
    sentence = "hsf_crnn needs the whole utterance .* --timeline --window=3"
    with pytest.raises(UserError, match=sentence):
        Stream(predictor, 16000)
    run = made_runs.make_run(tmp_path / "attentive", "plain_crnn", models=1, attention_units=4)
    with pytest.raises(UserError, match="a model of model.attention_units=4 needs the whole"):
        Stream(ser_jax.load(run), 16000)
