"""What a system draws in training: a function of run, updates made and place in the batch, and of nothing else."""

import functools
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from ser_jax import config as configuration
from ser_jax.arrays import dataset as datasets
from ser_jax.arrays.standardise import standardise
from ser_jax.models import build
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.training import model_files
from ser_jax.training import step as steps
from ser_jax.training.functions import Recipe
from ser_jax.training.interrupt import Interrupted
from ser_jax.training.programs import Programs

CHUNK = 7  # steps of one program
LEARNING_RATE = 1e-3
BITS = "random_bits"  # the name of what draws, in the text of a program

pytestmark = pytest.mark.xdist_group("training")


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
    """Noise of one to nine chunks in two length buckets, for the utterances of the tiny protocol."""
    rng = np.random.default_rng(5)
    targets = tiny.protocol().targets
    waves = [rng.integers(-9999, 9999, int(rng.integers(15, 175))).astype(np.int16) for _ in targets]
    return datasets.build_wave_dataset(waves, targets, chunk=20, shapes=2, batch_size=tiny.BATCH, train_share=0.5)


@functools.cache
def buckets() -> list[steps.Bucket]:
    pairs = zip(dataset().buckets, dataset().targets, strict=True)
    return [jax.tree.map(jax.numpy.asarray, steps.Bucket(inputs, targets)) for inputs, targets in pairs]


@functools.cache
def programs(size: int, devices: int, chunk: int = 0) -> Programs:
    return Programs(
        build.build_model(config(), len(tiny.CLASSES), Arithmetic(unfold=chunk > 0)),
        dataset(),
        Recipe(learning_rate=LEARNING_RATE, clip_norm=tiny.CLIP_NORM, dropout=True),
        classes=len(tiny.CLASSES),
        batch_size=tiny.BATCH,
        devices=jax.local_devices()[:devices],
        size=size,
        chunk=chunk,
        training=True,
        long_steps=True,
    )


@functools.cache
def model() -> Any:
    return build.build_model(config(), len(tiny.CLASSES))


def apply(params: Any, inputs: Any) -> Any:
    return model().apply({"params": params}, inputs)


STEP = functools.partial(steps.train_step, apply=apply, learning_rate=LEARNING_RATE, clip_norm=tiny.CLIP_NORM)
train_step = jax.jit(STEP)


@pytest.fixture
def trainer(monkeypatch) -> Any:
    """Trainers as `tiny` makes them, of this system."""
    monkeypatch.setattr(tiny, "dataset", dataset)
    return tiny.trainer


@pytest.fixture
def constants(trainer, tmp_path) -> Any:
    """The constants of runs 0…3 of the protocol, as the loop makes them."""
    group = trainer(tmp_path / "constants", programs(4, 4)).feed.constants(tiny.runs())
    return [jax.tree.map(lambda leaf, n=n: leaf[n], jax.device_get(group)) for n in range(4)]


def batches(count: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bucket [S] of every step, rows [S, 4, B] and mask [S, 4, B]; now and then a run has nothing to do."""
    rng = np.random.default_rng(0)
    order = np.arange(count) % len(buckets())
    sizes = [len(buckets()[bucket].targets) for bucket in order]
    rows = np.stack([rng.integers(size, size=(4, tiny.BATCH)).astype(np.int32) for size in sizes])
    mask = np.arange(tiny.BATCH)[None, None, :] < rng.integers(tiny.BATCH + 1, size=(count, 4, 1))
    assert not mask.any(axis=2).all()
    return order, rows, mask


def train_group(size: int, devices: int, chunk: int, members: Sequence[int], constants: Any) -> steps.TrainState:
    made = programs(size, devices, chunk)
    run = made.put(jax.tree.map(lambda *leaves: np.stack(leaves), *(constants[n] for n in members)))
    order, rows, mask = batches()
    state = made.init(list(members))[0]
    return jax.device_get(made.train(state, run, order, rows[:, members], mask[:, members]))


def first_state(number: int) -> steps.TrainState:
    return jax.tree.map(lambda leaf: leaf[0], jax.device_get(programs(4, 4).init([number] * 4)[0]))


def train_alone(number: int, run: steps.RunConstants) -> steps.TrainState:
    """The pure step of one run, from the same start."""
    state = first_state(number)
    for bucket, rows, mask in zip(*batches(), strict=True):
        state = train_step(buckets()[bucket], state, run, rows[number], mask[number])
    return jax.device_get(state)


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_every_row_step_and_run_has_a_key_of_its_own():
    runs = np.arange(4, dtype=np.uint32).reshape(2, 2)
    keys = [np.asarray(steps.row_keys(run, np.int32(updates), 5, None)) for run in runs for updates in range(3)]
    assert {array.shape for array in keys} == {(5, 2)} and keys[0].dtype == np.uint32
    assert len(np.unique(np.concatenate(keys), axis=0)) == 2 * 3 * 5
    np.testing.assert_array_equal(steps.row_keys(runs[0], np.int32(1), 3, None), keys[1][:3])


def test_keys_follow_from_seed_and_fold(trainer, tmp_path):
    """Whatever the group."""
    made = trainer(tmp_path, programs(4, 4)).feed
    together = np.asarray(made.constants(tiny.runs("a,b", seeds=2)).key)
    assert together.shape == (4, 2) and len(np.unique(together, axis=0)) == 4
    swapped = np.asarray(made.constants(tiny.runs("b,a")).key)
    np.testing.assert_array_equal(swapped[:2], together[[1, 0]])


def test_a_system_without_dropout_draws_nothing(tmp_path):
    run = tiny.trainer(tmp_path, tiny.programs(2, 2)).feed.constants(tiny.runs("a"))
    assert run.key is None
    bucket, state = tiny.buckets()[0], tiny.programs(2, 2).init([0, 0])[0]
    state = jax.tree.map(lambda leaf: leaf[0], jax.device_get(state))
    arguments = (np.zeros(tiny.BATCH, np.int32), np.ones(tiny.BATCH, bool))
    assert BITS not in str(jax.make_jaxpr(tiny.train_step)(bucket, state, tiny.constants(tiny.runs()[0]), *arguments))


# --- Steps ------------------------------------------------------------------------------------------------------------


def test_what_is_dropped_follows_the_updates(constants):
    """The same step twice has the same bits; another number of updates, another key or none has not."""
    run, state = constants[0], first_state(0)
    order, rows, mask = batches()
    work = int(np.flatnonzero(mask[:, 0].all(axis=1))[0])

    def params(state: steps.TrainState, run: steps.RunConstants) -> Any:
        return tiny.bits(train_step(buckets()[order[work]], state, run, rows[work, 0], mask[work, 0]).adam.moment1)

    later = state._replace(adam=state.adam._replace(count=np.int32(1)))
    found = [
        params(*case) for case in ((state, run), (later, run), (state, constants[1]), (state, run._replace(key=None)))
    ]
    assert params(state, run) == found[0]
    assert len({str(bits) for bits in found}) == 4
    assert BITS in str(jax.make_jaxpr(STEP)(buckets()[0], state, run, rows[0, 0], mask[0, 0]))


def test_a_step_without_work_draws_nothing_from_the_next(constants):
    run, state = constants[0], first_state(0)
    rows, mask = np.arange(tiny.BATCH, dtype=np.int32), np.ones(tiny.BATCH, bool)
    rested = train_step(buckets()[0], state, run, rows, ~mask)
    after = [train_step(buckets()[0], start, run, rows, mask) for start in (state, rested)]
    assert tiny.bits(after[0]) == tiny.bits(after[1])


@pytest.mark.parametrize("case", [(2, 2, 0), (1, 2, 0), (2, 4, 0), (4, 2, CHUNK), (2, 4, CHUNK)], ids=str)
def test_group_equals_each_run_alone(case, constants):
    """R12: one run per device, many per device, rows spread over devices; steps or chunks."""
    size, devices, chunk = case
    found = train_group(size, devices, chunk, range(size), constants)
    for number in range(size):
        alone = train_alone(number, constants[number])
        assert alone.adam.count > 5 and alone.counters.skipped == 0
        tiny.assert_close(jax.tree.map(lambda leaf, n=number: leaf[n], found).params, alone.params, 1e-5)


def test_rows_that_are_spread_over_devices_draw_as_together(constants):
    """What tells them apart: one gradient, to rounding, though each device sees half of the rows."""
    moments = [train_group(1, devices, 0, [2], constants).adam.moment1 for devices in (1, 2)]
    tiny.assert_close(moments[0], moments[1], 1e-6)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(moments[0])) > 1e-3


@pytest.mark.parametrize("chunk", [0, CHUNK])
def test_scores_are_those_of_the_whole_wave(chunk, constants):
    """Nothing is dropped, and twice the same."""
    made = programs(2, 2, chunk)
    params = made.init([0, 1])[0].params
    run = made.put(jax.tree.map(lambda *leaves: np.stack(leaves), *constants[:2]))
    order, rows, _ = batches(4)
    twice = [tiny.bits(made.score(params, run.statistics, order, rows[:, :2])) for _ in range(2)]
    assert twice[0] == twice[1]
    logits = np.asarray(made.score(params, run.statistics, order, rows[:, :2])[0]).reshape(2, -1, len(tiny.CLASSES))
    raw, _ = steps.take(buckets()[order[0]], rows[0, 1])
    inputs = standardise(raw, constants[1].statistics, jax.numpy)
    own = jax.tree.map(lambda leaf: leaf[1], jax.device_get(params))
    np.testing.assert_allclose(logits[1, : tiny.BATCH], apply(own, inputs), atol=1e-5)


# --- The loop ---------------------------------------------------------------------------------------------------------


def params_of(workdir: Path, run: Any) -> Any:
    return model_files.read_model(workdir / "models" / run.name).params


@pytest.fixture
def whole(trainer, tmp_path) -> Path:
    """Folds a and b, two epochs, without interruption."""
    trainer(tmp_path / "whole", programs(2, 2), epochs=2).train(tiny.runs("a,b"))
    return tmp_path / "whole"


@pytest.mark.parametrize("calls", [1, 5])
def test_resumes_to_the_bit(whole, trainer, tmp_path, monkeypatch, calls):
    """R2: interrupted in the middle of an epoch, also alone afterwards in a group that is not full."""
    made = programs(2, 2)
    with monkeypatch.context() as patch:
        done, train = [], made.train

        def interrupted(*arguments: Any) -> Any:
            done.append(len(arguments[2]))
            if len(done) == calls:
                signal.raise_signal(signal.SIGTERM)
            return train(*arguments)

        patch.setattr(made, "train", interrupted)
        with pytest.raises(Interrupted):
            trainer(tmp_path / "cut", made, epochs=2).train(tiny.runs("a,b"))
    assert done == [1] * calls, "a signal waits for one long step"
    trainer(tmp_path / "cut", made, epochs=2).train(tiny.runs("a,b"))
    for run in tiny.runs("a,b"):
        assert tiny.bits(params_of(tmp_path / "cut", run)) == tiny.bits(params_of(whole, run))


def test_run_alone_equals_run_in_a_group(whole, trainer, tmp_path):
    (run,) = tiny.runs("b")
    trainer(tmp_path / "alone", programs(1, 2), epochs=2).train([run])
    tiny.assert_close(params_of(tmp_path / "alone", run), params_of(whole, run), 1e-5)


def test_a_model_without_statistics_comes_back(whole):
    model = model_files.read_model(whole / "models" / tiny.runs("a")[0].name)
    assert all(value is None for value in model.statistics)
