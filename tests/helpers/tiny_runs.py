"""Run directories of `tiny.trainer`: what a training left behind, and how to interrupt one."""

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_jax.runtime.signals import Interrupted
from ser_jax.training import model_files
from ser_jax.training.trials import Trial

TIMES = ("seconds", "seal")  # keys that depend on the time


def history(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none without the file."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def of_trial(workdir: Path, trial: Trial) -> list[dict[str, Any]]:
    key = trial.fold.name, trial.seed
    return [line for line in history(workdir) if (line["fold"], line["seed"]) == key]


def timeless(value: Any) -> Any:
    """The value without what depends on the time."""
    if isinstance(value, list):
        return [timeless(each) for each in value]
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in TIMES}
    return value


def outcome(workdir: Path) -> dict[str, Any]:
    """All that a training leaves behind, except for times."""

    def content(path: Path) -> Any:
        if path.suffix == ".npz":
            return path.read_bytes()
        return timeless(json.loads(path.read_text(), parse_constant=pytest.fail))

    files = sorted((workdir / "models").rglob("*.*"))
    found = {str(path.relative_to(workdir)): content(path) for path in files}
    return {"metrics": timeless(history(workdir)), **found}


def description_of(workdir: Path, trial: Trial) -> dict[str, Any]:
    found = model_files.read_description(workdir / "models" / trial.name)
    assert found is not None
    return found


def model_of(workdir: Path, trial: Trial) -> model_files.Model:
    return model_files.read_model(workdir / "models" / trial.name)


def params_of(workdir: Path, trial: Trial) -> Any:
    return model_of(workdir, trial).params


class Killed(BaseException):
    """Stands for the end of the process."""


def kill() -> None:
    raise Killed


class Calls:
    """Counts what an executor does, and sends SIGTERM (or acts) after given calls or a step."""

    def __init__(
        self,
        executor: Any,
        monkeypatch: Any,
        *,
        after_train: Sequence[int] = (),
        after_score: Sequence[int] = (),
        after_step: int = 0,
        action: Callable[[], object] = lambda: signal.raise_signal(signal.SIGTERM),
    ):
        self.calls = self.steps = self.scored = self.batches = 0
        self.utterances = np.zeros(executor.plan.trials, int)  # trained on, per place of the group
        train, score = executor.train, executor.score

        def counted_train(state, constants, order, rows, mask):
            assert 1 <= len(order) <= executor.chunk
            result = train(state, constants, order, rows, mask)
            self.calls, before = self.calls + 1, self.steps
            self.steps += len(order)
            self.utterances += mask.sum(axis=(0, 2))
            if self.calls in after_train or before < after_step <= self.steps:
                action()
            return result

        def counted_score(params, statistics, order, rows):
            result = score(params, statistics, order, rows)
            self.scored += 1
            self.batches += len(order)
            if self.scored in after_score:
                action()
            return result

        monkeypatch.setattr(executor, "train", counted_train)
        monkeypatch.setattr(executor, "score", counted_score)


def interrupted(
    make_trainer: Callable[[], Any], trials: list[Trial], executor: Any, **when: Any
) -> Calls:
    """Trains until the interruption; returns the counts."""
    killed = when.get("action") is kill
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(executor, patch, **when)
        with pytest.raises(Killed if killed else Interrupted, match=None if killed else "SIGTERM"):
            make_trainer().train(trials)
    return calls
