"""Finished runs read back: what they are called, and what is refused with which sentence."""

import json
import re

import pytest
import scored

from ser_jax import atomic
from ser_jax.errors import UserError
from ser_jax.evaluation import finished

REMOVED = object()


@pytest.fixture
def run(tmp_path):
    return scored.write_run(tmp_path / "runs/a", scored.make_rows(0))


def refusal(*folders) -> str:
    with pytest.raises(UserError) as caught:
        finished.read_runs(folders)
    return str(caught.value)


def change(folder, **values):
    """Changes or removes keys of `results.json`."""
    path = folder / "results.json"
    found = json.loads(path.read_text()) | values
    atomic.write_json(path, {key: value for key, value in found.items() if value is not REMOVED})


def test_rows_and_results_come_back(run):
    (found,) = finished.read_runs([run])
    assert found.name == "a"
    assert found.rows == tuple(scored.make_rows(0))
    assert found.results == json.loads((run / "results.json").read_text())


def test_only_labelled_rows_of_seeds_that_count(tmp_path):
    rows = scored.make_rows(0)
    withheld = scored.Prediction("x", "s0", "f0", 0, "", "sad", (0.0, 0.0, 1.0))
    runs = [
        {"fold": f"f{fold}", "seed": seed, "status": "diverged" if (fold, seed) == (2, 1) else "done", "best_epoch": 1}
        for fold in range(6)
        for seed in range(2)
    ]
    kept = [row for row in rows if (row.fold, row.seed) != ("f2", 1)]
    folder = scored.write_run(tmp_path / "a", [*kept, withheld], runs=runs)
    (found,) = finished.read_runs([folder])
    assert found.rows == tuple(row for row in rows if row.seed == 0)


def test_runs_of_one_name_are_called_by_their_path(run, tmp_path):
    other = scored.write_run(tmp_path / "more/a", scored.make_rows(1))
    third = scored.write_run(tmp_path / "more/b", scored.make_rows(2))
    assert [found.name for found in finished.read_runs([run, other, third])] == [str(run), str(other), "b"]


def test_a_run_named_twice_is_refused(run):
    assert refusal(run, run / ".." / "a") == f"{run} is named twice: name every run once"


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_no_finished_run_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    sentence = refusal(tmp_path / name)
    assert f"{tmp_path / name} is not a finished run" in sentence and "ser_jax.main" in sentence


@pytest.mark.parametrize("text", ["{", "", "\xff"])
def test_broken_results_are_refused(run, text):
    (run / "results.json").write_bytes(text.encode("latin-1"))
    assert f"{run / 'results.json'} is damaged" in refusal(run)


@pytest.mark.parametrize("text", ['{"schema": 2}', "{}"])
def test_another_schema_is_refused_with_both(run, text):
    (run / "results.json").write_text(text)
    sentence = refusal(run)
    assert re.search(r"has schema (2|None), this version reads schema 1: .*ser_jax\.evaluate --model=", sentence)


@pytest.mark.parametrize(
    ("key", "value"),
    [("calibration", REMOVED), ("predictions_sha256", REMOVED), ("macro_f1", 0.5)],
    ids=["calibration", "digest", "macro F1 as a number"],
)
def test_results_of_another_version_are_refused(run, key, value):
    change(run, **{key: value})
    sentence = refusal(run)
    assert "another version of ser_jax" in sentence and f"lack {key} in" in sentence and "ser_jax.evaluate" in sentence


def test_every_key_that_is_needed_is_written(run):
    assert set(finished.NEEDED) <= json.loads((run / "results.json").read_text()).keys()


def test_missing_predictions_are_refused(run):
    (run / "predictions.csv").unlink()
    assert refusal(run).startswith(f"{run / 'predictions.csv'} is missing: python -m ser_jax.evaluate")


def test_predictions_that_the_scores_were_not_taken_from_are_refused_with_both_hashes(run):
    path = run / "predictions.csv"
    text = path.read_text()
    path.write_text(text.replace(",angry,angry,", ",angry,sad,", 1))
    assert path.read_text() != text
    before = json.loads((run / "results.json").read_text())["predictions_sha256"]
    sentence = refusal(run)
    assert f"{before[:12]}…" in sentence and re.search(r"has the SHA-256 [0-9a-f]{12}…", sentence)
    assert sentence.count(before[:12]) == 1 and "ser_jax.evaluate" in sentence


def test_other_classes_are_refused(run):
    change(run, classes=["angry", "happy", "tired"])
    assert "has the classes angry, happy, sad, results.json has angry, happy, tired" in refusal(run)
