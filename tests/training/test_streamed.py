"""Streamed training is resident training, to the bit: other rows of the same batch, read in time and in order."""

import dataclasses
import functools
import signal
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from ser_jax.arrays import dataset as datasets
from ser_jax.arrays import source
from ser_jax.arrays.rows import Rows
from ser_jax.errors import UserError
from ser_jax.evaluation import calibration
from ser_jax.models import build
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.training import streamed
from ser_jax.training.fit import Trainer
from ser_jax.training.interrupt import Interrupted
from ser_jax.training.programs import Programs
from ser_jax.training.step import RunConstants

pytestmark = pytest.mark.xdist_group("training")
FUNCTIONALS = 7


@functools.cache
def config(system: str) -> Any:
    c = tiny.config().copy_and_resolve_references()
    c.system, c.model.hsf_crnn_dense, c.model.hsf_dense, c.model.hsf_head = system, (4,), (6, 4), (4,)
    c.model.multi_short_dense, c.model.multi_head = (6, 4), (4,)
    return c


@functools.cache
def laid_out(system: str = "plain_crnn", form: str = "fast") -> datasets.Dataset:
    """The tiny corpus, read row by row; in several length buckets."""
    rng = np.random.default_rng(1)
    targets = tiny.protocol().targets
    means = 4 * np.eye(len(tiny.CLASSES), 6) - 8
    log_mel = [
        (rng.normal(size=(int(rng.integers(12, 175)), 6)) + means[target]).astype(np.float32) for target in targets
    ]
    hsf = None
    if system == "hsf_crnn":
        hsf = (rng.normal(size=(len(targets), FUNCTIONALS)) * 1e6).astype(np.float32)
        hsf[3, 2] = np.nan
    return datasets.lay_out_frames(
        source.of_frames(log_mel, hsf),
        targets,
        channels=build.channels(config(system)),
        form=form,
        silence=-23.0,
        shapes=2,
        batch_size=tiny.BATCH,
        train_share=0.5,
    )


@functools.cache
def programs(residence: str, size: int, devices: int, system: str = "plain_crnn", form: str = "fast") -> Programs:
    data = laid_out(system, form)
    c = config(system).copy_and_resolve_references()
    c.model.form = form
    return tiny.new_programs(
        size,
        devices,
        data=data if residence == "streamed" else data.loaded(),
        system=build.build_model(c, len(tiny.CLASSES), Arithmetic()),
    )


def constants(data: datasets.Dataset, size: int) -> RunConstants:
    of_runs = [
        RunConstants(data.device_statistics(data.statistics(run.fold.train)), np.ones(len(tiny.CLASSES), np.float32))
        for run in tiny.runs()[:size]
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *of_runs)


def batches(data: datasets.Dataset, size: int, steps: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of runs that differ, in steps of both shapes; now and then a run has nothing to do."""
    rng = np.random.default_rng(0)
    order = np.arange(steps) % len(data.buckets)
    rows = [rng.integers(len(data.targets[bucket]), size=(size, tiny.BATCH)).astype(np.int32) for bucket in order]
    mask = np.arange(tiny.BATCH) < rng.integers(tiny.BATCH + 1, size=(steps, size, 1))
    mask[7, 0] = False
    return order, np.stack(rows), mask


def trained_and_scored(residence: str, size: int, devices: int, *system: str) -> Any:
    group, data = programs(residence, size, devices, *system), laid_out(*system)
    state, _ = group.init(list(range(size)))
    run = group.put(constants(data, size))
    order, rows, mask = batches(data, size)
    group.announce(order, rows)
    for first in range(0, len(order), 5):
        part = slice(first, first + 5)
        state = group.train(state, run, order[part], rows[part], mask[part])
    return jax.device_get((state, group.score(state.model, run.statistics, order, rows)))


@pytest.mark.parametrize(
    ("size", "devices", "system"),
    [
        (2, 2, ("multi_crnn",)),
        (2, 2, ("hsf_crnn",)),
        (1, 2, ("hsf_crnn",)),  # the rows of a batch are spread over devices
        (4, 2, ("plain_crnn",)),  # two runs on every device
        (2, 2, ("plain_crnn", "literal")),
    ],
)
def test_states_and_logits_are_those_of_resident_data_to_the_bit(size, devices, system):
    assert len(laid_out(*system).buckets) == 2
    resident = trained_and_scored("resident", size, devices, *system)
    assert tiny.bits(trained_and_scored("streamed", size, devices, *system)) == tiny.bits(resident)
    assert programs("streamed", size, devices, *system).mesh.size == devices


def trainer(workdir, residence: str) -> Trainer:
    workdir.mkdir(exist_ok=True)
    return Trainer(
        *(tiny.protocol(), laid_out() if residence == "streamed" else laid_out().loaded()),
        *(programs(residence, 2, 2), tiny.settings(), workdir, {"system": "plain_crnn"}, calibration.fit_temperature),
    )


def models(workdir) -> dict[str, bytes]:
    return {str(path.relative_to(workdir)): path.read_bytes() for path in sorted(workdir.rglob("model.npz"))}


@pytest.fixture(scope="module")
def resident(tmp_path_factory) -> dict[str, bytes]:
    """Three runs, two at a time; the second group is not full."""
    workdir = tmp_path_factory.mktemp("resident")
    trainer(workdir, "resident").train(tiny.runs("a,b,c"))
    return models(workdir)


def test_the_loop_leaves_the_same_models(resident, tmp_path):
    trainer(tmp_path, "streamed").train(tiny.runs("a,b,c"))
    assert len(resident) == 3 and models(tmp_path) == resident


@pytest.mark.parametrize("call", [1, 3, 20])
def test_it_resumes_within_an_epoch_to_the_bit(call, resident, tmp_path, monkeypatch):
    """R2: reading begins at the step of the checkpoint, whatever had been read ahead."""
    group = programs("streamed", 2, 2)
    train, calls = group.train, []

    def stopping(*arguments):
        calls.append(1)
        found = train(*arguments)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(group, "train", stopping)
        with pytest.raises(Interrupted):
            trainer(tmp_path, "streamed").train(tiny.runs("a,b,c"))
    assert models(tmp_path) != resident
    trainer(tmp_path, "streamed").train(tiny.runs("a,b,c"))
    assert models(tmp_path) == resident


class Asked:
    """The engine of a dataset whose reads are counted."""

    def __init__(self, read=None):
        self.reads, data = [], laid_out()

        def counting(bucket: int, frames: Any) -> Rows:
            def count(part: np.ndarray) -> np.ndarray:
                self.reads.append((bucket, part.tolist()))
                return read(part) if read else frames[data.row[part]]

            return Rows(data.utterances(bucket), frames.shape[1:], frames.dtype, count)

        inputs = tuple(
            bucket._replace(frames=counting(number, bucket.frames)) for number, bucket in enumerate(data.buckets)
        )
        self.programs = programs("streamed", 2, 2)
        self.engine: Any = self.programs._engine
        self.data = dataclasses.replace(data, buckets=inputs)
        self.buckets = [self.engine.buckets[n]._replace(inputs=inputs[n]) for n in range(len(inputs))]


@pytest.fixture
def asked(monkeypatch):
    def make(read=None) -> Asked:
        made = Asked(read)
        monkeypatch.setattr(made.engine, "buckets", made.buckets)
        return made

    return make


def train(asked: Asked, order, rows, mask) -> Any:
    state, _ = asked.programs.init([0, 1])
    run = asked.programs.put(constants(asked.data, 2))
    return jax.device_get(asked.programs.train(state, run, order, rows, mask))


def test_an_utterance_that_several_runs_ask_for_is_read_once(asked):
    found = asked()
    order, rows, mask = batches(found.data, 2)
    train(found, order, rows, mask)
    expected = [
        (bucket, sorted(set(found.data.utterances(bucket)[part].ravel().tolist())))
        for bucket, part in zip(order, rows, strict=True)
    ]
    assert sorted(found.reads) == sorted(expected)


def test_no_more_is_read_ahead_than_allowed(asked, monkeypatch):
    """Batches that are read but not used yet: bounded, however many steps there are."""
    monkeypatch.setattr(streamed, "AHEAD_BYTES", 1)  # less than one: then two
    used, most = [], []
    found = asked(lambda part: (most.append(len(most) + 1 - len(used)), np.zeros((len(part), 6, 6)))[1])
    order, rows, _ = batches(found.data, 2, steps=40)
    reading = found.engine._read(streamed.Plan(order, rows))
    monkeypatch.setattr(found.engine, "_put", lambda values: values)
    for _ in reading:
        used.append(1)
    assert len(used) == len(most) == 40
    assert max(most) <= 2 + 2 + 1, "those that wait, one in the hands of each thread, and the one in use"


def test_what_was_announced_is_read_on_between_chunks_and_else_what_is_asked_for(asked):
    found = asked()
    order, rows, mask = batches(found.data, 2)
    whole = tiny.bits(train(found, order, rows, mask))
    other = np.roll(rows[:4], 1, axis=2)
    found.programs.announce(order, rows)
    found.reads.clear()
    state, _ = found.programs.init([0, 1])
    run = found.programs.put(constants(found.data, 2))
    state = found.programs.train(state, run, order[:5], rows[:5], mask[:5])
    state = found.programs.train(state, run, order[5:], rows[5:], mask[5:])
    assert tiny.bits(state) == whole and len(found.reads) == len(order), "nothing is read twice"
    found.programs.announce(order, rows)
    mistaken = train(found, order[:4], other, mask[:4])
    assert tiny.bits(mistaken) == tiny.bits(train(found, order[:4], other, mask[:4]))
    assert tiny.bits(mistaken) != tiny.bits(train(found, order[:4], rows[:4], mask[:4]))


def test_what_cannot_be_read_ends_training_with_its_sentence(asked):
    def fail(part):
        raise UserError("record 3 cannot be read")

    found = asked(fail)
    with pytest.raises(UserError, match="record 3 cannot be read"):
        train(found, *batches(found.data, 2))


def test_waiting_is_counted(asked):
    found = asked()
    before = found.programs.waited
    train(found, *batches(found.data, 2))
    assert found.programs.waited > before
    assert programs("resident", 2, 2).waited == 0
