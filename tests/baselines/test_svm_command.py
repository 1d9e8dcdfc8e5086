"""The SVM baseline through the commands: train, stop, resume, evaluate, wrong input."""

import json
import shutil
import signal
import time
from pathlib import Path

import commands
import numpy as np
import pytest
import releases
from commands import SPEAKERS, Ended, Started, command, read_json, read_table, real_command

PRESET = "--config=configs/svm.py"
SEEDS = "--config.protocol.seeds=2"
# Starting any device would fail: the baseline must do without.
NO_DEVICE = {"JAX_PLATFORMS": "none"}
TABLES = ("predictions.csv", "rejected.csv", "validation.csv")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, str]:
    """Arguments for a small EMO-DB: four speakers, each with two utterances of every class."""
    pytest.importorskip("opensmile")
    names = releases.emodb_names(SPEAKERS)
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), names, seconds=0.5)
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> tuple[Path, Ended]:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    ended = real_command(PRESET, *corpus, SEEDS, f"--workdir={workdir}", **NO_DEVICE)
    assert ended.code == 0, ended.err
    return workdir, ended


def test_the_run_directory_is_that_of_the_other_systems_less_checkpoints(finished):
    workdir, ended = finished
    found = {path.name + "/" * path.is_dir() for path in workdir.iterdir()}
    documents = "config.json protocol.json versions.json metrics.jsonl report.html results.json"
    assert found == {*documents.split(), *TABLES, "models/"}
    for trial in (workdir / "models").iterdir():
        assert {path.name for path in trial.iterdir()} == {"model.json", "model.npz"}
    assert read_json(workdir / "config.json")["training"]["class_weights"] == "balanced"
    assert "fitting: 8/8 runs" in ended.err and str(workdir / "report.html") in ended.out
    assert read_json(workdir / "versions.json")["scikit-learn"] != "not installed"


def test_results_say_what_the_probabilities_are(finished):
    results = read_json(finished[0] / "results.json")
    assert results["probabilities"] == "softmax of decision values"
    assert min(results["calibration"]["temperature"]) > 0
    assert (results["system"], results["protocol"]) == ("svm", "emodb4-speaker10+modified")
    assert results["parameters"] == 4 * 6373 + 4
    trials = sorted(f"{run['fold']}-{run['seed']}" for run in results["runs"])
    assert trials == [f"{speaker}-{seed}" for speaker in SPEAKERS for seed in "01"]
    assert all((run["best_epoch"], run["status"]) == (None, "done") for run in results["runs"])
    assert results["seconds"].keys() == {"features", "compile", "train", "evaluate", "total"}
    assert results["seconds"]["compile"] == 0
    assert results["ua"]["mean"] > 0.25, "chance"


def test_every_utterance_is_tested_once_per_seed_by_the_fold_of_its_speaker(finished):
    rows = read_table(finished[0] / "predictions.csv")
    assert len({(row["id"], row["seed"]) for row in rows}) == len(rows) == 64
    assert all(row["fold"] == row["speaker"] == row["id"][4:6] for row in rows)
    table = commands.probabilities(finished[0])
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-9)
    classes = read_json(finished[0] / "results.json")["classes"]
    assert [classes[best] for best in table.argmax(axis=1)] == [row["prediction"] for row in rows]


def test_a_finished_run_prints_its_result_and_does_nothing(finished, corpus):
    again = command(PRESET, *corpus, SEEDS, f"--workdir={finished[0]}")
    assert (again.code, again.out, again.err) == (0, finished[1].out, "")


def test_another_set_of_functionals(corpus, tmp_path):
    """The width follows, and the report names what matters."""
    egemaps = "--config.features.functionals=eGeMAPSv02"
    ended = command(PRESET, *corpus, egemaps, f"--workdir={tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    assert read_json(tmp_path / "run/results.json")["parameters"] == 4 * 88 + 4
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert "Functionals that matter" in page and "functionals of eGeMAPSv02" in page
    assert "F0semitoneFrom27.5Hz_sma3nz_" in page
    # Predicting extracts the same set.
    ended = command(f"--model={tmp_path / 'run'}", corpus[1].partition("=")[2], name="predict")
    assert ended.code == 0 and "angry" in ended.out, ended.err


def test_it_is_scored_again_without_scikit_learn_and_devices(finished, tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('no scikit-learn here')\n")
    workdir = Path(shutil.copytree(finished[0], tmp_path / "run"))
    for name in ("predictions.csv", "results.json"):
        (workdir / name).unlink()
    environment = {"PYTHONPATH": str(tmp_path), **NO_DEVICE}
    ended = real_command(f"--model={workdir}", name="evaluate", **environment)
    assert ended.code == 0, ended.err
    again, before = (folder / "predictions.csv" for folder in (workdir, finished[0]))
    assert again.read_bytes() == before.read_bytes()


def test_another_corpus_is_scored_by_the_ensemble(finished, tmp_path):
    rows = releases.manifest_rows(speakers=2, per_label=1)
    root = releases.write_manifest(tmp_path / "corpus", rows, seconds=0.4).parent
    manifest = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    output = f"--output={tmp_path / 'scores'}"
    ended = command(f"--model={finished[0]}", *manifest, output, name="evaluate")
    assert ended.code == 0, ended.err
    results = read_json(tmp_path / "scores/results.json")
    assert (results["utterances"], results["ensemble"]) == (8, 8)
    assert results["parameters"] == 8 * (4 * 6373 + 4)
    kind = "softmax of decision values; mean over 8 models"
    assert results["probabilities"] == kind
    np.testing.assert_allclose(
        commands.probabilities(tmp_path / "scores").sum(axis=1), 1, atol=1e-9
    )


LONG = ("--noreport", "--config.protocol.seeds=40")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 42)])
def test_a_run_that_is_stopped_goes_on_from_there(number, code, corpus, tmp_path):
    workdir = tmp_path / "run"
    arguments = (PRESET, *corpus, *LONG, f"--workdir={workdir}")
    started = Started(*arguments)
    while not list(workdir.glob("models/*/model.json")):
        assert started.running, started.wait()
        time.sleep(0.02)
    started.send(number)
    ended = started.wait()
    assert ended.code == code, ended
    name = signal.Signals(number).name
    sentence = f"stopped by {name}; run the same command again to go on from here"
    assert ended.err.splitlines()[-1] == sentence and "Traceback" not in ended.err
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("models/*/*")}
    assert 0 < len(before) < 2 * 160 and not (workdir / "results.json").exists()

    again = command(*arguments)
    assert again.code == 0, again.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len({(line["fold"], line["seed"]) for line in lines}) == len(lines) == 160
    assert len(read_table(workdir / "predictions.csv")) == 40 * 32


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("svm.c=()", ("svm.c=()", "one or more values above 0", "(1e-5,1e-4)")),
        ("svm.c=(0.1,0)", ("svm.c=(0.1, 0)", "above 0")),
        ("svm.tolerance=0", ("svm.tolerance=0", "above 0")),
        ("svm.iterations=0", ("svm.iterations=0", "at least 1")),
        ("svm.workers=-1", ("svm.workers=-1", "at least 0")),
        ("svm.cost=1", ("no key 'cost'", "ser_jax/config.py")),
        ("training.class_weights=equal", ("training.class_weights='equal'", "none, balanced")),
    ],
)
def test_a_wrong_value_is_named_with_what_is_possible(argument, parts, tmp_path):
    sentence = command(PRESET, f"--config.{argument}", f"--workdir={tmp_path / 'run'}").refusal
    assert all(part in sentence for part in parts), sentence
