"""The launchers: what they have gcloud, xpk and SLURM do, recorded by stand-ins of these names."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

LAUNCH = ROOT / "launch"
LAUNCHERS = ("tpu_vm.sh", "tpu_xpk.sh", "gpu.sh", "slurm.sbatch")
COMMAND = ("ser_jax.main", "--config=my presets/a.py", "--workdir=/mnt/ser_jax/a")
WORDS = r"my\ presets/a.py"  # how a shell is told one word

FAKE = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if "describe" in sys.argv:
    print(os.environ.get("STATE", "ACTIVE"))
if os.environ.get("FAIL_ON") in sys.argv:
    sys.exit(1)
sys.exit(int(os.environ.get("FAIL_" + os.path.basename(sys.argv[0]).upper(), "0")))
"""


class Launcher:
    """Runs a launcher with stand-ins for everything that it calls."""

    def __init__(self, folder: Path):
        self.tmp_path, self.record = folder, folder / "record"
        for name in ("gcloud", "xpk", "srun", "scontrol", "scancel"):
            (folder / name).write_text(FAKE)
            (folder / name).chmod(stat.S_IRWXU)
        path = f"{folder}:{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "RECORD": str(self.record)}

    def __call__(
        self, name: str | Path, *arguments: str, code: int = 0, **environment: str
    ) -> list[list[str]]:
        """Returns the calls that were recorded."""
        self.record.unlink(missing_ok=True)
        self.ended = subprocess.run(
            [LAUNCH / name, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment | environment,
            timeout=60,
        )
        assert self.ended.returncode == code, self.ended
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [json.loads(line) for line in lines]


@pytest.fixture
def launch(tmp_path) -> Launcher:
    return Launcher(tmp_path)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_they_are_short_and_pass_shellcheck(name):
    assert len((LAUNCH / name).read_text().splitlines()) <= 60 and os.access(LAUNCH / name, os.X_OK)
    if shutil.which("shellcheck") is None:
        assert not os.environ.get("CI"), "continuous integration has shellcheck"
        pytest.skip("shellcheck is not installed")
    check = ["shellcheck", LAUNCH / name]
    assert not subprocess.run(check, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--nothing"],
        *([word, "n", "z", "v4-8", "1"] for word in ("fly", "run")),
        ["resume", "--"],
    ],
)
def test_what_they_do_not_understand_calls_nothing(name, arguments, launch):
    if (name, arguments[:1]) == ("slurm.sbatch", ["resume"]):
        arguments = ["resume"]
    code = 1 if arguments == ["resume"] else 2
    assert launch(name, *arguments, code=code) == [] and launch.ended.stderr


def test_an_unknown_type_of_tpu(launch):
    assert launch("tpu_vm.sh", "create", "n", "z", "v2-8", code=2) == []
    assert "TYPE=v2-8 is not known; use v4-N, v5litepod-N, v5p-N or v6e-N" in launch.ended.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tpu_vm.sh", ["all", "n", "us-west4-a", "v5litepod-8", "--"]),
        ("tpu_xpk.sh", ["run", "c", "us-west4-a", "v5litepod-16", "2", "job", "--"]),
        ("gpu.sh", ["all", "n", "us-west4-a", "a2-highgpu-1g", "2", "--"]),
        ("slurm.sbatch", []),
    ],
)
def test_dry_run_prints_exactly_what_would_be_called(name, arguments, launch):
    assert launch(name, "--dry_run", *arguments, *COMMAND) == []
    printed = launch.tmp_path / "printed"
    printed.write_text(f"#!/bin/bash\n{launch.ended.stdout}")
    printed.chmod(stat.S_IRWXU)
    assert alike(launch(printed)) == alike(launch(name, *arguments, *COMMAND))


def alike(calls: list[list[str]]) -> list[list[str]]:
    """Without queries, the name of the archive, and the order of simultaneous calls."""
    return sorted(
        ["archive" if Path(word).name.startswith("tmp.") else word for word in call]
        for call in calls
        if "describe" not in call
    )


# --- Cloud TPU


def test_a_pod_of_several_hosts(launch):
    made, asked = launch("tpu_vm.sh", "--spot", "create", "n", "us-west4-a", "v5litepod-16")
    assert made == [
        *("gcloud", "compute", "tpus", "queued-resources", "create", "n", "--node-id=n"),
        *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"),
        *("--spot", "--zone=us-west4-a"),
    ]
    assert asked[3:6] == ["queued-resources", "describe", "n"]
    machine = ("n", "z", "v5litepod-16")
    copied, installed, mounted = launch("tpu_vm.sh", "--share=10.0.0.2:/runs", "setup", *machine)
    assert copied[3:5] == ["tpu-vm", "scp"] and "--worker=all" in copied
    assert "ser_jax[tpu]" in installed[-2] and "10.0.0.2:/runs /mnt/ser_jax" in mounted[-2]
    (trained,) = launch("tpu_vm.sh", "run", *machine, "--", *COMMAND)
    assert "--worker=all" in trained
    python = "cd ser_jax && ../.venv/bin/python -m ser_jax.main"
    assert trained[-2].startswith(f"--command={python} --config={WORDS} ")
    (deleted,) = launch("tpu_vm.sh", "delete", *machine)
    assert deleted[3:6] == ["queued-resources", "delete", "n"]


def test_resuming_after_a_preemption_makes_the_machine_anew(launch):
    words = ("--share=10.0.0.2:/runs", "resume", "n", "z", "v5litepod-16", "--", *COMMAND)
    calls = launch("tpu_vm.sh", *words)
    steps = ["delete", "create", "describe", "scp", "ssh", "ssh", "ssh"]
    assert [call[4] for call in calls] == steps
    assert "ser_jax.main" in calls[-1][-2]


def test_all_deletes_the_machine_even_if_something_fails(launch):
    calls = launch("tpu_vm.sh", "all", "n", "z", "v6e-8", "--", *COMMAND, code=1, FAIL_GCLOUD="1")
    assert [call[4] for call in calls] == ["create", "delete"]


@pytest.mark.parametrize(("failing", "done"), [("scp", ["scp"]), ("ssh", ["scp", "ssh"])])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("tpu_vm.sh", ["n", "z", "v6e-8"]), ("gpu.sh", ["n", "z", "a2-highgpu-1g", "2"])],
)
def test_nothing_is_trained_where_the_setup_failed(name, arguments, failing, done, launch):
    calls = launch(name, "all", *arguments, "--", *COMMAND, code=1, FAIL_ON=failing)
    steps = {"create", "scp", "ssh", "delete"}
    found = [word for call in calls for word in call if word in steps]
    assert found == ["create", *done, "delete"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_machine_that_will_never_be_there_is_not_waited_for(state, launch):
    calls = launch("tpu_vm.sh", "all", "n", "z", "v6e-8", "--", *COMMAND, code=1, STATE=state)
    assert [call[4] for call in calls] == ["create", "describe", "delete"]
    assert f"n is {state}" in launch.ended.stderr


# --- GKE


def test_a_workload_that_is_started_again(launch):
    where, slices = {"--cluster=c", "--zone=z"}, ("c", "z", "v5litepod-16", "2")
    (made,) = launch("tpu_xpk.sh", "--spot", "create", *slices)
    assert made[:3] == ["xpk", "cluster", "create"]
    assert where | {"--spot", "--num-slices=2"} <= set(made)
    (share,) = launch("tpu_xpk.sh", "setup", *slices)
    assert share[:4] == ["xpk", "storage", "create", "ser-jax"]
    assert "--mount-point=/mnt/ser_jax" in share
    (job,) = launch("tpu_xpk.sh", "run", *slices, "job", "--", *COMMAND)
    assert where | {"--workload=job", "--max-restarts=50"} <= set(job)
    assert "--termination-grace-period-seconds=300" in job
    (command,) = (word for word in job if word.startswith("--command="))
    install = "pip install -q '.[tpu]' && exec python -m ser_jax.main"
    assert command.startswith(f"--command={install} --config={WORDS}")
    deleted, again = launch("tpu_xpk.sh", "resume", *slices, "job", "--", *COMMAND)
    assert deleted[1:3] == ["workload", "delete"] and again == job
    (stopped,) = launch("tpu_xpk.sh", "stop", *slices, "job")
    assert stopped[:3] == ["xpk", "workload", "delete"] and "--workload=job" in stopped
    (gone,) = launch("tpu_xpk.sh", "delete", *slices)
    assert gone[:3] == ["xpk", "cluster", "delete"]


# --- GPUs

MACHINES = ("g", "z", "a2-highgpu-1g", "2")


def test_gpu_machines_are_told_who_they_are(launch):
    calls = launch("gpu.sh", "run", *MACHINES, "--", *COMMAND)
    commands = {call[3]: call[-2] for call in calls}
    python = f"../.venv/bin/python -m ser_jax.main --config={WORDS}"
    for index in (0, 1):
        own = commands[f"g-{index}"]
        assert "SER_JAX_COORDINATOR=g-0:8476 SER_JAX_PROCESSES=2" in own
        assert f" SER_JAX_PROCESS={index} {python}" in own
    launch("gpu.sh", "run", *MACHINES, "--", *COMMAND, code=42, FAIL_GCLOUD="42")


def test_the_driver_of_gpu_machines_fits_their_cuda():
    text = (LAUNCH / "gpu.sh").read_text()
    [driver], [extra] = re.findall(r"-nvidia-(\d+)", text), re.findall(r"ser_jax\[(cuda\d*)]", text)
    assert int(driver) >= {"cuda12": 525, "cuda13": 580}[extra]


def test_gpu_machines_from_first_to_last(launch):
    (made,) = launch("gpu.sh", "--spot", "create", *MACHINES, IMAGE="mine")
    assert made[2:6] == ["instances", "create", "g-0", "g-1"]
    assert {"--provisioning-model=SPOT", "--machine-type=a2-highgpu-1g"} <= set(made)
    assert "--image-family=mine" in made
    calls = launch("gpu.sh", "--share=10.0.0.2:/runs", "setup", *MACHINES)
    assert [call[2:4] for call in calls[1::2]] == [["ssh", "g-0"], ["ssh", "g-1"], ["ssh", "g-1"]]
    assert sum("10.0.0.2:/runs" in call[-2] for call in calls) == 2
    resumed = launch("gpu.sh", "resume", *MACHINES, "--", *COMMAND)
    assert resumed[0][2:6] == ["instances", "start", "g-0", "g-1"] and len(resumed) == 3
    (gone,) = launch("gpu.sh", "delete", *MACHINES)
    assert gone[2:6] == ["instances", "delete", "g-0", "g-1"]


# --- SLURM

JOB = {"SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (2, False), (3, False), (42, True), (134, True)]
)
def test_a_job_that_was_preempted_goes_to_the_queue_again(code, again, launch):
    calls = launch("slurm.sbatch", *COMMAND, code=code, FAIL_SRUN=str(code), **JOB)
    assert calls[0] == ["srun", "--kill-on-bad-exit=1", ".venv/bin/python", "-m", *COMMAND]
    assert calls[1:] == ([["scontrol", "requeue", "7"]] if again else [])


def test_but_not_for_ever(launch):
    count = {"FAIL_SRUN": "42", "SLURM_RESTART_COUNT": "50"}
    assert len(launch("slurm.sbatch", *COMMAND, code=42, **count, **JOB)) == 1


def test_slurm_signals_the_processes_and_not_the_script():
    text = (LAUNCH / "slurm.sbatch").read_text()
    assert "#SBATCH --signal=TERM@" in text and "#SBATCH --requeue" in text
    assert "--gpus-per-task" not in text


def test_slurm_by_hand(launch):
    assert launch("slurm.sbatch", "resume", "7") == [["scontrol", "requeue", "7"]]
    assert launch("slurm.sbatch", "delete", "7") == [["scancel", "7"]]
    assert launch("slurm.sbatch", "--dry_run", "setup") == []
    assert "'-m' 'venv' '.venv'" in launch.ended.stdout


def test_the_demo_installs_no_extras(tmp_path):
    """openSMILE, of the extra hsf, is for the tests."""
    steps = {
        target: subprocess.run(
            ["make", "--no-print-directory", "--dry-run", target, f"VENV={tmp_path / 'new'}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for target in ("run", "test")
    }
    assert "-e .\n" in steps["run"] and "[" not in steps["run"] and "hsf" in steps["test"]
