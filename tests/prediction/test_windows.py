"""Windows scored one by one: each says what `predict` says of its samples."""

from typing import Any

import made_runs
import numpy as np
import pytest

import ser_jax
from ser_jax.prediction.windows import Windows
from ser_jax.runtime.errors import UserError


@pytest.fixture(scope="module", params=["plain_crnn", "hsf_crnn"])
def predictor(request, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("run") / request.param
    return ser_jax.load(made_runs.make_run(folder, request.param))


def follow(predictor, samples, window, hop, seed=0):
    windows = Windows(predictor, 16000, window_seconds=window, hop_seconds=hop)
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(samples) + 1, 7))
    moments = [moment for part in np.split(samples, cuts) for moment in windows.push(part)]
    return [*moments, *windows.drain()], windows


def test_every_window_is_a_recording_of_its_own(predictor):
    samples = made_runs.speech(2.6)
    moments, windows = follow(predictor, samples, 1.0, 0.5)
    assert [m.start for m in moments] == [0, 0.5, 1, 1.5, 1.6]
    assert [m.end for m in moments] == [1, 1.5, 2, 2.5, 2.6]
    expected = []
    for moment in moments:
        part = samples[round(moment.start * 16000) : round(moment.end * 16000)]
        found = predictor.predict(part, 16000).probabilities
        expected.append(list(found.values()))
        assert moment.window == pytest.approx(found, abs=1e-5)
        so_far = list(moment.so_far.values())
        np.testing.assert_allclose(so_far, np.mean(expected, axis=0), atol=1e-5)
    found = windows.finish()
    assert found.probabilities == moments[-1].so_far and found.seconds == 2.6


def test_a_shorter_recording_is_one_window(predictor):
    samples = made_runs.speech(0.7)
    [moment], windows = follow(predictor, samples, 3.0, 1.5)
    assert (moment.start, moment.end) == (0, 0.7)
    expected = predictor.predict(samples, 16000).probabilities
    assert windows.finish().probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("faint", [0.0, 0.0009])
def test_a_silent_window_has_no_answer(predictor, faint):
    samples = np.concatenate([np.full(16000, faint, np.float32), made_runs.speech(1.0)])
    moments, windows = follow(predictor, samples, 0.5, 0.5)
    assert [bool(m.window) for m in moments] == [False, False, True, True]
    assert moments[0].so_far == {}
    assert windows.finish().probabilities == moments[-1].so_far


def test_what_is_no_recording_has_no_answer(predictor):
    moments, windows = follow(predictor, made_runs.speech(0.05), 1.0, 1.0)
    assert all(m.window == {} for m in moments)
    with pytest.raises(UserError, match="too short"):
        windows.finish()


def test_memory_does_not_grow(predictor):
    windows = Windows(predictor, 16000, window_seconds=0.5, hop_seconds=0.5)
    for number in range(6):
        windows.push(made_runs.speech(0.9, seed=number))
        assert len(windows._samples) <= 16000 and windows._samples.base is None


@pytest.mark.parametrize(
    ("window", "hop", "sentence"),
    [
        (0.05, 0.05, "a window of 0.05 s cannot be scored; choose 0.06 to 120 s"),
        (float("nan"), 1, "a window of nan s"),
        (121, 1, "a window of 121 s"),
        (1, 1.5, "hop=1.5 s is none for windows of 1 s; choose 0.01 to 1 s"),
        (1, 0, "hop=0 s"),
    ],
)
def test_windows_and_hops_that_are_none(predictor, window, hop, sentence):
    with pytest.raises(UserError, match=sentence):
        Windows(predictor, 16000, window_seconds=window, hop_seconds=hop)
