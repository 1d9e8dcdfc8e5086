"""The train command from recordings to a report: its files, stopping it, wrong input."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import releases
import soundfile
from commands import (
    ROOT,
    SLOW,
    SPEAKERS,
    TINY,
    Ended,
    Started,
    command,
    feature_store,
    files_and_times,
    probabilities,
    read_json,
    read_table,
    real_command,
    train,
)

from ser_jax.experiment import pipeline
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.signals import exit_message


@pytest.fixture(scope="session")
def emodb(tmp_path_factory) -> tuple[str, str]:
    """Arguments for a small EMO-DB that no other test has: two utterances per speaker and class."""
    return _emodb(tmp_path_factory.mktemp("emodb"), releases.emodb_names(SPEAKERS), 0.52)


def _emodb(folder: Path, names: Iterable[str], seconds: float = 0.3) -> tuple[str, str]:
    root = releases.write_emodb(folder, list(names), seconds=seconds)
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


# --- A whole run

SEEDS = "--config.protocol.seeds=2"
RUNS = [f"{speaker}-{seed}" for speaker, seed in itertools.product(SPEAKERS, (0, 1))]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run directory; tests that change it work on a copy."""

    workdir: Path
    arguments: tuple[str, ...]
    ended: Ended

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.workdir, folder / "run"))

    @property
    def results(self) -> dict[str, Any]:
        return read_json(self.workdir / "results.json")

    @property
    def predictions(self) -> list[dict[str, str]]:
        return read_table(self.workdir / "predictions.csv")


@pytest.fixture(scope="session")
def finished(emodb, tmp_path_factory) -> Finished:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    arguments = (*TINY, *emodb, SEEDS)
    ended = real_command(*arguments, f"--workdir={workdir}")
    assert ended.code == 0, ended.err
    return Finished(workdir, arguments, ended)


def test_a_run_directory_holds_what_interfaces_lists(finished):
    found = {path.name + "/" * path.is_dir() for path in finished.workdir.iterdir()}
    documents = "config.json protocol.json versions.json metrics.jsonl report.html results.json"
    assert found == {
        *documents.split(),
        "predictions.csv",
        "rejected.csv",
        "validation.csv",
        "models/",
        "checkpoints/",
    }
    assert sorted(path.name for path in (finished.workdir / "models").iterdir()) == RUNS
    for run in (finished.workdir / "models").iterdir():
        assert {path.name for path in run.iterdir()} == {"model.json", "model.npz"}


def _metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_has_a_line_per_run_and_epoch(finished):
    lines = _metrics(finished.workdir)
    found = sorted((f"{line['fold']}-{line['seed']}", line["epoch"]) for line in lines)
    assert found == list(itertools.product(RUNS, (1, 2)))
    assert all(np.isfinite(line["loss"]) and 0 <= line["validation_ua"] <= 1 for line in lines)


def test_results_have_schema_1(finished):
    results = finished.results
    promised = "schema system parameters corpus corpus_sha256 protocol protocol_sha256 classes"
    assert {*promised.split(), *"utterances wa ua confusion runs seconds".split()} <= results.keys()
    assert (results["schema"], results["system"], results["corpus"]) == (1, "plain_crnn", "emodb")
    assert results["protocol"] == "emodb4-speaker10+modified"
    assert results["protocol_sha256"] == read_json(finished.workdir / "protocol.json")["sha256"]
    assert results["classes"] == ["angry", "happy", "neutral", "sad"]
    assert results["utterances"] == 32
    for score in (results["wa"], results["ua"]):
        assert score.keys() == {"mean", "std", "ci95", "per_seed"} and len(score["per_seed"]) == 2
    keys = {"fold", "seed", "wa", "ua", "best_epoch", "status"}
    assert all(run.keys() == keys for run in results["runs"])
    assert sorted(f"{run['fold']}-{run['seed']}" for run in results["runs"]) == RUNS
    assert {run["status"] for run in results["runs"]} == {"done"}
    assert results["seconds"].keys() == {"features", "compile", "train", "evaluate", "total"}


def test_every_utterance_is_tested_once_per_seed_by_the_fold_of_its_speaker(finished):
    ids = [f"wav/{name.removesuffix('.wav')}" for name in releases.emodb_names(SPEAKERS)]
    rows = finished.predictions
    assert sorted((row["id"], row["seed"]) for row in rows) == sorted(itertools.product(ids, "01"))
    assert all(row["fold"] == row["speaker"] == row["id"][4:6] for row in rows)
    names = {"W": "angry", "F": "happy", "N": "neutral", "T": "sad"}
    assert all(row["label"] == names[row["id"][9]] for row in rows)


def test_probabilities_sum_to_one_and_the_highest_is_the_prediction(finished):
    table = probabilities(finished.workdir)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-9)
    classes = finished.results["classes"]
    found = [row["prediction"] for row in finished.predictions]
    assert [classes[best] for best in table.argmax(axis=1)] == found


def test_scores_are_those_of_scikit_learn(finished):
    from sklearn import metrics

    results, rows = finished.results, finished.predictions

    def columns(**wanted):
        chosen = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
        return [row["label"] for row in chosen], [row["prediction"] for row in chosen]

    for number, seed in enumerate("01"):
        pooled, (wa, ua) = columns(seed=seed), (results["wa"], results["ua"])
        assert wa["per_seed"][number] == pytest.approx(metrics.accuracy_score(*pooled))
        assert ua["per_seed"][number] == pytest.approx(metrics.balanced_accuracy_score(*pooled))
    for name in ("wa", "ua"):
        assert results[name]["mean"] == pytest.approx(np.mean(results[name]["per_seed"]))
        assert results[name]["std"] == pytest.approx(np.std(results[name]["per_seed"], ddof=1))
    for run in results["runs"]:
        own = columns(fold=run["fold"], seed=str(run["seed"]))
        assert run["wa"] == pytest.approx(metrics.accuracy_score(*own))
        assert run["ua"] == pytest.approx(metrics.balanced_accuracy_score(*own))
    confusion = metrics.confusion_matrix(*columns(), labels=results["classes"])
    assert results["confusion"] == confusion.tolist()


def test_the_terminal_shows_scores_and_report(finished):
    ua = f"{100 * finished.results['ua']['mean']:.1f}"
    assert ua in finished.ended.out and str(finished.workdir / "report.html") in finished.ended.out
    assert "extracting: 32/32 files" in finished.ended.err
    assert finished.ended.err.count("counts differ from emodb4-speaker10") == 1


def test_a_finished_run_prints_its_result_and_does_nothing(finished):
    before, store = files_and_times(finished.workdir), feature_store()
    again = command(*finished.arguments, f"--workdir={finished.workdir}")
    assert (again.code, again.out) == (0, finished.ended.out)
    assert again.err == "", "nothing is extracted, compiled or trained, so nothing is logged"
    after = files_and_times(finished.workdir)
    assert {name for name in after if after[name] != before.get(name)} <= {"config.json"}
    assert feature_store() == store


def _predictions(workdir: Path) -> bytes:
    return (workdir / "predictions.csv").read_bytes()


def test_evaluating_a_run_again_remakes_its_files(finished, tmp_path):
    workdir, store = finished.copy(tmp_path), feature_store()
    made = ("predictions.csv", "results.json", "report.html")
    for name in made:
        (workdir / name).unlink()
    ended = command(f"--model={workdir}", name="evaluate")
    assert ended.code == 0, ended.err
    assert _predictions(workdir) == _predictions(finished.workdir)
    results = read_json(workdir / "results.json")
    timeless = {"seconds": 0, "seal": ""}
    assert results | timeless == finished.results | timeless
    assert (workdir / "report.html").is_file()
    assert feature_store() == store and "extracting" not in ended.err


def test_a_run_is_finished_when_all_its_files_are_there(finished, tmp_path):
    workdir = finished.copy(tmp_path)
    assert pipeline.finished_results(workdir) is not None
    for name in (pipeline.REPORT, *pipeline.REMADE, "models/08-1/model.json"):
        path = workdir / name
        path.rename(tmp_path / "aside")
        assert pipeline.finished_results(workdir) is None, name
        without = pipeline.finished_results(workdir, report=False)
        assert (without is not None) == (name == pipeline.REPORT), name
        (tmp_path / "aside").rename(path)
    for name in ("models/08-1/model.npz", "protocol.json", "predictions.csv"):
        path = workdir / name
        content = path.read_bytes()
        path.write_bytes(content.replace(b"0", b"1", 1))
        if name == "predictions.csv":  # It is made again from the models.
            assert pipeline.finished_results(workdir) is None
        else:
            with pytest.raises(UserError, match=rf"{path} .* delete"):
                pipeline.finished_results(workdir)
        path.write_bytes(content)


def test_only_what_is_missing_is_trained_again(finished, tmp_path):
    workdir, store = finished.copy(tmp_path), feature_store()
    shutil.rmtree(workdir / "models/08-1")
    (workdir / "report.html").unlink()
    before = files_and_times(workdir / "models")
    ended = command(*finished.arguments, "--noreport", f"--workdir={workdir}")
    assert ended.code == 0 and not (workdir / "report.html").exists(), ended.err
    assert _predictions(workdir) == _predictions(finished.workdir)
    after = files_and_times(workdir / "models")
    assert {name: after[name] for name in before} == before
    assert {Path(name).parent.name for name in after.keys() - before.keys()} == {"08-1"}
    assert len(_metrics(workdir)) == 2 * len(RUNS)
    assert feature_store() == store and "extracting" not in ended.err
    # The report comes with the same command without the flag; models stay.
    ended = command(*finished.arguments, f"--workdir={workdir}")
    assert ended.code == 0 and (workdir / "report.html").is_file(), ended.err
    assert files_and_times(workdir / "models") == after


# --- Every system, form and corpus


@pytest.fixture(scope="session")
def three_speakers(tmp_path_factory) -> tuple[str, str, str]:
    names = releases.emodb_names(SPEAKERS[:3], per_emotion=1)
    return *_emodb(tmp_path_factory.mktemp("three"), names, 0.5), "--config.training.epochs=1"


@pytest.mark.parametrize(
    ("system", "small"),
    [
        ("multi_crnn", ("multi_short_dense=(8,8)", "multi_head=(8,)")),
        ("hsf_crnn", ("hsf_crnn_dense=(8,)", "hsf_dense=(8,)", "hsf_head=(8,)")),
    ],
)
def test_systems_are_trained_by_the_same_command(system, small, three_speakers, tmp_path):
    """With batches that are larger than the corpus."""
    if system == "hsf_crnn":
        pytest.importorskip("opensmile")
    widths = (f"--config.model.{width}" for width in small)
    arguments = (f"--config.system={system}", "--config.training.batch_size=100")
    results = train(tmp_path / "run", *three_speakers, *arguments, *widths)
    assert (results["system"], results["utterances"], len(results["runs"])) == (system, 12, 3)
    assert probabilities(tmp_path / "run").shape == (12, 4)


def test_the_literal_form_gives_the_probabilities_of_the_fast_one(three_speakers, tmp_path):
    for form in ("fast", "literal"):
        train(tmp_path / form, *three_speakers, f"--config.model.form={form}")
    np.testing.assert_allclose(
        probabilities(tmp_path / "literal"), probabilities(tmp_path / "fast"), atol=1e-4
    )


def test_many_steps_at_once_in_bfloat16_change_probabilities_little(three_speakers, tmp_path):
    """Logits move by less than 8·2⁻⁸ (see test_layers.py), a probability by at most half that."""
    small = (*three_speakers, "--config.training.batch_size=2")
    train(tmp_path / "usual", *small)
    both = ("--config.training.dispatch=chunk", "--config.training.precision=bf16")
    results = train(tmp_path / "chunk", *small, *both)
    found = [(run["fold"], run["status"]) for run in results["runs"]]
    assert found == [(name, "done") for name in SPEAKERS[:3]]
    assert len(_metrics(tmp_path / "chunk")) == 3
    usual, chunk = (probabilities(tmp_path / name) for name in ("usual", "chunk"))
    np.testing.assert_allclose(chunk, usual, atol=4 * 2.0**-8)
    assert np.abs(chunk - usual).max() > 1e-5, "float32 would have been as exact as that"


def _corpus(name: str, folder: Path) -> tuple[str, Path]:
    """Writes one of the releases below; returns the reader and the folder."""
    if name == "iemocap":
        turns = releases.iemocap_turns((1, 2, 3), per_label=1, samples=8000)
        return "iemocap", releases.write_iemocap(folder, turns)
    if name == "emotass":
        return "emotass", releases.write_emotass(folder, releases.emotass_rows(), seconds=0.5)
    rows = releases.manifest_rows(speakers=3, per_label=1)
    if name == "split":
        parts = {"s0": "train", "s1": "devel", "s2": "test"}
        rows = [
            {"file": row["file"], "label": row["label"], "split": parts[row["speaker"]]}
            for row in rows
        ]
    releases.write_manifest(folder, rows, seconds=0.5)
    return "manifest", folder


SESSIONS = ["Session1", "Session2", "Session3"]


@pytest.mark.parametrize(
    ("name", "protocol", "found", "folds", "utterances"),
    [
        ("iemocap", "auto", "iemocap-5531-session5+modified", SESSIONS, 30),
        ("iemocap", "iemocap-impro-session5", "iemocap-impro-session5+modified", SESSIONS, 30),
        ("emotass", "emotass-devel", "emotass-devel", ["devel"], 16),
        ("speaker", "auto", "manifest-speaker", ["s0", "s1", "s2"], 12),
        ("split", "auto", "manifest-split", ["test"], 4),
        ("speaker", "manifest-final", "manifest-final", ["final"], 0),
    ],
)
def test_every_corpus_is_trained_alike(name, protocol, found, folds, utterances, tmp_path):
    reader, root = _corpus(name, tmp_path / "corpus")
    corpus = (f"--config.corpus.name={reader}", f"--config.corpus.root={root}")
    options = (f"--config.protocol.name={protocol}", "--config.training.epochs=1")
    results = train(tmp_path / "run", *corpus, *options)
    assert (results["protocol"], results["corpus"]) == (found, reader)
    assert [run["fold"] for run in results["runs"]] == folds
    assert results["utterances"] == utterances
    if not utterances:  # A final model is tested on nothing.
        assert results["wa"]["mean"] is results["ua"]["mean"] is None
        assert (tmp_path / "run/models/final-0/model.json").is_file()
    if name == "iemocap":
        speakers = {row["speaker"] for row in read_table(tmp_path / "run/predictions.csv")}
        assert len(speakers) == 6, "the speaker is that of the turn, not of the dialog"


def test_the_default_run_directory_is_named_by_protocol_and_system(three_speakers, tmp_path):
    """In a working directory of its own, so that nothing lands in the checkout."""
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "ser_jax.main",
            *TINY,
            *three_speakers,
            "--config.protocol.folds=03",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=SLOW,
        capture_output=True,
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "runs/emodb4-speaker10-plain_crnn/results.json").is_file()


# --- Interruption

LONG = ("--noreport", "--config.training.epochs=80")


@pytest.fixture(scope="session")
def uninterrupted(emodb, tmp_path_factory) -> bytes:
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(workdir, *emodb, *LONG)
    return _predictions(workdir)


@pytest.mark.parametrize(
    ("number", "arguments", "code"),
    [
        (signal.SIGINT, (), 130),
        (signal.SIGTERM, (), 42),
        (signal.SIGTERM, ("--config.training.preemption_exit_code=75",), 75),
    ],
    ids=["Ctrl-C", "SIGTERM", "exit code 75"],
)
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    number, arguments, code, emodb, uninterrupted, tmp_path
):
    workdir = tmp_path / "run"
    started = Started(*TINY, *emodb, *LONG, *arguments, f"--workdir={workdir}")
    while not (workdir / "metrics.jsonl").is_file() or not (workdir / "metrics.jsonl").read_text():
        assert started.running, started.wait()
        time.sleep(0.02)
    started.send(number)
    ended = started.wait()
    assert ended.code == code, ended
    assert ended.err.splitlines()[-1] == exit_message(number)
    assert "Traceback" not in ended.err and not (workdir / "results.json").exists()
    trained = _metrics(workdir)
    again = command(*TINY, *emodb, *LONG, *arguments, f"--workdir={workdir}")
    assert again.code == 0, again.err
    assert _predictions(workdir) == uninterrupted
    lines = _metrics(workdir)
    # Each has its seconds: none was trained again.
    assert trained and all(line in lines for line in trained), (ended.err, again.err)
    epochs = sorted((line["fold"], line["epoch"]) for line in lines)
    assert epochs == list(itertools.product(SPEAKERS, range(1, 81)))


# --- Wrong input


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("system=svn", ("system='svn'", "plain_crnn, hsf_crnn, multi_crnn")),
        ("corpus.name=emo", ("corpus.name='emo'", "did you mean demo or shemo or emodb?")),
        ("corpus.root=", ("corpus.root is empty", "emodb release")),
        ("corpus.root=/no/such", ("corpus.root=/no/such is not a folder", "emodb release")),
        ("corpus.root=README.md", ("corpus.root=README.md is not a folder",)),
        ("protocol.name=emodb4", ("protocol.name='emodb4'", "did you mean emodb4-")),
        ("protocol.name=demo-speaker", ("='demo-speaker'", "'emodb'", "emodb4-speaker10")),
        ("protocol.folds=03,99", ("protocol.folds: 99", "it has 03, 08, 09, 10")),
        ("training.epochs=0", ("training.epochs=0", "at least 1")),
        ("features.high_hz=9000", ("high_hz=9000", "8000")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_named_with_what_is_possible_and_mended(argument, parts, emodb, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    sentence = command(*TINY, *emodb, f"--config.{argument}", workdir).refusal
    assert all(part in sentence for part in parts), sentence
    assert not (tmp_path / "run/models").exists()
    # The mended command is not refused for what the wrong one left: it fails for another reason.
    again = command(*TINY, *emodb, "--config.protocol.seeds=-1", workdir)
    assert "protocol.seeds=-1" in again.refusal


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (releases.emodb_names(SPEAKERS, emotions="LEA"), ("no utterance of the", "'boredom'")),
        (releases.emodb_names(("03",)), ("1 speaker (03)", "at least 3")),
        (releases.emodb_names(("03", "08")), ("2 speakers (03, 08)", "at least 3")),
        (
            [*releases.emodb_names(("03", "08", "09"), emotions="WFN"), "03a01Ta.wav"],
            ("the training part has no example of sad", "fold 03", "add recordings"),
        ),
        (["hello.wav"], ("(wav/hello.wav)", "wav/03a01Fa.wav")),
    ],
    ids=["no known label", "one speaker", "two speakers", "class missing", "other names"],
)
def test_a_corpus_that_cannot_be_divided_is_refused(names, parts, tmp_path):
    sentence = command(*TINY, *_emodb(tmp_path, names), f"--workdir={tmp_path / 'run'}").refusal
    assert all(part in sentence for part in parts), sentence


def test_an_empty_folder_is_no_release(tmp_path):
    corpus = ("--config.corpus.name=emodb", f"--config.corpus.root={tmp_path}")
    sentence = command(*corpus, f"--workdir={tmp_path / 'run'}").refusal
    assert str(tmp_path) in sentence and ": 0 recordings in" in sentence


def test_missing_recordings_are_listed_before_anything_is_made(tmp_path):
    rows = releases.manifest_rows(speakers=3, per_label=1)
    root = releases.write_manifest(tmp_path / "corpus", rows, seconds=0.3).parent
    (root / "audio/s1/sad0.wav").unlink()
    corpus = (*TINY, "--config.corpus.name=manifest", f"--config.corpus.root={root}")
    sentence = command(*corpus, f"--workdir={tmp_path / 'run'}").refusal
    assert "1 of 12 listed recordings are missing" in sentence
    assert "corpus.allow_missing=true" in sentence
    (row,) = read_table(tmp_path / "run/rejected.csv")
    assert row["file"] == "audio/s1/sad0.wav"
    (tmp_path / "file").touch()
    sentence = command(*corpus, f"--workdir={tmp_path / 'file'}").refusal
    assert "1 of 12" in sentence
    assert f"{tmp_path / 'file'}/rejected.csv cannot be written" in sentence


# --- Bad recordings


@pytest.fixture
def damaged(tmp_path) -> tuple[str, ...]:
    """Arguments for a corpus of 24 good recordings and six bad ones."""
    reasons = ("not audio", "truncated", "silent", "non-finite", "too short", "too long")
    bad = [{"file": f"bad/{reason}.wav", "label": "sad", "speaker": "s0"} for reason in reasons]
    root = tmp_path / "corpus"
    releases.write_manifest(root, releases.manifest_rows(speakers=3) + bad, seconds=0.4)
    (root / "bad/not audio.wav").write_bytes(b"These are words, not sound.")
    whole = (root / "bad/truncated.wav").read_bytes()
    (root / "bad/truncated.wav").write_bytes(whole[: len(whole) // 2])
    releases.write_wav(root / "bad/silent.wav", np.zeros(8000, np.float32))
    nan = np.full(8000, np.nan, np.float32)
    soundfile.write(root / "bad/non-finite.wav", nan, 16000, subtype="FLOAT")
    releases.write_wav(root / "bad/too short.wav", np.full(400, 0.1, np.float32))
    releases.write_wav(root / "bad/too long.wav", releases.tone_like_speech(2, "sad", "s0", 0))
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    return (
        *corpus,
        f"--workdir={tmp_path / 'run'}",
        "--config.features.max_seconds=1",
        "--config.training.epochs=1",
    )


def test_bad_recordings_are_listed_with_a_reason_and_few_are_put_up_with(damaged, tmp_path):
    sentence = command(*TINY, *damaged).refusal
    assert "6 of 30 listed recordings are unusable (20.00%; limit 5.00%)" in sentence
    assert "features.max_bad_share" in sentence
    rows = read_table(tmp_path / "run/rejected.csv")
    listed = {row["file"]: row["reason"] for row in rows}
    reasons = ("truncated", "silent", "non-finite", "too short", "too long")
    expected = {f"bad/{reason}.wav": reason for reason in reasons}
    assert listed == expected | {"bad/not audio.wav": "unreadable"}
    assert all(row["detail"] for row in rows)

    # The remedy of that sentence works, in the same run directory.
    results = train(tmp_path / "run", *damaged, "--config.features.max_bad_share=0.2")
    assert (results["protocol"], results["utterances"]) == ("manifest-speaker+modified", 24)
    assert {row["file"] for row in read_table(tmp_path / "run/rejected.csv")} == set(listed)
    assert "bad/" not in (tmp_path / "run/predictions.csv").read_text()


# --- The run directory


def test_another_configuration_in_the_same_run_directory_is_refused(finished):
    before = files_and_times(finished.workdir)
    other = "--config.training.learning_rate=0.5"
    sentence = command(*finished.arguments, other, f"--workdir={finished.workdir}").refusal
    assert "training.learning_rate: 0.001 there, 0.5 now" in sentence and "--workdir" in sentence
    assert files_and_times(finished.workdir) == before


def test_a_folder_with_something_else_is_left_alone(emodb, tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    sentence = command(*TINY, *emodb, f"--workdir={tmp_path}").refusal
    assert f"{tmp_path} is not empty and not a run directory" in sentence
    assert "--workdir" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_run_directory_that_cannot_be_made_is_refused(inside, emodb, tmp_path):
    (tmp_path / "file").touch()
    sentence = command(*TINY, *emodb, f"--workdir={tmp_path / 'file' / inside}").refusal
    assert f"--workdir={tmp_path / 'file' / inside} cannot be written" in sentence


# --- What may fail later


def test_hsf_crnn_with_an_opensmile_that_does_not_load_says_what_does(three_speakers, tmp_path):
    (tmp_path / "opensmile.py").write_text("raise ImportError('no openSMILE here')\n")
    system = ("--config.system=hsf_crnn", f"--workdir={tmp_path / 'run'}")
    # A cache of its own: stored functionals would do without openSMILE.
    places = {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    sentence = real_command(*TINY, *three_speakers, *system, **places).refusal
    assert "installed but does not load (ImportError: no openSMILE here)" in sentence
    assert "plain_crnn or multi_crnn" in sentence


def test_diverged_training_ends_with_3_and_a_report(three_speakers, tmp_path):
    wild = ("--config.training.epochs=6", "--config.training.learning_rate=1e38")
    for attempt in ("trained", "finished"):
        workdir = f"--workdir={tmp_path / 'run'}"
        ended = command(*TINY, *three_speakers, *wild, workdir, figures=True)
        last = ended.err.splitlines()[-1]
        assert ended.code == 3 and "Traceback" not in ended.err, (attempt, ended)
        assert last.startswith("error: 3 of 3 trials diverged (03-0, 08-0, 09-0)")
        assert "training.learning_rate" in last
    results = read_json(tmp_path / "run/results.json")
    assert {run["status"] for run in results["runs"]} == {"diverged"}
    assert results["ua"]["mean"] is None and (tmp_path / "run/report.html").is_file()
