"""Random draws in training: they depend on trial, updates made and place in the batch only."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from tiny_runs import interrupted, model_of, params_of

from ser_jax import config as configuration
from ser_jax.data import dataset as datasets
from ser_jax.data.standardise import standardise
from ser_jax.models import build
from ser_jax.models.layers import ComputeOptions
from ser_jax.training import step as steps
from ser_jax.training.execution.executor import Executor

CHUNK = 7  # steps of one program
LEARNING_RATE = 1e-3
BITS = "random_bits"  # the name of what draws, in the text of a program


@functools.cache
def config() -> Any:
    """End2You, small enough to compile in a second."""
    c = configuration.get_config()
    c.system, m = "end2you", c.model
    m.end2you_chunk, m.end2you_widths, m.end2you_pools = 20, (5, 4), (2, 3)
    m.end2you_filters, m.end2you_units = 6, 5
    return c


@functools.cache
def dataset() -> datasets.Dataset:
    """Noise of one to nine chunks in two length buckets, for the tiny protocol."""
    rng = np.random.default_rng(5)
    targets = tiny.protocol().targets
    waves = [
        rng.integers(-9999, 9999, int(rng.integers(15, 175))).astype(np.int16) for _ in targets
    ]
    source = datasets.waves_source(waves)
    return datasets.waves_dataset(
        source, targets, chunk=20, shapes=2, batch_size=tiny.BATCH, train_fraction=0.5
    ).loaded()


@functools.cache
def buckets() -> list[steps.Bucket]:
    pairs = zip(dataset().buckets, dataset().targets, strict=True)
    return [
        jax.tree.map(jax.numpy.asarray, steps.Bucket(inputs, targets)) for inputs, targets in pairs
    ]


@functools.cache
def programs(size: int, devices: int, chunk: int = 0) -> Executor:
    model = build.build_model(config(), len(tiny.CLASSES), ComputeOptions(unfold=chunk > 0))
    settings: Any = {"learning_rate": LEARNING_RATE, "dropout": True}
    return tiny.new_executor(size, devices, chunk, data=dataset(), system=model, **settings)


@functools.cache
def model() -> Any:
    return build.build_model(config(), len(tiny.CLASSES))


@jax.jit
def apply(params: Any, inputs: Any) -> Any:
    return model().apply({"params": params}, inputs)


STEP = functools.partial(
    steps.train_step, model(), tiny.train_settings(LEARNING_RATE, dropout=True)
)
train_step = jax.jit(STEP)


@pytest.fixture
def trainer(monkeypatch) -> Any:
    """Trainers as `tiny` makes them, of this system."""
    monkeypatch.setattr(tiny, "dataset", dataset)
    return tiny.trainer


@pytest.fixture
def constants(trainer, tmp_path) -> Any:
    """The constants of trials 0…3 of the protocol, as the loop makes them."""
    group = trainer(tmp_path / "constants", programs(4, 4)).sampler.constants(tiny.trials())
    return [tiny.member(group, n) for n in range(4)]


def batches(count: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tiny.random_batches(count, buckets())


def train_group(
    size: int, devices: int, chunk: int, members: Sequence[int], constants: Any
) -> steps.TrainState:
    made = programs(size, devices, chunk)
    trial = made.put(tiny.stack([constants[n] for n in members]))
    order, rows, mask = batches()
    state = made.init(list(members))[0]
    return jax.device_get(made.train(state, trial, order, rows[:, members], mask[:, members]))


def first_state(number: int) -> steps.TrainState:
    return tiny.member(programs(4, 4).init([number] * 4)[0], 0)


def train_alone(number: int, trial: steps.TrialConstants) -> steps.TrainState:
    """The pure step of one trial, from the same start."""
    state = first_state(number)
    for bucket, rows, mask in zip(*batches(), strict=True):
        state = train_step(buckets()[bucket], state, trial, rows[number], mask[number])
    return jax.device_get(state)


# --- Keys


def test_every_row_step_and_run_has_a_key_of_its_own():
    trials = np.arange(4, dtype=np.uint32).reshape(2, 2)
    keys = [
        np.asarray(steps.row_keys(trial, np.int32(updates), 5, None))
        for trial in trials
        for updates in range(3)
    ]
    assert {array.shape for array in keys} == {(5, 2)} and keys[0].dtype == np.uint32
    assert len(np.unique(np.concatenate(keys), axis=0)) == 2 * 3 * 5
    np.testing.assert_array_equal(steps.row_keys(trials[0], np.int32(1), 3, None), keys[1][:3])


def test_keys_follow_from_seed_and_fold(trainer, tmp_path):
    """Whatever the group."""
    made = trainer(tmp_path, programs(4, 4)).sampler
    together = np.asarray(made.constants(tiny.trials("a,b", seeds=2)).key)
    assert together.shape == (4, 2) and len(np.unique(together, axis=0)) == 4
    swapped = np.asarray(made.constants(tiny.trials("b,a")).key)
    np.testing.assert_array_equal(swapped[:2], together[[1, 0]])


def test_a_system_without_dropout_draws_nothing(tmp_path):
    trial = tiny.trainer(tmp_path, tiny.executor(2, 2)).sampler.constants(tiny.trials("a"))
    assert trial.key is None
    state = tiny.member(tiny.executor(2, 2).init([0, 0])[0], 0)
    batch = np.zeros(tiny.BATCH, np.int32), np.ones(tiny.BATCH, bool)
    arguments = tiny.buckets()[0], state, tiny.constants(tiny.trials()[0]), *batch
    assert BITS not in str(jax.make_jaxpr(tiny.train_step)(*arguments))


# --- Steps


def test_what_is_dropped_follows_the_updates(constants):
    """Same step, same bits; another number of updates, another key or none: other bits."""
    trial, state = constants[0], first_state(0)
    order, rows, mask = batches()
    work = int(np.flatnonzero(mask[:, 0].all(axis=1))[0])

    def moments(state: steps.TrainState, trial: steps.TrialConstants) -> Any:
        batch = rows[work, 0], mask[work, 0]
        return tiny.bits(train_step(buckets()[order[work]], state, trial, *batch).adam.moment1)

    later = state._replace(adam=state.adam._replace(count=np.int32(1)))
    cases = (state, trial), (later, trial), (state, constants[1]), (state, trial._replace(key=None))
    found = [moments(*case) for case in cases]
    assert moments(state, trial) == found[0] and len({str(bits) for bits in found}) == 4
    assert BITS in str(jax.make_jaxpr(STEP)(buckets()[0], state, trial, rows[0, 0], mask[0, 0]))


def test_a_step_without_work_draws_nothing_from_the_next(constants):
    trial, state = constants[0], first_state(0)
    rows, mask = np.arange(tiny.BATCH, dtype=np.int32), np.ones(tiny.BATCH, bool)
    rested = train_step(buckets()[0], state, trial, rows, ~mask)
    after = [train_step(buckets()[0], start, trial, rows, mask) for start in (state, rested)]
    assert tiny.bits(after[0]) == tiny.bits(after[1])


@pytest.mark.parametrize("case", [(2, 2, 0), (1, 2, 0), (4, 2, CHUNK), (2, 4, CHUNK)], ids=str)
def test_group_equals_each_run_alone(case, constants):
    """R12: one trial per device, many per device, rows spread over devices; steps or chunks."""
    size, devices, chunk = case
    found = train_group(size, devices, chunk, range(size), constants)
    for number in range(size):
        alone = train_alone(number, constants[number])
        assert alone.adam.count > 5 and alone.counters.skipped == 0
        tiny.assert_close(tiny.member(found, number).params, alone.params, 1e-5)


@pytest.mark.parametrize("chunk", [0, CHUNK])
def test_scores_are_those_of_the_whole_wave(chunk, constants):
    """Nothing is dropped, and twice the same."""
    made = programs(2, 2, chunk)
    params = made.init([0, 1])[0].params
    trial = made.put(tiny.stack(constants[:2]))
    order, rows, _ = batches(4)
    twice = [made.score(params, trial.statistics, order, rows[:, :2]) for _ in range(2)]
    assert tiny.bits(twice[0]) == tiny.bits(twice[1])
    logits = np.asarray(twice[0][0]).reshape(2, -1, len(tiny.CLASSES))
    raw, _ = steps.take(buckets()[order[0]], rows[0, 1])
    inputs = standardise(raw, constants[1].statistics, jax.numpy)
    expected = apply(tiny.member(params, 1), inputs)
    np.testing.assert_allclose(logits[1, : tiny.BATCH], expected, atol=1e-5)


# --- The loop


@pytest.fixture
def whole(trainer, tmp_path) -> Path:
    """Folds a and b, two epochs, without interruption."""
    trainer(tmp_path / "whole", programs(2, 2), epochs=2).train(tiny.trials("a,b"))
    return tmp_path / "whole"


@pytest.mark.parametrize("calls", [1, 5])
def test_resumes_to_the_bit(whole, trainer, tmp_path, calls):
    """R2: interrupted in the middle of an epoch, after one long step and not more."""
    made, trials = programs(2, 2), tiny.trials("a,b")
    found = interrupted(
        lambda: trainer(tmp_path / "cut", made, epochs=2), trials, made, after_train=[calls]
    )
    assert found.calls == found.steps == calls
    trainer(tmp_path / "cut", made, epochs=2).train(trials)
    for trial in trials:
        assert tiny.bits(params_of(tmp_path / "cut", trial)) == tiny.bits(params_of(whole, trial))


def test_a_model_without_statistics_comes_back(whole):
    model = model_of(whole, tiny.trials("a")[0])
    assert all(value is None for value in model.statistics)
