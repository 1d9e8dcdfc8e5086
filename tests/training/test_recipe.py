"""Everything that a recipe may add to the plain step, at once: dropout, augmentation, smoothing, decay, average."""

import functools
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ser_jax.arrays.standardise import standardise
from ser_jax.models import build
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.training import model_files
from ser_jax.training import step as steps
from ser_jax.training.augmentation import Augmentation
from ser_jax.training.interrupt import Interrupted
from ser_jax.training.programs import Programs

CHUNK = 7  # steps of one program
AUGMENTATION = Augmentation(
    speed=0.1, gain_db=3.0, time_masks=1, time_mask_frames=5, band_masks=1, band_mask_bands=2, silence=-23.0
)
RECIPE: dict[str, Any] = {"weight_decay": 0.1, "ema": 0.9}
LOSS: dict[str, Any] = {"augmentation": AUGMENTATION}

pytestmark = pytest.mark.xdist_group("training")


@functools.cache
def system(unfold: bool = False) -> Any:
    c = tiny.config().copy_and_resolve_references()
    c.model.activation, c.model.dropout = "relu", 0.3
    return build.build_model(c, len(tiny.CLASSES), Arithmetic(unfold=unfold))


@functools.cache
def programs(size: int, devices: int, chunk: int = 0) -> Programs:
    return tiny.new_programs(
        *(size, devices, chunk), system=system(chunk > 0), dropout=True, label_smoothing=0.1, **RECIPE, **LOSS
    )


def apply(params: Any, inputs: Any) -> Any:
    return system().apply({"params": params}, inputs)


STEP = functools.partial(
    steps.train_step,
    apply=apply,
    learning_rate=tiny.LEARNING_RATE,
    clip_norm=tiny.CLIP_NORM,
    smoothing=0.1,
    **RECIPE,
    **LOSS,
)


def constants(number: int) -> steps.RunConstants:
    return tiny.constants(tiny.runs()[number])._replace(key=np.array([number, 7], np.uint32))


def batches(count: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bucket [S] of every step, rows [S, 4, B] and mask [S, 4, B]."""
    rng = np.random.default_rng(0)
    order = np.arange(count) % len(tiny.buckets())
    sizes = [len(tiny.buckets()[bucket].targets) for bucket in order]
    rows = np.stack([rng.integers(size, size=(4, tiny.BATCH)).astype(np.int32) for size in sizes])
    return order, rows, np.arange(tiny.BATCH)[None, None, :] < rng.integers(tiny.BATCH + 1, size=(count, 4, 1))


@functools.cache
def train_alone(number: int) -> steps.TrainState:
    state = jax.tree.map(lambda leaf: leaf[0], jax.device_get(programs(2, 2).init([number] * 2)[0]))
    step = jax.jit(STEP)
    for bucket, rows, mask in zip(*batches(), strict=True):
        state = step(tiny.buckets()[bucket], state, constants(number), rows[number], mask[number])
    return jax.device_get(state)


@pytest.mark.parametrize("case", [(2, 2, 0), (2, 4, 0), (4, 2, CHUNK)], ids=str)
def test_group_equals_each_run_alone(case):
    """R12: one run per device, rows spread over devices, chunks."""
    size, devices, chunk = case
    made = programs(size, devices, chunk)
    run = made.put(jax.tree.map(lambda *leaves: np.stack(leaves), *(constants(n) for n in range(size))))
    order, rows, mask = batches()
    found = jax.device_get(made.train(made.init(list(range(size)))[0], run, order, rows[:, :size], mask[:, :size]))
    for number in range(size):
        alone, own = train_alone(number), jax.tree.map(lambda leaf, n=number: leaf[n], found)
        assert alone.adam.count > 5
        tiny.assert_close(own.params, alone.params, 1e-5)
        tiny.assert_close(own.average, alone.average, 1e-5)
        assert own.model is own.average
        assert tiny.bits(own.average) != tiny.bits(own.params)


def test_smoothing_by_hand():
    """Three classes, s = 0.3: the truth has 0.8, the others 0.1 each."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    found = steps.cross_entropy(logits, jnp.array([0]), jnp.array([2.0]), 0.3)
    np.testing.assert_allclose(found, -2 * (0.8 * np.log(0.5) + 0.2 * np.log(0.25)), rtol=1e-6)


@pytest.mark.parametrize("option", ["augmentation", "smoothing", "weight_decay", "key"])
def test_every_option_acts(option):
    rows, mask = np.arange(tiny.BATCH, dtype=np.int32), np.ones(tiny.BATCH, bool)
    state = jax.tree.map(lambda leaf: leaf[0], jax.device_get(programs(2, 2).init([0, 0])[0]))
    run, changes = constants(0), {"augmentation": None} if option == "augmentation" else {option: 0.0}
    if option == "key":  # of dropout; without one nothing can be varied either
        run, changes = run._replace(key=None), {"augmentation": None}
    found = STEP(tiny.buckets()[0], state, constants(0), rows, mask)
    without = functools.partial(STEP, **changes)(tiny.buckets()[0], state, run, rows, mask)
    assert tiny.bits(found.params) != tiny.bits(without.params)


def params_of(workdir: Path, run: Any) -> Any:
    return model_files.read_model(workdir / "models" / run.name).params


def test_the_average_is_the_model_and_resumes_to_the_bit(tmp_path, monkeypatch):
    """R2: interrupted in the middle of the second epoch; the best epoch is that of the average."""
    made, runs = programs(2, 2), tiny.runs("a,b")
    tiny.trainer(tmp_path / "whole", made, epochs=2).train(runs)
    with monkeypatch.context() as patch:
        done, train = [], made.train

        def interrupted(*arguments: Any) -> Any:
            done.append(len(arguments[2]))
            if len(done) == len(tiny.steps_of_an_epoch()) + 2:
                signal.raise_signal(signal.SIGTERM)
            return train(*arguments)

        patch.setattr(made, "train", interrupted)
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path / "cut", made, epochs=2).train(runs)
    tiny.trainer(tmp_path / "cut", made, epochs=2).train(runs)
    for run in runs:
        assert tiny.bits(params_of(tmp_path / "cut", run)) == tiny.bits(params_of(tmp_path / "whole", run))


def test_scores_are_those_of_what_was_recorded():
    """Neither dropped nor varied."""
    made = programs(2, 2)
    params = made.init([0, 1])[0].params
    run = made.put(jax.tree.map(lambda *leaves: np.stack(leaves), constants(0), constants(1)))
    order, rows, _ = batches(2)
    logits = np.asarray(made.score(params, run.statistics, order, rows[:, :2])[0])[1]
    raw, _ = steps.take(tiny.buckets()[order[0]], rows[0, 1])
    own = jax.tree.map(lambda leaf: leaf[1], jax.device_get(params))
    expected = apply(own, standardise(raw, constants(1).statistics, jnp))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
