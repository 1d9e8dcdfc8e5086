"""Training on more than memory holds: seconds per epoch, waiting for input and peak memory.

    python bench/beyond_memory.py --folder /scratch --json bench/results/beyond_memory.json

Features of simulated utterances, as long as IEMOCAP's turns (4.5 s on average, 72 kB), are written
into shards, as a first command writes them, and streamed. Every size is a process of its own,
trains --steps steps of an epoch and counts them as often as the epoch has them; its shards are
deleted before the next one. A million utterances take 72 GB: what the disk does not hold is
extrapolated from the sizes that were measured, and the line it is read from is printed.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
import workload

SIZES = (40_000, 100_000, 200_000)
TARGET, MOST_BYTES = 1_000_000, 2e9
POOL = 1 << 22  # values of noise that utterances are cut from


class Simulated(Sequence[np.ndarray]):
    """Log-mel frames [F_n, M] f32 of N utterances, made on demand: noise, a trace of the class."""

    def __init__(self, count: int, seed: int = 0):
        """Draws lengths, classes and where in the noise every utterance begins."""
        rng = np.random.default_rng(seed)
        self._lengths = (
            1 + (rng.permutation(workload.samples(count)) - workload.WINDOW) // workload.HOP
        )
        self.targets = rng.integers(workload.CLASSES, size=count).astype(np.int32)
        self._noise = rng.standard_normal(POOL, np.float32)
        self._begin = rng.integers(POOL - self._lengths.max() * workload.BANDS, size=count)

    def __len__(self) -> int:
        """Returns N."""
        return len(self.targets)

    def __getitem__(self, number):
        """Makes the frames of an utterance."""
        begin, shape = self._begin[number], (self._lengths[number], workload.BANDS)
        frames = self._noise[begin : begin + shape[0] * shape[1]].reshape(shape).copy()
        frames[:, self.targets[number]] += 0.5
        return frames

    def lengths(self) -> np.ndarray:
        """Returns [N], the frames of every utterance."""
        return self._lengths


def main() -> None:
    """Runs every size and prints the table and the extrapolation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of utterances")
    parser.add_argument(
        "--steps", type=int, default=200, help="steps to train; an epoch, if that has fewer"
    )
    parser.add_argument("--system", default="plain_crnn")
    parser.add_argument(
        "--folder", default="", help="where shards are written for the time being; empty: temporary"
    )
    parser.add_argument("--json", default="", help="file for the result")
    parser.add_argument("--case", type=int, default=0, help="one size; the others are left out")
    options = parser.parse_args()
    if options.case:
        if not options.folder:
            parser.error("--case needs a --folder, in which its shards stay")
        print(
            json.dumps(run_case(options.case, options.system, options.steps, Path(options.folder)))
        )
        return
    result = measure.environment("jax", "jaxlib", "numpy", "grain", "array_record") | {
        "system": options.system
    }
    result["sizes"] = [in_own_process(size, options) for size in options.sizes]
    if len(result["sizes"]) > 1:
        result["extrapolated"] = extrapolate(result["sizes"])
    print_result(result)
    measure.write_json(options.json, result)


def in_own_process(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Runs a size in a folder that is deleted afterwards; returns what it prints."""
    with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        command = [sys.executable, __file__, "--case", size, "--system", options.system]
        command += ["--steps", options.steps, "--folder", folder]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{size} utterances failed:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])


def run_case(size: int, system: str, steps: int, folder: Path) -> dict[str, Any]:
    """Writes the shards of a size, opens them as the next command would, and trains."""
    import jax
    import ours

    from ser_jax import config as configuration
    from ser_jax.experiment import setup
    from ser_jax.features.extraction import Features

    config = configuration.get_config()
    config.system, config.features.shards, config.training.residence = (
        system,
        str(folder),
        "streamed",
    )
    devices = setup.start(config)
    simulated = Simulated(size)
    protocol = ours.make_protocol(simulated.targets)
    sha256 = hashlib.sha256(f"simulated {size}".encode()).hexdigest()
    found: dict[str, Any] = {"utterances": size}
    for name in ("seconds_to_write", "seconds_to_check"):
        features: Any = Features(
            (),
            [],
            None,
            np.zeros(0),
            (),
            {},
            "",
            size,
            sha256=sha256,
            deferred={"logmel": simulated},
        )
        begin = time.perf_counter()
        dataset = setup.make_dataset(config, protocol, features)
        found[name] = time.perf_counter() - begin
    found["shard_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found["free_bytes"] = shutil.disk_usage(folder).free
    group = ours.Group(config, dataset, protocol, devices, len(devices))
    for bucket in range(len(dataset.buckets)):
        group.step_of(bucket)()  # So every size has had its longest batch when the peak is read.
    waited, begin = group.waited, time.perf_counter()
    trained = group.begin_epoch(steps)
    seconds = time.perf_counter() - begin
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return found | {
        "runs": group.size,
        "device": jax.devices()[0].device_kind,
        "steps_trained": trained,
        "steps": group.steps,
        "seconds_per_step": seconds / trained,
        "seconds_per_epoch": seconds / trained * group.steps,
        "waited_share": (group.waited - waited) / seconds,
        "peak_bytes": 1024 * int(peak[1]),
    }


def extrapolate(sizes: list[dict[str, Any]]) -> dict[str, float]:
    """Returns what a million utterances take, on least-squares lines through the measured sizes."""
    counts = [case["utterances"] for case in sizes]
    found: dict[str, float] = {"utterances": TARGET}
    for name in (
        "peak_bytes",
        "shard_bytes",
        "seconds_per_epoch",
        "seconds_to_write",
        "seconds_to_check",
    ):
        each, base = np.polyfit(counts, [case[name] for case in sizes], 1)
        found |= {
            name: float(base + each * TARGET),
            f"{name}_base": float(base),
            f"{name}_each": float(each),
        }
    return found


def print_result(result: dict[str, Any]) -> None:
    """Prints the sizes, the extrapolation and its lines."""
    rows = []
    line = result.get("extrapolated")
    for case in [*result["sizes"], *([line] if line else [])]:
        measured = "waited_share" in case
        rows.append(
            (
                f"{case['utterances']:,}" + ("" if measured else " (extrapolated)"),
                f"{case['shard_bytes'] / 1e9:.2f}",
                f"{case['seconds_to_write']:.0f}",
                f"{case['seconds_to_check']:.0f}",
                f"{1e3 * case['seconds_per_step']:.1f}" if measured else "–",
                f"{100 * case['waited_share']:.1f}" if measured else "–",
                f"{case['seconds_per_epoch']:.0f}",
                f"{case['peak_bytes'] / 1e9:.2f}",
            )
        )
    columns = (
        "utterances",
        "shards GB",
        "s to write, once",
        "s to check, every start",
        "ms per step",
    )
    columns += ("waited for input %", "s per epoch", "peak GB")
    runs = result["sizes"][0]["runs"]
    measure.print_table(f"{result['system']}, streamed, {runs} runs at once", columns, rows)
    if line is None:
        return
    print(
        f"\npeak = {line['peak_bytes_base'] / 1e9:.2f} GB + {line['peak_bytes_each']:.0f} bytes per"
        f" utterance: {'under' if line['peak_bytes'] < MOST_BYTES else 'NOT under'}"
        f" {MOST_BYTES / 1e9:.0f} GB at {TARGET:,}; epoch ="
        f" {1e3 * line['seconds_per_epoch_each']:.2f} ms per utterance"
    )


if __name__ == "__main__":
    main()
