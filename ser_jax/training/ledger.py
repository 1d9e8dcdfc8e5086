"""What is finished in a run directory, what is to be trained next, and what is written of a run that ends."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax.arrays.standardise import Statistics
from ser_jax.protocols.protocol import Fold
from ser_jax.training import model_files, outcome
from ser_jax.training.group import Record
from ser_jax.training.runs import CHOICE, GIVEN, Run

log = logging.getLogger(__name__)


class Ledger:
    """The runs of one run directory. Runs are asked for as `list_runs` names them, whatever their phase."""

    def __init__(
        self,
        workdir: Path,
        folds: Mapping[int, Mapping[str, Fold]],
        description: Mapping[str, Any],
        statistics: Callable[[Fold], Statistics],
    ):
        """Takes what model files are made of.

        Args:
          workdir: The run directory.
          folds: Per phase the folds that are trained in it, by name.
          description: What every `model.json` repeats.
          statistics: Fold → statistics of its training part.
        """
        self._workdir, self._folds, self._description, self._statistics = workdir, folds, description, statistics

    def check(self, runs: Sequence[Run]) -> None:
        """Checks the files of those that are finished, before the others are trained for hours.

        Raises:
          UserError: If one is damaged.
        """
        for run in runs:
            model_files.check(self._folder(run))

    def finished(self, run: Run) -> bool:
        """Returns whether the run has its model file."""
        return model_files.read_description(self._folder(run)) is not None

    def phases(self, run: Run) -> list[int]:
        """Returns the phases in which the run is trained."""
        return [phase for phase, folds in self._folds.items() if run.fold.name in folds]

    def choosing(self, runs: Sequence[Run]) -> list[Run]:
        """Returns those that are to be trained in the first phase."""
        return [run for run in runs if CHOICE in self.phases(run) and self._choice(run) is None]

    def given(self, runs: Sequence[Run]) -> list[Run]:
        """Returns those that can be trained in the second phase, with the number of epochs that the first has found.

        A run whose number comes from a fold that has diverged is written off.
        """
        found = []
        for run in runs:
            choice = self._choice(run) if GIVEN in self.phases(run) else None
            if choice is None or self.finished(run):
                continue
            run = Run(self._folds[GIVEN][run.fold.name], run.seed, choice["best_epoch"])
            if choice["status"] != outcome.DIVERGED:
                found.append(run)
                continue
            log.error("%s is not trained: fold %s, from which it takes its epochs, diverged", run.name, choice["fold"])
            self._write_model(run, outcome.describe_given(run, Record(status=outcome.DIVERGED), choice), None)
        return found

    def end(self, run: Run, record: Record, params: Any, temperature: float | None) -> None:
        """Writes the model of a run or, if it is trained again, what it has chosen.

        Args:
          run: The run, as it was trained.
          record: How it went.
          params: Its parameters as NumPy arrays.
          temperature: Of its validation part, if it has one.
        """
        if run.phase == GIVEN:
            choice = self._choice(run)
            assert choice is not None
            self._write_model(run, outcome.describe_given(run, record, choice), params)
            return
        choice = outcome.describe_choice(run, record, temperature)
        if GIVEN in self.phases(run) and choice["status"] != outcome.DIVERGED:
            model_files.write_choice(self._folder(run), choice)
        else:
            self._write_model(run, choice, params)

    def _folder(self, run: Run) -> Path:
        return self._workdir / "models" / run.name

    def _choice(self, run: Run) -> dict[str, Any] | None:
        """Returns what the run, or the one that it takes its epochs from, has chosen; None if it has not yet."""
        source = self._folds[CHOICE][run.fold.epochs_from or run.fold.name]
        return model_files.read_choice(self._folder(Run(source, run.seed)))

    def _write_model(self, run: Run, description: dict[str, Any], params: Any) -> None:
        failed = description["status"] == outcome.DIVERGED
        model_files.write_model(
            self._folder(run),
            {**self._description, **description},
            None if failed else params,
            None if failed else self._statistics(run.fold),
        )
