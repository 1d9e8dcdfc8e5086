"""Cores that a process may use; page faults and peak memory, measured in a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ser_jax.runtime import machine
from ser_jax.runtime.machine import available_cores

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def run_python(program: str, *arguments: str, **environment: str) -> str:
    """Runs a program in a process of its own and returns what it prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


COUNT = "from ser_jax.runtime.machine import available_cores; print(available_cores())"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="nothing to assign cores with")
def test_those_that_are_assigned():
    one = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{one}}}); {COUNT}"
    assert run_python(program) == "1\n" and available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("counted", "found"), [(8, 8), (None, 1)])
def test_a_system_that_assigns_none(counted, found, monkeypatch):
    """macOS has no such call."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert available_cores() == found


X86 = "processor\t: {}\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\ncpu MHz\t\t: {}\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name", "lines"), [(X86.format(0, 1), "AMD EPYC", 2), (ARM, "0xd0c", 3)]
)
def test_the_processor_is_known(cpuinfo, name, lines, tmp_path, monkeypatch):
    """Whatever core answers, at whatever frequency; another system or architecture is another."""

    def with_cpuinfo(text: str) -> tuple[str, ...]:
        (tmp_path / "cpuinfo").write_text(text)
        machine.processor.cache_clear()
        return machine.processor()

    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / Path(path).name)
    try:
        found = with_cpuinfo(cpuinfo)
        assert len(found) == 3 + lines and machine.processor_name() == name
        assert with_cpuinfo(cpuinfo.replace(": 1\n", ": 2\n")) == found
        assert with_cpuinfo(cpuinfo.replace("fp", "sse")) != found
        key = machine.code_key("program")
        monkeypatch.setattr(platform, "machine", lambda: "other")
        with_cpuinfo(cpuinfo)
        assert machine.code_key("program") != key
    finally:
        machine.processor.cache_clear()


@pytest.mark.parametrize(
    ("mode", "owner", "used"),
    [(0o700, 0, True), (0o755, 0, True), (0o770, 0, False), (0o707, 0, False), (0o700, 1, False)],
)
def test_code_is_loaded_from_private_folders_only(mode, owner, used, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + owner)
    assert machine.may_hold_code(folder, "it is compiled again") == used
    assert ("belongs to another user or can be written by others" in caplog.text) != used
    assert machine.may_hold_code(tmp_path / "new", "") == (owner == 0)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["no home", "a file", "below a file", "read only"])
def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, caplog, how):
    (tmp_path / "file").write_text("")
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file/cache"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(places.get(how, tmp_path)))
    reason = f"the cache folder {places.get(how, tmp_path)}/ser_jax cannot be"
    if how == "no home":
        reason = "the home folder is unknown"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", unknown)
    if how == "read only":
        monkeypatch.setattr(os, "access", lambda *_: False)
    machine._usable.cache_clear()
    folder = machine.cache_folder()
    assert machine.cache_folder() == folder and caplog.text.count(reason) == 1
    (folder / "file").write_text("it can be written")
    assert machine.feature_folder().is_dir() and tmp_path not in folder.parents
    machine._usable.cache_clear()


def unknown():
    raise RuntimeError("Could not determine home directory.")


def test_the_cache_is_private_and_a_tilde_in_it_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    folder = machine.cache_folder()
    assert folder == tmp_path / "cache/ser_jax"
    assert folder.stat().st_mode & 0o777 == 0o700 == machine.feature_folder().stat().st_mode & 0o777


PROGRAM = """
import resource, sys
import numpy as np
from ser_jax.runtime import machine
if sys.argv[1] == "keep":
    assert machine.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(20_000_000, np.float32)
before = faults()
for _ in range(5):
    np.ones(20_000_000, np.float32)
print(faults() - before)
"""


@GLIBC
def test_large_blocks_are_reused():
    assert int(run_python(PROGRAM, "keep")) < int(run_python(PROGRAM, "default")) / 4


TRAINING = """
import re, sys
from pathlib import Path
import jax
import numpy as np
from ser_jax import config
from ser_jax.corpora.table import Utterance
from ser_jax.experiment import systems
from ser_jax.features.extraction import Features
from ser_jax.protocols import folds
from ser_jax.protocols.protocol import Protocol
from ser_jax.training.trials import list_trials

c = config.get_config()
c.system, c.training.devices, c.training.epochs = "hsf_crnn", 2, 1
c.training.compilation_cache, c.training.checkpoint_seconds = False, 0.0
make_system = systems.start(c, training=True)
classes = ("angry", "happy", "neutral", "sad")
rows = [
    Utterance(f"{n}", f"{n}.wav", label=classes[n % 4], speaker="abcd"[n // 40]) for n in range(160)
]
parts, rule = folds.leave_one_out(rows, "speaker")
protocol = Protocol(
    name="p", corpus="c", classes=classes, label_mapping={name: name for name in classes},
    ids=tuple(row.id for row in rows), labels=tuple(row.label for row in rows),
    speakers=tuple(row.speaker for row in rows), folds=parts, validation_rule=rule,
)
rng = np.random.default_rng(0)
frames = [rng.normal(size=(int(rng.integers(50, 400)), 40)).astype(np.float32) for _ in rows]
hsf = rng.normal(size=(len(rows), 6373)).astype(np.float32)
features = Features(tuple(rows), frames, hsf, np.ones(len(rows)), (), {}, "", 0)
trials = list_trials(protocol, seeds=4, first_seed=0, folds="")
system = make_system(protocol, features, len(trials))
arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(system.dataset.buckets)) + hsf.nbytes
workdir = Path(sys.argv[1])
system.train(trials, workdir, {"config": {}})
system.scores([workdir / "models" / t.name for t in trials], [t.fold.test for t in trials])
# Two trials at once: parameters, two moments and the best parameters, float32.
state = 4 * 2 * system.parameters * 4
# VmHWM, because ru_maxrss begins with the peak of the process that started this one.
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(peak / 1e9, (2 * arrays + 4 * state + 1e9) / 1e9)
"""


@GLIBC
def test_peak_memory_of_many_groups(tmp_path: Path):
    """HSF-CRNN, eight groups, checkpoints: below 2 · arrays + 4 · state of a group + 1 GB."""
    # Large arrays: more is computed than compiled.
    whole = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
    peak, limit = map(float, run_python(TRAINING, str(tmp_path), **whole).split())
    assert peak < limit
