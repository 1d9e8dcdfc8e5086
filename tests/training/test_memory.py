"""Page faults and peak memory, each measured in a process of its own."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from ser_jax.training import memory
if sys.argv[1] == "keep":
    assert memory.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(20_000_000, np.float32)
before = faults()
for _ in range(5):
    np.ones(20_000_000, np.float32)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_are_reused():
    def count(how):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    kept, returned = count("keep"), count("default")
    assert kept < returned / 4


TRAINING = """
import re, sys
from pathlib import Path
import jax
import numpy as np
from ser_jax import config, machinery
from ser_jax.corpora.table import Utterance
from ser_jax.features.extract import Features
from ser_jax.protocols import folds
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import model_files, scoring
from ser_jax.training.fit import Settings, Trainer
from ser_jax.training.runs import list_runs

c = config.get_config()
c.system, c.training.devices, c.training.epochs, c.training.compilation_cache = "hsf_crnn", 2, 1, False
devices = machinery.start(c)
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
data = machinery.make_dataset(c, protocol, features)
arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(data.buckets)) + hsf.nbytes
runs = list_runs(protocol, seeds=4, first_seed=0, folds="")
programs = machinery.make_programs(c, data, protocol, devices, len(runs))
assert programs.size == 2
settings = Settings(epochs=1, batch_size=32, class_weights="none", refit="none", checkpoint_seconds=0)
workdir = Path(sys.argv[1])
Trainer(protocol, data, programs, settings, workdir, {}, lambda logits, targets: 1.0).train(runs)
models = (model_files.read_model(workdir / "models" / run.name) for run in runs)
scoring.model_logits(programs, data, models, [run.fold.test for run in runs], 32)
state = 4 * programs.size * programs.parameters * 4  # parameters, two moments, the best parameters; float32
# VmHWM, because ru_maxrss begins with the peak of the process that started this one.
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(peak / 1e9, (2 * arrays + 4 * state + 1e9) / 1e9)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_peak_memory_of_many_groups(tmp_path: Path):
    """HSF-CRNN, eight groups with a checkpoint after every epoch: below 2 · arrays + 4 · state of a group + 1 GB."""
    done = subprocess.run([sys.executable, "-c", TRAINING, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, limit = map(float, done.stdout.split())
    assert peak < limit
