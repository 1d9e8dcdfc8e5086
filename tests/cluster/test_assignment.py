"""Assignment of trials: evenly, dependent ones together, unfinished ones with their checkpoint."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.cluster import assignment
from ser_jax.cluster.hosts import ALONE, Hosts
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.signals import Interrupted
from ser_jax.training.trials import Trial


def trial(fold: str, seed: int = 0, epochs_from: str = "") -> Trial:
    made: Any = SimpleNamespace(name=fold, epochs_from=epochs_from)
    return Trial(made, seed)


LETTERS = [trial(name) for name in "abcde"]
OFFICIAL = [
    trial(fold, seed, source)
    for seed in (0, 1)
    for fold, source in (("devel", ""), ("test", "devel"))
]


def test_evenly_and_in_order():
    first, second = assignment.divide(LETTERS, {}, 2)
    assert (first, second) == ({"": ["a-0", "c-0", "e-0"]}, {"hosts/1": ["b-0", "d-0"]})
    assert assignment.divide(LETTERS, {}, 1) == [{"": ["a-0", "b-0", "c-0", "d-0", "e-0"]}]


def test_a_trial_goes_with_the_one_that_chooses_its_number_of_epochs():
    divided = assignment.divide(OFFICIAL, {"": [], "hosts/1": []}, 2)
    assert divided == [{"": ["devel-0", "test-0"]}, {"hosts/1": ["devel-1", "test-1"]}]


def test_unfinished_trials_stay_with_their_checkpoint():
    saved = {"": ["c-0", "done-0"], "hosts/1": ["a-0", "e-0"]}
    first, second = {"": ["c-0", "b-0", "d-0"]}, {"hosts/1": ["a-0", "e-0"]}
    assert assignment.divide(LETTERS, saved, 2) == [first, second]
    assert assignment.divide(LETTERS, saved, 1) == [first | second]
    fewer = assignment.divide(LETTERS, {"hosts/3": ["b-0", "d-0"]}, 2)
    assert fewer == [{"": ["e-0"], "hosts/3": ["b-0", "d-0"]}, {"hosts/1": ["a-0", "c-0"]}]


def test_dependent_trials_go_with_the_unfinished_one():
    _, second = assignment.divide(OFFICIAL, {"hosts/1": ["test-0"]}, 2)
    assert second == {"hosts/1": ["devel-0", "test-0"]}


@given(
    seeds=st.integers(1, 4),
    folds=st.integers(1, 6),
    count=st.integers(1, 5),
    saved=st.dictionaries(
        st.sampled_from(["", "hosts/1", "hosts/2", "hosts/7"]),
        st.sets(st.integers(0, 23)),
        max_size=4,
    ),
)
def test_every_trial_is_trained_once_whatever_was_saved(seeds, folds, count, saved):
    trials = [trial(str(fold), seed) for seed in range(seeds) for fold in range(folds)]
    names = {
        folder: [trials[n].name for n in numbers if n < len(trials)]
        for folder, numbers in saved.items()
    }
    divided = assignment.divide(trials, names, count)
    assert len(divided) == count
    trained = [name for folders in divided for own in folders.values() for name in own]
    assert sorted(trained) == sorted(one.name for one in trials)
    used = [folder for folders in divided for folder in folders]
    assert len(set(used)) == len(used), "no folder is used by two processes"
    if not any(names.values()):
        sizes = [sum(map(len, folders.values())) for folders in divided]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("trials", "count", "most"), [(LETTERS, 6, 5), (OFFICIAL, 3, 2)])
def test_more_processes_than_trials(trials, count, most):
    assignment.check(trials, Hosts(0, most))
    sentence = f"{count} processes, but only {most} of {len(trials)} .* at most {most}"
    with pytest.raises(UserError, match=sentence):
        assignment.check(trials, Hosts(0, count))


@pytest.mark.parametrize("others", [False, True])
def test_a_single_process_trains_all_in_the_run_directory(others, tmp_path):
    if others:  # of processes that have saved nothing
        (tmp_path / "hosts/1").mkdir(parents=True)
    assert assignment.jobs(LETTERS, tmp_path, ALONE) == [assignment.Job(tmp_path, LETTERS)]


# --- Metrics


def line(fold: str, epoch: int, loss: float) -> str:
    return json.dumps({"fold": fold, "seed": 0, "phase": 1, "epoch": epoch, "loss": loss}) + "\n"


def test_metrics_are_merged_once(tmp_path):
    own = line("a", 1, 0.5) + line("a", 2, 0.25) + '{"fold": "a", "se'
    (tmp_path / "metrics.jsonl").write_text(own)
    parts = {"1": line("b", 1, 0.5), "2": line("a", 2, 0.125) + line("c", 1, 1) + "[]\n"}
    for host, text in parts.items():
        (tmp_path / "hosts" / host).mkdir(parents=True)
        (tmp_path / "hosts" / host / "metrics.jsonl").write_text(text)
    expected = line("a", 1, 0.5) + line("a", 2, 0.125) + line("b", 1, 0.5) + line("c", 1, 1)
    for _ in range(2):  # A process may be killed between the two steps.
        assignment.merge_metrics(tmp_path)
        assert (tmp_path / "metrics.jsonl").read_text() == expected
    assignment.remove_host_folders(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    (tmp_path / "metrics.jsonl").write_text("as it is")
    assignment.merge_metrics(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "as it is", "there is nothing to merge"


# --- Resuming with another number of processes


class Preempted:
    """Raises SIGTERM at a call of the training program, and counts the calls."""

    def __init__(self, programs: Any, monkeypatch: pytest.MonkeyPatch, calls: int):
        train = programs.train

        def counted(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == calls:
                signal.raise_signal(signal.SIGTERM)
            return train(*arguments)

        self.calls = 0
        monkeypatch.setattr(programs, "train", counted)


def train(jobs: list[assignment.Job], workdir: Path) -> None:
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        tiny.trainer(workdir, tiny.executor(2, 2), job.folder).train(job.trials)


def jobs_of(index: int, count: int, workdir: Path, plan: list[Any]) -> list[assignment.Job]:
    """The jobs of one of several processes, called in their order; process 0 makes the plan."""
    hosts: Any = SimpleNamespace(index=index, count=count, first=not index)
    hosts.barrier = lambda name: None
    hosts.broadcast = lambda name, word: plan.append(word) or word if hosts.first else plan[0]
    return assignment.jobs(tiny.trials(), workdir, hosts)


def models(workdir: Path) -> dict[str, bytes]:
    paths = (workdir / "models").glob("*/model.npz")
    return {path.parent.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    train(assignment.jobs(tiny.trials(), workdir, ALONE), workdir)
    return workdir


@pytest.fixture(scope="module")
def preempted(tmp_path_factory) -> Path:
    """The folder of two processes with two trials each, both stopped in their second epoch."""
    workdir, plan = tmp_path_factory.mktemp("preempted"), []
    for index in (0, 1):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
            Preempted(tiny.executor(2, 2), patch, len(tiny.steps_of_an_epoch()) + 3)
            train(jobs_of(index, 2, workdir, plan), workdir)
    assert not (workdir / "models").exists()
    return workdir


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_processes_resumes(count, preempted, undisturbed, tmp_path, monkeypatch):
    """To the bit, from where each has stopped, and with every epoch logged once."""
    workdir, plan = tmp_path / "run", []
    shutil.copytree(preempted, workdir)
    counted = Preempted(tiny.executor(2, 2), monkeypatch, -1)
    for index in range(count):
        train(jobs_of(index, count, workdir, plan), workdir)
    epoch = len(tiny.steps_of_an_epoch())
    assert counted.calls == 2 * (3 * epoch - (epoch + 3)), "nothing that was saved is trained again"
    assert models(workdir) == models(undisturbed)
    assignment.merge_metrics(workdir)
    lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = sorted((entry["fold"], entry["epoch"]) for entry in lines)
    assert found == [(fold, epoch) for fold in "abcd" for epoch in (1, 2, 3)]
