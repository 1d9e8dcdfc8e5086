"""The kinds of systems behind one interface: train these trials, score with these models."""

import contextlib
import dataclasses
import functools
import logging
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.baselines import svm, svm_system
from ser_jax.config import Config
from ser_jax.data.dataset import Dataset
from ser_jax.evaluation import calibration
from ser_jax.experiment import setup
from ser_jax.features.extraction import Features
from ser_jax.models import build
from ser_jax.protocols import folds
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime.progress import counted
from ser_jax.training import model_files, scoring, tracking
from ser_jax.training.execution import plan
from ser_jax.training.trainer import LoopSettings, Trainer
from ser_jax.training.trials import Trial

log = logging.getLogger(__name__)


class System(typing.Protocol):
    """What a kind of system provides once protocol and features are known."""

    parameters: int  # trained parameters of one model
    probabilities: str  # what the probabilities in `predictions.csv` are
    sections: tuple[str, ...]  # sections of the configuration that its models depend on
    devices: str  # what computes, for `versions.json`
    trained_with: dict[str, Any]  # what fixes the bits of its models, see `ExecutionPlan.record`
    # wall time in s until programs could be used; on a CPU most are compiled during the first epoch
    compile_seconds: float

    @property
    def dataset(self) -> Dataset | None:
        """Padded arrays of a network; None without one."""
        ...

    def train(
        self,
        trials: list[Trial],
        workdir: Path,
        description: dict[str, Any],
        folder: Path | None = None,
    ) -> None:
        """Trains every trial that has no model file yet.

        Args:
          trials: The trials requested.
          workdir: The run directory.
          description: What every `model.json` repeats: system, classes, configuration.
          folder: Where it keeps checkpoints and lines of metrics, if not in the run directory.

        Raises:
          Interrupted: After SIGTERM or Ctrl-C, when the same command can go on from what is on
            disk.
        """
        ...

    def scores(self, models: Sequence[Path], utterances: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Scores with stored models.

        Args:
          models: Folders of trained models.
          utterances: Per model, numbers of the utterances (in the protocol).

        Returns:
          Per model [n, K] f64, in the order of `utterances`; divided by the model's temperature, if
          it has one, their softmax are the probabilities.
        """
        ...


class NeuralSystem:
    """A system with a network, its data padded and its programs compiled; see `System`."""

    probabilities = "softmax"
    # per name of a fold the parameters that it starts from, see `Trainer`; None: random ones
    initial: Mapping[str, Mapping[str, Any]] | None = None
    sections: tuple[str, ...] = ("features", "model", "training")

    def __init__(
        self,
        config: Config,
        devices: list[Any],
        training: bool,
        protocol: Protocol,
        features: Features,
        trials: int,
    ):
        """Pads the data and begins to compile; arguments as of `setup.make_executor`.

        The frames or waves of `features` move into the padded arrays.
        """
        names = (field.name for field in dataclasses.fields(LoopSettings))
        self._settings = LoopSettings(**{name: config.training[name] for name in names})
        self._protocol, self._track = protocol, config.training.track
        dataset = setup.make_dataset(config, protocol, features)
        self.dataset = dataset
        variants = [features.variants.features] if features.variants else []
        for one in (features, *variants):
            one.log_mel.clear()  # The padded copy serves from here on; one is enough in memory.
            one.waves.clear()
        buckets, padding = len(dataset.buckets), dataset.padding_ratio
        sizes = counted(buckets, "length bucket")
        log.info("%s, padded %.2f times the real frames", sizes, padding)
        self.executor = setup.make_executor(  # trains and scores groups of trials
            config, dataset, protocol, devices, trials, training=training
        )
        self.devices = f"{len(devices)} x {devices[0].device_kind}"
        self.trained_with = self.executor.plan.record(plan.device_facts(devices))
        self.parameters = self.executor.parameters
        self.compile_seconds = self.executor.seconds

    def train(
        self,
        trials: list[Trial],
        workdir: Path,
        description: dict[str, Any],
        folder: Path | None = None,
    ) -> None:
        """See `System.train`."""
        tracked = tracking.listening(self._track, workdir, description["config"])
        with self._stop_compiling_on_error(), tracked as listen:
            trainer = Trainer(
                *(self._protocol, self.dataset, self.executor, self._settings, workdir),
                *(description, calibration.fit_temperature, folder, self.trained_with),
                *(self.initial, listen),
            )
            trainer.train(trials)

    def scores(self, models: Sequence[Path], utterances: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `System.scores`."""
        read = (model_files.read_model(folder) for folder in models)
        with self._stop_compiling_on_error():
            return scoring.model_logits(
                self.executor, self.dataset, read, utterances, self._settings.batch_size
            )

    @contextlib.contextmanager
    def _stop_compiling_on_error(self) -> Iterator[None]:
        """Drops what is still to be compiled: Python waits for threads at its end."""
        try:
            yield
        except BaseException:
            self.executor.stop_compiling()
            raise


def start(config: Config, *, training: bool) -> Callable[[Protocol, Features, int], System]:
    """Starts what the system computes with, before hours of extraction show that it is not there.

    Returns:
      A function of protocol, features and number of trials that makes the system.

    Raises:
      UserError: If devices or packages are missing.
    """
    if build.spec(config).build is not None:
        if training:
            tracking.check(config.training.track)
        return functools.partial(NeuralSystem, config, setup.start(config), training)
    if training:
        svm.require_scikit_learn()
    return functools.partial(_svm, config)


def _svm(config: Config, protocol: Protocol, features: Features, trials: int) -> svm_system.SVM:
    del trials
    assert features.hsf is not None
    c, t = config.svm, config.training
    settings = svm.Settings(
        *(tuple(sorted(set(c.c))), t.class_weights, c.tolerance, c.iterations),
        refit=t.refit != folds.NO_REFIT,
    )
    return svm_system.SVM(
        *(protocol, features.hsf, settings, c.workers, calibration.fit_temperature),
        setup.speaker_numbers(config, protocol),
    )
