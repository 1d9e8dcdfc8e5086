"""Official splits: withheld test labels and submissions, epochs of another fold, refit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import TINY, command, probabilities, read_json, read_table, train

from ser_jax.runtime import strict_json
from ser_jax.training import scoring

SEEDS = "--config.protocol.seeds=2"
REFIT = "--config.training.refit=train+validation"
REFITTED = "trained again on training and validation part"


@pytest.fixture(scope="module")
def emotass(tmp_path_factory) -> tuple[str, ...]:
    rows = releases.emotass_rows(6, 4, 3)
    root = releases.write_emotass(tmp_path_factory.mktemp("emotass"), rows, seconds=0.5)
    # A copy of a training recording among the tested ones.
    shutil.copy(root / "wav/train_0002.wav", root / "wav/test_0002.wav")
    name = "--config.protocol.name=emotass-official"
    return "--config.corpus.name=emotass", f"--config.corpus.root={root}", name


@pytest.fixture(scope="module")
def official(emotass, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("official") / "run"
    train(workdir, *emotass, SEEDS, report=True)
    return workdir


def test_the_test_fold_trains_for_the_epochs_that_devel_chose(official):
    for seed in (0, 1):
        devel = read_json(official / f"models/devel-{seed}/model.json")
        test = read_json(official / f"models/test-{seed}/model.json")
        assert test["epochs"] == test["best_epoch"] == devel["best_epoch"]
        assert test["epochs_from"] == "devel"
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
    assert "3 of them without label" in page
    assert "fold test trains for as many epochs as fold devel" in page


def test_what_parts_share_is_written_down(official):
    notes = read_json(official / "protocol.json")["notes"]
    assert [note.partition(" (")[0] for note in notes[-2:]] == [
        "fold test: 1 recording is in the test part and elsewhere",
        "the speaker of 43 of 43 utterances is unknown: training, validation and test part may"
        " share speakers",
    ]
    page = (official / "report.html").read_text()
    assert all(note[1:] in page for note in notes)


def test_a_submission_is_written(official):
    """One line per test recording: the mean of both seeds."""
    rows = [row for row in read_table(official / "predictions.csv") if row["fold"] == "test"]
    lines = (official / "submission.arff").read_text().split("@data\n")[1].splitlines()
    assert [line.split(",")[0] for line in lines] == [f"'test_000{n}.wav'" for n in (1, 2, 3)]
    columns = [name for name in rows[0] if name.startswith("p_")]
    table = np.array([[float(row[name]) for name in columns] for row in rows])
    scores = [[float(value) for value in line.split(",")[2:]] for line in lines]
    np.testing.assert_allclose(scores, table.reshape(2, 3, 4).mean(axis=0), atol=1e-6)


def test_the_console_reports_how_many_have_no_score(official, emotass):
    ended = command(*TINY, *emotass, SEEDS, f"--workdir={official}")
    assert ended.code == 0 and "3 of 19 utterances have no label and no score" in ended.out


def test_evaluated_again_it_is_the_same(official):
    names = ("predictions.csv", "submission.arff")
    before = [(official / name).read_bytes() for name in names]
    ended = command(f"--model={official}", name="evaluate")
    assert ended.code == 0, ended.err
    assert [(official / name).read_bytes() for name in names] == before


def test_the_test_fold_alone_is_refused(emotass, tmp_path):
    one = ("--config.protocol.folds=test", f"--workdir={tmp_path}")
    sentence = command(*TINY, *emotass, *one).refusal
    assert "fold test takes its number of epochs from fold devel" in sentence
    assert "protocol.folds=devel,test" in sentence


def test_refit_is_another_protocol_and_ends_in_one_report(official, emotass, tmp_path):
    workdir = tmp_path / "run"
    results = train(workdir, *emotass, REFIT, report=True)
    assert results["protocol_sha256"] != read_json(official / "results.json")["protocol_sha256"]
    assert REFITTED in read_json(workdir / "protocol.json")["refit"]
    assert REFITTED in (workdir / "report.html").read_text()
    model = read_json(workdir / "models/devel-0/model.json")
    choice = read_json(workdir / "models/devel-0/choice.json")
    assert model["epochs"] == choice["best_epoch"]
    assert model["temperature"] == choice["temperature"]
    assert model["temperature_from"] == "first_pass"
    assert results["calibration"]["temperature"] == [choice["temperature"], None]


def test_probabilities_are_made_with_the_temperature(official, tmp_path):
    """A temperature changed by hand gives softmax(logits / T) and the same predictions."""
    copy = Path(shutil.copytree(official, tmp_path / "copy"))
    path = copy / "models/devel-0/model.json"
    hotter = read_json(path)
    hotter["temperature"] *= 3
    path.write_text(json.dumps(strict_json.with_checksum(hotter)))
    ended = command(f"--model={copy}", name="evaluate")
    assert ended.code == 0, ended.err
    temperatures = read_json(copy / "results.json")["calibration"]["temperature"]
    assert temperatures[0] == hotter["temperature"]
    rows = read_table(copy / "predictions.csv")
    before, after = probabilities(official), probabilities(copy)
    as_before = [row["prediction"] for row in read_table(official / "predictions.csv")]
    assert [row["prediction"] for row in rows] == as_before
    changed = [(row["fold"], row["seed"]) == ("devel", "0") for row in rows]
    expected = np.where(np.array(changed)[:, None], scoring.softmax(np.log(before), 3.0), before)
    np.testing.assert_allclose(after, expected, atol=1e-12)
    assert not np.allclose(after, before, atol=1e-6)


def test_the_svm_refits_as_the_others_do(emotass, tmp_path):
    ended = command(*emotass, REFIT, "--config.system=svm", f"--workdir={tmp_path}")
    assert ended.code == 0, ended.err
    assert REFITTED in read_json(tmp_path / "protocol.json")["refit"]
