"""Who trains what: evenly, families together, begun runs where their checkpoints are."""

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

from ser_jax.errors import UserError
from ser_jax.training import shares
from ser_jax.training.hosts import ALONE, Hosts
from ser_jax.training.interrupt import Interrupted
from ser_jax.training.runs import Run


def run(fold: str, seed: int = 0, epochs_from: str = "") -> Run:
    made: Any = SimpleNamespace(name=fold, epochs_from=epochs_from)
    return Run(made, seed)


pytestmark = pytest.mark.xdist_group("training")

LETTERS = [run(name) for name in "abcde"]
OFFICIAL = [run(fold, seed, source) for seed in (0, 1) for fold, source in (("devel", ""), ("test", "devel"))]


def test_evenly_and_in_order():
    assert shares.divide(LETTERS, {}, 2) == [{"": ["a-0", "c-0", "e-0"]}, {"hosts/1": ["b-0", "d-0"]}]
    assert shares.divide(LETTERS, {}, 1) == [{"": ["a-0", "b-0", "c-0", "d-0", "e-0"]}]


def test_a_run_is_trained_where_its_number_of_epochs_is_found():
    divided = shares.divide(OFFICIAL, {"": [], "hosts/1": []}, 2)
    assert divided == [{"": ["devel-0", "test-0"]}, {"hosts/1": ["devel-1", "test-1"]}]


def test_what_has_begun_stays_with_its_checkpoint():
    saved = {"": ["c-0", "done-0"], "hosts/1": ["a-0", "e-0"]}
    assert shares.divide(LETTERS, saved, 2) == [{"": ["c-0", "b-0", "d-0"]}, {"hosts/1": ["a-0", "e-0"]}]
    assert shares.divide(LETTERS, saved, 1) == [{"": ["c-0", "b-0", "d-0"], "hosts/1": ["a-0", "e-0"]}]
    fewer = shares.divide(LETTERS, {"hosts/3": ["b-0", "d-0"]}, 2)
    assert fewer == [{"": ["e-0"], "hosts/3": ["b-0", "d-0"]}, {"hosts/1": ["a-0", "c-0"]}]


def test_the_rest_of_a_family_goes_with_the_member_that_has_begun():
    assert shares.divide(OFFICIAL, {"hosts/1": ["test-0"]}, 2)[1] == {"hosts/1": ["devel-0", "test-0"]}


@given(
    seeds=st.integers(1, 4),
    folds=st.integers(1, 6),
    count=st.integers(1, 5),
    saved=st.dictionaries(
        st.sampled_from(["", "hosts/1", "hosts/2", "hosts/7"]), st.sets(st.integers(0, 23)), max_size=4
    ),
)
def test_every_run_is_trained_once_whatever_was_saved(seeds, folds, count, saved):
    runs = [run(str(fold), seed) for seed in range(seeds) for fold in range(folds)]
    names = {folder: [runs[n].name for n in numbers if n < len(runs)] for folder, numbers in saved.items()}
    divided = shares.divide(runs, names, count)
    assert len(divided) == count
    trained = [name for share in divided for own in share.values() for name in own]
    assert sorted(trained) == sorted(run.name for run in runs)
    folders = [folder for share in divided for folder in share]
    assert len(set(folders)) == len(folders), "no folder is used by two processes"
    if not any(names.values()):
        sizes = [sum(map(len, share.values())) for share in divided]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("runs", "count", "most"), [(LETTERS, 6, 5), (OFFICIAL, 3, 2)])
def test_more_processes_than_trainings(runs, count, most):
    shares.check(runs, Hosts(0, most))
    with pytest.raises(UserError, match=f"{count} processes, but only {most} of {len(runs)} .* at most {most}"):
        shares.check(runs, Hosts(0, count))


def test_a_process_that_is_alone_trains_all_in_the_run_directory(tmp_path):
    assert shares.jobs(LETTERS, tmp_path, ALONE) == [shares.Job(tmp_path, LETTERS)]


def test_a_process_that_is_alone_takes_over_what_others_kept(tmp_path):
    (tmp_path / "hosts/1").mkdir(parents=True)
    assert shares.jobs(LETTERS, tmp_path, ALONE) == [shares.Job(tmp_path, LETTERS)]


# --- Lines of metrics -------------------------------------------------------------------------------------------------


def line(fold: str, epoch: int, loss: float) -> str:
    return json.dumps({"fold": fold, "seed": 0, "phase": 1, "epoch": epoch, "loss": loss}) + "\n"


def test_lines_are_gathered_once(tmp_path):
    own = line("a", 1, 0.5) + line("a", 2, 0.25) + '{"fold": "a", "se'
    (tmp_path / "metrics.jsonl").write_text(own)
    for host, text in (("1", line("b", 1, 0.5)), ("2", line("a", 2, 0.125) + line("c", 1, 1) + "[]\n")):
        (tmp_path / "hosts" / host).mkdir(parents=True)
        (tmp_path / "hosts" / host / "metrics.jsonl").write_text(text)
    expected = line("a", 1, 0.5) + line("a", 2, 0.125) + line("b", 1, 0.5) + line("c", 1, 1)
    for _ in range(2):  # A process may be killed between the two steps.
        shares.gather(tmp_path)
        assert (tmp_path / "metrics.jsonl").read_text() == expected
    shares.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    shares.gather(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == expected


def test_nothing_to_gather_leaves_the_file_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("as it is")
    shares.gather(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "as it is"


# --- Going on with another number of processes ------------------------------------------------------------------------


class Preempted:
    """Makes every watch see SIGTERM after some calls of the training program."""

    def __init__(self, programs: Any, monkeypatch: pytest.MonkeyPatch, calls: int):
        train = programs.train

        def counted(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == calls:
                signal.raise_signal(signal.SIGTERM)
            return train(*arguments)

        self.calls = 0
        monkeypatch.setattr(programs, "train", counted)


def train(jobs: list[shares.Job], workdir: Path) -> None:
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        tiny.trainer(workdir, tiny.programs(2, 2), job.folder).train(job.runs)


def jobs_of(index: int, count: int, workdir: Path, plan: list[Any]) -> list[shares.Job]:
    """What a process would be given, with a plan that process 0 has made."""
    hosts: Any = SimpleNamespace(index=index, count=count, first=not index, wait=lambda name: None)
    hosts.from_first = lambda name, word: plan.append(word) or word if hosts.first else plan[0]
    return shares.jobs(tiny.runs(), workdir, hosts)


def models(workdir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (workdir / "models").glob("*/model.npz")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    train(shares.jobs(tiny.runs(), workdir, ALONE), workdir)
    return workdir


@pytest.fixture(scope="module")
def preempted(tmp_path_factory) -> Path:
    """Two processes with two runs each, both stopped in their second epoch."""
    workdir, plan = tmp_path_factory.mktemp("preempted"), []
    for index in (0, 1):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
            Preempted(tiny.programs(2, 2), patch, len(tiny.steps_of_an_epoch()) + 3)
            train(jobs_of(index, 2, workdir, plan), workdir)
    assert not (workdir / "models").exists()
    return workdir


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_processes_goes_on(count, preempted, undisturbed, tmp_path, monkeypatch):
    """To the bit, from where each has stopped, and with every epoch told once."""
    workdir, plan = tmp_path / "run", []
    shutil.copytree(preempted, workdir)
    counted = Preempted(tiny.programs(2, 2), monkeypatch, -1)
    for index in range(count):
        train(jobs_of(index, count, workdir, plan), workdir)
    epoch = len(tiny.steps_of_an_epoch())
    assert counted.calls == 2 * (3 * epoch - (epoch + 3)), "nothing that was saved is trained again"
    assert models(workdir) == models(undisturbed)
    shares.gather(workdir)
    told = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert sorted((entry["fold"], entry["epoch"]) for entry in told) == [(f, e) for f in "abcd" for e in (1, 2, 3)]
