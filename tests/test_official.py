"""From a release with withheld test labels to a submission, and from two phases of training to one report."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import TINY, command, probabilities, read_json, read_table, train

from ser_jax.training import scoring, seal

SEEDS = "--config.protocol.seeds=2"


@pytest.fixture(scope="module")
def emotass(tmp_path_factory) -> tuple[str, ...]:
    root = releases.write_emotass(tmp_path_factory.mktemp("emotass"), releases.emotass_rows(6, 4, 3), seconds=0.5)
    name = "--config.protocol.name=emotass-official"
    return "--config.corpus.name=emotass", f"--config.corpus.root={root}", name


@pytest.fixture(scope="module")
def official(emotass, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("official") / "run"
    train(workdir, *emotass, SEEDS)
    return workdir


def test_the_test_fold_trains_for_the_epochs_that_devel_chose(official):
    for seed in (0, 1):
        devel, test = (read_json(official / f"models/{fold}-{seed}/model.json") for fold in ("devel", "test"))
        assert test["epochs"] == test["best_epoch"] == devel["best_epoch"] and test["epochs_from"] == "devel"
        assert test["temperature"] is None and 0.25 <= devel["temperature"] <= 20
    lines = [json.loads(line) for line in (official / "metrics.jsonl").read_text().splitlines()]
    assert {(line["fold"], line["phase"]) for line in lines} == {("devel", 1), ("test", 2)}


def test_withheld_labels_are_in_no_score(official):
    results, rows = read_json(official / "results.json"), read_table(official / "predictions.csv")
    assert (results["utterances"], results["unlabelled"]) == (16 + 3, 3)
    assert np.sum(results["confusion"]) == 2 * 16
    for run in results["runs"]:
        assert (run["ua"] is None) == (run["wa"] is None) == (run["fold"] == "test")
    assert {row["label"] for row in rows if row["fold"] == "test"} == {""}
    page = (official / "report.html").read_text()
    assert "3 of them without label" in page and "fold test trains for as many epochs as fold devel" in page


def test_a_submission_is_written(official):
    """One line per test recording: the mean of both seeds."""
    rows = [row for row in read_table(official / "predictions.csv") if row["fold"] == "test"]
    lines = (official / "submission.arff").read_text().split("@data\n")[1].splitlines()
    assert [line.split(",")[0] for line in lines] == [f"'test_000{number}.wav'" for number in (1, 2, 3)]
    table = np.array([[float(value) for name, value in row.items() if name.startswith("p_")] for row in rows])
    scores = [[float(value) for value in line.split(",")[2:]] for line in lines]
    np.testing.assert_allclose(scores, table.reshape(2, 3, 4).mean(axis=0), atol=1e-6)


def test_the_console_says_how_many_have_no_score(official, emotass):
    ended = command(*TINY, *emotass, SEEDS, f"--workdir={official}")
    assert ended.code == 0 and "3 of 19 utterances have no label and no score" in ended.out


def test_evaluated_again_it_is_the_same(official):
    names = ("predictions.csv", "submission.arff")
    before = [(official / name).read_bytes() for name in names]
    ended = command(f"--model={official}", module="ser_jax.evaluate")
    assert ended.code == 0, ended.err
    assert [(official / name).read_bytes() for name in names] == before


def test_the_test_fold_alone_is_refused(emotass, tmp_path):
    sentence = command(*TINY, *emotass, "--config.protocol.folds=test", f"--workdir={tmp_path}").refusal
    assert "fold test takes its number of epochs from fold devel" in sentence
    assert "protocol.folds=devel,test" in sentence


def test_refit_is_another_protocol_and_ends_in_one_report(official, emotass, tmp_path):
    results = train(tmp_path / "run", *emotass, "--config.training.refit=train+validation")
    assert results["protocol_sha256"] != read_json(official / "results.json")["protocol_sha256"]
    assert "trained again on training and validation part" in read_json(tmp_path / "run/protocol.json")["refit"]
    model, choice = (read_json(tmp_path / f"run/models/devel-0/{name}.json") for name in ("model", "choice"))
    assert model["temperature"] == choice["temperature"] and model["temperature_from"] == "first_pass"
    assert model["epochs"] == choice["best_epoch"]
    assert results["calibration"]["temperature"] == [choice["temperature"], None]
    assert "trained again on training and validation part" in (tmp_path / "run/report.html").read_text()


def test_probabilities_are_made_with_the_temperature(official, tmp_path):
    """Hotter by hand, they move as softmax(logits / T) does; the predictions stay."""
    copy = Path(shutil.copytree(official, tmp_path / "copy"))
    path = copy / "models/devel-0/model.json"
    model = read_json(path)
    path.write_text(json.dumps(seal.sealed({**model, "temperature": 3 * model["temperature"]})))
    ended = command(f"--model={copy}", module="ser_jax.evaluate")
    assert ended.code == 0, ended.err
    assert read_json(copy / "results.json")["calibration"]["temperature"][0] == 3 * model["temperature"]
    rows, before, after = read_table(copy / "predictions.csv"), probabilities(official), probabilities(copy)
    assert [row["prediction"] for row in rows] == [
        row["prediction"] for row in read_table(official / "predictions.csv")
    ]
    changed = [(row["fold"], row["seed"]) == ("devel", "0") for row in rows]
    expected = np.where(np.array(changed)[:, None], scoring.softmax(np.log(before), 3.0), before)
    np.testing.assert_allclose(after, expected, atol=1e-12)
    assert not np.allclose(after, before, atol=1e-6)


def test_the_svm_refits_as_the_others_do(emotass, tmp_path):
    refit = "--config.training.refit=train+validation"
    ended = command(*emotass, refit, "--config.system=svm", f"--workdir={tmp_path}")
    assert ended.code == 0, ended.err
    assert "trained again on training and validation part" in read_json(tmp_path / "protocol.json")["refit"]
