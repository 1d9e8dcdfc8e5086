"""R1: a training that is killed in all of its phases ends with the bits of one that was not."""

import collections
import dataclasses
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import releases
from commands import SPEAKERS, TINY, Started, command
from orbax.checkpoint.path import atomicity

from ser_jax.runtime.files import is_leftover

SYSTEMS = {
    "plain_crnn": (),
    "multi_crnn": ("--config.model.multi_short_dense=(8,8)", "--config.model.multi_head=(8,)"),
    "hsf_crnn": [f"--config.model.hsf_{v}=(8,)" for v in ("crnn_dense", "dense", "head")],
    "end2you": [f"--config.model.end2you_{v}" for v in ("filters=10", "units=8", "layers=1")],
    "svm": ("--config.svm.c=(1e-4,1e-2)",),
}


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A training that nobody has killed."""

    arguments: tuple[str, ...]  # its command, all but the run directory
    outcome: dict[str, Any]  # what it has left
    seconds: float  # how long it took, to choose moments from


def outcome(workdir: Path) -> dict[str, Any]:
    """Returns what a training leaves, but times, their checksums and the order of groups."""
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


Reached = Callable[[Started, Path, float], bool]  # (command, run directory, s since its start)


def _there(*patterns: str, gone: str = "") -> Reached:
    def reached(started: Started, workdir: Path, seconds: float) -> bool:
        there = (any(workdir.parent.glob(pattern)) for pattern in patterns)
        return all(there) and not (gone and any(workdir.parent.glob(gone)))

    return reached


def _told(text: str) -> Reached:
    return lambda started, workdir, seconds: text in started.told


def _after(moment: float) -> Reached:
    return lambda started, workdir, seconds: seconds > moment


def _trained(models: int) -> Reached:
    return lambda started, workdir, seconds: len([*workdir.glob("models/*/model.json")]) == models


def _saving(started: Started, workdir: Path, seconds: float) -> bool:
    """Returns whether a checkpoint has been started and not been committed yet."""
    del started, seconds
    numbers = (path for path in workdir.glob("checkpoints/*") if path.name.isdecimal())
    return any(not (path / atomicity.COMMIT_SUCCESS_FILE).exists() for path in numbers)


def phases(undisturbed: Undisturbed) -> dict[str, Reached]:
    """Returns the phases in their order, and how one sees that a training is in them."""
    return {
        "start-up": _after(0.0),
        "extraction": _there("cache/ser_jax/features/*/*.npy", gone="run/protocol.json"),
        "compilation": _told("execution: "),
        "training": _there("run/metrics.jsonl"),
        "commit of a checkpoint": _saving,
        "commit of a model": _there("run/models/*/.*.tmp"),
        "scoring": _trained(sum(name.endswith("model.json") for name in undisturbed.outcome)),
        "report": _there("run/results.json"),
    }


def storm(undisturbed: Undisturbed, folder: Path, moments: list[tuple[str, Reached]]) -> str:
    """Kills the command at these moments, compares whenever it ends; returns what was done.

    Every training has a feature store of its own, and compiled programs in common.
    """
    killed, trainings = collections.Counter[str](), 0
    while moments:
        workdir, cache = folder / str(trainings) / "run", folder / str(trainings) / "cache"
        (cache / "ser_jax").mkdir(parents=True)
        for name in ("native", "xla"):
            kept = Path(os.environ["XDG_CACHE_HOME"]) / "ser_jax" / name
            (cache / "ser_jax" / name).symlink_to(kept)
        environment = {"XDG_CACHE_HOME": str(cache)}
        ended, before = None, len(moments)
        while ended is None or ended.code:
            arguments = (*undisturbed.arguments, f"--workdir={workdir}")
            started = Started(*arguments, environment=environment)
            if moments and _kill_when(started, moments[0][1], workdir):
                killed[moments.pop(0)[0]] += 1
            ended = started.wait()
            assert ended.code in (0, -signal.SIGKILL), (killed, ended)
            assert "Traceback" not in ended.err, (killed, ended)
        assert outcome(workdir) == undisturbed.outcome, killed
        trainings += 1
        if len(moments) == before:
            moments.pop(0)  # It was over before it was seen.
    counts = ", ".join(f"{count} in {name}" for name, count in killed.items())
    return f"{killed.total()} kills ({counts}), {trainings} trainings, each equal to the bit"


def _kill_when(started: Started, reached: Reached, workdir: Path) -> bool:
    """Kills a command when a moment is reached; returns False if it ends before."""
    begin = time.monotonic()
    while not started.ends_within(0.002):
        if reached(started, workdir, time.monotonic() - begin):
            started.send(signal.SIGKILL)
            return True
    return False


def any_moments(undisturbed: Undisturbed, count: int = 3) -> list[tuple[str, Reached]]:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    return [("any phase", _after(rng.uniform(0, undisturbed.seconds))) for _ in range(count)]


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


def test_a_few_kills(corpus, tmp_path, record_property):
    short = (*OFTEN, "--config.training.epochs=10")
    undisturbed = undisturbed_run("plain_crnn", corpus, tmp_path / "undisturbed", *short)
    done = storm(undisturbed, tmp_path, any_moments(undisturbed))
    record_property("measured", f"short form: {done}")


@pytest.mark.long
@pytest.mark.parametrize("system", SYSTEMS)
def test_kills_in_every_phase(system, corpus, tmp_path, record_property):
    """Every system, several groups of two runs, each trained with and without validation part."""
    if system in ("hsf_crnn", "svm"):
        pytest.importorskip("opensmile")
    more = (*OFTEN, "--config.training.epochs=10", "--config.training.refit=train+validation")
    undisturbed = undisturbed_run(system, corpus, tmp_path / "undisturbed", *more)
    moments = [*phases(undisturbed).items(), *any_moments(undisturbed)]
    done = storm(undisturbed, tmp_path, moments)
    record_property("measured", f"{system}: {done}")
