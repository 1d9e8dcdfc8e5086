"""R1: a training that is killed at random moments, again and again, ends with the bits of one that was not."""

import dataclasses
import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import releases
from commands import SPEAKERS, TINY, Started, command

from ser_jax.atomic import is_leftover

FEW, MANY = 5, 24  # kills

SYSTEMS = {
    "plain_crnn": (),
    "multi_crnn": ("--config.model.multi_short_dense=(8,8)", "--config.model.multi_head=(8,)"),
    "hsf_crnn": ("--config.model.hsf_crnn_dense=(8,)", "--config.model.hsf_dense=(8,)", "--config.model.hsf_head=(8,)"),
    "end2you": (
        "--config.model.end2you_filters=10",
        "--config.model.end2you_units=8",
        "--config.model.end2you_layers=1",
    ),
    "svm": ("--config.svm.c=(1e-4,1e-2)",),
}


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A training that nobody has killed.

    Attributes:
      arguments: Its command, all but the run directory.
      outcome: What it has left.
      seconds: How long it took, to choose moments from.
    """

    arguments: tuple[str, ...]
    outcome: dict[str, Any]
    seconds: float


def outcome(workdir: Path) -> dict[str, Any]:
    """Everything that a training leaves but times, what is sealed with them, and the order of groups."""
    found: dict[str, Any] = {"predictions": (workdir / "predictions.csv").read_bytes()}
    for path in sorted(path for path in (workdir / "models").rglob("*.*") if not is_leftover(path)):
        name = str(path.relative_to(workdir))
        found[name] = path.read_bytes() if path.suffix == ".npz" else _timeless(path.read_text())
    lines = [_timeless(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = sorted(json.dumps(line, sort_keys=True) for line in lines)
    return found


def _timeless(text: str) -> dict[str, Any]:
    def without(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in ("seconds", "seal")}

    return json.loads(text, object_hook=without)


def storm(undisturbed: Undisturbed, folder: Path, kills: int, seed: int) -> str:
    """Starts the command again and again and kills it at random moments; compares whenever it comes to its end.

    Returns what was done, in words.
    """
    moments = random.Random(seed)
    killed, seconds = 0, undisturbed.seconds
    number = 0
    while True:
        workdir = folder / str(number)
        while not (workdir / "results.json").is_file():
            begin, started = time.monotonic(), Started(*undisturbed.arguments, f"--workdir={workdir}")
            if killed < kills and not started.ends_within(moments.uniform(0, seconds)):
                started.send(signal.SIGKILL)
                killed += 1
            ended = started.wait()
            seconds = seconds if ended.code else min(seconds, time.monotonic() - begin)
            assert ended.code in (0, -signal.SIGKILL), (seed, killed, ended)
            assert "Traceback" not in ended.err, (seed, killed, ended)
        assert outcome(workdir) == undisturbed.outcome, f"seed {seed}, after {killed} kills"
        if killed == kills:
            return f"{killed} kills, {number + 1} trainings, each equal to the bit"
        shutil.rmtree(workdir)
        number += 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, ...]:
    names = releases.emodb_names(SPEAKERS[:3], per_emotion=1)
    root = releases.write_emodb(tmp_path_factory.mktemp("emodb"), names, seconds=0.5)
    return "--config.corpus.name=emodb", f"--config.corpus.root={root}"


def undisturbed_run(system: str, corpus: tuple[str, ...], folder: Path, *more: str) -> Undisturbed:
    arguments = (*TINY, f"--config.system={system}", *SYSTEMS[system], *corpus, *more)
    for attempt in ("with cold caches", "with warm ones"):
        begin = time.monotonic()
        ended = command(*arguments, f"--workdir={folder / attempt}")
        seconds = time.monotonic() - begin
        assert ended.code == 0, ended.err
    return Undisturbed(arguments, outcome(folder / "with warm ones"), seconds)


OFTEN = ("--config.training.checkpoint_seconds=0", "--config.protocol.seeds=2")
SHORT, LONG = "--config.training.epochs=10", "--config.training.epochs=30"


def test_a_few_kills(corpus, tmp_path, record_property):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    undisturbed = undisturbed_run("plain_crnn", corpus, tmp_path / "undisturbed", *OFTEN, SHORT)
    record_property("measured", f"short form: {storm(undisturbed, tmp_path, FEW, seed)}")


@pytest.mark.long
@pytest.mark.parametrize("refit", ["none", "train+validation"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_many_kills(system, refit, corpus, tmp_path, record_property):
    """Every system, several groups of two runs, with a second phase and without."""
    if system in ("hsf_crnn", "svm"):
        pytest.importorskip("opensmile")
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    more = (*OFTEN, LONG, f"--config.training.refit={refit}")
    done = storm(undisturbed_run(system, corpus, tmp_path / "undisturbed", *more), tmp_path, MANY, seed)
    record_property("measured", f"{system}, refit {refit}: {done}")
