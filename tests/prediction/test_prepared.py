"""A model of prepared recordings answers alike in every mode, whatever the recorder has done."""

from typing import Any

import made_runs
import numpy as np
import pytest
import soundfile

import ser_jax
from ser_jax.exporting import card
from ser_jax.prediction import batch, blocks, ensemble, weights
from ser_jax.prediction.streaming import Stream
from ser_jax.training import model_files

RATE = 16000
FULL = {"remove_dc": True, "trim": "ends", "level": "recording"}
SILENCE = np.zeros(RATE, np.float32)
CHANGES = {
    "quieter": lambda wave: 0.1 * wave,
    "offset": lambda wave: wave + np.float32(0.01),
    "silence": lambda wave: np.concatenate([SILENCE, wave, SILENCE]),
}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("run") / "run"
    return ser_jax.load(made_runs.make_run(folder, "plain_crnn", features=FULL))


def shares(found) -> list[float]:
    return list(found.probabilities.values())


@pytest.mark.parametrize("change", CHANGES)
def test_files_samples_and_blocks_agree(predictor, tmp_path, change):
    wave = made_runs.speech(3.0)
    expected = shares(predictor.predict(wave, RATE))
    path = tmp_path / "a.wav"
    soundfile.write(path, CHANGES[change](wave), RATE, subtype="FLOAT")
    decision, sources = predictor.decision(), batch.find([str(path)])
    found = [predictor.predict(path), predictor.timeline(path, window=9.0, hop=9.0).answer]
    found += [row.answer for row in batch.predict(predictor, sources, decision)]
    found += [row.answer for row in blocks.predict(predictor, sources, decision)]
    np.testing.assert_allclose([shares(one) for one in found], [expected] * 4, atol=2e-3)
    raw = predictor.predict(wave, RATE, end=1.0)
    assert np.abs(np.array(shares(raw)) - expected).max() > 0.02  # It does depend on the sound.


def follow(predictor, wave, cuts=()):
    stream = Stream(predictor, RATE)
    moments = [moment for part in np.split(wave, sorted(cuts)) for moment in stream.push(part)]
    return [*moments, *stream.drain()], stream.finish()


@pytest.mark.parametrize("change", CHANGES)
def test_streams_agree_and_come_near(predictor, change):
    """With silence around the rows begin later; the end is as if it was not there."""
    wave = made_runs.speech(6.0, seed=2)
    _, expected = follow(predictor, wave)
    changed = CHANGES[change](wave)
    moments, found = follow(predictor, changed)
    np.testing.assert_allclose(shares(found), shares(expected), atol=0.1)
    whole = predictor.predict(changed, RATE)
    assert found.label == whole.label
    np.testing.assert_allclose(shares(found), shares(whole), atol=0.15)
    silent = [not moment.so_far for moment in moments]
    assert sum(silent) == (4 if change == "silence" else 0)
    apart, again = follow(predictor, changed, np.random.default_rng(0).integers(0, len(wave), 9))
    assert [m.end for m in apart] == [m.end for m in moments]
    np.testing.assert_allclose(shares(again), shares(found), atol=1e-5)


@pytest.mark.parametrize("system", ["plain_crnn", "multi_crnn"])
def test_the_mean_of_an_utterance_in_every_mode(tmp_path, system):
    """A line that raises every band alike is a gain: no probability changes."""
    features = {"normalisation": "utterance"}
    predictor = ser_jax.load(made_runs.make_run(tmp_path / "run", system, features=features))
    wave = made_runs.speech(6.0)
    found, softer = (predictor.predict(gain * wave, RATE) for gain in (1.0, 0.05))
    np.testing.assert_allclose(shares(found), shares(softer), atol=1e-3)
    for gain in (1.0, 0.05):
        _, streamed = follow(predictor, gain * wave)
        np.testing.assert_allclose(shares(streamed), shares(found), atol=0.2)
    window = predictor.timeline(wave, RATE, window=9.0, hop=9.0).answer
    np.testing.assert_allclose(shares(window), shares(found), atol=1e-5)


def test_recordings_outside_of_the_training_are_flagged(tmp_path):
    """In every mode of predict, from a run and from exported weights; older runs flag nothing."""
    run = made_runs.make_run(tmp_path / "run", "plain_crnn")
    predictor, path = ser_jax.load(run), tmp_path / "a.wav"
    soundfile.write(path, 0.01 * made_runs.speech(1.0), RATE, subtype="FLOAT")
    assert predictor.predict(path).flags == ("quiet",)
    domain = {"bounds": {"level": [-40.0, -10.0], "log_mel": [0.0, 1.0]}}
    for number in range(2):
        folder = run / f"models/s{number}-0"
        model = model_files.read_model(folder)
        model.description["domain"] = domain | {
            "log_mel": {"mean": [-20.0] * 40, "std": [1.0] * 40}
        }
        model_files.write_model(folder, model.description, model.params, model.statistics)
    found = ensemble.read_ensemble(run)
    described = {key: "" for key in ("corpus", "corpus_sha256", "protocol", "protocol_sha256")}
    weights.write(tmp_path / "a.safetensors", found, card.describe(found, described))
    flags = ("quiet", "quieter than training", "other sound than training")
    for place in (run, tmp_path / "a.safetensors"):
        predictor = ser_jax.load(place)
        decision, sources = predictor.decision(), batch.find([str(path)])
        [row], [block] = (kind.predict(predictor, sources, decision) for kind in (batch, blocks))
        assert predictor.predict(path).flags == row.flags == block.flags == flags
