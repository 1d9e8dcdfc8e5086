"""Predictions without the store: the same answers, and nothing of a recording on the disk."""

import numpy as np
import pytest
import soundfile
from bad_recordings import encoded
from commands import command, feature_store
from made_runs import make_run, speech

from ser_jax.prediction import batch, blocks
from ser_jax.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "plain", "plain_crnn")


@pytest.fixture
def folder(tmp_path):
    """A call with another voice in each channel, recordings of other lengths, and a bad one."""
    sides = np.stack([speech(1.0, seed=1), speech(1.0, seed=2)], axis=1)
    soundfile.write(tmp_path / "call.wav", sides, 16000, subtype="FLOAT")
    for side, name in enumerate(("left", "right")):
        soundfile.write(tmp_path / f"{name}.wav", sides[:, side], 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "quiet.wav", 0.005 * speech(0.7), 8000)
    (tmp_path / "bad.wav").write_bytes(b"none")
    (tmp_path / "long.flac").write_bytes(encoded(np.full(16000 * 121, 0.1), format="FLAC"))
    return tmp_path


def answers(rows):
    shares = [list(row.answer.probabilities.values()) if row.answer else [] for row in rows]
    return [(row.file, row.seconds, row.flags, row.reason, row.detail) for row in rows], shares


def test_what_is_not_stored_is_predicted_alike(run, folder):
    predictor = Predictor(run)
    listed = batch.find([str(folder)])
    stored = batch.predict(predictor, listed, predictor.decision())
    facts, shares = answers(blocks.predict(predictor, listed, predictor.decision()))
    expected, expected_shares = answers(stored)
    assert facts == expected
    for found, wanted in zip(shares, expected_shares, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    flags = {row.file.rpartition("/")[2]: row.flags for row in stored}
    assert flags["quiet.wav"] == ("odd rate", "low rate", "quiet")
    assert flags["call.wav"] == ("several channels",) and flags["left.wav"] == ()
    details = {row.reason: row.detail for row in stored if row.answer is None}
    assert details["too long"].endswith("; --timeline follows recordings of any length")


def test_a_channel_is_that_recording(run, folder):
    for keep in (batch.predict, blocks.predict):
        for channel, name in (("left", "left"), ("2", "right")):
            predictor = Predictor(run, channel=channel)
            files = [str(folder / "call.wav"), str(folder / f"{name}.wav")]
            rows = keep(predictor, batch.find(files), predictor.decision())
            call, alone = answers(rows)[1]
            np.testing.assert_allclose(call, alone, atol=1e-6)


def test_the_command_keeps_nothing(run, folder):
    before = feature_store()
    arguments = (f"--model={run}", str(folder), "--no_store", "--channel=left")
    ended = command(*arguments, name="predict")
    assert ended.code == 0 and feature_store() == before
    assert "quiet.wav" in ended.out and "(low rate; quiet)" in ended.out
    refused = command(f"--model={run}", str(folder), "--channel=middle", name="predict").refusal
    assert "features.channel=middle; it must be mean, left, right or a number from 1" in refused
