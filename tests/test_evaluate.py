"""The evaluate command: what it needs, and another corpus scored with an explicit label map."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import releases
from commands import SPEAKERS, Ended, command, probabilities, read_json, read_table, train

from ser_jax import cross_corpus
from ser_jax.errors import UserError
from ser_jax.training import scoring, seal


def evaluate(*arguments: str) -> Ended:
    return command(*arguments, module="ser_jax.evaluate")


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
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), releases.emodb_names(SPEAKERS), seconds=0.4)
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


# --- What it needs ----------------------------------------------------------------------------------------------------


def test_without_a_model_it_says_what_to_name():
    assert "--model is missing: name the run directory" in evaluate().refusal


@pytest.mark.parametrize("name", ["nowhere", "folder", "file"])
def test_what_is_no_run_directory_is_refused(name, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    sentence = evaluate(f"--model={tmp_path / name}").refusal
    assert f"{tmp_path / name} is not a run directory" in sentence and "ser_jax.main" in sentence


def test_an_unfinished_run_is_refused_with_the_runs_that_lack(copy):
    shutil.rmtree(copy / "models/s1-0")
    (copy / "results.json").unlink()
    sentence = evaluate(f"--model={copy}").refusal
    assert f"1 of 3 runs of {copy} are not finished (s1-0)" in sentence and "training command" in sentence


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
    assert f"{copy} was begun with the protocol manifest-speaker" in sentence


# --- Another corpus ---------------------------------------------------------------------------------------------------


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
    """A copy with one model: hotter by hand, its probabilities on the other corpus move as softmax(logits / T) does."""
    for fold in ("s0", "s2"):
        shutil.rmtree(copy / f"models/{fold}-0")
    path = copy / "models/s1-0/model.json"
    found = []
    for factor in (1, 4):
        model = read_json(path)
        path.write_text(json.dumps(seal.sealed({**model, "temperature": factor * model["temperature"]})))
        output = tmp_path / f"scores-{factor}"
        ended = evaluate(f"--model={copy}", *emodb, "--labels=happy=-,neutral=-", f"--output={output}")
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


def test_a_run_without_any_model_is_refused(run, emodb, tmp_path):
    shutil.copy(run / "config.json", tmp_path)
    sentence = evaluate(f"--model={tmp_path}", *emodb).refusal
    assert f"{tmp_path} holds no trained model" in sentence


def test_label_maps_are_read():
    assert cross_corpus.parse_labels("") == {}
    assert cross_corpus.parse_labels("happy=-, exc = happy,") == {"happy": "-", "exc": "happy"}


@pytest.mark.parametrize("text", ["happy", "happy=", "=sad", "happy=sad=angry", "happy:sad", "a=b,c"])
def test_a_map_that_is_none_is_refused_with_the_form(text):
    with pytest.raises(UserError, match="theirs=ours"):
        cross_corpus.parse_labels(text)
