"""Extraction by this machine's own pool and by Ray on the same machine: files per second.

    python bench/ray_extraction.py /data/emodb/wav --json bench/results/ray_extraction.json

Every round extracts all WAV files of a folder into a new feature store, with each engine in turn:
log-mel alone (threads here, processes there), and log-mel with functionals (processes both). The
rate is that of the last three quarters of the recordings, so that neither engine's start counts;
the starts are listed beside.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import measure

from ser_jax.config import get_config
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.features import extraction
from ser_jax.features.logmel import LogMelSettings
from ser_jax.features.ray_extraction import RayEngine
from ser_jax.runtime import ray_workers, workers
from ser_jax.runtime.machine import available_cores


class Timed:
    """Passes on what is finished, and notes when."""

    def __init__(self, work: Callable[..., Generator[Any, None, None]]):
        """Takes what works: an engine, or the pool of this machine."""
        self._work = work
        self.times: list[float] = []

    def __call__(self, *arguments: Any, **options: Any) -> Generator[Any, None, None]:
        """Does the work."""
        for found in self._work(*arguments, **options):
            self.times.append(time.perf_counter())
            yield found


def extracted(
    corpus: Corpus, engine: extraction.Engine | None, *, hsf: bool, cores: int
) -> tuple[float, float]:
    """Extracts into a new store; returns seconds to the first recording, and files per second."""
    f = get_config().features
    timed = Timed(engine or workers.run)
    with tempfile.TemporaryDirectory() as store, mock.patch.object(extraction, "run", timed):
        begin = time.perf_counter()
        extraction.extract(
            corpus,
            LogMelSettings(**{name: f[name] for name in LogMelSettings.__dataclass_fields__}),
            hsf=hsf,
            store_root=Path(store),
            max_seconds=f.max_seconds,
            max_bad_share=0.0,
            workers=cores,
            most_bytes=0,
            engine=timed if engine else None,
        )
    quarter = len(timed.times) // 4
    rate = (len(timed.times) - 1 - quarter) / (timed.times[-1] - timed.times[quarter])
    return timed.times[0] - begin, rate


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of WAV files")
    parser.add_argument("--files", type=int, default=10**9, help="only so many of them")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args()
    files = sorted(path.name for path in flags.folder.glob("*.wav"))[: flags.files]
    corpus = Corpus(
        "bench",
        flags.folder,
        tuple(Utterance(name, name, label="sad") for name in files),
        "none",
        {},
    )
    result = measure.environment("ser_jax", "ray", "numpy", "opensmile") | {
        "files": len(files),
        "kinds": {},
    }
    cores = available_cores()
    with ray_workers.joined() as cluster:
        engines = {"local": None, "ray": RayEngine(cluster)}
        for kind, hsf in (("log-mel", False), ("log-mel and functionals", True)):
            result["kinds"][kind] = compare(
                corpus, engines, hsf=hsf, cores=cores, rounds=flags.rounds
            )
    print_result(result)
    measure.write_json(flags.json, result)


def compare(
    corpus: Corpus,
    engines: dict[str, extraction.Engine | None],
    *,
    hsf: bool,
    cores: int,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Lets the engines take turns, after an uncounted round; returns medians and all rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for name, engine in engines.items():
            found[name].append(extracted(corpus, engine, hsf=hsf, cores=cores))
    return {
        name: {
            "start_seconds": measure.median([start for start, _ in measured[1:]]),
            "files_per_second": measure.median([rate for _, rate in measured[1:]]),
            "rounds": [rate for _, rate in measured[1:]],
        }
        for name, measured in found.items()
    }


def print_result(result: dict[str, Any]) -> None:
    """Prints both engines side by side."""
    rows: list[Sequence[str]] = []
    for kind, engines in result["kinds"].items():
        local = engines["local"]["files_per_second"]
        for name, found in engines.items():
            rate = found["files_per_second"]
            rows.append(
                (kind, name, f"{rate:.1f}", f"{rate / local:.2f}", f"{found['start_seconds']:.1f}")
            )
    load = os.getloadavg()[0]
    measure.print_table(
        f"Extraction of {result['files']} files, {result['machine']}; load of the machine at the"
        f" end {load:.1f}",
        ("features", "engine", "files/s", "times local", "first recording after s"),
        rows,
    )


if __name__ == "__main__":
    main()
