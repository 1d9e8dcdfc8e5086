"""Trials: one fold trained with one seed. Their phases, groups, records and the registry of a run.

A protocol with folds and seeds is a list of trials. Trials are trained in up to two phases: in the
first the validation part chooses the best epoch, in the second the number of epochs is fixed.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ser_jax.data.standardise import Statistics
from ser_jax.protocols.folds import NO_REFIT
from ser_jax.protocols.protocol import TRAIN, VALIDATION, Fold, Protocol, trial_name
from ser_jax.runtime.errors import UserError
from ser_jax.training import early_stopping, model_files
from ser_jax.training.model_files import DIVERGED, DONE
from ser_jax.training.step import MOST_BAD_STEPS, TrainState

# Phases: the validation part chooses the epoch; the number of epochs is fixed.
CHOOSE_EPOCH, FIXED_EPOCHS = 1, 2

log = logging.getLogger(__name__)


class Trial(NamedTuple):
    """One training. Its randomness follows from (protocol, fold, seed), never from its group."""

    fold: Fold  # the fold that it trains on
    seed: int  # its seed
    epochs: int | None = None  # how many it trains; None: its validation part chooses the best

    @property
    def phase(self) -> int:
        """Phase in which it is trained."""
        return CHOOSE_EPOCH if self.epochs is None else FIXED_EPOCHS

    @property
    def name(self) -> str:
        """Name of its folder, see `trial_name`."""
        return trial_name(self.fold.name, self.seed)


def list_trials(protocol: Protocol, *, seeds: int, first_seed: int, folds: str) -> list[Trial]:
    """Returns the trials of a protocol: all folds of the first seed, then of the next.

    `folds`: names separated by commas; empty: all.

    Raises:
      UserError: If a fold does not exist or lacks the one that it takes its epochs from, or if
        there is no seed.
    """
    if seeds < 1:
        raise UserError(f"protocol.seeds={seeds}; at least one seed is needed")
    by_name = {fold.name: fold for fold in protocol.folds}
    names = dict.fromkeys(name.strip() for name in folds.split(",") if name.strip())
    requested = list(names or by_name)
    unknown = [name for name in requested if name not in by_name]
    if unknown:
        raise UserError(
            f"protocol.folds: {', '.join(unknown)} is not a fold of {protocol.name}; it has"
            f" {', '.join(by_name)}"
        )
    for name in requested:
        source = by_name[name].epochs_from
        if source and source not in requested:
            raise UserError(
                f"protocol.folds={folds}: fold {name} takes its number of epochs from fold"
                f" {source}, which is missing; write"
                f" protocol.folds={','.join([source, *requested])}"
            )
    all_seeds = range(first_seed, first_seed + seeds)
    return [Trial(by_name[name], seed) for seed in all_seeds for name in requested]


def folds_of_phases(protocol: Protocol, refit: str) -> dict[int, dict[str, Fold]]:
    """Returns, for both phases, the folds that are trained in it, by name.

    With `refit` (train+validation) folds that chose their epoch are trained again, on both parts.
    """
    choosing = [fold for fold in protocol.folds if not fold.epochs_from]
    fixed = [fold for fold in protocol.folds if fold.epochs_from]
    if refit != NO_REFIT:
        fixed = [
            dataclasses.replace(fold, parts=fold.parts.replace(VALIDATION, TRAIN))
            for fold in choosing
        ] + fixed
    phases = {CHOOSE_EPOCH: choosing, FIXED_EPOCHS: fixed}
    return {phase: {fold.name: fold for fold in folds} for phase, folds in phases.items()}


def trial_groups(trials: Sequence[Trial], size: int) -> list[list[Trial]]:
    """Splits trials into groups of at most `size` that are trained at once."""
    return [list(trials[start : start + size]) for start in range(0, len(trials), size)]


@dataclasses.dataclass
class TrialRecord:
    """Progress of a trial: JSON-able."""

    best_epoch: int | None = None
    best_ua: float = -1.0
    best_wa: float = 0.0
    best_loss: float = float("inf")
    epochs: int = 0
    seconds: float = 0.0
    skipped: int = 0  # updates skipped because loss or gradient was not finite
    status: str = "training"
    # settings that its bits depend on: several where it was resumed with other ones
    trained_with: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether the trial still trains."""
        return self.status == "training"

    def trains_with(self, settings: dict[str, Any]) -> None:
        """Records the settings with which it trains from here on."""
        if settings not in self.trained_with:
            self.trained_with.append(settings)


@dataclasses.dataclass
class TrialGroup:
    """The trials in training, all of one phase, and their progress."""

    trials: list[Trial]  # the trials; there may be fewer than the executor takes
    records: list[TrialRecord]  # the record of each
    constants: Any  # their `TrialConstants` on the devices
    # in phase CHOOSE_EPOCH order and rows in which the validation parts are scored, and their
    # targets and masks; in phase FIXED_EPOCHS the numbers of epochs, [R] i32
    epoch_end_inputs: Any
    state: TrainState  # their `TrainState` on the devices
    best: early_stopping.Best | None  # their best epochs on the devices; None in phase FIXED_EPOCHS
    epoch: int = 1  # number of the current epoch, from 1
    step: int = 0  # steps of it that are done
    begin: float = 0.0  # when the last epoch whose scores were read ended (monotonic clock, s)
    # finished epochs whose scores the host has not read yet
    unread: list[tuple[int, early_stopping.Scores]] = dataclasses.field(default_factory=list)

    def arrays(self) -> dict[str, Any]:
        """Returns the arrays of a checkpoint, on the host: finite values only.

        A trial with other values is found diverged at the end of the epoch; until then it is saved
        as zeros, with counters that say so.
        """
        arrays = jax.device_get(
            {"state": self.state} | ({} if self.best is None else {"best": self.best})
        )
        leaves = jax.tree.leaves(arrays)
        finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in leaves]
        lost = ~np.all(finite, axis=0)  # [R]
        if not lost.any():
            return arrays
        counters = arrays["state"].counters

        def clear(leaf: np.ndarray) -> np.ndarray:
            leaf = leaf.copy()
            leaf[lost] = 0
            return leaf

        arrays = jax.tree.map(clear, arrays)
        bad_steps = np.where(lost, np.int32(MOST_BAD_STEPS), counters.bad_steps)
        cleared = arrays["state"].counters._replace(active=counters.active, bad_steps=bad_steps)
        return arrays | {"state": arrays["state"]._replace(counters=cleared)}

    def position(self) -> dict[str, Any]:
        """Returns what a checkpoint needs besides the arrays."""
        return {
            "runs": [trial.name for trial in self.trials],
            "given_epochs": [trial.epochs for trial in self.trials],
            "epoch": self.epoch,
            "step": self.step,
            "records": [dataclasses.asdict(record) for record in self.records],
        }


def describe_choice(trial: Trial, record: TrialRecord, temperature: float | None) -> dict[str, Any]:
    """Describes a trial of phase CHOOSE_EPOCH for `choice.json` or, without refit, `model.json`."""
    return {
        **_describe(trial, record, record.best_epoch),
        "validation": {"ua": record.best_ua, "wa": record.best_wa, "loss": record.best_loss},
        "temperature": temperature,
        "seconds": round(record.seconds, 3),
    }


def _describe_fixed(trial: Trial, record: TrialRecord, choice: dict[str, Any]) -> dict[str, Any]:
    """Describes a trial of phase FIXED_EPOCHS; `choice` describes the trial that set its epochs.

    If that is the same fold in the first phase, its temperature and validation scores are kept.
    """
    again = choice["fold"] == trial.fold.name
    return {
        **_describe(trial, record, trial.epochs, choice.get("trained_with", []) if again else []),
        "epochs_from": choice["fold"],
        "first_pass": {name: choice[name] for name in ("epochs", "seconds")} if again else None,
        "validation": choice["validation"] if again else None,
        "temperature": choice["temperature"] if again else None,
        "temperature_from": "first_pass" if again else None,
        "seconds": round(record.seconds + (choice["seconds"] if again else 0), 3),
    }


def _describe(
    trial: Trial, record: TrialRecord, best_epoch: int | None, before: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    return {
        "fold": trial.fold.name,
        "seed": trial.seed,
        "status": DIVERGED if record.status == DIVERGED else DONE,
        "best_epoch": best_epoch,
        "epochs": record.epochs,
        "skipped": record.skipped,
        "trained_with": [*before, *(one for one in record.trained_with if one not in before)],
    }


@dataclasses.dataclass(frozen=True)
class TrialRegistry:
    """Which trials of a run directory are finished, which come next, and their files.

    Its methods take trials as `list_trials` returns them, whatever their phase.
    """

    workdir: Path  # the run directory
    folds: Mapping[int, Mapping[str, Fold]]  # see `folds_of_phases`
    description: Mapping[str, Any]  # content that all `model.json` share
    statistics: Callable[[Fold], Statistics]  # fold → statistics of its training part

    def check(self, trials: Sequence[Trial]) -> None:
        """Checks the files of the finished ones, before the others are trained for hours.

        Raises:
          UserError: If a file is damaged.
        """
        for trial in trials:
            model_files.check(self._folder(trial))

    def finished(self, trial: Trial) -> bool:
        """Returns whether the trial has its model file."""
        return model_files.read_description(self._folder(trial)) is not None

    def phases(self, trial: Trial) -> list[int]:
        """Returns the phases in which the trial is trained."""
        return [phase for phase, folds in self.folds.items() if trial.fold.name in folds]

    def to_choose_epoch(self, trials: Sequence[Trial]) -> list[Trial]:
        """Returns those to be trained in phase CHOOSE_EPOCH."""
        first = [trial for trial in trials if CHOOSE_EPOCH in self.phases(trial)]
        return [trial for trial in first if self._choice(trial) is None]

    def to_train_fixed(self, trials: Sequence[Trial]) -> list[Trial]:
        """Returns those that can be trained in phase FIXED_EPOCHS, with their numbers of epochs.

        A trial whose number comes from a fold that has diverged is recorded as diverged.
        """
        ready = []
        for trial in trials:
            choice = self._choice(trial) if FIXED_EPOCHS in self.phases(trial) else None
            if choice is None or self.finished(trial):
                continue
            fold = self.folds[FIXED_EPOCHS][trial.fold.name]
            trial = Trial(fold, trial.seed, choice["best_epoch"])
            if choice["status"] != DIVERGED:
                ready.append(trial)
                continue
            log.error(
                "%s is not trained: fold %s, from which it takes its epochs, diverged",
                *(trial.name, choice["fold"]),
            )
            record = TrialRecord(status=DIVERGED)
            self._write_model(trial, _describe_fixed(trial, record, choice), None)
        return ready

    def finish(
        self, trial: Trial, record: TrialRecord, params: Any, temperature: float | None
    ) -> None:
        """Writes the model of a trial or, if phase FIXED_EPOCHS follows, its choice.

        `params` are NumPy arrays, `temperature` the divisor of its logits, fitted on its validation
        part; None: diverged or without one.
        """
        if trial.phase == FIXED_EPOCHS:
            choice = self._choice(trial)
            assert choice is not None
            self._write_model(trial, _describe_fixed(trial, record, choice), params)
            return
        choice = describe_choice(trial, record, temperature)
        if FIXED_EPOCHS in self.phases(trial) and choice["status"] != DIVERGED:
            model_files.write_choice(self._folder(trial), choice)
        else:
            self._write_model(trial, choice, params)

    def _folder(self, trial: Trial) -> Path:
        return self.workdir / "models" / trial.name

    def _choice(self, trial: Trial) -> dict[str, Any] | None:
        """Returns the choice of the trial, or of the one that it takes its epochs from, if any."""
        source = self.folds[CHOOSE_EPOCH][trial.fold.epochs_from or trial.fold.name]
        return model_files.read_choice(self._folder(Trial(source, trial.seed)))

    def _write_model(self, trial: Trial, description: dict[str, Any], params: Any) -> None:
        failed = description["status"] == DIVERGED
        model_files.write_model(
            self._folder(trial),
            {**self.description, **description},
            None if failed else params,
            None if failed else self.statistics(trial.fold),
        )
