"""The evaluate command: what it needs, and another corpus scored with an explicit label map."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import (
    ROOT,
    SPEAKERS,
    Ended,
    command,
    files_and_times,
    keep_models,
    probabilities,
    read_json,
    read_table,
    train,
)

from ser_jax.corpora import labels
from ser_jax.prediction import ensemble
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.training import scoring


def evaluate(*arguments: str) -> Ended:
    return command(*arguments, name="evaluate")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of three folds, trained on a manifest with the classes angry and sad."""
    folder = tmp_path_factory.mktemp("two-classes")
    rows = [row for row in releases.manifest_rows(speakers=3) if row["label"] in ("angry", "sad")]
    root = releases.write_manifest(folder / "corpus", rows, seconds=0.4).parent
    train(folder / "run", "--config.corpus.name=manifest", f"--config.corpus.root={root}")
    return folder / "run"


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def emodb(tmp_path_factory) -> tuple[str, str]:
    """Arguments for another corpus: eight utterances of each of four classes."""
    names = releases.emodb_names(SPEAKERS)
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), names, seconds=0.4)
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


# --- What it needs


@pytest.mark.parametrize("name", ["nowhere", "folder", "file"])
def test_what_is_no_run_directory_is_refused(name, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    sentence = evaluate(f"--model={tmp_path / name}").refusal
    assert f"{tmp_path / name} is not a run directory" in sentence and "ser-jax train" in sentence


def test_an_unfinished_run_is_refused_with_the_runs_that_lack(copy):
    shutil.rmtree(copy / "models/s1-0")
    (copy / "results.json").unlink()
    sentence = evaluate(f"--model={copy}").refusal
    assert f"1 of 3 trials of {copy} are not finished (s1-0)" in sentence
    assert "training command" in sentence


def test_a_damaged_model_is_refused(copy):
    path = copy / "models/s1-0/model.npz"
    path.write_bytes(path.read_bytes()[:-1])
    sentence = evaluate(f"--model={copy}").refusal
    assert str(path) in sentence and "train it again" in sentence


def test_a_corpus_that_has_moved_is_found_at_its_new_place(run, copy, tmp_path):
    old = Path(read_json(run / "config.json")["corpus"]["root"])
    new = Path(shutil.copytree(old, tmp_path / "moved"))
    for name in ("predictions.csv", "results.json"):
        (copy / name).unlink()
    ended = evaluate(f"--model={copy}", f"--config.corpus.root={new}")
    assert ended.code == 0, ended.err
    assert (copy / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    # One recording less: these are no longer the recordings that the run was made with.
    lines = (new / "manifest.csv").read_text().splitlines()
    (new / "manifest.csv").write_text("\n".join(lines[:-1]))
    sentence = evaluate(f"--model={copy}", f"--config.corpus.root={new}").refusal
    assert f"{copy} was started with the protocol manifest-speaker" in sentence


# --- Another corpus


def test_another_corpus_is_scored_by_the_ensemble(run, emodb, tmp_path):
    output = tmp_path / "scores"
    ended = evaluate(f"--model={run}", *emodb, "--labels=happy=-,neutral=-", f"--output={output}")
    assert ended.code == 0, ended.err
    rows, results = read_table(output / "predictions.csv"), read_json(output / "results.json")
    assert sorted({row["label"] for row in rows}) == results["classes"] == ["angry", "sad"]
    assert len({row["id"] for row in rows}) == len(rows) == results["utterances"] == 16
    assert {row["fold"] for row in rows} == {"ensemble"} and results["corpus"] == "emodb"
    np.testing.assert_allclose(probabilities(output).sum(axis=1), 1, atol=1e-9)
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert results["wa"]["mean"] == pytest.approx(right)
    assert f"{100 * right:.1f}" in ended.out and str(output / "predictions.csv") in ended.out
    assert read_table(output / "rejected.csv") == []


def test_every_model_of_the_ensemble_has_its_temperature(run, copy, emodb, tmp_path):
    """One model, hotter by hand: probabilities on the other corpus move as softmax(logits / T)."""
    keep_models(copy, "s1-0")
    path = copy / "models/s1-0/model.json"
    found = []
    for factor in (1, 4):
        model = read_json(path)
        hotter = {**model, "temperature": factor * model["temperature"]}
        path.write_text(json.dumps(strict_json.with_checksum(hotter)))
        output = tmp_path / f"scores-{factor}"
        labels = "--labels=happy=-,neutral=-"
        ended = evaluate(f"--model={copy}", *emodb, labels, f"--output={output}")
        assert ended.code == 0, ended.err
        found.append(probabilities(output))
    np.testing.assert_allclose(found[1], scoring.softmax(np.log(found[0]), 4.0), atol=1e-12)
    assert not np.allclose(found[0], found[1], atol=1e-6)


def test_labels_may_be_merged_and_scores_go_to_a_folder_of_the_run_by_default(run, emodb):
    before = (run / "results.json").read_bytes()
    ended = evaluate(f"--model={run}", *emodb, "--labels=happy=angry, neutral=sad")
    assert ended.code == 0, ended.err
    results = read_json(run / "emodb/results.json")
    assert np.sum(results["confusion"], axis=1).tolist() == [16, 16]
    assert (run / "results.json").read_bytes() == before


def test_a_label_that_the_model_does_not_know_must_be_mapped(run, emodb):
    sentence = evaluate(f"--model={run}", *emodb, "--labels=happy=-").refusal
    assert "the corpus has the labels neutral, the model knows angry, sad" in sentence
    assert "--labels=neutral=angry" in sentence and "neutral=-" in sentence


def test_the_map_may_not_leave_everything_out(run, emodb):
    labels = "--labels=happy=-,neutral=-,angry=-,sad=-"
    sentence = evaluate(f"--model={run}", *emodb, labels).refusal
    assert "leaves out all 32 utterances" in sentence


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("results.json", "is not finished: it holds 3 models and no results.json"),
        ("models/s1-0/model.json", r"1 of 3 models are missing \(s1-0\); run the training command"),
        ("models/s1-0/model.npz", r"s1-0/model.npz is missing, which model.json describes"),
    ],
)
def test_a_run_that_lacks_a_model_is_refused_by_all_that_use_models(
    lost, sentence, copy, emodb, tmp_path
):
    (copy / lost).unlink()
    with pytest.raises(UserError, match=sentence):
        ensemble.read_ensemble(copy)
    options = ("--labels=happy=-,neutral=-", f"--output={tmp_path / 'scores'}")
    ended = evaluate(f"--model={copy}", *emodb, *options)
    assert re.search(sentence, ended.refusal)


# --- The corpus of the run, and folders that hold something else


def test_the_corpus_that_a_run_was_trained_on_is_no_other_corpus(run, tmp_path):
    root = read_json(run / "config.json")["corpus"]["root"]
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}")
    sentence = evaluate(f"--model={run}", *corpus, f"--output={tmp_path / 'scores'}").refusal
    count = len(read_json(run / "protocol.json")["utterances"])
    assert f"all {count} utterances of the corpus, or their speakers, were in the" in sentence
    assert f"ser-jax evaluate --model={run} alone" in sentence
    assert not (tmp_path / "scores").exists()


def test_recordings_and_speakers_of_the_training_are_left_out_and_counted(run, emodb, tmp_path):
    """A copy of one training recording under another name gives its speaker away."""
    root = Path(read_json(run / "config.json")["corpus"]["root"])
    mixed = releases.write_manifest(
        tmp_path / "mixed", releases.manifest_rows(speakers=2, per_label=1), seconds=0.6
    ).parent
    lines = (mixed / "manifest.csv").read_text().splitlines()
    first = lines[1].split(",")[0]
    shutil.copy(root / next(iter(read_table(root / "manifest.csv")))["file"], mixed / first)
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={mixed}")
    options = ("--labels=happy=-,neutral=-", f"--output={tmp_path / 'scores'}")
    ended = evaluate(f"--model={run}", *corpus, *options)
    # Both speakers have names of the training: with one recording in common these are the same.
    assert "all 4 utterances of the corpus, or their speakers, were" in ended.refusal
    text = (mixed / "manifest.csv").read_text().replace(",s1", ",new")
    (mixed / "manifest.csv").write_text(text)
    ended = evaluate(f"--model={run}", *corpus, *options)
    assert ended.code == 0, ended.err
    assert "2 of 4 utterances are left out: they or their speakers (1)" in ended.err
    results = read_json(tmp_path / "scores/results.json")
    assert results["left_out"] == {"utterances": 2, "speakers": ["s0"]}
    assert {row["speaker"] for row in read_table(tmp_path / "scores/predictions.csv")} == {"new"}
    assert (results["ensemble"], len(results["runs"][0]["members"])) == (3, 3)


def test_scores_of_something_else_are_not_replaced(run, emodb, tmp_path):
    output = tmp_path / "scores"
    to = (f"--model={run}", *emodb, f"--output={output}")
    for _ in range(2):  # The same again is no other.
        ended = evaluate(*to, "--labels=happy=-,neutral=-")
        assert ended.code == 0, ended.err
    before = files_and_times(output)
    sentence = evaluate(*to, "--labels=happy=angry,neutral=-").refusal
    assert f"{output} holds the scores of plain_crnn on other recordings (emodb), with" in sentence
    assert "name another folder with --output" in sentence
    to = (*to[:-1], "--labels=happy=-,neutral=-", f"--output={ROOT}")
    assert f"{ROOT} is not empty and holds no evaluation" in evaluate(*to).refusal
    assert files_and_times(output) == before


def test_flags_that_would_change_nothing_or_hide_one_another_are_refused(run, emodb):
    for flag in ("--labels=happy=-", "--output=scores"):
        sentence = evaluate(f"--model={run}", flag).refusal
        assert f"{flag} is for another corpus: name that by --config.corpus.name" in sentence
    both = ("--labels=happy=-", "--config.corpus.labels=neutral=-")
    sentence = evaluate(f"--model={run}", *emodb, *both).refusal
    assert "are two names of one map: write all of it in one of them" in sentence


@pytest.mark.parametrize("text", ["happy", "happy=", "=sad", "a=b=c", "happy:sad", "a=b,c"])
def test_a_map_that_is_none_is_refused_with_the_form(text):
    assert labels.parse("happy=-, exc = happy,") == {"happy": "-", "exc": "happy"}
    with pytest.raises(UserError, match="--labels=.*theirs=ours"):
        labels.parse(text, "--labels")
