"""Commands as tests run them, and what they leave behind."""

import csv
import dataclasses
import gc
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import figure

from ser_jax.commands import command_line
from ser_jax.main import COLLECTIONS
from ser_jax.runtime import strict_json

ROOT = Path(__file__).resolve().parents[2]
SPEAKERS = ("03", "08", "09", "10")
SLOW = 600  # s, for a machine under load: a command that takes longer hangs

# Small enough to compile in seconds; two devices on every machine, so that runs are grouped alike.
TINY = (
    "--config.system=plain_crnn",
    "--config.model.filters=4",
    "--config.model.lstm_units=8",
    "--config.model.plain_head=(8,)",
    "--config.training.epochs=2",
    "--config.training.shapes=1",
    "--config.training.devices=2",
)


# Starting Python and importing jax takes longer than most of these commands, so they run in forks
# of one process that has done both; a few run as a user runs them.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("ser_jax.experiment.run", "ser_jax.experiment.cross_corpus"),
        *(f"ser_jax.commands.{name}" for name in command_line.commands()),
        *("ser_jax.report.run_page", "ser_jax.report.console"),
        *("scipy.optimize", "jaxlib.mlir.dialects.mhlo", "pytest"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one sentence of a command that was refused."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert (self.code, len(errors)) == (2, 1) and "Traceback" not in self.err, self
        return errors[0].removeprefix("error: ")


class Started:
    """A command under way: `ser-jax name arguments`, in a fork."""

    def __init__(
        self,
        *arguments: str,
        name: str = "train",
        content: bytes = b"",  # of standard input
        environment: Mapping[str, str] | None = None,
        figures: bool = False,  # drawn; else every figure of a page is empty
    ):
        self._folder = tempfile.TemporaryDirectory()
        (Path(self._folder.name) / "0").write_bytes(content)
        for stream in "12":  # It may be killed before it writes anything.
            (Path(self._folder.name) / stream).touch()
        self._process = FORKS.Process(
            target=_perform, args=(name, arguments, self._folder.name, environment or {}, figures)
        )
        self._process.start()

    def send(self, number: int) -> None:
        assert self._process.pid is not None and self.running
        os.kill(self._process.pid, number)

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def listens(self) -> bool:
        """Whether it has a handler of SIGTERM: before that, Python itself is still starting."""
        status = Path(f"/proc/{self._process.pid}/status")
        caught = re.search(r"SigCgt:\s+(\w+)", status.read_text() if status.is_file() else "")
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)

    @property
    def told(self) -> str:
        """What it has written on standard error so far."""
        return (Path(self._folder.name) / "2").read_text()

    def ends_within(self, seconds: float) -> bool:
        self._process.join(seconds)
        return not self.running

    def wait(self) -> Ended:
        self._process.join(SLOW)
        if self.running:
            self._process.kill()
            pytest.fail("the command hangs")
        code = self._process.exitcode
        assert code is not None
        with self._folder as folder:
            return Ended(code, (Path(folder) / "1").read_text(), (Path(folder) / "2").read_text())


def _perform(
    name: str, arguments: Iterable[str], folder: str, environment: Mapping[str, str], figures: bool
) -> None:
    """Becomes the command, its standard streams three files of `folder`."""
    for stream, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        os.dup2(os.open(f"{folder}/{stream}", mode | os.O_CREAT), stream)
    sys.stdin = open(0, closefd=False)
    os.chdir(ROOT)
    os.environ.update(environment)
    # One command often runs the programs of another: all are kept, as for a user.
    os.environ.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
    if not figures:
        pytest.MonkeyPatch().setattr(figure.Figure, "savefig", _save_empty)
    gc.set_threshold(*COLLECTIONS)
    sys.exit(command_line.main([name, *arguments]))


_savefig = figure.Figure.savefig


def _save_empty(drawing: figure.Figure, file: Any, **options: Any) -> None:
    """An empty figure for a page; files of figures are as ever."""
    if isinstance(file, io.StringIO):
        file.write("<svg></svg>")
    else:
        _savefig(drawing, file, **options)


def command(*arguments: str, name: str = "train", figures: bool = False) -> Ended:
    """Runs a command to its end."""
    return Started(*arguments, name=name, figures=figures).wait()


def real_command(*arguments: str, name: str = "train", **environment: str) -> Ended:
    """Runs a command as a user does, in a new process."""
    process = subprocess.run(
        [sys.executable, "-m", "ser_jax", name, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        timeout=SLOW,
    )
    return Ended(process.returncode, process.stdout, process.stderr)


def train(workdir: Path, *arguments: str, report: bool = False) -> dict[str, Any]:
    """Runs the train command, which must succeed, and returns the results.

    The report, which takes longer than a tiny training, is left out unless it is asked for.
    """
    reported = f"--{'' if report else 'no'}report"
    ended = command(*TINY, reported, f"--workdir={workdir}", *arguments, figures=report)
    assert ended.code == 0, ended.err
    return read_json(workdir / "results.json")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files_and_times(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def keep_models(run: Path, *names: str) -> None:
    """Makes a run of a few of its trials: the others and their rows in the results go."""
    for folder in (run / "models").iterdir():
        if folder.name not in names:
            shutil.rmtree(folder)
    results = read_json(run / "results.json")
    results["runs"] = [one for one in results["runs"] if f"{one['fold']}-{one['seed']}" in names]
    strict_json.write(run / "results.json", results)


def feature_store() -> dict[str, int]:
    return files_and_times(Path(os.environ["XDG_CACHE_HOME"]) / "ser_jax/features")


def probabilities(workdir: Path) -> np.ndarray:
    rows = read_table(workdir / "predictions.csv")
    return np.array([[float(row[name]) for name in row if name.startswith("p_")] for row in rows])
