"""Training speed: epochs over IEMOCAP's 5531 four-class turns, ser_jax against PyTorch.

    sh bench/peers.sh                       # once
    python bench/train.py --json train.json

First every form of the peer has to reproduce our loss and every gradient in float64, and each of
our own forms that are timed has to do so in float32; without that nothing is timed. Then the
candidates take turns. An epoch is everything from the draw of its batches to the last update:
features are in memory, nothing is validated, compilation is not counted. The peer's features are
standardised beforehand, ours in every step. We take part twice: on a CPU with our own kernels and
with XLA's programs only, on a GPU with XLA's loop over the steps of the LSTM and with a kernel of
our own. The floor is one large float32 matrix product on all cores, timed in the same rounds.

The machine has to be idle otherwise: PyTorch's threads wait for one another in a spin, and a single
busy process beside them slows one run on all cores ten times and more.
"""

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flops
import jax
import jax.numpy as jnp
import measure
import numpy as np
import ours
import parity
import workload
from peers import process

from ser_jax import config as configuration
from ser_jax.config import Config
from ser_jax.data.dataset import Dataset
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import standardise
from ser_jax.experiment import setup
from ser_jax.models import build

GEMM = 4096  # rows and columns of the factors of the floor


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to train in PyTorch.

    Attributes:
      name: As the table has it.
      form: Of the CNN, see peers/torch_crnn.py.
      lstm: padded or packed.
      batches: See peers/torch_batches.py.
      many: Whether it trains many runs side by side: on a CPU one process of one thread per run, on
        a GPU one stream per run. Otherwise one run has all threads.
    """

    name: str
    form: str
    lstm: str
    batches: str
    many: bool

    def arguments(self, system: str, device: str) -> list[Any]:
        """Returns what distinguishes it on the command line of torch_train.py."""
        return ["--system", system, "--form", self.form, "--lstm", self.lstm, "--device", device]


USUAL = Peer("PyTorch as usually written", "segments", "packed", "random", many=False)
PEERS = {
    "cpu": (
        Peer("PyTorch, sorted batches", "fast", "padded", "sorted", many=False),
        Peer(
            "PyTorch, sorted batches, one process per core", "fast", "padded", "sorted", many=True
        ),
        USUAL,
    ),
    "cuda": (
        Peer("PyTorch, CUDA graphs", "fast", "padded", "buckets", many=False),
        Peer("PyTorch, CUDA graphs, one stream per run", "fast", "padded", "buckets", many=True),
        USUAL,
    ),
}

# How else we can train: platform → what the table calls it, keys of `training`.
OTHER_FORMS = {
    "cpu": ("without its kernels", {"kernels": "xla"}),
    "gpu": ("with the recurrence in one program", {"recurrence": "pallas"}),
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something that is timed.

    Attributes:
      name: As the table has it.
      many: Whether it stands for many runs.
      runs: How many it trains at once.
      work: Trains one epoch of each.
    """

    name: str
    many: bool
    runs: int
    work: Callable[[], None]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    crnns = [name for name, spec in build.REGISTRY.items() if spec.own_kernels]
    parser.add_argument("--system", nargs="+", default=["plain_crnn"], choices=crnns)
    parser.add_argument(
        "--runs", nargs="+", type=int, default=[1, 10], help="runs there are to train"
    )
    parser.add_argument("--utterances", type=int, help="default: all 5531")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--precision", choices=("float32", "tf32"), default="float32", help="on both sides"
    )
    parser.add_argument(
        "--peer_python", type=Path, default=Path(__file__).parent / ".venv" / "bin" / "python"
    )
    parser.add_argument("--skip_peers", action="store_true")
    parser.add_argument("--json", default="", help="file for the results")
    options = parser.parse_args()
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4"
    )  # A GPU has to hold the peers as well.
    systems = {system: measure_system(system, options) for system in options.system}
    result = {
        "environment": measure.environment("jax", "jaxlib", "flax", "numpy"),
        "systems": systems,
    }
    print(f"\n{result['environment']}")
    measure.write_json(options.json, result)


def measure_system(system: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times all candidates of one system, prints the table and returns what is in it."""
    config = configuration.get_config()
    config.system, config.training.precision = system, options.precision
    devices = setup.start(config)
    work = workload.features(options.utterances, functionals=build.uses_hsf(config))
    dataset, protocol = ours.make_data(config, work)
    groups = [
        (runs > 1, ours.Group(config, dataset, protocol, devices, runs)) for runs in options.runs
    ]
    candidates = [Candidate("ser_jax", many, group.size, group.epoch) for many, group in groups]
    timed = {"ser_jax": groups[0][1].compute}
    name, changes = OTHER_FORMS.get(devices[0].platform, ("", {}))
    for runs in options.runs if changes else ():
        other = config.copy_and_resolve_references()
        other.training.update(changes)
        group = ours.Group(other, dataset, protocol, devices, runs)
        candidates.append(Candidate(f"ser_jax {name}", runs > 1, group.size, group.epoch))
        timed[f"ser_jax {name}"] = group.compute
    result: dict[str, Any] = {
        "utterances": len(work.targets),
        "segments": workload.segments(work.log_mel),
        "gflop": flops.epoch(config, work.log_mel, workload.CLASSES) / 1e9,
        "percent_real": 100 * sum(map(len, work.log_mel)) / groups[0][1].frames,
    }
    workers: list[process.Worker] = []
    try:
        if not options.skip_peers:
            device = "cuda" if devices[0].platform == "gpu" else "cpu"
            with tempfile.TemporaryDirectory() as name:
                folder, python = Path(name), options.peer_python
                forms = {f"{p.form} {p.lstm}": p.arguments(system, device) for p in PEERS[device]}
                result["parity"] = parity.check(config, folder, python, forms, timed)
                write_corpus(config, folder, work, dataset)
                for peer in PEERS[device]:
                    for runs in {group.size for many, group in groups if many == peer.many}:
                        arguments = [
                            folder,
                            *peer.arguments(system, device),
                            "--batches",
                            peer.batches,
                        ]
                        started = start(
                            python,
                            [*arguments, "--precision", options.precision],
                            peer,
                            device,
                            runs,
                        )
                        workers += started
                        candidates.append(Candidate(peer.name, peer.many, runs, epoch_of(started)))
                result["peer"] = [worker.answer() for worker in workers][-1]
        named = {f"{c.name}, {c.runs} at once": c.work for c in candidates}
        seconds = measure.alternate({"floor": matrix_product(), **named}, options.rounds)
    finally:
        for worker in workers:
            worker.end()
    result["floor_gflops"] = 2e-9 * GEMM**3 / measure.median(seconds["floor"])
    taken = [seconds[name] for name in named]
    result["rows"] = [
        row(*pair, candidates, taken, result) for pair in zip(candidates, taken, strict=True)
    ]
    print_result(system, options, result)
    return result


def write_corpus(config: Config, folder: Path, work: workload.Workload, dataset: Dataset) -> None:
    """Writes the standardised features and the initial parameters for the peers."""
    statistics = dataset.device_statistics(dataset.statistics(np.arange(len(work.targets))))
    hsf = None
    if build.uses_hsf(config):
        hsf = (work.hsf - dataset.hsf_centre).astype(np.float32)
        hsf = standardise(Inputs(None, hsf=hsf), statistics, np).hsf
    frames: list[Any] = [
        standardise(Inputs(None, values), statistics, np).frames for values in work.log_mel
    ]
    lengths, weights = (
        np.array([len(values) for values in frames]),
        np.ones(workload.CLASSES, np.float32),
    )
    process.write_corpus(
        folder, frames, lengths, hsf, work.targets, weights, parity.initial_params(config)
    )


def start(
    python: Path, arguments: list[Any], peer: Peer, device: str, runs: int
) -> list[process.Worker]:
    """Starts what trains `runs` runs at once."""
    if device == "cpu" and peer.many:
        return [process.Worker(python, *arguments, "--seed", n, threads=1) for n in range(runs)]
    return [
        process.Worker(python, *arguments, "--runs", runs, threads=len(os.sched_getaffinity(0)))
    ]


def epoch_of(workers: Sequence[process.Worker]) -> Callable[[], None]:
    """Returns a function that has all processes begin an epoch at once and waits for the last."""

    def work() -> None:
        for worker in workers:
            worker.order("epoch")
        for worker in workers:
            worker.answer()

    return work


def matrix_product() -> Callable[[], None]:
    """Returns what the floor is measured by."""
    product, factor = jax.jit(jnp.matmul), jnp.ones((GEMM, GEMM), jnp.float32)

    def work() -> None:
        jax.block_until_ready(product(factor, factor))

    return work


def row(
    candidate: Candidate,
    seconds: list[float],
    candidates: list[Candidate],
    taken: list[list[float]],
    result: dict[str, Any],
) -> dict[str, Any]:
    """Returns what is to be said of a candidate."""
    rate = candidate.runs / measure.median(seconds)  # epochs per second
    own = next(
        other.runs / measure.median(values)
        for other, values in zip(candidates, taken, strict=True)
        if other.name == "ser_jax" and other.many == candidate.many
    )
    return {
        "candidate": candidate.name,
        "runs": candidate.runs,
        "seconds": seconds,
        "segments_per_second": rate * result["segments"],
        "ours_over_this": own / rate,
        "percent_of_floor": 100 * rate * result["gflop"] / result["floor_gflops"],
    }


def print_result(system: str, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Prints the table of one system."""
    title = (
        f"{system}, {options.precision}: {result['utterances']} utterances, {result['segments']}"
        f" segments of 30/20 frames, {result['gflop']:.0f} GFLOP per epoch;"
        f" {result['percent_real']:.0f} % of our frames are no padding; floor"
        f" {result['floor_gflops']:.0f} GFLOP/s; medians of {options.rounds}"
    )
    columns = (
        "candidate",
        "runs at once",
        "s per epoch",
        "least–most",
        "segments/s",
        "ours ÷ this",
        "% of floor",
    )
    rows = []
    for found in result["rows"]:
        seconds = found["seconds"]
        rows.append(
            (
                *(found["candidate"], found["runs"]),
                *(f"{measure.median(seconds):.2f}", f"{min(seconds):.2f}–{max(seconds):.2f}"),
                *(f"{found['segments_per_second']:,.0f}", f"{found['ours_over_this']:.2f}"),
                f"{found['percent_of_floor']:.0f}",
            )
        )
    measure.print_table(title, columns, rows)
    if "peer" in result:
        print(f"\npeer: {result['peer']}\nparity: {result['parity']}")


if __name__ == "__main__":
    main()
