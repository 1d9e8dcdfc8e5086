"""What the runs of a group are fed: statistics and class weights, the batches of an epoch, the validation parts."""

from typing import Any

import jax
import numpy as np

from ser_jax.arrays import plans
from ser_jax.arrays.dataset import Dataset
from ser_jax.arrays.standardise import Statistics
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.training import selection
from ser_jax.training.programs import Programs
from ser_jax.training.runs import CHOICE, Run, folds_of_phases
from ser_jax.training.step import RunConstants


class Feed:
    """Feeds the runs of one protocol.

    Attributes:
      folds: Per phase the folds that are trained in it, by name.
    """

    def __init__(
        self,
        protocol: Protocol,
        dataset: Dataset,
        programs: Programs,
        *,
        batch_size: int,
        class_weights: str,
        refit: str,
    ):
        """Counts the batches of an epoch.

        Args:
          protocol: The protocol.
          dataset: Its utterances.
          programs: Compiled programs of a group.
          batch_size: Rows B of a batch.
          class_weights: none | balanced.
          refit: none | train+validation.
        """
        self.protocol, self.dataset, self.programs = protocol, dataset, programs
        self.batch_size, self.class_weights = batch_size, class_weights
        self.folds = folds_of_phases(protocol, refit)
        self._steps = {
            phase: self._steps_for([fold.train for fold in folds.values()]) for phase, folds in self.folds.items()
        }
        self._validation_steps = self._steps_for([fold.validation for fold in self.folds[CHOICE].values()])
        self._statistics: dict[Fold, Statistics] = {}

    def statistics(self, fold: Fold) -> Statistics:
        """Returns the statistics of a fold's training part: one for all seeds, for training and the model file."""
        if fold not in self._statistics:
            self._statistics[fold] = self.dataset.statistics(fold.train)
        return self._statistics[fold]

    def constants(self, runs: list[Run]) -> RunConstants:
        """Returns the constants of runs of one phase; a group that is not full repeats its last run."""
        by_fold = {}
        for run in runs:
            if run.fold.name not in by_fold:
                train = run.fold.train
                counts = np.bincount(self.protocol.targets[train], minlength=len(self.protocol.classes))
                weights = np.ones(len(counts))
                if self.class_weights == "balanced":
                    weights = len(train) / (len(counts) * counts)
                statistics = self.dataset.device_statistics(self.statistics(run.fold))
                by_fold[run.fold.name] = RunConstants(statistics, weights.astype(np.float32))
        return self.programs.put(self.stack([by_fold[run.fold.name]._replace(key=self._key(run)) for run in runs]))

    def _key(self, run: Run) -> np.ndarray | None:
        if not self.programs.recipe.draws:
            return None
        return plans.generator("dropout", run.seed, run.fold.name).integers(2**32, size=2, dtype=np.uint32)

    def epoch(self, runs: list[Run], active: list[bool], epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the batches of an epoch of a group.

        Args:
          runs: The runs, all of one phase.
          active: Which of them still train; the others, and the repeated run of a group that is not full, get no row.
          epoch: Number of the epoch, from 1.

        Returns:
          Order [S], rows [S, R, B] and mask [S, R, B]; see `Programs.train`.
        """
        steps = self._steps[runs[0].phase]
        order = plans.shape_order(steps, protocol=self.protocol.sha256, epoch=epoch)
        idle = self.programs.size - len(runs)
        batches = []
        for run, trains in zip([*runs, *runs[-1:] * idle], [*active, *[False] * idle], strict=True):
            rows = self.dataset.rows(run.fold.train)
            batches.append(
                plans.training_batches(
                    rows if trains else [part[:0] for part in rows],
                    steps,
                    self.batch_size,
                    protocol=self.protocol.sha256,
                    seed=run.seed,
                    fold=run.fold.name,
                    epoch=epoch,
                )
            )
        rows, mask = plans.in_order(order, batches)
        return order, rows, mask

    def validation(self, runs: list[Run]) -> tuple[np.ndarray, np.ndarray, selection.Validation]:
        """Returns order [S] and rows [S, R, B] of the validation parts, and what these rows are."""
        order = np.repeat(np.arange(len(self._validation_steps)), self._validation_steps)
        parts = [self.dataset.rows(run.fold.validation) for run in runs]
        parts += [parts[-1]] * (self.programs.size - len(runs))
        steps = self._validation_steps
        rows, mask = plans.in_order(order, [plans.scoring_batches(part, self.batch_size, steps) for part in parts])
        targets = np.stack([self.dataset.targets[bucket][rows[step]] for step, bucket in enumerate(order)])
        filled = -(-len(order) // self.programs.score_chunk) * self.programs.score_chunk
        part = selection.Validation(*(_by_run(values, filled) for values in (targets, mask)))
        return order, rows, self.programs.put(part)

    def stack(self, trees: list[Any]) -> Any:
        """Stacks trees of the runs; a group that is not full repeats its last run."""
        trees = trees + [trees[-1]] * (self.programs.size - len(trees))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    def _steps_for(self, parts: list[np.ndarray]) -> np.ndarray:
        """Returns [buckets], how many batches of each shape hold any of the parts."""
        if not parts:
            return np.zeros(len(self.dataset.buckets), np.int64)
        return plans.steps_per_bucket([self.dataset.rows(part) for part in parts], self.batch_size)


def _by_run(values: np.ndarray, steps: int) -> np.ndarray:
    """Turns [S, R, B] into [R, steps · B]; zeros stand for the steps that are missing."""
    filled = np.pad(values, ((0, steps - len(values)), (0, 0), (0, 0)))
    return np.moveaxis(filled, 1, 0).reshape(values.shape[1], -1)
