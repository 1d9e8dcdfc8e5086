"""The stress table: by hand, and its UA against that of results.json."""

import dataclasses

import numpy as np
import pytest
import scored

from ser_jax.evaluation.results import summarise
from ser_jax.evaluation.stress_table import NO_ANSWER, Recording, models_sha256, table

CLASSES = ("angry", "sad")


def recordings(labels, speakers=()):
    names = speakers or [""] * len(labels)
    return [Recording(str(n), *pair) for n, pair in enumerate(zip(names, labels, strict=True))]


def test_by_hand():
    """Of two angry and two sad one sad is wrong before; then all are angry; then one is silent."""
    answers = {
        "unchanged": ["angry", "angry", "sad", "angry"],
        "quieter": ["angry"] * 4,
        "silent": [NO_ANSWER, NO_ANSWER, "sad", "angry"],
    }
    rows, facts = table(recordings(["angry", "angry", "sad", "sad"]), answers, CLASSES)
    before, quieter, silent = rows
    assert [row.ua for row in rows] == [0.75, 0.5, 0.25] and facts["labelled"] == 4
    assert [row.stays for row in rows] == [1, 0.75, 0.5]
    assert (before.drift, before.drift_share, before.drift_before) == (None, None, None)
    assert (quieter.drift, quieter.drift_share, quieter.drift_before) == ("angry", 1, 0.75)
    assert (silent.drift, silent.drift_share, silent.drift_before) == (NO_ANSWER, 0.5, 0)
    assert {row.recordings for row in rows} == {4}


def test_labels_may_be_missing():
    answers = {"unchanged": ["angry", "sad"], "other": ["sad", "sad"]}
    rows, facts = table(recordings(["", ""]), answers, CLASSES)
    assert [(row.ua, row.ua_ci95) for row in rows] == [(None, None)] * 2
    assert facts == {"labelled": 0, "ci95_unit": None, "ci95_units": None}
    assert rows[1].stays == 0.5 and rows[1].drift == "sad"
    rows, facts = table(recordings(["sad", ""]), answers, CLASSES)
    assert [row.ua for row in rows] == [0, 1] and facts["labelled"] == 1
    assert rows[0].ua_ci95 is None, "one recording has no interval"


def test_answers_that_change_places_drift_nowhere_in_sum():
    answers = {"unchanged": ["angry", "sad"], "other": ["sad", "angry"]}
    _, other = table(recordings(["angry", "sad"]), answers, CLASSES)[0]
    assert other.stays == 0 and other.drift_share == other.drift_before == 0.5


def test_ua_and_interval_are_those_of_a_run():
    rows = scored.make_rows(0, speakers=6, per_speaker=8, seeds=(0,))
    rows = [dataclasses.replace(row, fold="a") for row in rows]
    classes = sorted({row.label for row in rows} | {row.prediction for row in rows})
    results = summarise(
        rows,
        **dict.fromkeys(("system", "corpus", "corpus_sha256", "protocol", "protocol_sha256"), ""),
        parameters=0,
        classes=classes,
        runs=[{"fold": "a", "seed": 0, "best_epoch": 1, "status": "done"}],
        seconds={},
    )
    spoken = [Recording(row.id, row.speaker, row.label) for row in rows]
    (row,), facts = table(spoken, {"unchanged": [row.prediction for row in rows]}, classes)
    assert row.ua == pytest.approx(results["ua"]["mean"])
    np.testing.assert_allclose(row.ua_ci95 or [], results["ua"]["ci95"])
    assert (facts["ci95_unit"], facts["ci95_units"]) == ("speaker", 6)


def test_models_are_known_by_their_digests():
    one, two = {"sha256": "a"}, {"sha256": "b"}
    assert models_sha256([one, two]) == models_sha256([two, one]) != models_sha256([one])
    assert models_sha256([one, {}]) is None
