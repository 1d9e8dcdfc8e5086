"""Many hosts, as processes of this machine: two train what one trains, and a lost one ends both."""

import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import releases
from commands import SPEAKERS, TINY, Ended, Started, read_json

from ser_jax.cluster import hosts
from ser_jax.runtime.errors import EXIT_HOST_LOST, UserError

ABORTED = -signal.SIGABRT  # what a shell reports as 134
EPOCHS = "--config.training.epochs=200"  # long enough for both to train at the same time
TIMEOUT = 24.0  # s; a process without a heartbeat for a third of it is lost


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, ...]:
    names = releases.emodb_names(SPEAKERS, per_emotion=1)
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), names, seconds=0.5)
    return *TINY, "--noreport", EPOCHS, "--config.corpus.name=emodb", f"--config.corpus.root={root}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a training that must be the same for any number of processes."""

    predictions: bytes
    ua: dict[str, Any]
    lines: list[tuple[Any, ...]]

    @staticmethod
    def of(workdir: Path) -> "Outcome":
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        keys = ("fold", "seed", "epoch", "loss", "validation_loss")
        metrics = sorted(tuple(line[key] for key in keys) for line in lines)
        ua = read_json(workdir / "results.json")["ua"]
        return Outcome((workdir / "predictions.csv").read_bytes(), ua, metrics)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory) -> Outcome:
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ended = Started(*corpus, f"--workdir={workdir}").wait()
    assert ended.code == 0, ended.err
    return Outcome.of(workdir)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def explicit(count: int) -> list[dict[str, str]]:
    address = f"127.0.0.1:{free_port()}"
    return [
        dict(zip(hosts.VARIABLES, (address, str(count), str(index)), strict=True))
        for index in range(count)
    ]


def start(
    environments: Sequence[dict[str, str]], *arguments: str, own: Sequence[str] = ()
) -> list[Started]:
    """Starts one command as several processes, each with one more argument of `own` (or "")."""
    started = []
    for environment, argument in zip(environments, own or [""] * len(environments), strict=True):
        command = [f"--host_timeout={TIMEOUT}", *arguments, *filter(None, [argument])]
        started.append(Started(*command, environment=environment))
    return started


def end_of(processes: Sequence[Started]) -> list[Ended]:
    return [process.wait() for process in processes]


def refusals(processes: Sequence[Started]) -> list[str]:
    return [ended.refusal for ended in end_of(processes)]


def until(there: Callable[[], bool], processes: Sequence[Started]) -> None:
    while not there():
        assert all(process.running for process in processes), "one has ended already"
        time.sleep(0.02)


def both_train(workdir: Path) -> Callable[[], bool]:
    files = [workdir / "metrics.jsonl", workdir / "hosts/1/metrics.jsonl"]
    return lambda: all(file.is_file() and file.stat().st_size for file in files)


def have_saved(workdir: Path) -> bool:
    """Whether both have a checkpoint: one that is being written has a longer name."""
    places = (workdir.glob(f"{place}checkpoints/*") for place in ("", "hosts/1/"))
    return all(any(path.name.isdecimal() for path in place) for place in places)


# --- Training


def test_two_train_what_one_trains(corpus, alone, tmp_path):
    """To the bit; process 0 alone logs and writes."""
    processes = start(explicit(2), *corpus, f"--workdir={tmp_path / 'run'}")
    first, second = end_of(processes)
    assert (first.code, second.code) == (0, 0), (first, second)
    assert Outcome.of(tmp_path / "run") == alone
    assert "2 of 4 trials are trained by this process" in first.err and "UA" in first.out
    assert (second.out, second.err) == ("", "")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "hosts" not in names and not any(name.startswith(".") for name in names)


def test_the_svm_is_fitted_by_both(corpus, tmp_path):
    pytest.importorskip("opensmile")
    svm = ("--config.system=svm", "--config.svm.c=(1e-4,1e-2)", "--config.svm.workers=1")
    command = (*corpus, *svm)
    ended = [Started(*command, f"--workdir={tmp_path / 'alone'}").wait()]
    ended += end_of(start(explicit(2), *command, f"--workdir={tmp_path / 'both'}"))
    assert [process.code for process in ended] == [0, 0, 0], ended
    alone, both = (tmp_path / name for name in ("alone", "both"))
    assert (both / "predictions.csv").read_bytes() == (alone / "predictions.csv").read_bytes()
    assert len((both / "metrics.jsonl").read_text().splitlines()) == len(SPEAKERS)


def test_sigterm_of_one_makes_both_save_and_leave(corpus, tmp_path):
    """test_assignment.py resumes from there, to the bit, with any number of processes."""
    long = (f"--workdir={tmp_path / 'run'}", "--config.training.epochs=100000")
    processes = start(explicit(2), *corpus, *long)
    until(both_train(tmp_path / "run"), processes)
    processes[1].send(signal.SIGTERM)
    first, second = end_of(processes)
    assert (first.code, second.code) == (42, 42), (first, second)
    assert have_saved(tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "lost", "left"), [(signal.SIGKILL, 1, 0), (signal.SIGSTOP, 0, 1)]
)
def test_nobody_waits_for_the_dead_or_hung(number, lost, left, corpus, alone, tmp_path):
    """The exit code makes schedulers restart them; one process resumes what two have saved."""
    command = (*corpus, f"--workdir={tmp_path / 'run'}")
    processes = start(explicit(2), *command, "--config.training.checkpoint_seconds=0")
    until(lambda: have_saved(tmp_path / "run"), processes)
    processes[lost].send(number)
    assert processes[left].ends_within(4 * TIMEOUT)
    ended = processes[left].wait()
    assert ended.code == ABORTED and "Thread 0x" not in ended.err, ended
    if number == signal.SIGSTOP:
        processes[lost].send(signal.SIGKILL)
    assert processes[lost].wait().code == -signal.SIGKILL
    if number == signal.SIGKILL:
        again = Started(*command).wait()
        assert again.code == 0 and "resuming" in again.err, again
        assert Outcome.of(tmp_path / "run") == alone


# --- Refused starts


@pytest.mark.parametrize("there", [0, 1])
def test_nobody_waits_for_the_missing(there, corpus, tmp_path):
    command = (*corpus, f"--workdir={tmp_path / 'run'}", "--host_timeout=5")
    ended = start([explicit(2)[there]], *command)[0].wait()
    assert ended.code == EXIT_HOST_LOST
    assert "not all processes have joined at 127.0.0.1:" in ended.err and "within 5 s" in ended.err
    assert not (tmp_path / "run").exists()


def slurm(count: int) -> list[dict[str, str]]:
    job = str(free_port())  # SLURM's job id gives the port.
    shared = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
    return [shared | {"SLURM_PROCID": str(index), "SLURM_LOCALID": "0"} for index in range(count)]


def open_mpi(count: int) -> list[dict[str, str]]:
    head = f"{4096 * free_port()}.0;tcp://127.0.0.1:34911"
    shared = {"OMPI_MCA_orte_hnp_uri": head, "OMPI_COMM_WORLD_SIZE": str(count)}
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    return [shared | dict.fromkeys(names, str(number)) for number in range(count)]


@pytest.mark.parametrize(
    "cluster", [explicit, slurm, open_mpi], ids=lambda cluster: cluster.__name__
)
def test_a_process_with_another_configuration(cluster, corpus, tmp_path):
    """And the processes of each kind of cluster find each other and their numbers."""
    own = ["--config.training.learning_rate=0.5", "--config.training.learning_rate=0.25"]
    found = refusals(start(cluster(2), *corpus, f"--workdir={tmp_path / 'run'}", own=own))
    wanted = "configuration.training.learning_rate: 0.5 on process 0, 0.25 on process 1"
    assert all(wanted in sentence for sentence in found) and not (tmp_path / "run").exists()


def test_more_processes_than_trials_and_other_recordings(corpus, tmp_path):
    common = (*corpus, "--config.protocol.folds=03", f"--workdir={tmp_path / 'run'}")
    found = refusals(start(explicit(2), *common))
    assert all("2 processes, but only 1 of 1 training" in text for text in found)
    names = releases.emodb_names(SPEAKERS, per_emotion=1)
    root = releases.write_emodb(tmp_path / "other", names, seconds=0.6)
    found = refusals(start(explicit(2), *common, own=["", f"--config.corpus.root={root}"]))
    assert all("recordings: " in text and "on process 0" in text for text in found)


def test_the_error_of_one_is_reported_by_all(corpus, tmp_path):
    own = ["", "--config.corpus.root=/nowhere"]
    first, second = refusals(start(explicit(2), *corpus, f"--workdir={tmp_path}", own=own))
    assert "/nowhere" in second
    assert first == f"process 1 ({socket.gethostname()}) has ended: {second}"


# --- Number of processes and own number


@pytest.fixture
def environment(monkeypatch) -> Callable[..., None]:
    for name in os.environ:
        if name.startswith(("SER_JAX_", "SLURM_", "OMPI_")):
            monkeypatch.delenv(name)

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize("mode", ["auto", "none", "cluster of one"])
def test_alone(mode, environment):
    if mode == "cluster of one":
        environment(**slurm(1)[0])
    with hosts.joined("none" if mode == "none" else "auto", 5) as team:
        assert team is hosts.ALONE and team.first and team.count == 1
        assert team.all_gather("x", [1]) == [[1]] and team.broadcast("y", 2) == 2
        team.barrier("z")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((), "SER_JAX_COORDINATOR='', SER_JAX_PROCESSES='', .*: set them to HOST:PORT"),
        (("a",), "SER_JAX_COORDINATOR='a'"),
        (("a:b", "2", "0"), "'a:b'"),
        (("a:1", "2", "2"), "SER_JAX_PROCESS=2, but"),
    ],
)
def test_variables_that_are_missing_or_wrong(values, sentence, environment):
    environment(**dict(zip(hosts.VARIABLES, values, strict=False)))
    with pytest.raises(UserError, match=sentence), hosts.joined("explicit", 5):
        pass


def test_open_mpi_that_does_not_tell_where(environment):
    environment(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    sentence = "set SER_JAX_COORDINATOR=HOST:PORT"
    with pytest.raises(UserError, match=sentence), hosts.joined("auto", 5):
        pass


@pytest.mark.parametrize(("nodes", "expected"), [("2", [0, 1, 2, 3]), ("1", None)])
def test_one_task_of_a_node_has_all_its_gpus(nodes, expected, environment):
    environment(**slurm(2)[0], SLURM_GPUS_ON_NODE="4", SLURM_STEP_NUM_NODES=nodes)
    arguments = hosts._arguments("auto")
    assert arguments is not None and arguments.get("local_device_ids") == expected
    assert arguments["cluster_detection_method"] == "slurm"
