"""What a pod would need, calculated: memory of a chip, runs at once, turns, what hosts read.

    python bench/pod.py --json=bench/results/pod.json

Nothing of it was measured on a pod. Sizes, groups and residence are computed by the functions that
a training uses, for chips with --chip_gb of memory, four to a host (v5e: 16 GB). Seconds follow
from the operations of an epoch at --tflops per chip, which is an assumption: measure one chip and
put that in.
"""

import argparse
import functools
from typing import Any

import flops
import jax
import measure
import numpy as np
import ours
import workload

from ser_jax import config as configuration
from ser_jax.models import build
from ser_jax.training.execution import plan as execution

CHIPS_PER_HOST = 4
UTTERANCES = (5_531, 100_000, 1_000_000)
CHIPS = (1, 4, 16, 64)


@functools.cache
def sizes_of(system: str, utterances: int) -> dict[str, float]:
    """Returns bytes of a corpus of simulated lengths, bytes of a run, operations of an epoch."""
    config = configuration.get_config()
    config.system = system
    batch = config.training.batch_size
    lengths, sizes, counts = ours.simulated_buckets(config, utterances, batch)
    dataset, _ = ours.a_few(config, sizes, 2)
    width, functionals = 4 * workload.BANDS, 4 * workload.FUNCTIONALS * build.uses_hsf(config)
    model = build.build_model(config, workload.CLASSES)
    parameters = build.count_parameters(model, dataset.buckets[0])
    some = [np.zeros((length, 0)) for length in lengths[:5_531]]
    return {
        "data": float(np.dot(counts, sizes) * width + utterances * functionals),
        "read": float(lengths.sum() * width + utterances * functionals),
        "run": float(execution.trial_bytes(dataset, parameters, batch)),
        "operations": float(flops.epoch(config, some, workload.CLASSES)) * utterances / len(some),
    }


def plan(
    system: str, utterances: int, chips: int, runs: int, chip_bytes: float, tflops: float
) -> dict[str, Any]:
    """Returns how a number of chips would train all runs."""
    found = sizes_of(system, utterances)
    hosts = -(-chips // CHIPS_PER_HOST)
    devices, of_host = min(chips, CHIPS_PER_HOST), -(-runs // hosts)
    resident = found["data"] <= configuration.get_config().training.memory_share * chip_bytes
    data = found["data"] if resident else 0.0
    at_once = execution.largest_group(
        of_host,
        execution.DataFacts(0, resident_bytes=int(data), trial_bytes=int(found["run"])),
        execution.DeviceFacts("tpu", count=devices, memory=int(chip_bytes)),
    )
    seconds = of_host * found["operations"] / (devices * tflops * 1e12)
    turns = -(-of_host // at_once)
    return {
        "system": system,
        "utterances": utterances,
        "chips": chips,
        "hosts": hosts,
        "padded_bytes": found["data"],
        "where": "on every chip" if resident else "streamed",
        "runs_of_a_host": of_host,
        "at_once_per_chip": -(-at_once // devices),
        "turns": turns,
        "bytes_of_a_chip": data + -(-at_once // devices) * found["run"],
        "seconds_per_epoch_of_all_runs": seconds,
        "read_bytes_per_second": 0.0 if resident else turns * at_once * found["read"] / seconds,
    }


def main() -> None:
    """Parses the flags and calculates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", default=["plain_crnn", "hsf_crnn"])
    parser.add_argument("--runs", type=int, default=50, help="folds x seeds")
    parser.add_argument("--chip_gb", type=float, default=16, help="memory of a chip")
    parser.add_argument("--tflops", type=float, default=5, help="what a chip is assumed to reach")
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    result = measure.environment("ser_jax", "jax", "numpy")
    result |= {"runs": flags.runs, "chip_gb": flags.chip_gb, "assumed_tflops": flags.tflops}
    result["plans"] = plans = [
        plan(system, utterances, chips, flags.runs, 1e9 * flags.chip_gb, flags.tflops)
        for system in flags.systems
        for utterances in UTTERANCES
        for chips in CHIPS
    ]
    columns = (
        "system",
        "utterances",
        "chips",
        "hosts",
        "padded GB",
        "data",
        "runs at once per chip",
        "turns",
    )
    columns += ("GB of a chip", "s per epoch of all runs", "a host reads, GB/s")
    rows = [
        (
            *(
                p["system"],
                f"{p['utterances']:,}",
                p["chips"],
                p["hosts"],
                f"{p['padded_bytes'] / 1e9:.1f}",
                p["where"],
            ),
            *(p["at_once_per_chip"], p["turns"], f"{p['bytes_of_a_chip'] / 1e9:.1f}"),
            f"{p['seconds_per_epoch_of_all_runs']:.1f}",
            f"{p['read_bytes_per_second'] / 1e9:.1f}" if p["read_bytes_per_second"] else "–",
        )
        for p in plans
    ]
    title = (
        f"{flags.runs} runs, chips of {flags.chip_gb:g} GB at an assumed {flags.tflops:g} TFLOP/s,"
        " calculated"
    )
    measure.print_table(title, columns, rows)
    measure.write_json(flags.json, result)


if __name__ == "__main__":
    main()
