"""Counting per unit of resampling: by hand, and when speakers count."""

import dataclasses

import numpy as np
import pytest
import scored

from ser_jax.evaluation import units
from ser_jax.evaluation.predictions import Prediction


def row(name: str, speaker: str, seed: int, label: str, prediction: str) -> Prediction:
    return Prediction(name, speaker, "f", seed, label, prediction, (1.0, 0.0, 0.0))


def test_by_hand(monkeypatch):
    rows = [
        row("1", "b", 7, "angry", "sad"),
        row("2", "a", 7, "happy", "happy"),
        row("3", "b", 7, "angry", "sad"),
        row("1", "b", 9, "angry", "angry"),
    ]
    monkeypatch.setattr(units, "FEWEST_SPEAKERS", 2)
    found = units.count_units(rows, seeds=[7, 9], classes=scored.CLASSES)
    assert found.kind == "speaker"
    expected = np.zeros((2, 2, 3, 3))
    expected[1, 0, 0, 2] = 2
    expected[0, 0, 1, 1] = 1
    expected[1, 1, 0, 0] = 1
    np.testing.assert_array_equal(found.counts, expected)
    monkeypatch.undo()
    by_utterance = units.count_units(rows, seeds=[7, 9], classes=scored.CLASSES)
    assert by_utterance.kind == "utterance" and by_utterance.counts.shape == (3, 2, 3, 3)
    np.testing.assert_array_equal(by_utterance.counts.sum(axis=0), expected.sum(axis=0))


@pytest.mark.parametrize(("speakers", "kind"), [(4, "utterance"), (5, "speaker")])
def test_few_speakers_are_not_resampled(speakers, kind):
    rows = scored.make_rows(0, speakers=speakers)
    assert units.count_units(rows, seeds=[0, 1], classes=scored.CLASSES).kind == kind


def test_one_unknown_speaker_is_enough_to_resample_utterances():
    rows = scored.make_rows(0)
    rows[3] = dataclasses.replace(rows[3], speaker="")
    found = units.count_units(rows, seeds=[0, 1], classes=scored.CLASSES)
    assert found.kind == "utterance" and len(found.counts) == 54


def test_no_rows():
    assert units.count_units([], seeds=[0], classes=scored.CLASSES).counts.shape == (0, 1, 3, 3)


def test_class_numbers():
    rows = [row("1", "a", 0, "sad", "angry"), row("2", "a", 0, "happy", "sad")]
    labels, predicted = units.class_numbers(rows, scored.CLASSES)
    assert (labels.tolist(), predicted.tolist()) == ([2, 1], [0, 2])
