"""The kinds of systems behind one interface: train these runs, score with these models."""

import functools
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import machinery
from ser_jax.baselines import svm
from ser_jax.baselines.svm_runs import SVM
from ser_jax.config import CRNN_SYSTEMS, Config
from ser_jax.features.extract import Features
from ser_jax.models import build
from ser_jax.neural import Neural
from ser_jax.protocols import folds
from ser_jax.protocols.protocol import Protocol
from ser_jax.training.runs import Run


class System(typing.Protocol):
    """What a kind of system provides once protocol and features are known.

    Attributes:
      parameters: Trained parameters of one model.
      probabilities: What the probabilities in `predictions.csv` are.
      sections: Sections of the configuration that its models depend on.
      devices: What computes, for `versions.json`.
      compile_seconds: Wall time in s until programs could be used; on a CPU most are compiled during the first epoch.
    """

    parameters: int
    probabilities: str
    sections: tuple[str, ...]
    devices: str
    compile_seconds: float

    def train(self, runs: list[Run], workdir: Path, description: dict[str, Any], folder: Path | None = None) -> None:
        """Trains every run that has no model file yet.

        Args:
          runs: The runs wanted.
          workdir: The run directory.
          description: What every `model.json` repeats: system, classes, configuration.
          folder: Where it keeps checkpoints and lines of metrics, if not in the run directory.

        Raises:
          Interrupted: After SIGTERM or Ctrl-C, when the same command can go on from what is on disk.
        """
        ...

    def scores(self, models: Sequence[Path], utterances: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Scores with stored models.

        Args:
          models: Folders of trained models.
          utterances: Per model, numbers of the utterances (in the protocol).

        Returns:
          Per model [n, K] f64, in the order of `utterances`; divided by the model's temperature, if it has one, their
          softmax are the probabilities.
        """
        ...


def uses_log_mel(config: Config) -> bool:
    """Returns whether the system reads log-mel frames."""
    return config.system in CRNN_SYSTEMS


def uses_hsf(config: Config) -> bool:
    """Returns whether the system reads openSMILE functionals."""
    return config.system == "svm" or build.uses_hsf(config)


def uses_wave(config: Config) -> bool:
    """Returns whether the system reads the samples themselves."""
    return build.uses_wave(config)


def start(config: Config, *, training: bool) -> Callable[[Protocol, Features, int], System]:
    """Starts what the system computes with, before hours of extraction show that it is not there.

    Args:
      config: The resolved configuration.
      training: Whether to train, too, or only to score.

    Returns:
      A function of protocol, features and number of runs that makes the system.

    Raises:
      UserError: If devices or packages are missing.
    """
    if config.system == "svm":
        if training:
            svm.require_scikit_learn()
        return functools.partial(_svm, config)
    return functools.partial(Neural, config, machinery.start(config), training)


def _svm(config: Config, protocol: Protocol, features: Features, runs: int) -> SVM:
    del runs
    assert features.hsf is not None
    c = config.svm
    t, costs = config.training, tuple(sorted(set(c.c)))
    settings = svm.Settings(costs, t.class_weights, c.tolerance, c.iterations, refit=t.refit != folds.NO_REFIT)
    return SVM(protocol, features.hsf, settings, c.workers)
