"""How time per epoch and peak memory grow with utterances, runs, devices and rows of a batch.

    python bench/scaling.py --json bench/results/scaling.json

Every case is a process of its own. Up to --measured utterances an epoch is trained; beyond that it
is simulated: the buckets and the epoch's plan are made for all lengths, and a step of each shape,
timed on a few utterances, counts as often as the plan has it. Cases that are small enough are done
both ways, which shows how far to trust the rest.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
import ours
import workload

UTTERANCES = (1_000, 4_000, 8_000, 16_000, 64_000, 256_000, 1_000_000)
SWEEPS = {
    "runs": [{"utterances": 1_000, "runs": runs} for runs in (1, 2, 10, 50)],
    "devices": [{"utterances": 1_000, "runs": count, "devices": count} for count in (1, 2, 4, 8)],
    "batch": [{"utterances": 4_000, "batch": batch} for batch in (32, 64, 256, 1_024)],
}
DEFAULT = {"utterances": 1_000, "runs": 2, "devices": 0, "batch": 32, "simulated": False}
EPOCHS, STEPS = 3, 8  # timed of each kind, after one that is not


def main() -> None:
    """Runs every case and prints a table per sweep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--system", default="plain_crnn")
    parser.add_argument(
        "--measured", type=int, default=8_000, help="most utterances that are really trained"
    )
    parser.add_argument("--json", default="", help="file for the result")
    parser.add_argument("--case", default="", help="one case as JSON; the others are left out")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options.system, DEFAULT | json.loads(options.case))))
        return
    sweeps = {"utterances": []}
    for utterances in UTTERANCES:
        if utterances <= options.measured:
            sweeps["utterances"].append({"utterances": utterances})
        sweeps["utterances"].append({"utterances": utterances, "simulated": True})
    result = measure.environment("jax", "jaxlib", "numpy") | {
        "system": options.system,
        "sweeps": {},
    }
    for name, cases in (sweeps | SWEEPS).items():
        found = [in_own_process(options.system, DEFAULT | case) for case in cases]
        result["sweeps"][name] = found
        print_sweep(f"{options.system}: {name}", found)
    measure.write_json(options.json, result)


def in_own_process(system: str, case: dict[str, Any]) -> dict[str, Any]:
    """Runs a case and returns what it prints."""
    command = [sys.executable, __file__, "--system", system, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(system: str, case: dict[str, Any]) -> dict[str, Any]:
    """Times an epoch of all runs of a case, and reads the peak of this process's memory."""
    from ser_jax import config as configuration
    from ser_jax.experiment import setup

    config = configuration.get_config()
    config.system = system
    config.training.devices, config.training.batch_size = case["devices"], case["batch"]
    devices = setup.start(config)
    found = (
        simulate(config, case, devices)
        if case["simulated"]
        else train_epochs(config, case, devices)
    )
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return case | found | {"peak_bytes": 1024 * int(peak[1]) if peak else None}


def train_epochs(config: Any, case: dict[str, Any], devices: list[Any]) -> dict[str, Any]:
    """Trains epochs of one group; groups follow each other, so the time of all is a multiple."""
    work = workload.features(case["utterances"], functionals=config.system == "hsf_crnn")
    data_bytes = sum(values.nbytes for values in work.log_mel) + work.hsf.nbytes
    dataset, protocol = ours.make_data(config, work)
    work.log_mel.clear()
    group = ours.Group(config, dataset, protocol, devices, case["runs"])
    seconds = measure.alternate({"epoch": group.epoch}, EPOCHS)["epoch"]
    groups = -(-case["runs"] // group.size)
    return {
        "seconds": groups * measure.median(seconds),
        "data_bytes": data_bytes,
        "at_once": group.size,
    }


def simulate(config: Any, case: dict[str, Any], devices: list[Any]) -> dict[str, Any]:
    """Counts the steps of each shape in an epoch's plan; times them on a few utterances."""
    from ser_jax.data import epoch_plans

    size, runs = case["batch"], case["runs"]
    _, sizes, counts = ours.simulated_buckets(config, case["utterances"], size)
    rows = [np.arange(count) for count in counts]
    steps = epoch_plans.steps_per_bucket([rows], size)
    begin = time.perf_counter()
    order = epoch_plans.shape_order(steps, protocol="", epoch=1)
    drawn = [
        epoch_plans.training_batches(rows, steps, size, protocol="", seed=n, fold="", epoch=1)
        for n in range(runs)
    ]
    epoch_plans.in_order(order, drawn)
    planning = time.perf_counter() - begin

    dataset, protocol = ours.a_few(config, sizes, size)
    group = ours.Group(config, dataset, protocol, devices, runs)
    seconds = [
        measure.alternate({"step": group.step_of(bucket)}, STEPS)["step"]
        for bucket in range(len(sizes))
    ]
    training = float(np.dot(steps, [measure.median(taken) for taken in seconds]))
    return {"seconds": planning + training, "planning_seconds": planning, "steps": int(steps.sum())}


def print_sweep(title: str, found: list[dict[str, Any]]) -> None:
    """Prints the cases of one sweep."""
    columns = (
        "utterances",
        "runs",
        "at once",
        "devices",
        "batch",
        "how",
        "s per epoch of all runs",
    )
    columns += ("ms per utterance and run", "data GB", "peak GB")
    rows = []
    for case in found:
        each = 1e3 * case["seconds"] / case["utterances"] / case["runs"]
        data = case.get("data_bytes")
        rows.append(
            (
                f"{case['utterances']:,}",
                *(case["runs"], case.get("at_once", "–"), case["devices"] or "all", case["batch"]),
                "simulated" if case["simulated"] else "trained",
                f"{case['seconds']:.2f}",
                f"{each:.3f}",
                f"{data / 1e9:.2f}" if data else "–",
                f"{case['peak_bytes'] / 1e9:.2f}" if data and case["peak_bytes"] else "–",
            )
        )
    measure.print_table(title, columns, rows)


if __name__ == "__main__":
    main()
