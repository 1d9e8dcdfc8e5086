"""The systems that share one train step, behind the interface of `systems`."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax import machinery
from ser_jax.config import Config
from ser_jax.evaluation import calibration
from ser_jax.features.extract import Features
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import model_files, scoring
from ser_jax.training.fit import Settings, Trainer
from ser_jax.training.runs import Run

log = logging.getLogger(__name__)


class Neural:
    """A neural system with its data padded and its programs compiled; see `systems.System`.

    Attributes:
      dataset: Padded arrays.
      programs: Compiled programs.
    """

    probabilities = "softmax"
    sections: tuple[str, ...] = ("features", "model", "training")

    def __init__(
        self, config: Config, devices: list[Any], training: bool, protocol: Protocol, features: Features, runs: int
    ):
        """Pads and compiles.

        Args:
          config: The resolved configuration.
          devices: What `machinery.start` returned.
          training: Whether to train, too; otherwise only programs that score are compiled.
          protocol: The protocol.
          features: Features of its utterances; their frames or waves are moved into the padded arrays.
          runs: How many runs there are to train or score.
        """
        self._settings = Settings(**{field.name: config.training[field.name] for field in dataclasses.fields(Settings)})
        self._protocol = protocol
        self.dataset = machinery.make_dataset(config, protocol, features)
        for arrays in (features.log_mel, features.waves):
            arrays.clear()  # The padded copy serves from here on; one is enough in memory.
        self.programs = p = machinery.make_programs(config, self.dataset, protocol, devices, runs, training=training)
        self.devices = f"{len(devices)} x {devices[0].device_kind}"
        self.parameters = p.parameters
        self.compile_seconds = p.seconds
        log.info(
            "%d shapes, padding %.2f, %d runs at once on %d of %d %s devices (mesh %s), %d steps a call",
            *(len(self.dataset.buckets), self.dataset.padding_ratio, p.size),
            *(p.mesh.size, len(devices), devices[0].device_kind, dict(p.mesh.shape), p.chunk),
        )

    def train(self, runs: list[Run], workdir: Path, description: dict[str, Any], folder: Path | None = None) -> None:
        """Trains what is not trained yet; see `fit.Trainer.train`."""
        trainer = Trainer(
            *(self._protocol, self.dataset, self.programs, self._settings, workdir, description),
            *(calibration.fit_temperature, folder),
        )
        with self._compiling_no_longer_than_needed():
            trainer.train(runs)

    def scores(self, models: Sequence[Path], utterances: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns logits."""
        read = (model_files.read_model(folder) for folder in models)
        with self._compiling_no_longer_than_needed():
            return scoring.model_logits(self.programs, self.dataset, read, utterances, self._settings.batch_size)

    @contextlib.contextmanager
    def _compiling_no_longer_than_needed(self) -> Iterator[None]:
        """Drops what is still to be compiled when the work inside is stopped: Python waits for threads at its end."""
        try:
            yield
        except BaseException:
            self.programs.stop_compiling()
            raise
