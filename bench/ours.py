"""Our side of the measurements: a group of trials, trained as the package trains it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import workload

from ser_jax.config import Config
from ser_jax.data import epoch_plans, padding
from ser_jax.data.dataset import Dataset
from ser_jax.data.inputs import covered_frames
from ser_jax.experiment import setup
from ser_jax.features.extraction import Features
from ser_jax.models import build
from ser_jax.protocols.protocol import TRAIN, Fold, Protocol
from ser_jax.training.step import TrialConstants


def make_data(config: Config, work: workload.Workload) -> tuple[Dataset, Protocol]:
    """Pads a workload; its protocol has one fold, which trains on everything."""
    protocol = make_protocol(work.targets)
    hsf = work.hsf if build.uses_hsf(config) else None
    features = Features((), work.log_mel, hsf, np.zeros(0), (), {}, "", len(work.targets))
    return setup.make_dataset(config, protocol, features), protocol


def make_protocol(targets: np.ndarray) -> Protocol:
    """Returns a protocol of one fold, which trains on all utterances, for their classes [N]."""
    classes, names = tuple("abcd"), tuple(f"{n:07d}" for n in range(len(targets)))
    return Protocol(
        name="bench",
        corpus="bench",
        classes=classes,
        label_mapping={},
        ids=names,
        labels=tuple(classes[target] for target in targets),
        speakers=names,
        folds=(Fold("all", TRAIN * len(names)),),
        validation_rule="none",
    )


def simulated_buckets(
    config: Config, utterances: int, batch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns lengths [N] in frames, drawn from IEMOCAP's, sizes of their buckets, and counts."""
    drawn = np.random.default_rng(0).choice(workload.samples(), utterances)
    lengths = (1 + (drawn - workload.WINDOW) // workload.HOP).astype(np.int32)
    covered = covered_frames(lengths, build.segmentations(config))
    shapes = setup.most_shapes(config, utterances)
    sizes = padding.choose_sizes(covered, shapes=shapes, batch_size=batch, train_fraction=1.0)
    return lengths, sizes, np.bincount(padding.assign(covered, sizes), minlength=len(sizes))


def a_few(config: Config, sizes: np.ndarray, each: int) -> tuple[Dataset, Protocol]:
    """Returns as many utterances of each size, and makes the configuration keep these sizes."""
    config.training.shapes = len(sizes)
    rng = np.random.default_rng(0)
    frames = [
        rng.standard_normal((length, workload.BANDS), np.float32)
        for length in np.repeat(sizes, each)
    ]
    hsf = rng.standard_normal(
        (len(frames), workload.FUNCTIONALS * build.uses_hsf(config)), np.float32
    )
    return make_data(
        config, workload.Workload(frames, hsf, np.arange(len(frames)) % workload.CLASSES)
    )


class Group:
    """Trials in training.

    Attributes:
      size: How many at once.
      chunk: Steps that are handed over together.
      compute: How products, convolutions and recurrences are computed.
      steps: Steps of an epoch.
      frames: Frames that an epoch computes with, padding included.
    """

    def __init__(
        self, config: Config, dataset: Dataset, protocol: Protocol, devices: list[Any], trials: int
    ):
        """Compiles what trains as many trials as the package trains at once; draws their params."""
        self._executor = setup.make_executor(config, dataset, protocol, devices, trials)
        self._executor.wait()
        self.size, self.chunk = self._executor.plan.trials, self._executor.chunk
        self.compute = self._executor.plan.compute
        self._batch_size, self._sha256, fold = (
            config.training.batch_size,
            protocol.sha256,
            protocol.folds[0],
        )
        self._rows = dataset.rows(fold.train)
        self._steps = epoch_plans.steps_per_bucket([self._rows], self._batch_size)
        self.steps = int(self._steps.sum())
        lengths = np.array([bucket.frames.shape[1] for bucket in dataset.buckets])
        self.frames = int(self._batch_size * self._steps @ lengths)
        statistics = dataset.device_statistics(dataset.statistics(fold.train))
        batches = epoch_plans.count_batches(self._rows, self._batch_size)
        mean = np.float32(len(fold.train) / batches)
        constants = TrialConstants(
            *(statistics, np.ones(workload.CLASSES, np.float32)),
            batch_weight=mean if self._executor.settings.equal_weights else None,
        )
        self._constants = self._executor.put(
            jax.tree.map(lambda leaf: np.stack([leaf] * self.size), constants)
        )
        self._state, _ = self._executor.init(list(range(self.size)))
        self._epochs = 0

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for streamed data so far."""
        return self._executor.waited

    def epoch(self) -> None:
        """Trains an epoch, from the draw of the batches to the last update."""
        self.begin_epoch(self.steps)

    def begin_epoch(self, most: int) -> int:
        """Trains the first steps of an epoch, at most so many; returns how many they were."""
        self._epochs += 1
        order = epoch_plans.shape_order(self._steps, protocol=self._sha256, epoch=self._epochs)
        drawn = [
            epoch_plans.training_batches(
                *(self._rows, self._steps, self._batch_size),
                **{"protocol": self._sha256, "seed": seed, "fold": "all", "epoch": self._epochs},
            )
            for seed in range(self.size)
        ]
        rows, mask = (values[:most] for values in epoch_plans.in_order(order, drawn))
        self._executor.prefetch(order[:most], rows)
        self._train(order[:most], rows, mask)
        return len(rows)

    def step_of(self, bucket: int, times: int = 1) -> Callable[[], None]:
        """Returns what trains a step on the first rows of a bucket, as many times."""
        rows = np.arange(self._batch_size, dtype=np.int32) % len(self._rows[bucket])
        batch = np.broadcast_to(rows, (times, self.size, self._batch_size))
        return lambda: self._train(np.full(times, bucket), batch, np.ones(batch.shape, bool))

    def _train(self, order: np.ndarray, rows: np.ndarray, mask: np.ndarray) -> None:
        for first in range(0, len(order), self.chunk):
            part = slice(first, first + self.chunk)
            self._state = self._executor.train(
                self._state, self._constants, order[part], rows[part], mask[part]
            )
        jax.block_until_ready(self._state)
