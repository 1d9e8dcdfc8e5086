"""Many hosts, as processes of this machine: what two train is what one trains, and nobody waits for the dead."""

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

from ser_jax.errors import EXIT_HOST_LOST, UserError
from ser_jax.training import hosts

ABORTED = -signal.SIGABRT  # how a fork tells of 134
EPOCHS = "--config.training.epochs=400"  # long enough for both to be in the middle of them at once
TIMEOUT = 24.0  # s; a process that is silent for a third of it is taken as dead
pytestmark = pytest.mark.xdist_group("hosts")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, ...]:
    names = releases.emodb_names(SPEAKERS, per_emotion=1)
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), names, seconds=0.5)
    return *TINY, EPOCHS, "--config.corpus.name=emodb", f"--config.corpus.root={root}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a training has left that others must leave as well."""

    predictions: bytes
    ua: dict[str, Any]
    lines: list[tuple[Any, ...]]

    @staticmethod
    def of(workdir: Path) -> "Outcome":
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        return Outcome(
            (workdir / "predictions.csv").read_bytes(),
            read_json(workdir / "results.json")["ua"],
            sorted(
                (line["fold"], line["seed"], line["epoch"], line["loss"], line["validation_loss"]) for line in lines
            ),
        )


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
    return [dict(zip(hosts.VARIABLES, (address, str(count), str(index)), strict=True)) for index in range(count)]


def start(environments: Sequence[dict[str, str]], *arguments: str, own: Sequence[str] = ()) -> list[Started]:
    """Starts the same command as several processes; `own` are arguments of one of them each."""
    own = own or [""] * len(environments)
    return [
        Started(f"--host_timeout={TIMEOUT}", *arguments, *filter(None, [argument]), environment=environment)
        for environment, argument in zip(environments, own, strict=True)
    ]


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


# --- Training ---------------------------------------------------------------------------------------------------------


def test_two_train_what_one_trains(corpus, alone, tmp_path):
    """To the bit; the first one alone speaks and writes."""
    processes = start(explicit(2), *corpus, f"--workdir={tmp_path / 'run'}")
    first, second = end_of(processes)
    assert (first.code, second.code) == (0, 0), (first, second)
    assert Outcome.of(tmp_path / "run") == alone
    assert "2 of 4 runs are trained by this process" in first.err and "UA" in first.out
    assert (second.out, second.err) == ("", "")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "hosts" not in names and not any(name.startswith(".") for name in names)


def test_the_svm_is_fitted_by_both(corpus, tmp_path):
    pytest.importorskip("opensmile")
    command = (*corpus, "--config.system=svm", "--config.svm.c=(1e-4,1e-2)", "--config.svm.workers=1")
    ended = [Started(*command, f"--workdir={tmp_path / 'alone'}").wait()]
    ended += end_of(start(explicit(2), *command, f"--workdir={tmp_path / 'both'}"))
    assert [process.code for process in ended] == [0, 0, 0], ended
    alone, both = (tmp_path / name for name in ("alone", "both"))
    assert (both / "predictions.csv").read_bytes() == (alone / "predictions.csv").read_bytes()
    assert len((both / "metrics.jsonl").read_text().splitlines()) == len(SPEAKERS)


def test_sigterm_of_one_makes_both_save_and_leave(corpus, tmp_path):
    """That another number of processes goes on from there, to the bit, is in training/test_shares.py."""
    processes = start(explicit(2), *corpus, f"--workdir={tmp_path / 'run'}", "--config.training.epochs=100000")
    until(both_train(tmp_path / "run"), processes)
    processes[1].send(signal.SIGTERM)
    first, second = end_of(processes)
    assert (first.code, second.code) == (42, 42), (first, second)
    assert have_saved(tmp_path / "run")


@pytest.mark.parametrize(("number", "lost", "left"), [(signal.SIGKILL, 1, 0), (signal.SIGSTOP, 0, 1)])
def test_nobody_waits_for_the_dead_or_hung(number, lost, left, corpus, alone, tmp_path):
    """With the code that has schedulers start them again; then one goes on with what two have left."""
    command = (*corpus, f"--workdir={tmp_path / 'run'}")
    processes = start(explicit(2), *command, "--config.training.checkpoint_seconds=0")
    until(lambda: have_saved(tmp_path / "run"), processes)
    processes[lost].send(number)
    assert processes[left].ends_within(4 * TIMEOUT)
    ended = processes[left].wait()
    assert ended.code == ABORTED and "Aborted" in ended.err and "Thread 0x" not in ended.err, ended
    if number == signal.SIGSTOP:
        processes[lost].send(signal.SIGKILL)
    assert processes[lost].wait().code == -signal.SIGKILL
    if number == signal.SIGKILL:
        again = Started(*command).wait()
        assert again.code == 0 and "resuming" in again.err, again
        assert Outcome.of(tmp_path / "run") == alone


# --- Starts that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [0, 1])
def test_nobody_waits_for_the_missing(there, corpus, tmp_path):
    ended = start([explicit(2)[there]], *corpus, f"--workdir={tmp_path / 'run'}", "--host_timeout=5")[0].wait()
    assert ended.code == EXIT_HOST_LOST
    assert "not all processes have joined at 127.0.0.1:" in ended.err and "within 5 s" in ended.err
    assert not (tmp_path / "run").exists()


def slurm(count: int) -> list[dict[str, str]]:
    job = str(free_port())  # SLURM's job id gives the port.
    shared = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
    return [shared | {"SLURM_PROCID": str(index), "SLURM_LOCALID": "0"} for index in range(count)]


def open_mpi(count: int) -> list[dict[str, str]]:
    shared = {
        "OMPI_MCA_orte_hnp_uri": f"{4096 * free_port()}.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(count),
    }
    places = ({"OMPI_COMM_WORLD_RANK": str(n), "OMPI_COMM_WORLD_LOCAL_RANK": str(n)} for n in range(count))
    return [shared | place for place in places]


@pytest.mark.parametrize("cluster", [explicit, slurm, open_mpi], ids=lambda cluster: cluster.__name__)
def test_a_process_with_another_configuration(cluster, corpus, tmp_path):
    """And clusters that tell who is who: the processes find each other and their numbers."""
    own = ["--config.training.learning_rate=0.5", "--config.training.learning_rate=0.25"]
    found = refusals(start(cluster(2), *corpus, f"--workdir={tmp_path / 'run'}", own=own))
    wanted = "configuration.training.learning_rate: 0.5 on process 0, 0.25 on process 1"
    assert all(wanted in sentence for sentence in found) and not (tmp_path / "run").exists()


def test_a_folder_that_is_not_shared(corpus, tmp_path):
    own = [f"--workdir={tmp_path / name}" for name in "ab"]
    (tmp_path / "b").mkdir()
    found = refusals(start(explicit(2), *corpus, own=own))
    assert all("is not one folder on all hosts" in text and "by process 1 of 2" in text for text in found)
    assert not list((tmp_path / "b").iterdir()) and {path.name for path in (tmp_path / "a").iterdir()} == {
        "config.json"
    }


def test_more_processes_than_runs_and_other_recordings(corpus, tmp_path):
    common = (*corpus, "--config.protocol.folds=03", f"--workdir={tmp_path / 'run'}")
    found = refusals(start(explicit(2), *common))
    assert all("2 processes, but only 1 of 1 trainings" in text and "start at most 1" in text for text in found)
    root = releases.write_emodb(tmp_path / "other", releases.emodb_names(SPEAKERS, per_emotion=1), seconds=0.6)
    found = refusals(start(explicit(2), *common, own=["", f"--config.corpus.root={root}"]))
    assert all("recordings: " in text and "on process 0" in text for text in found)


def test_what_one_is_refused_for_is_said_by_all(corpus, tmp_path):
    found = refusals(start(explicit(2), *corpus, f"--workdir={tmp_path}", own=["", "--config.corpus.root=/nowhere"]))
    assert "/nowhere" in found[1] and found[0] == f"process 1 ({socket.gethostname()}) has ended: {found[1]}"


# --- Who is who -------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch) -> Callable[..., None]:
    for name in os.environ:
        if name.startswith(("SER_JAX_", "SLURM_", "OMPI_")):
            monkeypatch.delenv(name)

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_alone(mode, environment):
    with hosts.joined(mode, 5) as team:
        assert team is hosts.ALONE and team.first and team.count == 1
        assert team.share("x", [1]) == [[1]] and team.from_first("y", 2) == 2
        team.wait("z")


def test_a_cluster_of_one_is_nothing_to_join(environment):
    environment(**slurm(1)[0])
    with hosts.joined("auto", 5) as team:
        assert team is hosts.ALONE


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "SER_JAX_COORDINATOR='', SER_JAX_PROCESSES='', SER_JAX_PROCESS='': set them to HOST:PORT"),
        ({"SER_JAX_COORDINATOR": "a"}, "SER_JAX_COORDINATOR='a'"),
        ({"SER_JAX_COORDINATOR": "a:b", "SER_JAX_PROCESSES": "2", "SER_JAX_PROCESS": "0"}, "'a:b'"),
        ({"SER_JAX_COORDINATOR": "a:1", "SER_JAX_PROCESSES": "2", "SER_JAX_PROCESS": "2"}, "SER_JAX_PROCESS=2, but"),
    ],
)
def test_variables_that_are_missing_or_wrong(values, sentence, environment):
    environment(**values)
    with pytest.raises(UserError, match=sentence), hosts.joined("explicit", 5):
        pass


def test_open_mpi_that_does_not_tell_where(environment):
    environment(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    with pytest.raises(UserError, match="set SER_JAX_COORDINATOR=HOST:PORT"), hosts.joined("auto", 5):
        pass


@pytest.mark.parametrize(("nodes", "expected"), [("2", [0, 1, 2, 3]), ("1", None)])
def test_one_task_of_a_node_has_all_its_gpus(nodes, expected, environment):
    environment(**slurm(2)[0], SLURM_GPUS_ON_NODE="4", SLURM_STEP_NUM_NODES=nodes)
    arguments = hosts._arguments("auto")
    assert arguments is not None and arguments.get("local_device_ids") == expected
    assert arguments["cluster_detection_method"] == "slurm"
