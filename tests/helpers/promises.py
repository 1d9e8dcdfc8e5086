"""Runs every test that docs/reliability.md names, long ones too; fills its columns "measured".

`make reliability`, or `python tests/helpers/promises.py [--workers=2] [--again]`. Writes
bench/results/reliability.json; leaves with 1 if a test fails.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reliability.md"
FIGURES = ROOT / "bench/results/reliability.json"

_ROW = re.compile(
    r"^\| (?P<promise>.+?) \| (?P<tests>(?:`tests/\S+?`\s?)+) \|(?P<measured>.*)\|$", re.MULTILINE
)
_MEASURED = re.compile(r"^Measured: .*$", re.MULTILINE)


def named(page: str) -> list[str]:
    """Returns the tests that the page names, each once."""
    rows = (re.findall(r"`(\S+?)`", row["tests"]) for row in _ROW.finditer(page))
    return list(dict.fromkeys(name for row in rows for name in row))


def filled(page: str, figures: dict[str, Any]) -> str:
    """Returns the page with the outcomes of its tests."""

    def row(match: re.Match[str]) -> str:
        found = [
            test
            for name in re.findall(r"`(\S+?)`", match["tests"])
            for node, test in figures["tests"].items()
            if node == name or node.startswith((f"{name}::", f"{name}["))
        ]
        return f"| {match['promise']} | {match['tests']} | {_said(found)} |"

    return _MEASURED.sub(lambda _: f"Measured: {figures['machine']}.", _ROW.sub(row, page))


def _said(tests: list[dict[str, Any]]) -> str:
    counts = collections.Counter(test["outcome"] for test in tests)
    parts = [f"{counts[o]} {o}" for o in ("passed", "failed", "skipped") if counts[o]]
    parts += [test["measured"] for test in tests if "measured" in test]
    return "; ".join(parts)


def _machine() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{time.strftime('%Y-%m-%d')}, {names[0] if names else platform.processor()},"
        f" {os.cpu_count()} cores, Python {platform.python_version()}, jax"
        f" {importlib.metadata.version('jax')}"
    )


def main() -> int:
    """Runs the tests and writes page and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", default="auto", help="processes, as pytest-xdist's -n")
    again = "only what failed the last time; the rest stays as it was"
    parser.add_argument("--again", action="store_true", help=again)
    options = parser.parse_args()
    page = PAGE.read_text()
    before = json.loads(FIGURES.read_text())["tests"] if options.again else {}
    names = [name for name, test in before.items() if test["outcome"] == "failed"] or named(page)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "long or not long"]
        distributed = [f"--figures={path}", "-n", options.workers, "--dist", "worksteal"]
        code = subprocess.run([*pytest, *distributed, *names], cwd=ROOT).returncode
        if not path.is_file():
            return code
        figures = {"machine": _machine(), "tests": before | json.loads(path.read_text())}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(filled(page, figures))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
