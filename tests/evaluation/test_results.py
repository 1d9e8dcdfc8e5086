"""results.json: by hand, against scikit-learn and audmetric, and in the odd cases."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import audmetric
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ser_jax import atomic, metrics
from ser_jax.evaluation import calibration, console, intervals, predictions, results
from ser_jax.evaluation.predictions import Prediction

CLASSES = ("angry", "happy", "sad")


def row(name: str, label: str, prediction: str, *, fold="a", seed=0, speaker="") -> Prediction:
    return Prediction(name, speaker, fold, seed, label, prediction, (0.0, 0.0, 0.0))


def run(fold: str, seed: int, status="done", best_epoch: int | None = 3) -> dict[str, Any]:
    return {"fold": fold, "seed": seed, "status": status, "best_epoch": best_epoch}


def summarise(predictions, runs, classes=CLASSES) -> dict[str, Any]:
    return results.summarise(
        predictions,
        system="plain_crnn",
        parameters=10,
        corpus="demo",
        corpus_sha256="c0",
        protocol="demo-speaker",
        protocol_sha256="d0",
        classes=classes,
        runs=runs,
        seconds={"features": 1.0, "compile": 2.0, "train": 3.0, "evaluate": 4.0, "total": 10.0},
    )


def random_rows(generator, speakers=6, per_speaker=12, seeds=(0, 1, 2)) -> list[Prediction]:
    """Returns one fold per speaker, with every class."""
    labels = {(s, u): CLASSES[u % 3] for s in range(speakers) for u in range(per_speaker)}
    return [
        row(
            f"{speaker}/{utterance}",
            label,
            label if generator.random() < 0.3 + 0.1 * speaker else str(generator.choice(CLASSES)),
            fold=f"f{speaker}",
            seed=seed,
            speaker=f"s{speaker}",
        )
        for seed in seeds
        for (speaker, utterance), label in labels.items()
    ]


def runs_of(rows) -> list[dict[str, Any]]:
    return [run(fold, seed) for fold, seed in sorted({(r.fold, r.seed) for r in rows})]


def test_by_hand():
    rows = [
        row("1", "angry", "angry", fold="a", seed=0),
        row("2", "angry", "sad", fold="a", seed=0),
        row("3", "happy", "happy", fold="b", seed=0),
        row("1", "angry", "angry", fold="a", seed=1),
        row("2", "angry", "angry", fold="a", seed=1),
        row("3", "happy", "sad", fold="b", seed=1),
    ]
    found = summarise(rows, [run("a", 0), run("b", 0), run("a", 1), run("b", 1)])
    assert found["schema"] == 1
    assert found["utterances"] == 3
    assert found["unlabelled"] == 0
    assert found["seeds"] == [0, 1]
    assert found["seeds_left_out"] == []
    assert found["confusion"] == [[3, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert found["recall"] == {"angry": 0.75, "happy": 0.5, "sad": None}
    assert found["ua"]["per_seed"] == [0.75, 0.5]
    assert found["ua"]["mean"] == 0.625
    assert found["ua"]["std"] == pytest.approx(np.sqrt(2) / 8)
    assert found["wa"]["per_seed"] == [2 / 3, 2 / 3]
    # F1 of seed 0: angry 2/3, happy 1; of seed 1: angry 1, happy 0. No sad occurs, so it has none.
    assert found["macro_f1"]["per_seed"] == pytest.approx([5 / 6, 1 / 2])
    assert found["macro_f1"]["mean"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert found["class_recall"]["angry"]["per_seed"] == [0.5, 1.0]
    assert found["class_recall"]["angry"]["mean"] == found["recall"]["angry"]
    assert found["class_recall"]["sad"] == {"mean": None, "std": None, "ci95": None, "per_seed": [None, None]}
    assert found["runs"][0] == {"fold": "a", "seed": 0, "wa": 0.5, "ua": 0.5, "best_epoch": 3, "status": "done"}
    assert found["runs"][3]["ua"] == 0.0
    assert found["seconds"]["total"] == 10.0


def test_folds_that_are_not_pooled_keep_their_own_scores():
    """Oracle: the same without their rows; a run of theirs that diverged leaves no seed out."""
    rows = [row("1", "angry", "angry", fold="a"), row("2", "sad", "angry", fold="b"), row("3", "sad", "sad", fold="b")]
    runs = [run("a", 0), run("b", 0)]
    common = {"corpus": "c", "corpus_sha256": "", "protocol": "p", "protocol_sha256": "", "classes": CLASSES}
    common |= {"system": "s", "parameters": 1, "seconds": {}}
    found = results.summarise(rows, runs=runs, pooled_folds=["b"], **common)
    alone = results.summarise(rows[1:], runs=runs[1:], **common)
    assert found["pooled_folds"] == alone["pooled_folds"] == ["b"] and found["probabilities"] == "softmax"
    named = results.summarise(rows, runs=runs, probabilities="uncalibrated", **common)
    assert named["probabilities"] == "uncalibrated"
    assert all(found[key] == alone[key] for key in ("ua", "wa", "macro_f1", "class_recall", "confusion", "seeds"))
    assert [entry["ua"] for entry in found["runs"]] == [1.0, 0.5] and found["utterances"] == 3
    runs[0]["status"] = results.DIVERGED
    assert results.summarise(rows, runs=runs, pooled_folds=["b"], **common)["seeds"] == [0]
    assert results.summarise(rows, runs=runs, **common)["seeds"] == []


def test_keys_of_the_schema(tmp_path):
    found = summarise([row("1", "angry", "angry")], [run("a", 0)])
    assert set(found) == {
        *("schema", "system", "parameters", "corpus", "corpus_sha256", "protocol", "protocol_sha256", "classes"),
        *("utterances", "unlabelled", "seeds", "seeds_left_out", "ua", "wa", "ci95_unit", "ci95_note", "macro_f1"),
        *("pooled_folds", "recall", "class_recall", "confusion", "probabilities", "calibration", "predictions_sha256"),
        *("runs", "seconds"),
    }
    for score in (found["ua"], found["wa"], found["macro_f1"], *found["class_recall"].values()):
        assert set(score) == {"mean", "std", "ci95", "per_seed"}
    assert set(found["class_recall"]) == set(found["recall"]) == set(CLASSES)
    assert set(found["calibration"]) == {"ece", "nll", "brier", "temperature"}
    atomic.write_json(tmp_path / "results.json", found)
    assert json.loads((tmp_path / "results.json").read_text()) == found


def test_one_seed_has_no_deviation():
    found = summarise([row("1", "angry", "angry"), row("2", "sad", "sad")], [run("a", 0)])
    assert found["ua"]["std"] is None
    assert found["ua"]["mean"] == 1.0
    assert found["ua"]["ci95"] == [1.0, 1.0], "a perfect classifier has a defined interval"


def test_against_scikit_learn():
    rows = random_rows(np.random.default_rng(0))
    found = summarise(rows, runs_of(rows))
    for seed, ua, wa in zip(found["seeds"], found["ua"]["per_seed"], found["wa"]["per_seed"], strict=True):
        labels = [r.label for r in rows if r.seed == seed]
        predicted = [r.prediction for r in rows if r.seed == seed]
        assert wa == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
        assert ua == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
        assert ua == pytest.approx(audmetric.unweighted_average_recall(labels, predicted, labels=CLASSES))
        assert wa == pytest.approx(audmetric.accuracy(labels, predicted, labels=CLASSES))
    labels, predicted = [r.label for r in rows], [r.prediction for r in rows]
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=CLASSES)
    np.testing.assert_array_equal(found["confusion"], expected)
    for name, value in found["recall"].items():
        recall = sklearn_metrics.recall_score(labels, predicted, labels=[name], average="macro")
        assert value == pytest.approx(recall)
    for seed, f1 in zip(found["seeds"], found["macro_f1"]["per_seed"], strict=True):
        columns = np.transpose([(r.label, r.prediction) for r in rows if r.seed == seed])
        assert f1 == pytest.approx(sklearn_metrics.f1_score(*columns, labels=CLASSES, average="macro"))


def test_mean_ua_is_the_ua_of_the_summed_confusion():
    rows = random_rows(np.random.default_rng(1))
    found = summarise(rows, runs_of(rows))
    assert found["ua"]["mean"] == pytest.approx(metrics.unweighted_accuracy(np.array(found["confusion"])))


def test_pooled_ua_is_not_the_mean_of_folds():
    # Fold a holds one class only: its own UA is over that class, the pooled one over all.
    rows = [row("1", "angry", "angry"), row("2", "happy", "sad", fold="b"), row("3", "angry", "sad", fold="b")]
    found = summarise(rows, [run("a", 0), run("b", 0)])
    assert [r["ua"] for r in found["runs"]] == [1.0, 0.0]
    assert found["ua"]["mean"] == 0.25


def test_unlabelled_rows_are_left_out_of_scores():
    rows = [row("1", "angry", "angry"), row("2", "", "sad"), row("3", "", "happy", fold="test")]
    found = summarise(rows, [run("a", 0), run("test", 0)])
    assert found["utterances"] == 3
    assert found["unlabelled"] == 2
    assert found["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert found["ua"]["mean"] == 1.0
    assert found["runs"][1]["ua"] is None


def test_a_seed_with_a_diverged_fold_is_left_out():
    rows = [
        row("1", "angry", "angry", seed=0),
        row("2", "happy", "happy", fold="b", seed=0),
        row("1", "angry", "sad", seed=1),
    ]
    runs = [run("a", 0), run("b", 0), run("a", 1), run("b", 1, "diverged", None)]
    found = summarise(rows, runs)
    assert found["seeds"] == [0]
    assert found["seeds_left_out"] == [1]
    assert found["ua"]["per_seed"] == [1.0]
    assert np.sum(found["confusion"]) == 2
    assert found["runs"][2]["ua"] == 0.0, "the other runs of that seed keep their own scores"
    failed = found["runs"][3]
    assert failed == {"fold": "b", "seed": 1, "wa": None, "ua": None, "best_epoch": None, "status": "diverged"}
    assert "1 of 4 runs diverged: b-1" in console.summary_lines(found)


def test_nothing_but_diverged_runs():
    found = summarise([], [run("a", 0, "diverged", None)])
    assert found["ua"] == found["wa"] == {"mean": None, "std": None, "ci95": None, "per_seed": []}
    assert found["macro_f1"] == found["class_recall"]["sad"] == found["ua"]
    assert found["calibration"] == {"ece": None, "nll": None, "brier": None, "temperature": [None]}
    assert found["ci95_unit"] is None and found["ci95_note"] is None
    assert np.sum(found["confusion"]) == 0
    assert "–" in console.summary_lines(found)


def test_runs_without_a_test_part():
    found = summarise([], [run("final", 0)])
    assert found["seeds"] == [0]
    assert found["ua"] == {"mean": None, "std": None, "ci95": None, "per_seed": [None]}
    assert found["utterances"] == 0
    lines = console.summary_lines(found, Path("r.html")).splitlines()
    assert lines[0].startswith("plain_crnn on demo-speaker: 1 model to use; nothing is left to test it")
    assert lines[1].split() == ["best", "epoch", str(found["runs"][0]["best_epoch"])] and "r.html" in lines[-1]


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
        summarise(rows, runs)


def test_unit_of_the_interval():
    generator = np.random.default_rng(2)
    many, few = random_rows(generator, speakers=5), random_rows(generator, speakers=4)
    unknown = [row(r.id, r.label, r.prediction, fold=r.fold, seed=r.seed) for r in many]
    assert summarise(many, runs_of(many))["ci95_unit"] == "speaker"
    assert summarise(few, runs_of(few))["ci95_unit"] == "utterance"
    assert summarise(unknown, runs_of(unknown))["ci95_unit"] == "utterance"
    assert summarise(many, runs_of(many))["ci95_note"] is None
    for rows in (few, unknown):
        found = summarise(rows, runs_of(rows))
        assert found["ci95_note"] == "by utterance, too narrow"
        assert "intervals are by utterance, too narrow" in console.summary_lines(found)


def test_interval_is_the_same_every_time_and_holds_the_mean():
    rows = random_rows(np.random.default_rng(3))
    found, again = summarise(rows, runs_of(rows)), summarise(rows[::-1], runs_of(rows))
    for score in ("wa", "ua"):
        assert found[score]["ci95"] == again[score]["ci95"]
        low, high = found[score]["ci95"]
        assert 0 <= low < found[score]["mean"] < high <= 1


def test_speakers_that_differ_widen_the_interval():
    # Every speaker is all right or all wrong: the utterances say nothing beyond their speaker.
    rows = [
        row(f"{s}/{u}", CLASSES[u % 3], CLASSES[(u + s % 2) % 3], speaker=f"s{s}") for s in range(8) for u in range(30)
    ]
    unknown = [row(r.id, r.label, r.prediction) for r in rows]
    (low, high), (low_unknown, high_unknown) = (summarise(x, [run("a", 0)])["ua"]["ci95"] for x in (rows, unknown))
    assert high - low > 3 * (high_unknown - low_unknown)


def test_intervals_are_those_of_the_speakers_counts():
    rows = random_rows(np.random.default_rng(4))
    found = summarise(rows, runs_of(rows))
    counts = np.zeros((6, 3, 3, 3), np.int64)
    for r in rows:
        counts[int(r.speaker[1:]), r.seed, CLASSES.index(r.label), CLASSES.index(r.prediction)] += 1
    expected = intervals.score_intervals(counts)
    for score in ("wa", "ua", "macro_f1"):
        assert found[score]["ci95"] == getattr(expected, score).tolist()
    for name, limits in zip(CLASSES, expected.recall, strict=True):
        assert found["class_recall"][name]["ci95"] == limits.tolist()


def test_calibration_is_that_of_the_probabilities():
    generator = np.random.default_rng(5)
    rows = [
        dataclasses.replace(r, probabilities=tuple(generator.dirichlet(np.ones(3)).tolist()))
        for r in random_rows(generator, seeds=(0, 1))
    ]
    found = summarise([*rows, row("9", "", "sad", fold="f0")], runs_of(rows))["calibration"]
    expected = []
    for seed in (0, 1):
        shares = np.array([r.probabilities for r in rows if r.seed == seed])
        labels = np.array([CLASSES.index(r.label) for r in rows if r.seed == seed])
        expected.append(
            [
                calibration.expected_calibration_error(shares, labels),
                calibration.negative_log_likelihood(shares, labels),
                calibration.brier_score(shares, labels),
            ]
        )
    assert [found["ece"], found["nll"], found["brier"]] == pytest.approx(np.mean(expected, axis=0).tolist())


def test_temperatures_stand_in_the_order_of_the_runs():
    rows = [row("1", "angry", "angry"), row("2", "sad", "sad", fold="b")]
    runs = [run("a", 0) | {"temperature": 1.5}, run("b", 0)]
    found = summarise(rows, runs)
    assert found["calibration"]["temperature"] == [1.5, None]
    assert set(found["runs"][0]) == {"fold", "seed", "wa", "ua", "best_epoch", "status"}


def test_the_digest_is_that_of_the_file(tmp_path):
    rows = random_rows(np.random.default_rng(6))
    predictions.write_predictions(tmp_path / "predictions.csv", rows, CLASSES)
    expected = hashlib.sha256((tmp_path / "predictions.csv").read_bytes()).hexdigest()
    assert summarise(rows, runs_of(rows))["predictions_sha256"] == expected
    assert summarise(rows[1:], runs_of(rows))["predictions_sha256"] != expected


def test_console_table(tmp_path):
    rows = random_rows(np.random.default_rng(6))
    text = console.summary_lines(summarise(rows, runs_of(rows)), tmp_path / "report.html")
    assert text.startswith("plain_crnn on demo-speaker: 72 utterances, 6 folds x 3 seeds\n")
    assert text.endswith(f"report  {tmp_path / 'report.html'}")
    heading, ua, wa, f1 = text.splitlines()[2:6]
    assert [line.split()[0] for line in (ua, wa, f1)] == ["UA", "WA", "F1"]
    found = summarise(rows, runs_of(rows))
    assert f"{100 * found['macro_f1']['mean']:.1f}" in f1
    assert f"ECE {found['calibration']['ece']:.3f}" in text and "too narrow" not in text
    assert ua.index(".") < heading.index("std"), "the columns stand under their headings"
    assert max(map(len, text.splitlines()[:-1])) <= 80
