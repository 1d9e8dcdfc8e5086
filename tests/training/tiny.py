"""What the training tests share: a small synthetic corpus, a small system and its programs, each made once."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax import config as configuration
from ser_jax.arrays import dataset as datasets
from ser_jax.arrays import plans
from ser_jax.corpora.table import Utterance
from ser_jax.evaluation import calibration
from ser_jax.models import build
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.protocols import folds
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import step as steps
from ser_jax.training.fit import Settings, Trainer
from ser_jax.training.functions import Recipe
from ser_jax.training.programs import Programs
from ser_jax.training.runs import Run, list_runs

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
        Utterance(f"{speaker}/{label}{take}", f"{speaker}/{label}{take}.wav", label=label, speaker=speaker)
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
    return datasets.build_dataset(
        log_mel,
        None,
        protocol().targets,
        channels=build.channels(config()),
        form="fast",
        silence=-23.0,
        shapes=2,
        batch_size=BATCH,
        train_share=0.5,
    )


def steps_of_an_epoch() -> np.ndarray:
    """The bucket of every step of the first epoch."""
    rows = [dataset().rows(fold.train) for fold in protocol().folds]
    return plans.shape_order(plans.steps_per_bucket(rows, BATCH), protocol=protocol().sha256, epoch=1)


@functools.cache
def buckets() -> list[steps.Bucket]:
    """The dataset as a train step takes it."""
    pairs = zip(dataset().buckets, dataset().targets, strict=True)
    return [jax.tree.map(jnp.asarray, steps.Bucket(inputs, targets)) for inputs, targets in pairs]


@functools.cache
def model(unfold: bool = False) -> Any:
    return build.build_model(config(), len(CLASSES), Arithmetic(unfold=unfold))


def apply(params: Any, inputs: Any) -> Any:
    return model().apply({"params": params}, inputs)


# The reference of the compiled programs: the same step of one run, on one device, with nothing around it.
train_step = jax.jit(functools.partial(steps.train_step, apply=apply, learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM))


def new_programs(
    size: int,
    devices: int,
    chunk: int = 0,
    patience: int = 0,
    learning_rate: float = LEARNING_RATE,
    data: datasets.Dataset | None = None,
    system: Any = None,
    **recipe: Any,
) -> Programs:
    """Programs of the tiny system, or of another one.

    Where many steps are one program, convolutions are unfolded, as in a real run.
    """
    made = Programs(
        system or model(unfold=chunk > 0),
        data or dataset(),
        Recipe(learning_rate=learning_rate, clip_norm=CLIP_NORM, patience=patience, **recipe),
        classes=len(CLASSES),
        batch_size=BATCH,
        devices=jax.local_devices()[:devices],
        size=size,
        chunk=chunk,
        training=True,
    )
    made.wait()  # Tests count and compare what happens after that.
    if not chunk:
        made.chunk = 1  # The loop hands over step by step, so that tests may interrupt it after any.
    return made


_programs = functools.cache(new_programs)


def programs(
    size: int, devices: int, chunk: int = 0, patience: int = 0, learning_rate: float = LEARNING_RATE
) -> Programs:
    """Returns the same programs for the same arguments."""
    return _programs(size, devices, chunk, patience, learning_rate)


def runs(folds: str = "", seeds: int = 1) -> list[Run]:
    return list_runs(protocol(), seeds=seeds, first_seed=0, folds=folds)


def constants(run: Run) -> steps.RunConstants:
    """Statistics of the run's training part, all classes weighing the same."""
    statistics = dataset().device_statistics(dataset().statistics(run.fold.train))
    return steps.RunConstants(statistics, np.ones(len(CLASSES), np.float32))


def settings(**changes: Any) -> Settings:
    usual: dict[str, Any] = {"epochs": 3, "class_weights": "none", "refit": "none", "checkpoint_seconds": 1e9}
    return Settings(batch_size=BATCH, **{**usual, **changes})


def trainer(workdir: Path, group: Programs, folder: Path | None = None, **changes: Any) -> Trainer:
    workdir.mkdir(exist_ok=True)
    return Trainer(
        *(protocol(), dataset(), group, settings(**changes), workdir, {"system": "plain_crnn"}),
        *(calibration.fit_temperature, folder),
    )


def bits(tree: Any) -> list[tuple[str, bytes]]:
    """Returns every leaf of a tree with its place, dtype and bytes, so that == tells equality to the bit."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return [(f"{jax.tree_util.keystr(path)} {leaf.dtype}", np.asarray(leaf).tobytes()) for path, leaf in leaves]


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
