"""The stress command: who scores what, the files it leaves, files without labels, refusals."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
import soundfile
from commands import read_json, read_table
from pages import Page

from ser_jax.commands import command_line
from ser_jax.corpora import from_config
from ser_jax.experiment import run_directory
from ser_jax.features import audio, changes
from ser_jax.prediction import robustness
from ser_jax.prediction.predictor import Predictor
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

RUNS = Path(__file__).parents[1] / "fixtures/runs-2026-11"


@pytest.fixture(scope="module")
def predictor(trained_run) -> Predictor:
    return Predictor(trained_run)


@pytest.fixture
def root(trained_run) -> Path:
    return Path(read_json(trained_run / "config.json")["corpus"]["root"])


def other(root: Path):
    config = command_line.configuration("plain_crnn", "manifest", root, {})
    return config, from_config.read(config, root / "rejected.csv", audio.length)


# --- Who scores what


def test_own_recordings_are_scored_by_the_model_of_their_fold(trained_run, predictor):
    plan = robustness.own_recordings(predictor, trained_run)
    assert not plan.training and not plan.left_out and len(plan.voters) == 12
    for utterance in plan.corpus.utterances:
        (number,) = plan.voters[utterance.id]
        assert predictor.descriptions[number]["fold"] == utterance.speaker


def test_recordings_of_a_final_model_are_training_recordings(trained_run, predictor, tmp_path):
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    protocol = run_directory.read_protocol(run)
    for fold in protocol["folds"]:
        fold["parts"] = fold["parts"].replace("e", "t")
    strict_json.write(run / "protocol.json", protocol)
    plan = robustness.own_recordings(predictor, run)
    assert plan.training and set(plan.voters.values()) == {(0, 1, 2)}


def test_a_fold_that_was_not_trained_leaves_its_recordings_out(trained_run, predictor, monkeypatch):
    kept = [one for one in predictor.descriptions if one["fold"] != "s1"]
    monkeypatch.setattr(Predictor, "descriptions", kept)
    plan = robustness.own_recordings(predictor, trained_run)
    assert plan.left_out == 4 and {u.speaker for u in plan.corpus.utterances} == {"s0", "s2"}


def test_copies_elsewhere_are_recognised_and_new_recordings_have_all_votes(
    trained_run, predictor, root, tmp_path
):
    """A list of others' with copies of s0's recordings under another name, and a new speaker."""
    rows = [row for row in releases.manifest_rows(speakers=1, per_label=1)]
    copies = [row | {"file": f"copy{n}.wav", "speaker": "x"} for n, row in enumerate(rows)]
    new = [row | {"file": f"new{n}.wav", "speaker": "s0"} for n, row in enumerate(rows[:2])]
    (tmp_path / "c").mkdir()
    for before, after in zip(rows, copies, strict=True):
        shutil.copy(root / before["file"], tmp_path / "c" / after["file"])
    releases.write_manifest(tmp_path / "c", copies + new[:0], seconds=0.3)
    config, corpus = other(tmp_path / "c")
    plan = robustness.other_recordings(predictor, trained_run, corpus, config)
    tests_on_s0 = {n for n, one in enumerate(predictor.descriptions) if one["fold"] == "s0"}
    assert {frozenset(voters) for voters in plan.voters.values()} == {frozenset(tests_on_s0)}
    releases.write_manifest(tmp_path / "n", new, seconds=0.3)
    config, corpus = other(tmp_path / "n")
    plan = robustness.other_recordings(predictor, trained_run, corpus, config)
    assert set(plan.voters.values()) == {(0, 1, 2)} and not plan.training and not plan.left_out


def test_a_label_that_the_model_does_not_know_is_refused(trained_run, predictor, tmp_path):
    rows = [{"file": "a.wav", "label": "bored", "speaker": "z"}]
    releases.write_manifest(tmp_path, rows, seconds=0.3)
    config, corpus = other(tmp_path)
    with pytest.raises(UserError, match="the corpus has the labels bored"):
        robustness.other_recordings(predictor, trained_run, corpus, config)


# --- What it leaves


def test_the_table_of_a_run(trained_run, tmp_path, capsys):
    """Unchanged, its scores are those of the run; every change is there; the files agree."""
    output = tmp_path / "out"
    assert command_line.call("stress", f"--model={trained_run}", f"--output={output}") == 0
    said, found = capsys.readouterr().out, read_json(output / "stress.json")
    rows, results = found["changes"], read_json(trained_run / "results.json")
    assert [row["change"] for row in rows] == list(changes.changes((np.ones(1),)))
    assert rows[0]["ua"] == pytest.approx(results["ua"]["mean"]) and rows[0]["stays"] == 1
    assert found["recordings"] == found["labelled"] == 12 and not found["training"]
    table = read_table(output / "stress.csv")
    assert [float(row["stays"]) for row in table] == [row["stays"] for row in rows]
    page = Page((output / "stress.html").read_text("utf-8"))
    page.check_self_contained()
    assert page.tags.count("svg") == 1 and page.tags.count("tr") == 1 + len(rows)
    assert str(tmp_path) not in page.text
    for row in rows:
        assert f"\n  {row['change']} " in said and f">{row['change']}</th>" in page.text
    assert f"page    {output / 'stress.html'}" in said


def test_files_need_no_labels_and_bad_ones_are_counted(trained_run, root, tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    releases.write_wav(folder / "a.wav", releases.tone_like_speech(0.5, "sad", "new", 1))
    (folder / "b.wav").write_bytes(b"RIFF")
    model = f"--model={trained_run}"
    assert command_line.call("stress", model, str(folder), f"--output={output}") == 0
    found = read_json(output / "stress.json")
    names = [row["change"] for row in found["changes"]]
    assert names == list(changes.changes()), "one recording has no others to babble"
    assert (found["recordings"], found["rejected"], found["labelled"]) == (1, 1, 0)
    assert {row["ua"] for row in found["changes"]} == {None}
    assert "UA," not in (output / "stress.html").read_text("utf-8").partition("<svg")[2]
    (folder / "a.wav").unlink()
    with pytest.raises(UserError, match="1 recording cannot be used, for example .*b.wav"):
        command_line.call("stress", model, str(folder), f"--output={output}")


@pytest.mark.parametrize("system", ["end2you", "hsf_crnn", "svm"])
def test_every_system(system, tmp_path):
    """Answers to unchanged recordings are those of `predict`; silence has none."""
    if system != "end2you" and importlib.util.find_spec("opensmile") is None:
        pytest.skip("openSMILE is not installed")
    predictor = Predictor(RUNS / system)
    for n, label in enumerate(("angry", "sad")):
        releases.write_wav(tmp_path / f"{n}.wav", releases.tone_like_speech(0.5, label, "new", n))
    samples, _ = soundfile.read(tmp_path / "0.wav", dtype="float32")
    releases.write_wav(tmp_path / "faint.wav", samples * 10 ** (-35 / 20))
    corpus = robustness.listed([str(tmp_path)], False)
    plan = robustness.other_recordings(predictor, RUNS / system, corpus, None)
    answers, bad = robustness._answers(predictor, plan)
    assert not bad and len(answers) == 3
    for utterance in corpus.utterances:
        answer = predictor.predict(utterance.file)
        assert answers[utterance.id][changes.UNCHANGED] == answer.label
    (faint,) = (name for name in answers if "faint" in name)
    assert answers[faint]["40 dB quieter"] == robustness.stress_table.NO_ANSWER


# --- Refusals


def test_refusals(trained_run, tmp_path):
    model = f"--model={trained_run}"
    with pytest.raises(UserError, match="a.wav and --config.corpus.name=emodb: name recordings or"):
        command_line.call("stress", model, "a.wav", "--config.corpus.name=emodb")
    weights = tmp_path / "m.safetensors"
    weights.touch()
    with pytest.raises(UserError, match="--output is missing: .*m.safetensors is no folder"):
        command_line.call("stress", f"--model={weights}", "a.wav")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output=.*file/x cannot be written: Not a directory"):
        command_line.call("stress", model, f"--output={tmp_path}/file/x")
