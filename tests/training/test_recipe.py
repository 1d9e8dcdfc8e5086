"""The options of a step at once: dropout, augmentation, smoothing, decay, running average."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny_runs import interrupted, params_of

from ser_jax.data.standardise import standardise
from ser_jax.models import build
from ser_jax.models.layers import ComputeOptions
from ser_jax.training import step as steps
from ser_jax.training.augmentation import Augmentation
from ser_jax.training.execution.executor import Executor

CHUNK = 7  # steps of one program
AUGMENTATION = Augmentation(
    speed=0.1,
    gain_db=3.0,
    time_masks=1,
    time_mask_frames=5,
    band_masks=1,
    band_mask_bands=2,
    silence=-23.0,
)
RECIPE: dict[str, Any] = {
    **{"weight_decay": 0.1, "ema": 0.9, "dropout": True, "label_smoothing": 0.1},
    "augmentation": AUGMENTATION,
}


@functools.cache
def system(unfold: bool = False) -> Any:
    c = tiny.config().copy_and_resolve_references()
    c.model.activation, c.model.dropout = "relu", 0.3
    return build.build_model(c, len(tiny.CLASSES), ComputeOptions(unfold=unfold))


@functools.cache
def programs(size: int, devices: int, chunk: int = 0) -> Executor:
    return tiny.new_executor(size, devices, chunk, system=system(chunk > 0), **RECIPE)


@jax.jit
def apply(params: Any, inputs: Any) -> Any:
    return system().apply({"params": params}, inputs)


SETTINGS = tiny.train_settings(**RECIPE)


@functools.cache
def step_with(**changes: Any) -> Any:
    return jax.jit(functools.partial(steps.train_step, system(), SETTINGS._replace(**changes)))


def constants(number: int) -> steps.TrialConstants:
    return tiny.constants(tiny.trials()[number])._replace(key=np.array([number, 7], np.uint32))


@functools.cache
def train_alone(number: int) -> steps.TrainState:
    state = tiny.member(programs(2, 2).init([number] * 2)[0], 0)
    step = step_with()
    for bucket, rows, mask in zip(*tiny.random_batches(12), strict=True):
        state = step(tiny.buckets()[bucket], state, constants(number), rows[number], mask[number])
    return jax.device_get(state)


@pytest.mark.parametrize("case", [(2, 2, 0), (2, 4, 0), (4, 2, CHUNK)], ids=str)
def test_group_equals_each_run_alone(case):
    """R12: one trial per device, rows spread over devices, chunks."""
    size, devices, chunk = case
    made = programs(size, devices, chunk)
    trial = made.put(tiny.stack([constants(n) for n in range(size)]))
    order, rows, mask = tiny.random_batches(12)
    found = jax.device_get(
        made.train(made.init(list(range(size)))[0], trial, order, rows[:, :size], mask[:, :size])
    )
    for number in range(size):
        alone, own = train_alone(number), tiny.member(found, number)
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


@pytest.mark.parametrize("option", ["augmentation", "label_smoothing", "weight_decay", "key"])
def test_every_option_acts(option):
    rows, mask = np.arange(tiny.BATCH, dtype=np.int32), np.ones(tiny.BATCH, bool)
    state = tiny.member(programs(2, 2).init([0, 0])[0], 0)
    trial: Any = constants(0)
    changes: Any = {option: None if option == "augmentation" else 0.0}
    if option == "key":  # of dropout; without one nothing can be varied either
        trial, changes = trial._replace(key=None), {"augmentation": None}
    found = step_with()(tiny.buckets()[0], state, constants(0), rows, mask)
    without = step_with(**changes)(tiny.buckets()[0], state, trial, rows, mask)
    assert tiny.bits(found.params) != tiny.bits(without.params)


def test_the_average_is_the_model_and_resumes_to_the_bit(tmp_path):
    """R2: interrupted in the middle of the second epoch; the best epoch is that of the average."""
    made, trials = programs(2, 2), tiny.trials("a,b")
    tiny.trainer(tmp_path / "whole", made, epochs=2).train(trials)
    cut = len(tiny.steps_of_an_epoch()) + 2
    interrupted(
        lambda: tiny.trainer(tmp_path / "cut", made, epochs=2), trials, made, after_train=[cut]
    )
    tiny.trainer(tmp_path / "cut", made, epochs=2).train(trials)
    for trial in trials:
        whole, resumed = (params_of(tmp_path / name, trial) for name in ("whole", "cut"))
        assert tiny.bits(resumed) == tiny.bits(whole)


def test_scores_are_those_of_what_was_recorded():
    """Neither dropped nor varied."""
    made = programs(2, 2)
    params = made.init([0, 1])[0].params
    trial = made.put(tiny.stack([constants(0), constants(1)]))
    order, rows, _ = tiny.random_batches(6)
    logits = np.asarray(made.score(params, trial.statistics, order, rows[:, :2])[0])[1]
    raw, _ = steps.take(tiny.buckets()[order[0]], rows[0, 1])
    expected = apply(tiny.member(params, 1), standardise(raw, constants(1).statistics, jnp))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
