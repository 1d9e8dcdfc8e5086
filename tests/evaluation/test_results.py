"""results.json: by hand, against scikit-learn and audmetric, and in the odd cases."""

import dataclasses
import hashlib
import json
from typing import Any

import audmetric
import numpy as np
import pytest
import scored
from sklearn import metrics as sklearn_metrics

from ser_jax import metrics
from ser_jax.evaluation import calibration, intervals, predictions, results
from ser_jax.evaluation.predictions import Prediction
from ser_jax.runtime import files

CLASSES = scored.CLASSES
NOTHING = {"mean": None, "std": None, "ci95": None}
KEYS = """schema system parameters ensemble corpus corpus_sha256 protocol protocol_sha256 classes
    utterances unlabelled seeds seeds_left_out ua wa macro_f1 ci95_unit ci95_units ci95_method
    ci95_note pooled_folds recall class_recall confusion probabilities calibration
    predictions_sha256 runs
    trained_with seconds"""


def row(name: str, label: str, prediction: str, *, fold="a", seed=0, speaker="") -> Prediction:
    return Prediction(name, speaker, fold, seed, label, prediction, (0.0, 0.0, 0.0))


def run(fold: str, seed: int, status="done", best_epoch: int | None = 3) -> dict[str, Any]:
    return {"fold": fold, "seed": seed, "status": status, "best_epoch": best_epoch}


def rows_of(seed: int, speakers=6, seeds=(0, 1, 2)) -> list[Prediction]:
    return scored.make_rows(seed, speakers=speakers, per_speaker=12, seeds=seeds, skill=0.3)


def test_by_hand():
    found = scored.summarise(
        [
            row("1", "angry", "angry", fold="a", seed=0),
            row("2", "angry", "sad", fold="a", seed=0),
            row("3", "happy", "happy", fold="b", seed=0),
            row("1", "angry", "angry", fold="a", seed=1),
            row("2", "angry", "angry", fold="a", seed=1),
            row("3", "happy", "sad", fold="b", seed=1),
        ],
        runs=[run("a", 0), run("b", 0), run("a", 1), run("b", 1)],
    )
    assert (found["schema"], found["utterances"], found["unlabelled"]) == (1, 3, 0)
    assert found["seeds"] == [0, 1] and found["seeds_left_out"] == []
    assert found["confusion"] == [[3, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert found["recall"] == {"angry": 0.75, "happy": 0.5, "sad": None}
    assert found["ua"]["per_seed"] == [0.75, 0.5] and found["ua"]["mean"] == 0.625
    assert found["ua"]["std"] == pytest.approx(np.sqrt(2) / 8)
    assert found["wa"]["per_seed"] == [2 / 3, 2 / 3]
    # F1 of seed 0: angry 2/3, happy 1; of seed 1: angry 1, happy 0. No sad occurs, so it has none.
    assert found["macro_f1"]["per_seed"] == pytest.approx([5 / 6, 1 / 2])
    assert found["macro_f1"]["mean"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert found["class_recall"]["angry"]["per_seed"] == [0.5, 1.0]
    assert found["class_recall"]["angry"]["mean"] == found["recall"]["angry"]
    assert found["class_recall"]["sad"] == NOTHING | {"per_seed": [None, None]}
    assert found["runs"][0] == run("a", 0) | {"wa": 0.5, "ua": 0.5}
    assert found["runs"][3]["ua"] == 0.0
    assert found["seconds"]["total"] == 107.0


def test_folds_that_are_not_pooled_keep_their_own_scores():
    """Oracle: the same without their rows; a trial of theirs that diverged leaves no seed out."""
    rows = [
        row("1", "angry", "angry", fold="a"),
        row("2", "sad", "angry", fold="b"),
        row("3", "sad", "sad", fold="b"),
    ]
    runs = [run("a", 0), run("b", 0)]
    found = scored.summarise(rows, runs=runs, pooled_folds=["b"])
    alone = scored.summarise(rows[1:], runs=runs[1:])
    for key in ("ua", "wa", "macro_f1", "class_recall", "confusion", "seeds", "pooled_folds"):
        assert found[key] == alone[key], key
    assert found["pooled_folds"] == ["b"] and found["probabilities"] == "softmax"
    assert scored.summarise(rows, probabilities="uncalibrated")["probabilities"] == "uncalibrated"
    assert [entry["ua"] for entry in found["runs"]] == [1.0, 0.5] and found["utterances"] == 3
    runs[0]["status"] = results.DIVERGED
    assert scored.summarise(rows, runs=runs, pooled_folds=["b"])["seeds"] == [0]
    assert scored.summarise(rows, runs=runs)["seeds"] == []


def test_keys_of_the_schema(tmp_path):
    found = scored.summarise([row("1", "angry", "angry")])
    assert set(found) == set(KEYS.split())
    for score in (found["ua"], found["wa"], found["macro_f1"], *found["class_recall"].values()):
        assert set(score) == {"mean", "std", "ci95", "per_seed"}
    assert set(found["class_recall"]) == set(found["recall"]) == set(CLASSES)
    assert set(found["calibration"]) == {"ece", "nll", "brier", "temperature"}
    files.write_json(tmp_path / "results.json", found)
    assert json.loads((tmp_path / "results.json").read_text()) == found


def test_one_seed_has_no_deviation():
    ua = scored.summarise([row("1", "angry", "angry"), row("2", "sad", "sad")])["ua"]
    assert ua["std"] is None and ua["mean"] == 1.0
    assert ua["ci95"] == [1.0, 1.0], "a perfect classifier has a defined interval"


def test_against_scikit_learn_and_audmetric():
    rows = rows_of(0)
    found = scored.summarise(rows)
    for number, seed in enumerate(found["seeds"]):
        ua, wa, f1 = (found[score]["per_seed"][number] for score in ("ua", "wa", "macro_f1"))
        labels = [r.label for r in rows if r.seed == seed]
        predicted = [r.prediction for r in rows if r.seed == seed]
        assert wa == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
        assert ua == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
        expected = sklearn_metrics.f1_score(labels, predicted, labels=CLASSES, average="macro")
        assert f1 == pytest.approx(expected)
        expected = audmetric.unweighted_average_recall(labels, predicted, labels=CLASSES)
        assert ua == pytest.approx(expected)
        assert wa == pytest.approx(audmetric.accuracy(labels, predicted, labels=CLASSES))
    labels, predicted = [r.label for r in rows], [r.prediction for r in rows]
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=CLASSES)
    np.testing.assert_array_equal(found["confusion"], expected)
    no_average: Any = None
    recalls = sklearn_metrics.recall_score(labels, predicted, labels=CLASSES, average=no_average)
    assert list(found["recall"].values()) == pytest.approx(recalls)
    pooled = metrics.unweighted_accuracy(np.array(found["confusion"]))
    assert found["ua"]["mean"] == pytest.approx(pooled)


def test_pooled_ua_is_not_the_mean_of_folds():
    # Fold a holds one class only: its own UA is over that class, the pooled one over all.
    rows = [
        row("1", "angry", "angry"),
        row("2", "happy", "sad", fold="b"),
        row("3", "angry", "sad", fold="b"),
    ]
    found = scored.summarise(rows)
    assert [r["ua"] for r in found["runs"]] == [1.0, 0.0]
    assert found["ua"]["mean"] == 0.25


def test_unlabelled_rows_are_left_out_of_scores():
    rows = [row("1", "angry", "angry"), row("2", "", "sad"), row("3", "", "happy", fold="test")]
    found = scored.summarise(rows)
    assert (found["utterances"], found["unlabelled"]) == (3, 2)
    assert found["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert found["ua"]["mean"] == 1.0
    assert found["runs"][1]["ua"] is None


def test_a_seed_with_a_diverged_fold_is_left_out():
    rows = [
        row("1", "angry", "angry", seed=0),
        row("2", "happy", "happy", fold="b", seed=0),
        row("1", "angry", "sad", seed=1),
    ]
    failed = run("b", 1, "diverged", None)
    found = scored.summarise(rows, runs=[run("a", 0), run("b", 0), run("a", 1), failed])
    assert found["seeds"] == [0] and found["seeds_left_out"] == [1]
    assert found["ua"]["per_seed"] == [1.0]
    assert np.sum(found["confusion"]) == 2
    assert found["runs"][2]["ua"] == 0.0, "the other trials of that seed keep their own scores"
    assert found["runs"][3] == failed | {"wa": None, "ua": None}


def test_nothing_but_diverged_trials():
    found = scored.summarise([], runs=[run("a", 0, "diverged", None)])
    assert found["ua"] == found["wa"] == found["macro_f1"] == NOTHING | {"per_seed": []}
    assert found["class_recall"]["sad"] == found["ua"]
    assert found["calibration"] == {"ece": None, "nll": None, "brier": None, "temperature": [None]}
    assert found["ci95_unit"] is None and found["ci95_note"] is None
    assert np.sum(found["confusion"]) == 0
    untested = scored.summarise([], runs=[run("final", 0)])
    assert untested["seeds"] == [0] and untested["utterances"] == 0
    assert untested["ua"] == NOTHING | {"per_seed": [None]}


@pytest.mark.parametrize(
    ("rows", "runs", "message"),
    [
        ([row("1", "angry", "angry", seed=4)], [run("a", 0)], "not among the runs"),
        ([row("1", "bored", "angry")], [run("a", 0)], "'bored'"),
        ([row("1", "angry", "bored")], [run("a", 0)], "'bored'"),
        ([], [run("a", 0), run("a", 0)], "twice"),
    ],
)
def test_inconsistent_input_is_refused(rows, runs, message):
    with pytest.raises(ValueError, match=message):
        scored.summarise(rows, runs=runs)


def test_unit_of_the_interval():
    many = rows_of(2, speakers=5)
    found = scored.summarise(many)
    assert (found["ci95_unit"], found["ci95_note"]) == ("speaker", None)
    unknown = [dataclasses.replace(r, speaker="") for r in many]
    for rows in (rows_of(2, speakers=4), unknown):
        found = scored.summarise(rows)
        assert found["ci95_unit"] == "utterance"
        assert found["ci95_note"] == "by utterance, too narrow"


def test_speakers_that_differ_widen_the_interval():
    # Every speaker is all right or all wrong: utterances carry no information beyond their speaker.
    rows = [
        row(f"{s}/{u}", CLASSES[u % 3], CLASSES[(u + s % 2) % 3], speaker=f"s{s}")
        for s in range(8)
        for u in range(30)
    ]
    unknown = [dataclasses.replace(r, speaker="") for r in rows]
    widths = [np.ptp(scored.summarise(x)["ua"]["ci95"]) for x in (rows, unknown)]
    assert widths[0] > 3 * widths[1]


def test_intervals_are_those_of_the_speakers_counts():
    rows = rows_of(4)
    found = scored.summarise(rows[::-1])
    counts = np.zeros((6, 3, 3, 3), np.int64)
    for r in rows:
        counts[int(r.speaker[1:]), r.seed, CLASSES.index(r.label), CLASSES.index(r.prediction)] += 1
    expected = intervals.score_intervals(counts)
    for score in ("wa", "ua", "macro_f1"):
        assert found[score]["ci95"] == getattr(expected, score).tolist()
        assert 0 <= found[score]["ci95"][0] < found[score]["mean"] < found[score]["ci95"][1] <= 1
    for name, limits in zip(CLASSES, expected.recall, strict=True):
        assert found["class_recall"][name]["ci95"] == limits.tolist()


def test_calibration_is_the_mean_over_seeds():
    rows = rows_of(5, seeds=(0, 1))
    found = scored.summarise([*rows, row("9", "", "sad", fold="f0")])["calibration"]
    expected = []
    for seed in (0, 1):
        values = np.array([r.probabilities for r in rows if r.seed == seed])
        labels = np.array([CLASSES.index(r.label) for r in rows if r.seed == seed])
        ece = calibration.expected_calibration_error(values, labels)
        nll = calibration.negative_log_likelihood(values, labels)
        expected.append([ece, nll, calibration.brier_score(values, labels)])
    figures = [found[key] for key in ("ece", "nll", "brier")]
    assert figures == pytest.approx(np.mean(expected, axis=0))


def test_temperatures_are_in_the_order_of_the_trials():
    rows = [row("1", "angry", "angry"), row("2", "sad", "sad", fold="b")]
    found = scored.summarise(rows, runs=[run("a", 0) | {"temperature": 1.5}, run("b", 0)])
    assert found["calibration"]["temperature"] == [1.5, None]
    assert set(found["runs"][0]) == {"fold", "seed", "wa", "ua", "best_epoch", "status"}


def test_the_digest_is_that_of_the_file(tmp_path):
    rows = rows_of(6)
    predictions.write_predictions(tmp_path / "predictions.csv", rows, CLASSES)
    expected = hashlib.sha256((tmp_path / "predictions.csv").read_bytes()).hexdigest()
    assert scored.summarise(rows)["predictions_sha256"] == expected
    runs = scored.summarise(rows)["runs"]
    assert scored.summarise(rows[1:], runs=runs)["predictions_sha256"] != expected
