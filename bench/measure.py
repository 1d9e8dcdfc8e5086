"""How every script here measures: rounds of all candidates in turn, medians, a table, JSON."""

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any


def alternate(
    candidates: dict[str, Callable[[], float | None]], rounds: int
) -> dict[str, list[float]]:
    """Lets every candidate run once per round, in turn, after one round that does not count.

    Args:
      candidates: Name → function that does the work once; it returns the seconds of the work
        itself, or None to have the call timed from outside.
      rounds: Rounds that count.

    Returns:
      Name → seconds of every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, work in candidates.items():
            begin = time.perf_counter()
            inner = work()
            taken = time.perf_counter() - begin if inner is None else inner
            if number:
                seconds[name].append(taken)
    return seconds


def median(values: Sequence[float]) -> float:
    """Returns the median."""
    return statistics.median(values)


def processor() -> str:
    """Returns the processor's name and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def environment(*packages: str) -> dict[str, Any]:
    """Returns date, machine and versions, which belong to every figure."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a Markdown table, so that it can be pasted into docs/performance.md."""
    print(f"\n{title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row) + " |", flush=True)


def write_json(path: str, result: dict[str, Any]) -> None:
    """Writes a result; an empty path writes nothing."""
    if path:
        Path(path).write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwritten to {path}")
