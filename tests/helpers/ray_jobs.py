"""Functions that workers run in tests of the Ray pool; they import this module by name."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ser_jax.features import ray_extraction
from ser_jax.prediction import ray_batch
from ser_jax.runtime.errors import UserError

FACTS = {"a version": "1"}
POISON = "poison.wav"


def perform(job: Any) -> Any:
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "pid":
        return os.getpid()
    return 12 // int(job)


def prepare() -> tuple[Callable[[Any], Any], Mapping[str, str]]:
    return perform, FACTS


def prepare_complaining() -> tuple[Callable[[Any], Any], Mapping[str, str]]:
    raise UserError("a package is missing")


def prepare_dying() -> tuple[Callable[[Any], Any], Mapping[str, str]]:
    os.kill(os.getpid(), signal.SIGKILL)
    return perform, FACTS


def prepare_poisoned_extraction(*arguments: Any) -> tuple[Callable[[Any], Any], Mapping[str, str]]:
    compute, facts = ray_extraction.prepare(*arguments)

    def poisoned(items: Any) -> Any:
        _die_of([item.path for item in items])
        return compute(items)

    return poisoned, facts


def prepare_extraction_elsewhere(*arguments: Any) -> tuple[Callable[[Any], Any], Mapping[str, str]]:
    compute, facts = ray_extraction.prepare(*arguments)

    def elsewhere(items: Any) -> Any:
        items[0].path.unlink()
        return compute(items)

    return elsewhere, facts


def prepare_poisoned_prediction(*arguments: Any) -> tuple[Callable[[Any], Any], Mapping[str, str]]:
    score, facts = ray_batch.prepare(*arguments)

    def poisoned(block: Any) -> Any:
        _die_of([Path(recording[0]) for recording in block.recordings if recording is not None])
        return score(block)

    return poisoned, facts


def _die_of(paths: list[Path]) -> None:
    if any(path.name == POISON for path in paths):
        os.kill(os.getpid(), signal.SIGKILL)
