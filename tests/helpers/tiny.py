"""What the training tests share: a small synthetic corpus, system and executors, each made once."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax import config as configuration
from ser_jax.corpora.table import Utterance
from ser_jax.data import dataset as datasets
from ser_jax.data import epoch_plans
from ser_jax.evaluation import calibration
from ser_jax.models import build
from ser_jax.models.layers import ComputeOptions
from ser_jax.protocols import folds
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import step as steps
from ser_jax.training.execution.executor import Executor
from ser_jax.training.execution.mesh import mesh_shape
from ser_jax.training.execution.per_step import PerStep
from ser_jax.training.execution.plan import STEPS_PER_TRANSFER, ExecutionPlan
from ser_jax.training.execution.scanned import Scanned
from ser_jax.training.step import TrainSettings
from ser_jax.training.trainer import LoopSettings, Trainer
from ser_jax.training.trials import Trial, list_trials

CLASSES = ("angry", "happy", "neutral", "sad")
TAKES = (4, 3, 3, 2)  # utterances of each class and speaker
BATCH, LEARNING_RATE, CLIP_NORM = 4, 0.02, 1.0


@functools.cache
def config() -> Any:
    """Plain CRNN, small enough to compile in a second."""
    c = configuration.get_config()
    c.system = "plain_crnn"
    c.model.filters, c.model.lstm_units, c.model.plain_head = 6, 8, (8,)
    return c


@functools.cache
def protocol() -> Protocol:
    """Four speakers with 12 utterances each; every fold leaves one out."""
    rows = [
        Utterance(
            f"{speaker}/{label}{take}", f"{speaker}/{label}{take}.wav", label=label, speaker=speaker
        )
        for speaker in "abcd"
        for label, takes in zip(CLASSES, TAKES, strict=True)
        for take in range(takes)
    ]
    parts, rule = folds.leave_one_out(rows, "speaker")
    return Protocol(
        name="tiny-loso",
        corpus="tiny",
        classes=CLASSES,
        label_mapping={name: name for name in CLASSES},
        ids=tuple(row.id for row in rows),
        labels=tuple(row.label for row in rows),
        speakers=tuple(row.speaker for row in rows),
        folds=parts,
        validation_rule=rule,
    )


@functools.cache
def dataset() -> datasets.Dataset:
    """Random frames in two length buckets; class k is louder in band k."""
    rng = np.random.default_rng(1)
    means = 4 * np.eye(len(CLASSES), 6) - 8
    log_mel = [
        (rng.normal(size=(int(rng.integers(12, 75)), 6)) + means[target]).astype(np.float32)
        for target in protocol().targets
    ]
    data = datasets.frames_dataset(
        datasets.frames_source(log_mel, None),
        protocol().targets,
        segmentations=build.segmentations(config()),
        form="fast",
        silence=-23.0,
        shapes=2,
        batch_size=BATCH,
        train_fraction=0.5,
    )
    return data.loaded()


def steps_of_an_epoch() -> np.ndarray:
    """The bucket of every step of the first epoch."""
    rows = [dataset().rows(fold.train) for fold in protocol().folds]
    return epoch_plans.shape_order(
        epoch_plans.steps_per_bucket(rows, BATCH), protocol=protocol().sha256, epoch=1
    )


@functools.cache
def buckets() -> list[steps.Bucket]:
    """The dataset as a train step takes it."""
    pairs = zip(dataset().buckets, dataset().targets, strict=True)
    return [jax.tree.map(jnp.asarray, steps.Bucket(inputs, targets)) for inputs, targets in pairs]


@functools.cache
def model(unfold: bool = False) -> Any:
    return build.build_model(config(), len(CLASSES), ComputeOptions(unfold=unfold))


def apply(params: Any, inputs: Any) -> Any:
    return model().apply({"params": params}, inputs)


def train_settings(learning_rate: float = LEARNING_RATE, **changes: Any) -> TrainSettings:
    return TrainSettings(learning_rate=learning_rate, clip_norm=CLIP_NORM, **changes)


# The reference of the compiled programs: the same step of one trial, on one device, with nothing
# around it.
train_step = jax.jit(functools.partial(steps.train_step, model(), train_settings()))


def new_executor(
    trials: int,
    devices: int,
    chunk: int = 0,
    *,
    data: datasets.Dataset | None = None,
    system: Any = None,
    **changes: Any,
) -> Executor:
    """Returns an executor of the tiny system, or of another one, for a group of `trials`.

    `chunk`: steps of one program; 0: every step is dispatched by itself. With chunks, convolutions
    of the tiny system are unfolded, as in a real training.
    """
    data = data or dataset()
    shape = mesh_shape(devices, trials, BATCH)
    plan = ExecutionPlan(
        per_step=chunk == 0,
        trials=trials,
        rows=BATCH,
        mesh_shape=shape,
        metrics_delay=int(chunk > 0),
        in_flight=4 if data.streamed else None,
        streamed=data.streamed,
        synchronize=shape[1] > 1,
        one_thread_each=shape != (1, 1),
        chunk=chunk or STEPS_PER_TRANSFER,
    )
    executor = (Scanned if chunk else PerStep)(
        *(plan, system or model(unfold=chunk > 0), data, train_settings(**changes)),
        initial_params=functools.partial(
            build.initial_params,
            system or model(),
            inputs=jax.tree.map(lambda leaf: np.zeros_like(leaf[:1]), data.buckets[0]),
        ),
        classes=len(CLASSES),
        devices=jax.local_devices()[:devices],
    )
    executor.wait()  # Tests count and compare what happens after that.
    if not chunk:  # The loop hands over step by step, so that tests may interrupt it after any.
        executor.chunk = 1
    return executor


_executor = functools.cache(new_executor)


def executor(
    trials: int, devices: int, chunk: int = 0, patience: int = 0, learning_rate=LEARNING_RATE
) -> Executor:
    """Returns the same executor for the same arguments."""
    return _executor(trials, devices, chunk, patience=patience, learning_rate=learning_rate)


def trials(folds: str = "", seeds: int = 1) -> list[Trial]:
    return list_trials(protocol(), seeds=seeds, first_seed=0, folds=folds)


def constants(trial: Trial) -> steps.TrialConstants:
    """Statistics of the trial's training part, all classes weighing the same."""
    statistics = dataset().device_statistics(dataset().statistics(trial.fold.train))
    return steps.TrialConstants(statistics, np.ones(len(CLASSES), np.float32))


def stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def member(tree: Any, place: int) -> Any:
    """One trial of the arrays of a group, on the host."""
    return jax.tree.map(lambda leaf: leaf[place], jax.device_get(tree))


def random_batches(
    count: int, data: Sequence[steps.Bucket] | None = None, size: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bucket [S] of every step, rows and mask [S, R, B]; one trial has no work once."""
    rng, data = np.random.default_rng(0), data or buckets()
    order = np.arange(count) % len(data)
    sizes = [len(data[bucket].targets) for bucket in order.tolist()]
    rows = np.stack([rng.integers(n, size=(size, BATCH)).astype(np.int32) for n in sizes])
    mask = np.arange(BATCH) < rng.integers(BATCH + 1, size=(count, size, 1))
    mask[count // 2, 0] = False
    return order, rows, mask


def settings(**changes: Any) -> LoopSettings:
    usual: dict[str, Any] = {"epochs": 3, "class_weights": "none", "refit": "none"}
    usual["checkpoint_seconds"] = 1e9
    return LoopSettings(batch_size=BATCH, **{**usual, **changes})


def trainer(
    workdir: Path,
    group: Executor,
    folder: Path | None = None,
    trained_with: str = "xla",
    **changes: Any,
) -> Trainer:
    workdir.mkdir(exist_ok=True)
    return Trainer(
        *(protocol(), dataset(), group, settings(**changes), workdir, {"system": "plain_crnn"}),
        *(calibration.fit_temperature, folder, {"training.kernels": trained_with}),
    )


def bits(tree: Any) -> list[tuple[str, bytes]]:
    """Returns every leaf of a tree with its place, dtype and bytes, to be compared to the bit."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return [
        (f"{jax.tree_util.keystr(path)} {leaf.dtype}", np.asarray(leaf).tobytes())
        for path, leaf in leaves
    ]


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
