"""All runs of the baseline: what is written, how they resume and are stopped, what is said when they cannot go on."""

import dataclasses
import json
import logging
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from ser_jax.baselines import svm, svm_runs
from ser_jax.errors import UserError
from ser_jax.features.workers import WorkerDied
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.training import model_files
from ser_jax.training.interrupt import Interrupted
from ser_jax.training.runs import Run, list_runs

N, D, CLASSES = 36, 50, ("angry", "happy", "sad")
RNG = np.random.default_rng(2)  # so that runs differ in what they choose
HSF = (3 * RNG.normal(size=(N, D)) + np.repeat(RNG.normal(size=(3, D)), N // 3, axis=0)).astype(np.float32)
SETTINGS = svm.Settings((1e-3, 1e-1), "balanced", tolerance=1e-4, iterations=10_000)
DESCRIPTION = {"system": "svm", "classes": list(CLASSES)}


def protocol(*folds: Fold) -> Protocol:
    return Protocol(
        name="tiny",
        corpus="test",
        classes=CLASSES,
        label_mapping={},
        ids=tuple(f"{n:02d}" for n in range(N)),
        labels=tuple(CLASSES[3 * n // N] for n in range(N)),
        speakers=("",) * N,
        folds=folds or tuple(Fold(test, ("tvett" * N)[place : place + N]) for place, test in enumerate("Äb")),
        validation_rule="none",
    )


RUNS = list_runs(protocol(), seeds=2, first_seed=3, folds="")
OFFICIAL = protocol(Fold("devel", ("ttve" * N)[:N]), Fold("test", ("ttt-" * N)[:N], epochs_from="devel"))


def machines(which: Protocol | None = None, cores: int = 2, **changes: object) -> svm_runs.SVM:
    return svm_runs.SVM(which or protocol(), HSF, dataclasses.replace(SETTINGS, **changes), cores)


def contents(workdir: Path) -> dict[str, object]:
    """Returns what the models are, less the time they took."""
    found: dict[str, object] = {}
    for path in sorted(workdir.glob("models/*/*")):
        name = str(path.relative_to(workdir))
        found[name] = path.read_bytes()
        if path.suffix == ".json":
            found[name] = {**json.loads(path.read_text()), "seconds": None, "seal": None}
    return found


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished")
    machines().train(RUNS, workdir, DESCRIPTION)
    return workdir


@pytest.fixture
def in_this_process(monkeypatch) -> list[str]:
    """Fits without worker processes, one job after the other; returns the names of the runs that were fitted."""
    names = []

    def run(function, jobs, workers, *, processes):
        assert processes and workers > 0
        for job in jobs:
            names.append(job.run.name)
            yield job, function(job)

    monkeypatch.setattr(svm_runs.workers, "run", run)
    return names


# --- What is written --------------------------------------------------------------------------------------------------


def test_every_run_has_its_model(finished):
    assert [path.name for path in model_files.list_models(finished)] == ["%C3%84-3", "%C3%84-4", "b-3", "b-4"]
    for run in RUNS:
        description, params, statistics = model_files.read_model(finished / "models" / run.name)
        assert description.items() >= DESCRIPTION.items()
        assert (description["fold"], description["seed"], description["status"]) == (run.fold.name, run.seed, "done")
        assert description["c"] in description["tried"]["c"] == [1e-3, 1e-1]
        assert params["coefficients"].shape == (3, D) and params["intercept"].shape == (3,)
        assert sum(value.size for value in params.values()) == machines().parameters == 3 * D + 3
        assert statistics.hsf_mean is not None and statistics.mean is None
        np.testing.assert_allclose(statistics.hsf_mean, HSF[run.fold.train].mean(axis=0, dtype=np.float64))


def test_metrics_has_a_line_per_run(finished):
    lines = metrics(finished)
    assert [(line["fold"], line["seed"]) for line in lines] == [(run.fold.name, run.seed) for run in RUNS]
    for line, run in zip(lines, RUNS, strict=True):
        description = model_files.read_description(finished / "models" / run.name)
        assert description is not None
        assert line == {name: description[name] for name in ("fold", "seed", "c", "tried", "seconds")}
        assert len(line["tried"]["validation_ua"]) == 2


def test_scores_are_products_and_need_no_scikit_learn(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    folders = [finished / "models" / run.name for run in RUNS]
    rows = [run.fold.test for run in RUNS[:-1]] + [np.arange(0)]
    for folder, numbers, found in zip(folders, rows, machines().scores(folders, rows), strict=True):
        model = model_files.read_model(folder)
        _, _, mean, std = model.statistics
        z = (HSF[numbers] - np.asarray(mean)) / np.asarray(std)
        expected = np.einsum("nd,kd->nk", z, model.params["coefficients"]) + model.params["intercept"]
        assert found.shape == (len(numbers), 3)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_number_of_processes_changes_nothing(finished, tmp_path):
    machines(cores=1).train(RUNS, tmp_path, DESCRIPTION)
    assert contents(tmp_path) == contents(finished)


# --- A fold that takes C from another ---------------------------------------------------------------------------------


def test_a_fold_without_validation_part_takes_c_from_the_one_it_names(tmp_path, in_this_process):
    runs = list_runs(OFFICIAL, seeds=2, first_seed=0, folds="")[::-1]
    machines(OFFICIAL).train(runs, tmp_path, DESCRIPTION)
    assert in_this_process == ["devel-0", "devel-1", "test-0", "test-1"]
    for seed in (0, 1):
        devel, test = (model_files.read_description(tmp_path / f"models/{name}-{seed}") for name in ("devel", "test"))
        assert devel and test and test["c"] == devel["c"] == 1e-1, "and not the smallest"
        assert test["tried"]["c"] == [devel["c"]] and test["tried"]["validation_ua"] == [None]


def test_it_may_have_been_fitted_before(tmp_path, in_this_process):
    devel, test = (Run(fold, 0) for fold in OFFICIAL.folds)
    with pytest.raises(UserError, match="fold test takes C from fold devel, which is not fitted: .* protocol.folds"):
        machines(OFFICIAL).train([test], tmp_path, DESCRIPTION)
    assert not (tmp_path / "models").exists()
    machines(OFFICIAL).train([devel], tmp_path, DESCRIPTION)
    machines(OFFICIAL).train([test], tmp_path, DESCRIPTION)
    assert [path.name for path in model_files.list_models(tmp_path)] == ["devel-0", "test-0"]


# --- Resuming and stopping --------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_fitted(finished, tmp_path, in_this_process):
    machines().train(RUNS[:3], tmp_path, DESCRIPTION)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("models/*/*")}
    machines().train(RUNS, tmp_path, DESCRIPTION)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert contents(tmp_path) == contents(finished) and len(metrics(tmp_path)) == 4
    (tmp_path / "metrics.jsonl").unlink()  # as if killed between the last model and the list of all
    fitted = len(in_this_process)
    machines().train(RUNS, tmp_path, DESCRIPTION)
    assert len(metrics(tmp_path)) == 4 and len(in_this_process) == fitted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_present_fit(number, finished, tmp_path, monkeypatch, in_this_process):
    """A run that was fitted when the signal came is kept; the next is not begun."""

    def run(function, jobs, workers, *, processes):
        for place, job in enumerate(jobs):
            fitted = function(job)
            if place == 1:
                signal.raise_signal(number)
            yield job, fitted

    with monkeypatch.context() as patch:
        patch.setattr(svm_runs.workers, "run", run)
        with pytest.raises(Interrupted) as stopped:
            machines().train(RUNS, tmp_path, DESCRIPTION)
    assert stopped.value.signal == number
    assert len(model_files.list_models(tmp_path)) == len(metrics(tmp_path)) == 2
    machines().train(RUNS, tmp_path, DESCRIPTION)
    assert contents(tmp_path) == contents(finished)


def test_jobs_in_other_processes_are_called_back(tmp_path, monkeypatch):
    seen = []

    def run(function, jobs, workers, *, processes):
        signal.raise_signal(signal.SIGTERM)
        for job in jobs:
            seen.append(function(job))
            yield job, seen[-1]

    monkeypatch.setattr(svm_runs.workers, "run", run)
    with pytest.raises(Interrupted):
        machines().train(RUNS, tmp_path, DESCRIPTION)
    assert seen == [None] and model_files.list_models(tmp_path) == []


def test_a_dead_process_is_no_riddle(tmp_path, monkeypatch):
    def run(function, jobs, workers, *, processes):
        yield jobs[0], function(jobs[0])
        raise WorkerDied(tuple(jobs[1:3]))

    monkeypatch.setattr(svm_runs.workers, "run", run)
    with pytest.raises(UserError, match=r"one of b-4, %C3%84-3 has died, .* memory: .* svm\.workers=1"):
        machines().train(RUNS, tmp_path, DESCRIPTION)
    assert len(model_files.list_models(tmp_path)) == len(metrics(tmp_path)) == 1


def test_a_full_disk_is_named_with_the_remedy(tmp_path, monkeypatch):
    def full(path, values, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"No space left on device\): fitting needs 0 MB there; .* TMPDIR"):
        machines().train(RUNS, tmp_path, DESCRIPTION)


def test_converged_fits_are_not_mentioned(tmp_path, in_this_process, caplog):
    with caplog.at_level(logging.WARNING, "ser_jax"):
        machines().train(RUNS, tmp_path, DESCRIPTION)
    assert not caplog.records


def test_unconverged_fits_are_counted_and_mentioned_once(tmp_path, in_this_process, caplog):
    with caplog.at_level(logging.WARNING, "ser_jax"):
        machines(iterations=1).train(RUNS, tmp_path, DESCRIPTION)
    (record,) = caplog.records
    assert record.getMessage().startswith("note: 8 of 8 fits ended unconverged after svm.iterations=1 passes")
