"""The runs in training and what is known of them."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ser_jax.training import selection
from ser_jax.training.runs import Run
from ser_jax.training.step import MOST_BAD_STEPS, TrainState


@dataclasses.dataclass
class Record:
    """What is known of a run so far: JSON-able."""

    best_epoch: int | None = None
    best_ua: float = -1.0
    best_wa: float = 0.0
    best_loss: float = float("inf")
    epochs: int = 0
    seconds: float = 0.0
    skipped: int = 0  # steps, for what they gave was not finite
    status: str = "training"

    @property
    def active(self) -> bool:
        """Whether the run still trains."""
        return self.status == "training"


@dataclasses.dataclass
class Group:
    """The runs in training, all of one phase, and where they stand.

    Attributes:
      runs: The runs; there may be fewer than the programs take.
      records: What is known of each.
      constants: Their `RunConstants` on the devices.
      judged_by: What ends their epochs. Where validation parts choose: order and rows in which these are scored, and
        what the rows are. Where numbers of epochs are given: these, [R] i32 on the devices.
      state: Their `TrainState` on the devices.
      best: Their best epochs on the devices; None where numbers of epochs are given.
      epoch: Number of the epoch in training, from 1.
      step: Steps of it that are done.
      begin: When the last epoch that was read ended (monotonic clock).
      unread: Finished epochs whose scores the host has not read yet.
    """

    runs: list[Run]
    records: list[Record]
    constants: Any
    judged_by: Any
    state: TrainState
    best: selection.Best | None
    epoch: int = 1
    step: int = 0
    begin: float = 0.0
    unread: list[tuple[int, selection.Scores]] = dataclasses.field(default_factory=list)

    def arrays(self) -> dict[str, Any]:
        """Returns the arrays of a checkpoint, on the host.

        A run whose parameters or moments are no longer finite is lost: `selection` says so when the epoch ends. Until
        then it is saved as zeros that count as diverged, so that a checkpoint never holds a value that is not finite.
        """
        arrays = jax.device_get({"state": self.state} | ({} if self.best is None else {"best": self.best}))
        lost = ~np.all([_finite_runs(leaf) for leaf in jax.tree.leaves(arrays)], axis=0)
        if not lost.any():
            return arrays
        counters = arrays["state"].counters
        arrays = jax.tree.map(lambda leaf: _cleared(leaf, lost), arrays)
        bad_steps = np.where(lost, np.int32(MOST_BAD_STEPS), counters.bad_steps)
        cleared = arrays["state"].counters._replace(active=counters.active, bad_steps=bad_steps)
        return arrays | {"state": arrays["state"]._replace(counters=cleared)}

    def position(self) -> dict[str, Any]:
        """Returns what a checkpoint needs besides the arrays."""
        return {
            "runs": [run.name for run in self.runs],
            "given_epochs": [run.epochs for run in self.runs],
            "epoch": self.epoch,
            "step": self.step,
            "records": [dataclasses.asdict(record) for record in self.records],
        }


def _finite_runs(leaf: np.ndarray) -> np.ndarray:
    """Returns [R] bool, whether all values of a run are finite."""
    return np.logical_and.reduce(np.isfinite(leaf).reshape(len(leaf), -1), axis=1)


def _cleared(leaf: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Returns the leaf with zeros for some of the runs, [R] bool."""
    leaf = leaf.copy()
    leaf[runs] = 0
    return leaf
