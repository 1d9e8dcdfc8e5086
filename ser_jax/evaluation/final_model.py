"""Scores that belong to a final model, which has no test part of its own.

They are those of its validation part, and those of the cross-validation of the same recipe, which
says what to expect of it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ser_jax.config import NEUTRAL_KEYS, from_json
from ser_jax.evaluation import finished_run
from ser_jax.protocols.protocol import trial_name
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError


class Validation(NamedTuple):
    """Scores of a trial on the validation part that chose its epoch."""

    seed: int  # its seed
    ua: float | None  # unweighted average recall, in [0, 1]
    wa: float | None  # weighted accuracy, in [0, 1]
    loss: float | None  # mean cross-entropy, nats


class CrossValidation(NamedTuple):
    """A finished run of the same system, recipe and recordings, with test folds."""

    name: str  # name of its folder
    results: dict[str, Any]  # content of its `results.json`


def is_final(results: Mapping[str, Any]) -> bool:
    """Returns whether a run has trained models to use, and nothing is left to test them."""
    return bool(results["seeds"]) and not results["utterances"]


def validation_scores(workdir: Path, results: Mapping[str, Any]) -> list[Validation]:
    """Returns the validation scores of every trial of a run that has them.

    A model that was trained again (`training.refit`) has those of its first training.
    """
    found = []
    for run in results["runs"]:
        if scores := run.get("validation"):  # of a fusion
            found.append(Validation(run["seed"], **scores))
            continue
        folder = workdir / "models" / trial_name(run["fold"], run["seed"])
        for name in ("choice.json", "model.json"):
            path = folder / name
            scores = strict_json.read(path, remedy="train again") if path.is_file() else {}
            if scores := scores.get("validation"):
                listed = (scores.get(key) for key in ("ua", "wa", "loss"))
                found.append(Validation(run["seed"], *listed))
                break
    return found


def cross_validation(workdir: Path, results: Mapping[str, Any]) -> CrossValidation | None:
    """Looks among the folders beside a run for the cross-validation that belongs to it.

    It has the same configuration but for `protocol` and what changes no result, and the same
    recordings and classes. Of several, that with the most seeds is taken. Folders that cannot be
    read are passed over.
    """
    own, found = _recipe(workdir), []
    try:
        beside = sorted(workdir.resolve().parent.iterdir())
    except OSError:  # A folder may be open to others without showing what it holds.
        return None
    for folder in beside:
        if folder == workdir.resolve():
            continue
        try:
            other = finished_run.read_results(folder)
            same = all(other[key] == results[key] for key in ("corpus_sha256", "classes"))
            if same and other["seeds"] and other["utterances"] and _recipe(folder) == own:
                found.append(CrossValidation(folder.name, other))
        except (UserError, OSError):
            continue
    return max(found, key=lambda one: len(one.results["seeds"]), default=None)


def _recipe(workdir: Path) -> dict[str, Any]:
    """Returns the configuration of a run, without its protocol and what changes no result."""
    path = workdir / "config.json"
    config = json.loads(from_json(strict_json.read(path, remedy="train again")).to_json())
    del config["protocol"]
    for key in NEUTRAL_KEYS:
        section, _, name = key.rpartition(".")
        config[section].pop(name, None)
    return config
