"""The SVM as a system: the trials of a protocol, fitted in processes, kept as model files, scored.

Processes, not threads: LIBLINEAR releases Python's lock, but the fits of all threads would draw
from its one random generator, so that none could be repeated.
"""

import contextlib
import dataclasses
import functools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.baselines import svm
from ser_jax.baselines.svm import FUNCTIONALS, Fitted, Job, Settings, fit
from ser_jax.data import standardise
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime import files, strict_json, workers
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores, processor_name
from ser_jax.runtime.progress import counted, progress
from ser_jax.runtime.signals import removing
from ser_jax.training import model_files
from ser_jax.training.trials import Trial

# Functionals times training utterances, of all fits, each with six values of C: 2 s, as long as a
# process takes to import scikit-learn.
_VALUES_PER_PROCESS = 2_000_000

log = logging.getLogger(__name__)


class SVM:
    """The SVMs of one protocol; its attributes and `scores` are those of `systems.System`."""

    probabilities = "softmax of decision values"
    sections: tuple[str, ...] = ("features", "svm", "training")
    dataset = None
    compile_seconds = 0.0

    def __init__(
        self,
        protocol: Protocol,
        hsf: np.ndarray,
        settings: Settings,
        cores: int,
        calibrate: Callable[[np.ndarray, np.ndarray, float], float],
        speakers: np.ndarray | None = None,
    ):
        """Prepares fitting and scoring.

        Args:
          protocol: The protocol.
          hsf: [N, D] f32, the functionals of its utterances.
          settings: How to fit.
          cores: The most processes that fit; 0 for one per available core.
          calibrate: Decision values [n, K] f64 of a validation part, class numbers [n] and the size
            of such values → temperature.
          speakers: [N] the number of every utterance's speaker, from 1 on, where functionals are
            normalised by speaker; 0: by the training part. None: all of them.
        """
        self.protocol = protocol
        self.hsf, self.speakers = hsf, speakers
        self._of_speakers = None
        if speakers is not None:
            one = functools.partial(svm.statistics_of, hsf)
            self._of_speakers = standardise.of_speakers(one, speakers)
        self.settings = settings
        self.calibrate = calibrate
        self.cores = cores or available_cores()
        self.devices = f"{self.cores} x cpu"
        self.trained_with = {"processor": processor_name()}
        self.parameters = len(protocol.classes) * (hsf.shape[1] + 1)

    def train(
        self,
        trials: list[Trial],
        workdir: Path,
        description: dict[str, Any],
        folder: Path | None = None,
    ) -> None:
        """Fits every trial that has no model file yet; the models do not depend on `cores`.

        Args:
          trials: The trials.
          workdir: Run directory.
          description: Entries of every model file.
          folder: Where `metrics.jsonl` is written; None: `workdir`.

        Raises:
          Interrupted: After SIGTERM or Ctrl-C; fitted trials stay.
          UserError: If scikit-learn is missing, a process dies, or a fold takes C from one that is
            not fitted.
        """
        models = workdir / "models"
        description = {**description, "trained_with": [self.trained_with]}
        pending = [trial for trial in trials if _described(models, trial) is None]
        self._check_sources(pending, trials, models)
        pending.sort(key=lambda trial: (trial.fold.name, trial.seed))  # seeds share training parts
        try:
            if pending:
                self._fit_pending(pending, len(trials), models, description)
        finally:  # also without pending trials: the last process may have been killed before this
            _write_metrics(folder or workdir, models, trials, self.settings.iterations)

    def _fit_pending(
        self, pending: list[Trial], total: int, models: Path, description: dict[str, Any]
    ) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="ser_jax-") as scratch,
            removing(Path(scratch)),
            progress("fitting", total, "runs", total - len(pending)) as advance,
        ):
            _save(Path(scratch) / FUNCTIONALS, self.hsf)
            for takes_c in (False, True):  # a fold that takes C from another one comes after it
                part = [trial for trial in pending if bool(trial.fold.epochs_from) == takes_c]
                jobs = {trial: self._job(trial, Path(scratch), models) for trial in part}
                values = self.hsf.shape[1] * sum(len(trial.fold.train) for trial in part)
                processes = workers.worth_starting(
                    self.cores, len(jobs), values, _VALUES_PER_PROCESS
                )
                for trial, fitted, seconds in _fit(jobs, processes):
                    temperature = self._temperature(trial, fitted, models)
                    described = {**description, "temperature": temperature}
                    _write_model(models / trial.name, trial, fitted, described, seconds)
                    advance(1, f"{trial.name}: C = {fitted.c:g}")

    def scores(self, models: Sequence[Path], utterances: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns decision values [n, K] f64 of every model for its utterances."""
        values = []
        for folder, rows in zip(models, utterances, strict=True):
            model = model_files.read_model(folder)
            found = self.functionals(model, rows)
            values.append(found @ model.params["coefficients"].T + model.params["intercept"])
        return values

    def functionals(self, model: model_files.Model, rows: np.ndarray) -> np.ndarray:
        """Returns the functionals [n, D] f64 of utterances as a model reads them."""
        statistics, speaker = model.statistics, None
        if self._of_speakers is not None and self.speakers is not None:
            statistics = standardise.with_speakers(statistics, self._of_speakers)
            speaker = self.speakers[rows]
        return svm.standardised(self.hsf[rows], statistics, speaker)

    def _source(self, trial: Trial) -> Trial | None:
        """Returns the trial whose C this one takes, None if it chooses its own."""
        found = [fold for fold in self.protocol.folds if fold.name == trial.fold.epochs_from]
        return Trial(found[0], trial.seed) if found else None

    def _temperature(self, trial: Trial, fitted: Fitted, models: Path) -> float | None:
        """Returns the temperature for a validation part; without one that of the source of C."""
        part, source = trial.fold.validation, self._source(trial)
        if len(part):
            size = float(fitted.validation.std()) or 1.0  # grows with C: there is no usual one
            return self.calibrate(fitted.validation, self.protocol.targets[part], size)
        return _described(models, source)["temperature"] if source else None

    def _check_sources(self, pending: list[Trial], trials: list[Trial], models: Path) -> None:
        for trial in pending:
            source = self._source(trial)
            if source and source not in trials and _described(models, source) is None:
                raise UserError(
                    f"fold {trial.fold.name} takes C from fold {source.fold.name}, which is not"
                    " fitted: add it to protocol.folds, in another --workdir"
                )

    def _job(self, trial: Trial, folder: Path, models: Path) -> Job:
        source = self._source(trial)
        chosen = _described(models, source) if source else None
        settings = dataclasses.replace(self.settings, c=(chosen["c"],)) if chosen else self.settings
        classes = len(self.protocol.classes)
        speakers = () if self.speakers is None else tuple(self.speakers.tolist())
        targets = self.protocol.targets
        return Job(trial.fold, trial.seed, folder, targets, classes, settings, speakers)


def _described(models: Path, trial: Trial) -> Any:
    """Returns the description in the model file of a trial, None if it is not fitted."""
    return model_files.read_description(models / trial.name)


def _fit(jobs: Mapping[Trial, Job], processes: int) -> Iterator[tuple[Trial, Fitted, float]]:
    """Yields trials as they are fitted, each with the time in s since the one before.

    Raises:
      Interrupted: After SIGTERM or Ctrl-C.
      UserError: If a process dies.
    """
    if not jobs:
        return
    begin = time.monotonic()
    trials = {(trial.fold.name, trial.seed): trial for trial in jobs}
    try:
        results = workers.run(fit, list(jobs.values()), processes, processes=True)
        with contextlib.closing(results):
            for job, fitted in results:
                end = time.monotonic()
                yield trials[job.fold.name, job.seed], fitted, end - begin
                begin = end
    except workers.WorkerDied as death:
        names = ", ".join(trials[job.fold.name, job.seed].name for job in death.jobs)
        raise UserError(
            f"a process that fitted one of {names} has died, probably for lack of memory: "
            "run the command again with fewer processes, svm.workers=1"
        ) from None


def _save(path: Path, values: np.ndarray) -> None:
    try:
        np.save(path, values, allow_pickle=False)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): fitting needs {values.nbytes / 1e6:.0f}"
            " MB there; free them or name another folder in TMPDIR"
        ) from None


def _write_model(
    folder: Path, trial: Trial, fitted: Fitted, description: dict[str, Any], seconds: float
) -> None:
    description = {
        **description,
        "fold": trial.fold.name,
        "seed": trial.seed,
        "status": "done",
        "best_epoch": None,
        "c": fitted.c,
        "tried": fitted.tried._asdict(),
        "seconds": round(seconds, 3),
    }
    params = {"coefficients": fitted.coefficients, "intercept": fitted.intercept}
    model_files.write_model(folder, description, params, fitted.statistics)


def _write_metrics(folder: Path, models: Path, trials: Sequence[Trial], iterations: int) -> None:
    """Writes a line for every fitted trial, and warns of fits that have not converged."""
    fitted = [model for trial in trials if (model := _described(models, trial)) is not None]
    names = ("fold", "seed", "c", "tried", "seconds")
    lines = [{name: model[name] for name in names} for model in fitted]
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "metrics.jsonl", "".join(map(strict_json.line, lines)))
    passes = [count for model in fitted for count in model["tried"]["passes"]]
    ended = sum(count >= iterations for count in passes)
    if ended:
        log.warning(
            "note: %d of %s ended unconverged after svm.iterations=%d; a higher limit or a smaller"
            " largest svm.c would mend that",
            *(ended, counted(len(passes), "fit"), iterations),
        )
