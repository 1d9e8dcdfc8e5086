"""What live emotion costs: milliseconds per 200 ms hop, and the answer to 5 s of audio, warm.

    python bench/stream.py runs/plain runs/multi --members=1,30 --json=stream.json

Every run is a finished run of Plain CRNN or Multi-CRNN; as many of its models are taken as asked
for. A hop is one `push` of 3200 samples, with everything in it: log-mel, networks, probabilities.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import measure
import numpy as np

from ser_jax.prediction import ensemble
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.streaming import Stream
from ser_jax.training.model_files import Model

RATE, HOP = 16000, 3200
SECONDS = 5


def load(run: Path, choose: Callable[[Sequence[Model]], Sequence[Model]]) -> Predictor:
    """Returns a predictor with some models of a run."""
    found = ensemble.read_ensemble(run)
    part = dataclasses.replace(found, models=tuple(choose(found.models)))
    with mock.patch.object(ensemble, "read_ensemble", lambda _: part):
        return Predictor(run)


def hops(predictor: Predictor, samples: np.ndarray) -> list[float]:
    """Returns the seconds of every push of 200 ms, the first second left out."""
    stream, seconds = Stream(predictor, RATE), []
    for begin in range(0, len(samples) - HOP + 1, HOP):
        start = time.perf_counter()
        stream.push(samples[begin : begin + HOP])
        seconds.append(time.perf_counter() - start)
    stream.finish()
    return seconds[5:]


def measured(predictor: Predictor, samples: np.ndarray, rounds: int) -> dict[str, float]:
    """Returns milliseconds: median and 99th percentile of a hop; medians of answers to 5 s."""
    hops(predictor, samples[: 2 * RATE])
    each = 1e3 * np.array(hops(predictor, samples))
    five = samples[: SECONDS * RATE]

    def streamed() -> None:
        stream = Stream(predictor, RATE)
        stream.push(five)
        stream.finish()

    whole = measure.alternate(
        {"predict": lambda: predictor.predict(five, RATE) and None, "stream": streamed}, rounds
    )
    return {
        "hop_median_ms": float(np.median(each)),
        "hop_p99_ms": float(np.percentile(each, 99)),
        **{f"{name}_5s_ms": 1e3 * measure.median(seconds) for name, seconds in whole.items()},
    }


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    parser.add_argument(
        "--members", default="1,30", help="how many models predict together, separated by commas"
    )
    parser.add_argument("--seconds", type=int, default=60, help="length of the stream")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the answers to 5 s")
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args()
    samples = 0.1 * np.random.default_rng(0).standard_normal(flags.seconds * RATE, np.float32)
    result: dict[str, Any] = measure.environment("ser_jax", "jax", "jaxlib", "numpy")
    result["runs"] = []
    for run in flags.runs:
        for count in map(int, flags.members.split(",")):
            predictor = load(run, lambda models, count=count: models[:count])
            row = {"system": predictor.config.system, "models": len(predictor._models)}
            result["runs"].append(row | measured(predictor, samples, flags.rounds))
    form = functools.partial("{:.1f}".format)
    measure.print_table(
        f"A stream of {flags.seconds} s at {RATE} Hz, 200 ms at a time",
        (
            "system",
            "models",
            "hop, median ms",
            "hop, p99 ms",
            "predict 5 s, ms",
            "stream 5 s at once, ms",
        ),
        [
            (
                row["system"],
                row["models"],
                *(form(value) for key, value in row.items() if key.endswith("_ms")),
            )
            for row in result["runs"]
        ],
    )
    measure.write_json(flags.json, result)


if __name__ == "__main__":
    main()
