"""The linear machines of all runs of a protocol: fitted in processes, kept as model files, scored in NumPy.

Processes, not threads: LIBLINEAR leaves Python's lock, but the fits of all threads would draw from its one random
generator, so that none could be repeated.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ser_jax import atomic
from ser_jax.baselines import svm
from ser_jax.cores import available_cores
from ser_jax.errors import UserError
from ser_jax.features import workers
from ser_jax.progress import progress
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import model_files
from ser_jax.training.interrupt import Interrupted, Watch
from ser_jax.training.runs import Run

log = logging.getLogger(__name__)


class SVM:
    """The linear machines of one protocol; the attributes and `scores` are those of `systems.System`."""

    probabilities = "softmax of decision values, uncalibrated"
    sections: tuple[str, ...] = ("features", "svm", "training")
    compile_seconds = 0.0

    def __init__(self, protocol: Protocol, hsf: np.ndarray, settings: svm.Settings, cores: int):
        """Prepares fitting and scoring.

        Args:
          protocol: The protocol.
          hsf: [N, D] f32, ComParE functionals of its utterances.
          settings: How to fit.
          cores: Processes that fit; 0 for one per available core.
        """
        self.protocol = protocol
        self.hsf = hsf
        self.settings = settings
        self.cores = cores or available_cores()
        self.devices = f"{self.cores} x cpu"
        self.parameters = len(protocol.classes) * (hsf.shape[1] + 1)

    def train(self, runs: list[Run], workdir: Path, description: dict[str, Any], folder: Path | None = None) -> None:
        """Fits every run that has no model file yet; the models do not depend on how many processes do it.

        Raises:
          Interrupted: After SIGTERM or Ctrl-C; finished runs stay, those under way are given up after the present fit.
          UserError: If scikit-learn is missing, a process dies, or a fold takes C from one that is not there.
        """
        models = workdir / "models"
        pending = [run for run in runs if model_files.read_description(models / run.name) is None]
        if not pending:  # The process before may have been killed between the last model and the list of all.
            _write_metrics(folder or workdir, models, runs, self.settings.iterations)
            return
        self._check_sources(pending, runs, models)
        pending.sort(key=lambda run: (run.fold.name, run.seed))  # The seeds of a fold share its training part.
        with (
            tempfile.TemporaryDirectory(prefix="ser_jax-") as scratch,
            _Recall(Path(scratch) / svm.STOP) as recall,
            progress("fitting", len(runs), "runs", len(runs) - len(pending)) as advance,
        ):
            _save(Path(scratch) / svm.FUNCTIONALS, self.hsf)
            try:
                for takes_c in (False, True):  # A fold that takes C from another one comes after it.
                    part = [run for run in pending if bool(run.fold.epochs_from) == takes_c]
                    jobs = [self._job(run, Path(scratch), models) for run in part]
                    for run, fitted, seconds in _fit(jobs, self.cores, recall):
                        _write_model(models / run.name, run, fitted, description, seconds)
                        advance(1, f"{run.name}: C = {fitted.c:g}")
            finally:
                _write_metrics(folder or workdir, models, runs, self.settings.iterations)

    def scores(self, models: Sequence[Path], utterances: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns decision values, in NumPy."""
        values = []
        for folder, rows in zip(models, utterances, strict=True):
            model = model_files.read_model(folder)
            values.append(svm.decision_values(self.hsf[rows], **model.params, statistics=model.statistics))
        return values

    def _source(self, run: Run) -> Run | None:
        """Returns the run whose C this one takes, None if it chooses its own."""
        found = [fold for fold in self.protocol.folds if fold.name == run.fold.epochs_from]
        return Run(found[0], run.seed) if found else None

    def _check_sources(self, pending: list[Run], runs: list[Run], models: Path) -> None:
        for run in pending:
            source = self._source(run)
            if source and source not in runs and model_files.read_description(models / source.name) is None:
                raise UserError(
                    f"fold {run.fold.name} takes C from fold {source.fold.name}, which is not fitted: "
                    f"add it to protocol.folds, in another --workdir"
                )

    def _job(self, run: Run, folder: Path, models: Path) -> svm.Job:
        source = self._source(run)
        chosen = model_files.read_description(models / source.name) if source else None
        settings = dataclasses.replace(self.settings, c=(chosen["c"],)) if chosen else self.settings
        return svm.Job(run, folder, self.protocol.targets, len(self.protocol.classes), settings)


class _Recall(Watch):
    """A watch that also calls the fitting processes back; they have nothing to save."""

    saves = False

    def __init__(self, file: Path):
        """Takes the file that they look for."""
        self._file = file

    def abandon(self) -> None:
        shutil.rmtree(self._file.parent, ignore_errors=True)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._file.touch()
        super()._note(number, frame)


def _fit(jobs: Sequence[svm.Job], cores: int, recall: Watch) -> Iterator[tuple[Run, svm.Fitted, float]]:
    """Yields runs as they are fitted, each with its share of the wall time in s.

    Raises:
      Interrupted: Once a signal has been received.
      UserError: If a process dies.
    """
    if not jobs:
        return
    begin = time.monotonic()
    try:
        with contextlib.closing(workers.run(svm.fit, jobs, min(cores, len(jobs)), processes=True)) as results:
            for job, fitted in results:
                if fitted is not None:
                    end = time.monotonic()
                    yield job.run, fitted, end - begin
                    begin = end
                if recall.received is not None:
                    raise Interrupted(recall.received)
    except workers.WorkerDied as death:
        names = ", ".join(job.run.name for job in death.jobs)
        raise UserError(
            f"a process that fitted one of {names} has died, most likely for want of memory: "
            f"run the command again with fewer of them, svm.workers=1"
        ) from None


def _save(path: Path, values: np.ndarray) -> None:
    try:
        np.save(path, values, allow_pickle=False)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): fitting needs {values.nbytes / 1e6:.0f} MB there; "
            f"free them or name another folder in TMPDIR"
        ) from None


def _write_model(folder: Path, run: Run, fitted: svm.Fitted, description: dict[str, Any], seconds: float) -> None:
    description = {
        **description,
        "fold": run.fold.name,
        "seed": run.seed,
        "status": "done",
        "best_epoch": None,
        "c": fitted.c,
        "tried": fitted.tried._asdict(),
        "temperature": None,
        "seconds": round(seconds, 3),
    }
    params = {"coefficients": fitted.coefficients, "intercept": fitted.intercept}
    model_files.write_model(folder, description, params, fitted.statistics)


def _write_metrics(folder: Path, models: Path, runs: Sequence[Run], iterations: int) -> None:
    """Writes a line for every finished run, and says how many fits have not converged."""
    found = [model_files.read_description(models / run.name) for run in runs]
    fitted = [description for description in found if description is not None]
    lines = [{name: model[name] for name in ("fold", "seed", "c", "tried", "seconds")} for model in fitted]
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    passes = [count for model in fitted for count in model["tried"]["passes"]]
    ended = sum(count >= iterations for count in passes)
    if ended:
        log.warning(
            "note: %d of %d fits ended unconverged after svm.iterations=%d passes; a higher limit or a smaller largest "
            "svm.c would mend that",
            *(ended, len(passes), iterations),
        )
