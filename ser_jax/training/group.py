"""The runs in training and what is known of them."""

import dataclasses
from typing import Any

from ser_jax.training import selection
from ser_jax.training.runs import Run
from ser_jax.training.step import TrainState


@dataclasses.dataclass
class Record:
    """What is known of a run so far: JSON-able."""

    best_epoch: int | None = None
    best_ua: float = -1.0
    best_wa: float = 0.0
    best_loss: float = float("inf")
    epochs: int = 0
    seconds: float = 0.0
    status: str = "training"

    @property
    def active(self) -> bool:
        """Whether the run still trains."""
        return self.status == "training"


@dataclasses.dataclass
class Group:
    """The runs in training and where they stand.

    Attributes:
      runs: The runs; there may be fewer than the programs take.
      records: What is known of each.
      constants: Their `RunConstants` on the devices.
      validation: Order and rows in which their validation parts are scored, and what these rows are.
      state: Their `TrainState` on the devices.
      best: Their best epochs on the devices.
      epoch: Number of the epoch in training, from 1.
      step: Steps of it that are done.
      begin: When the last epoch that was read ended (monotonic clock).
      unread: Finished epochs whose scores the host has not read yet.
    """

    runs: list[Run]
    records: list[Record]
    constants: Any
    validation: Any
    state: TrainState
    best: selection.Best
    epoch: int = 1
    step: int = 0
    begin: float = 0.0
    unread: list[tuple[int, selection.Scores]] = dataclasses.field(default_factory=list)

    def position(self) -> dict[str, Any]:
        """Returns what a checkpoint needs besides the arrays."""
        return {
            "runs": [run.name for run in self.runs],
            "epoch": self.epoch,
            "step": self.step,
            "records": [dataclasses.asdict(record) for record in self.records],
        }
