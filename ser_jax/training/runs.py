"""A run: one fold trained with one seed. Its key, its phase, its folder, its place in a group."""

import dataclasses
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from ser_jax.errors import UserError
from ser_jax.protocols.folds import NO_REFIT
from ser_jax.protocols.protocol import TRAIN, VALIDATION, Fold, Protocol

CHOICE, GIVEN = 1, 2  # phases: the validation part chooses the epoch; a given number of epochs


class Run(NamedTuple):
    """One training. Everything random in it follows from (protocol, fold, seed), never from its place in a group.

    Attributes:
      fold: What it trains on.
      seed: Its seed.
      epochs: How many epochs it trains; None: its validation part chooses the best of them.
    """

    fold: Fold
    seed: int
    epochs: int | None = None

    @property
    def phase(self) -> int:
        """Phase in which it is trained."""
        return CHOICE if self.epochs is None else GIVEN

    @property
    def name(self) -> str:
        """Folder name: fold and seed, with what a file system dislikes percent-encoded."""
        return f"{urllib.parse.quote(self.fold.name, safe='')}-{self.seed}"


def list_runs(protocol: Protocol, *, seeds: int, first_seed: int, folds: str) -> list[Run]:
    """Returns the runs of a protocol: all folds of the first seed, then of the next.

    Args:
      protocol: The protocol.
      seeds: How many seeds.
      first_seed: The first one.
      folds: Names of the wanted folds, separated by commas; empty: all.

    Raises:
      UserError: If a fold does not exist or lacks the one that it takes its epochs from, or no seed is asked for.
    """
    if seeds < 1:
        raise UserError(f"protocol.seeds={seeds}; at least one seed is needed")
    by_name = {fold.name: fold for fold in protocol.folds}
    wanted = list(dict.fromkeys(name.strip() for name in folds.split(",") if name.strip())) or list(by_name)
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise UserError(
            f"protocol.folds: {', '.join(unknown)} is not a fold of {protocol.name}; it has {', '.join(by_name)}"
        )
    for name in wanted:
        source = by_name[name].epochs_from
        if source and source not in wanted:
            raise UserError(
                f"protocol.folds={folds}: fold {name} takes its number of epochs from fold {source}, which is not "
                f"there; write protocol.folds={','.join([source, *wanted])}"
            )
    return [Run(by_name[name], seed) for seed in range(first_seed, first_seed + seeds) for name in wanted]


def folds_of_phases(protocol: Protocol, refit: str) -> dict[int, dict[str, Fold]]:
    """Returns, for both phases, the folds that are trained in it, by name.

    Args:
      protocol: The protocol.
      refit: none | train+validation: whether folds that have chosen their epoch are trained again, on both parts.
    """
    choosing = [fold for fold in protocol.folds if not fold.epochs_from]
    again = [dataclasses.replace(fold, parts=fold.parts.replace(VALIDATION, TRAIN)) for fold in choosing]
    given = [fold for fold in protocol.folds if fold.epochs_from]
    phases = {CHOICE: choosing, GIVEN: (again if refit != NO_REFIT else []) + given}
    return {phase: {fold.name: fold for fold in folds} for phase, folds in phases.items()}


def groups(runs: Sequence[Run], size: int) -> list[list[Run]]:
    """Cuts runs into groups that are trained at once."""
    return [list(runs[start : start + size]) for start in range(0, len(runs), size)]
