"""docs/reliability.md names tests that exist and shows what `make reliability` has measured."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import promises as reliability
import pytest

PAGE = reliability.PAGE.read_text()
EXAMPLE = """
Measured: not yet.
| promise | tests | measured |
|---|---|---|
| one | `tests/a.py::test_b` | old |
| two, three | `tests/a.py` `tests/c.py` | |
"""


def test_every_promise_names_its_tests():
    lines = (line for line in PAGE.splitlines() if line.startswith("| "))
    rows = [line for line in lines if not line.startswith("| promise ")]
    assert len(rows) > 12
    for row in rows:
        assert re.fullmatch(reliability._ROW, row), row


def test_the_tests_exist():
    def exists(name: str) -> bool:
        path, _, function = name.partition("::")
        file = reliability.ROOT / path
        return file.is_file() and f"\ndef {function or 'test_'}" in file.read_text()

    assert not [name for name in reliability.named(PAGE) if not exists(name)]


@pytest.mark.skipif(
    not reliability.FIGURES.is_file(), reason="make reliability has not been run to its end"
)
def test_the_page_shows_the_figures():
    figures = json.loads(reliability.FIGURES.read_text())
    assert reliability.filled(PAGE, figures) == PAGE, "make reliability writes both"
    assert not any(test["outcome"] == "failed" for test in figures["tests"].values())


def test_rows_are_filled_with_the_outcomes_of_their_tests():
    tests = {
        "tests/a.py::test_b": {"outcome": "passed", "seconds": 1.0, "measured": "3 kills"},
        "tests/a.py::test_b[x]": {"outcome": "failed", "seconds": 1.0},
        "tests/a.py::test_bc": {"outcome": "passed", "seconds": 1.0},
        "tests/c.py::test_d": {"outcome": "skipped", "seconds": 0.0},
        "tests/other.py::test_b": {"outcome": "passed", "seconds": 1.0},
    }
    page = reliability.filled(EXAMPLE, {"machine": "a machine", "tests": tests})
    assert "\nMeasured: a machine.\n" in page
    assert "| `tests/a.py::test_b` | 1 passed; 1 failed; 3 kills |" in page
    assert "| `tests/a.py` `tests/c.py` | 2 passed; 1 failed; 1 skipped; 3 kills |" in page
    assert reliability.named(page) == ["tests/a.py::test_b", "tests/a.py", "tests/c.py"]


def test_outcomes_of_all_workers_are_written(tmp_path, pytestconfig):
    """The figures of tests in two processes, one of which records and one of which fails."""
    (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    (tmp_path / "test_x.py").write_text(
        "def test_one(record_property): record_property('measured', '3 kills')\n"
        "def test_two(): assert False\n"
        "def test_three(): import pytest; pytest.skip('no')\n"
    )
    arguments = ["-q", "-n", "2", "-p", "no:cacheprovider", "--figures=f.json", "test_x.py"]
    # What conftest.py imports.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}
    command = [sys.executable, "-m", "pytest", *arguments]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    found = json.loads((tmp_path / "f.json").read_text())
    assert {name: (test["outcome"], test.get("measured")) for name, test in found.items()} == {
        "test_x.py::test_one": ("passed", "3 kills"),
        "test_x.py::test_two": ("failed", None),
        "test_x.py::test_three": ("skipped", None),
    }
