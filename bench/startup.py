"""How long ser_jax takes to start: import, --help, and from process start to the first epoch.

    python bench/startup.py --utterances=5531 --json=startup.json

The corpus is noise with the lengths of IEMOCAP's turns, 16-bit WAV, ten speakers, in a temporary
folder; it has just been written, so it is read from the page cache. "cold" has neither features nor
compiled programs, "features" has features only, "warm" has both. Times count from the start of the
process. Programs are compiled while the first steps are trained, so a cold start shows in the first
epoch.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import soundfile
import workload

ROOT = Path(__file__).parent.parent
RATE = 16000
LABELS = ("angry", "happy", "neutral", "sad")
SPEAKERS = 10
# Phase → what the log says when it is over.
PHASES = {
    "features ready": re.compile(r"utterances, .* s of speech"),
    "first step done": re.compile(r"^first step done$", re.M),
    "first epoch": re.compile(r"training: 1/1 epochs"),
}
# `python -m ser_jax`, which also says when the first training step has been computed.
MAIN = """
import runpy, sys
import jax
from ser_jax.training.execution.per_step import PerStep
from ser_jax.training.execution.scanned import Scanned

def noted(executor):
    once = executor.train

    def train(*arguments):
        state = jax.block_until_ready(once(*arguments))
        print("first step done", file=sys.stderr, flush=True)
        executor.train = once
        return state

    executor.train = train

noted(PerStep)
noted(Scanned)
runpy.run_module("ser_jax", run_name="__main__", alter_sys=True)
"""


def make_corpus(folder: Path, count: int) -> None:
    """Writes recordings and manifest.csv."""
    rng, rows = np.random.default_rng(0), ["file,label,speaker"]
    folder.mkdir()
    for number, samples in enumerate(rng.permutation(workload.samples(count))):
        name = f"{number:05d}.wav"
        soundfile.write(
            folder / name, 0.1 * rng.standard_normal(samples, np.float32), RATE, subtype="PCM_16"
        )
        rows.append(f"{name},{LABELS[number % len(LABELS)]},{number // len(LABELS) % SPEAKERS:02d}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def train(corpus: Path, cache: Path) -> dict[str, float]:
    """Trains one fold for one epoch; returns phase → seconds since the process began.

    Raises:
      RuntimeError: If the command fails or its log lacks a phase.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [
            sys.executable,
            "-c",
            MAIN,
            "train",
            "--config=configs/plain_crnn.py",
            f"--workdir={workdir}",
        ]
        command += ["--config.corpus.name=manifest", f"--config.corpus.root={corpus}"]
        command += ["--config.training.epochs=1", "--config.protocol.folds=00"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        begin, found, lines = time.perf_counter(), {}, []
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            found |= {
                phase: time.perf_counter() - begin
                for phase, pattern in PHASES.items()
                if pattern.search(line)
            }
        code, found["end"] = process.wait(), time.perf_counter() - begin
        if code or not PHASES.keys() <= found.keys():
            raise RuntimeError(
                f"{' '.join(command)} gave exit code {code} and said:\n{''.join(lines)}"
            )
        return found


def starts(utterances: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns kind of start → phase → seconds of every round."""
    results: dict[str, dict[str, list[float]]] = {"cold": {}, "features": {}, "warm": {}}
    with tempfile.TemporaryDirectory() as folder:
        corpus, cache = Path(folder) / "corpus", Path(folder) / "cache"
        make_corpus(corpus, utterances)
        for _ in range(rounds):
            for kind, seconds in results.items():
                stale = {"cold": cache, "features": cache / "ser_jax" / "xla"}.get(kind)
                if stale is not None:
                    shutil.rmtree(stale, ignore_errors=True)
                for phase, value in train(corpus, cache).items():
                    seconds.setdefault(phase, []).append(value)
    return results


def commands(rounds: int) -> dict[str, list[float]]:
    """Returns command → seconds of every round; the bare interpreter for comparison."""
    arguments = {
        'python -c ""': ["-c", ""],
        'python -c "import ser_jax"': ["-c", "import ser_jax"],
        "python -m ser_jax train --help": ["-m", "ser_jax", "train", "--help"],
    }

    def run(command: list[str]) -> None:
        subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)

    return measure.alternate(
        {name: lambda c=command: run(c) for name, command in arguments.items()}, rounds
    )


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--utterances", type=int, default=1000, help="size of the corpus (IEMOCAP: 5531); 0: none"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of import and --help")
    parser.add_argument("--starts", type=int, default=3, help="rounds of cold, features and warm")
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args()
    result = measure.environment("ser_jax", "jax", "jaxlib", "numpy")
    result["commands"] = commands(flags.rounds)
    measure.print_table(
        f"Commands (median of {flags.rounds})",
        ("", "s"),
        [(name, f"{measure.median(values):.2f}") for name, values in result["commands"].items()],
    )
    if flags.utterances:
        result["utterances"], result["starts"] = (
            flags.utterances,
            starts(flags.utterances, flags.starts),
        )
        phases = ("features ready", "first step done", "first epoch", "end")
        measure.print_table(
            f"Plain CRNN, {flags.utterances} utterances: seconds from the start of the process "
            f"(median of {flags.starts})",
            ("", *phases),
            [
                (kind, *(f"{measure.median(seconds[phase]):.1f}" for phase in phases))
                for kind, seconds in result["starts"].items()
            ],
        )
    measure.write_json(flags.json, result)


if __name__ == "__main__":
    main()
