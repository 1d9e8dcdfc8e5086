"""Finished runs and their history read back, and the sentences that refuse others."""

import json
import re

import numpy as np
import pytest
import scored

from ser_jax.evaluation import finished_run
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError

REMOVED = object()


@pytest.fixture
def run(tmp_path):
    return scored.write_run(tmp_path / "runs/a", scored.make_rows(0))


def refusal(*folders) -> str:
    with pytest.raises(UserError) as caught:
        finished_run.read_runs(folders)
    return str(caught.value)


def change(folder, **values):
    """Changes or removes keys of `results.json`."""
    path = folder / "results.json"
    found = json.loads(path.read_text()) | values
    files.write_json(path, {key: value for key, value in found.items() if value is not REMOVED})


def test_rows_and_results_come_back(run):
    (found,) = finished_run.read_runs([run])
    assert found.name == "a"
    assert found.rows == tuple(scored.make_rows(0))
    assert found.results == json.loads((run / "results.json").read_text())


def test_sessions_are_those_of_the_protocol(tmp_path):
    rows = scored.make_rows(0, speakers=5)
    sessions = {row.id: row.speaker.upper() for row in rows}
    run = scored.write_run(tmp_path / "a", rows, sessions=sessions)
    assert "protocol.json is missing, which says who was in which session" in refusal(run)
    protocol = {"utterances": [[name, "", ""] for name in sessions]}
    files.write_json(run / "protocol.json", protocol | {"sessions": list(sessions.values())})
    assert finished_run.read_runs([run])[0].sessions == sessions


def test_only_labelled_rows_of_seeds_that_count(tmp_path):
    rows = scored.make_rows(0)
    withheld = scored.Prediction("x", "s0", "f0", 0, "", "sad", (0.0, 0.0, 1.0))
    done = {"status": "done", "best_epoch": 1}
    runs = [{"fold": f"f{fold}", "seed": seed, **done} for fold, seed in np.ndindex(6, 2)]
    runs[5]["status"] = "diverged"  # fold 2, seed 1
    kept = [row for row in rows if (row.fold, row.seed) != ("f2", 1)]
    folder = scored.write_run(tmp_path / "a", [*kept, withheld], runs=runs)
    (found,) = finished_run.read_runs([folder])
    assert found.rows == tuple(row for row in rows if row.seed == 0)


def test_runs_of_one_name_are_called_by_their_path(run, tmp_path):
    other = scored.write_run(tmp_path / "more/a", scored.make_rows(1))
    third = scored.write_run(tmp_path / "more/b", scored.make_rows(2))
    names = [found.name for found in finished_run.read_runs([run, other, third])]
    assert names == [str(run), str(other), "b"]


def test_a_run_named_twice_is_refused(run):
    assert refusal(run, run / ".." / "a") == f"{run} is named twice: name every run once"


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_no_finished_run_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    sentence = refusal(tmp_path / name)
    assert f"{tmp_path / name} is not a finished run" in sentence and "ser-jax train" in sentence


@pytest.mark.parametrize("text", ["{", "", "\xff"])
def test_broken_results_are_refused(run, text):
    (run / "results.json").write_bytes(text.encode("latin-1"))
    assert f"{run / 'results.json'} is damaged" in refusal(run)


@pytest.mark.parametrize("text", ['{"schema": 2}', "{}"])
def test_another_schema_is_refused_with_both(run, text):
    (run / "results.json").write_text(text)
    expected = r"has schema (2|None), this version reads schema 1: ser-jax evaluate --model="
    assert re.search(expected, refusal(run))


@pytest.mark.parametrize(("key", "value"), [("calibration", REMOVED), ("macro_f1", 0.5)])
def test_results_of_another_version_are_refused(run, key, value):
    change(run, **{key: value})
    sentence = refusal(run)
    for part in ("another version of ser_jax", f"lack {key} in", "ser-jax evaluate"):
        assert part in sentence


def test_missing_predictions_are_refused(run):
    (run / "predictions.csv").unlink()
    assert refusal(run).startswith(f"{run / 'predictions.csv'} is missing: ser-jax evaluate")


def test_predictions_that_the_scores_were_not_taken_from_are_refused_with_both_hashes(run):
    path = run / "predictions.csv"
    text = path.read_text()
    path.write_text(text.replace(",angry,angry,", ",angry,sad,", 1))
    assert path.read_text() != text
    before = json.loads((run / "results.json").read_text())["predictions_sha256"]
    sentence = refusal(run)
    assert f"{before[:12]}…" in sentence and re.search(r"has the SHA-256 [0-9a-f]{12}…", sentence)
    assert sentence.count(before[:12]) == 1 and "ser-jax evaluate" in sentence


def test_other_classes_are_refused(run):
    change(run, classes=["angry", "happy", "tired"])
    assert "has the classes angry, happy, sad, results.json has angry, happy, tired" in refusal(run)


@pytest.mark.parametrize("words", ["mean of 3 trainings", "mean over 3 models"])
def test_ensembles_are_marked_and_older_results_count_all_their_parameters(run, tmp_path, words):
    now = {"ensemble": 3, "parameters": 300, "probabilities": f"softmax; {words}"}
    other = scored.write_run(tmp_path / "b", scored.make_rows(1), **now)
    old = scored.write_run(tmp_path / "old", scored.make_rows(2), **{**now, "parameters": 100})
    change(old, ensemble=REMOVED)
    found = finished_run.read_runs([run, other, old])
    assert [one.name for one in found] == ["a", "b ×3", "old ×3"]
    assert [one.results["parameters"] for one in found[1:]] == [300, 300]


def test_history_of_an_interrupted_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"fold": "a", "seed": 0, "epoch": 1, "loss": 2.0}',
        '{"fold": "a", "seed": 0, "epo{"fold": "a", "seed": 0, "epoch": 2, "loss": 1.0}',
        '{"fold": "a", "seed": 0, "epoch": 1, "loss": 3.0}',
        '{"fold": "a"',
    ]
    path.write_text("\n".join(lines))
    changed = strict_json.line({"fold": "b", "seed": 0, "epoch": 1, "loss": 2.0})
    assert strict_json.parse_line(changed)["loss"] == 2.0
    lines.insert(3, changed.strip().replace("2.0", "1.0"))
    path.write_text("\n".join(lines))
    records, unreadable = finished_run.read_history(path)
    assert [record["loss"] for record in records] == [3.0]
    assert unreadable == 2
    path.write_text(lines[0])
    assert finished_run.read_history(path) == ([json.loads(lines[0])], 0)
    assert finished_run.read_history(tmp_path / "absent") == ([], 0)
    # An epoch of the second phase does not replace that of the first.
    lines = [{"fold": "a", "seed": 0, "phase": p, "epoch": 1, "loss": float(p)} for p in (1, 2)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert finished_run.read_history(path) == (lines, 0)
