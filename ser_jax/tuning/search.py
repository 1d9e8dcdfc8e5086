"""Tries configurations with Optuna, and judges each by the validation parts of all trials.

A try is a run directory without scores: test parts are neither predicted nor read. The study, which
tries there were and how they ended, is a text file that Optuna appends to; a search that was
stopped goes on in the middle of the training that it was at.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.config import NEUTRAL_KEYS, Config
from ser_jax.evaluation import finished_run
from ser_jax.experiment import config_checks, run, run_directory
from ser_jax.models import build
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training import metrics_log
from ser_jax.tuning import space as space_file
from ser_jax.tuning.space import Space

STUDY = "study.log"
LAST = 5  # scores are means over the last fifth of the epochs

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One configuration that was tried.

    Attributes:
      number: From 0; its folder in the workdir is named so.
      values: Value of each key of the search space.
      per_seed: Validation UA of each seed, mean over folds; empty if the try failed.
      problem: Why it failed, in words.
    """

    number: int
    values: dict[str, Any]
    per_seed: tuple[float, ...] = ()
    problem: str = ""

    @property
    def ua(self) -> float:
        """Validation UA, mean over seeds, in [0, 1]; NaN if the try failed."""
        return float(np.mean(self.per_seed)) if self.per_seed else float("nan")


def search(
    config: Config,
    space: Space,
    workdir: Path,
    count: int,
    seed: int = 0,
    *,
    keep_all: bool = False,
) -> list[Attempt]:
    """Tries configurations until there are `count` of them, those of earlier calls included.

    Args:
      config: What is tuned, with corpus and protocol.
      space: The values that keys may take.
      workdir: Folder of the study and of a run directory per try.
      count: How many tries there are to be in the end.
      seed: Of the sampler, a tree-structured Parzen estimator (Bergstra et al., 2011).
      keep_all: Whether the models of all tries are kept; else those of the best so far.

    Returns:
      All tries, the best one first, then those that failed.

    Raises:
      UserError: If Optuna is missing, the study is one of another configuration or space, no trial
        has a validation part, or something is wrong that every try would meet.
      Interrupted: After SIGTERM or Ctrl-C; the same call goes on from there.
    """
    optuna = require_optuna()
    config_checks.check(config)
    if build.spec(config).build is None:
        raise UserError(
            f"system={config.system} has no epochs that validation parts could score; tune one of"
            " the networks"
        )
    study = _open(optuna, workdir, config, space)
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    while (trial := _next(optuna, study, space, count)) is not None:
        number, values = trial
        problem, per_seed = _train(space_file.apply(config, values), workdir / str(number))
        study.set_user_attr(str(number), {"problem": problem, "per_seed": per_seed})
        if problem:
            study.tell(number, state=optuna.trial.TrialState.FAIL)
            log.warning("note: try %d failed: %s", number, problem)
        else:
            study.tell(number, float(np.mean(per_seed)))
            log.info("try %d: validation UA %.1f", number, 100 * np.mean(per_seed))
        if not keep_all:
            _delete_models(workdir, _attempts(study, space)[1:])
    found = _attempts(study, space)
    if not keep_all:  # What a killed search has left.
        _delete_models(workdir, found[1:])
    return found


def _attempts(study: Any, space: Space) -> list[Attempt]:
    """Returns the tries that have ended, the best one first, then those that failed."""
    attributes = study.user_attrs
    found = [
        Attempt(
            number,
            {key: entry.value(trial.params[key]) for key, entry in space.items()},
            tuple(attributes[str(number)]["per_seed"]),
            attributes[str(number)]["problem"],
        )
        for number, trial in enumerate(study.get_trials(deepcopy=False))
        if trial.state.is_finished()
    ]
    return sorted(found, key=lambda one: (bool(one.problem), -one.ua, one.number))


def _delete_models(workdir: Path, attempts: Sequence[Attempt]) -> None:
    """Deletes the models of tries, but of those that `ser-jax train` has scored or is scoring."""
    for attempt in attempts:
        folder = workdir / str(attempt.number)
        if (folder / "models").is_dir() and not (folder / "results.json").is_file():
            with contextlib.suppress(UserError), run_directory.locked(folder):
                shutil.rmtree(folder / "models")


def _next(optuna: Any, study: Any, space: Space, count: int) -> tuple[int, dict[str, Any]] | None:
    """Returns number and values of the next try, first of one that was stopped; None: no more."""
    stopped = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    if stopped:
        number, kept = stopped[0].number, stopped[0].params
    elif len(study.get_trials(deepcopy=False)) < count:
        trial = study.ask()
        number, kept = (
            trial.number,
            {key: entry.suggest(trial, key) for key, entry in space.items()},
        )
    else:
        return None
    values = {key: entry.value(kept[key]) for key, entry in space.items()}
    log.info("try %d: %s", number, ", ".join(f"{key}={value}" for key, value in values.items()))
    return number, values


def _train(config: Config, folder: Path) -> tuple[str, list[float]]:
    """Trains one configuration, or goes on with it: why it failed, or its UA seed by seed."""
    try:
        config_checks.check(config)
    except UserError as error:  # Values that do not fit together; those of other tries may.
        return str(error), []
    diverged = run.train_only(config, folder)
    if diverged:
        return f"{counted(len(diverged), 'trial')} diverged ({', '.join(diverged[:5])})", []
    return "", validation_ua(folder)


def validation_ua(folder: Path) -> list[float]:
    """Returns the validation UA of a run, seed by seed, in [0, 1].

    It is the mean over folds of the mean over the last fifth of the epochs: the best epoch of a few
    utterances says more of luck than of a configuration.

    Raises:
      UserError: If no fold of the protocol has a validation part that scores epochs.
    """
    by_trial = defaultdict(list)
    for line in finished_run.read_history(folder / metrics_log.FILE)[0]:
        if line.get("validation_ua") is not None:
            by_trial[line["seed"], line["fold"]].append(line["validation_ua"])
    by_seed = defaultdict(list)
    for (seed, _), values in sorted(by_trial.items()):
        by_seed[seed].append(np.mean(values[-max(1, len(values) // LAST) :]))
    if not by_seed:
        raise UserError(
            f"{folder} has no validation scores: choose a protocol with validation parts"
        )
    return [float(np.mean(values)) for values in by_seed.values()]


def require_optuna() -> Any:
    """Returns the module; a UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "ser-jax tune needs Optuna, which is not installed: pip install 'ser_jax[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # This module logs every try itself.
    return optuna


def _open(optuna: Any, workdir: Path, config: Config, space: Space) -> Any:
    """Opens or makes the study, whose configuration and space never change."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = optuna.storages.journal.JournalFileBackend(str(workdir / STUDY))
        storage = optuna.storages.JournalStorage(file)
        study = optuna.create_study(
            storage=storage, study_name="ser_jax", direction="maximize", load_if_exists=True
        )
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from None
    requested = {"config": _comparable(config), "space": {k: repr(v) for k, v in space.items()}}
    for name, value in requested.items():
        before = study.user_attrs.get(name, value)
        differ = sorted(k for k in before.keys() | value.keys() if before.get(k) != value.get(k))
        if differ:
            raise UserError(
                f"{workdir} holds a search with another {name} ({', '.join(differ)}): choose"
                " another --workdir, or delete the folder"
            )
        study.set_user_attr(name, value)
    return study


def _comparable(config: Config) -> dict[str, Any]:
    """Returns the values by dotted keys that decide what is trained."""
    values = json.loads(config.to_json())
    flat = {"system": values.pop("system")}
    for section, found in values.items():
        flat |= {f"{section}.{name}": value for name, value in found.items()}
    return {key: value for key, value in flat.items() if key not in NEUTRAL_KEYS}
