"""A run: one fold trained with one seed. Its key, its folder, its place in a group."""

import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from ser_jax.errors import UserError
from ser_jax.protocols.protocol import Fold, Protocol


class Run(NamedTuple):
    """One training. Everything random in it follows from (protocol, fold, seed), never from its place in a group."""

    fold: Fold
    seed: int

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
      UserError: If a fold does not exist or no seed is asked for.
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
    return [Run(by_name[name], seed) for seed in range(first_seed, first_seed + seeds) for name in wanted]


def groups(runs: Sequence[Run], size: int) -> list[list[Run]]:
    """Cuts runs into groups that are trained at once."""
    return [list(runs[start : start + size]) for start in range(0, len(runs), size)]
