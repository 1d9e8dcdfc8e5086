"""Streamed training is resident training, to the bit; batches are read in time and in order."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from tiny_runs import interrupted

from ser_jax.data import dataset as datasets
from ser_jax.data.dataset import Rows
from ser_jax.evaluation import calibration
from ser_jax.models import build
from ser_jax.models.layers import ComputeOptions
from ser_jax.runtime.errors import UserError
from ser_jax.training.execution import prefetch
from ser_jax.training.execution.executor import Executor
from ser_jax.training.step import Bucket, TrialConstants
from ser_jax.training.trainer import Trainer

FUNCTIONALS = 7


@functools.cache
def config(system: str) -> Any:
    c = tiny.config().copy_and_resolve_references()
    c.system, c.model.hsf_crnn_dense = system, (4,)
    c.model.hsf_dense, c.model.hsf_head = (6, 4), (4,)
    c.model.multi_short_dense, c.model.multi_head = (6, 4), (4,)
    return c


@functools.cache
def laid_out(system: str = "plain_crnn", form: str = "fast") -> datasets.Dataset:
    """The tiny corpus, read row by row; in several length buckets."""
    rng = np.random.default_rng(1)
    targets = tiny.protocol().targets
    means = 4 * np.eye(len(tiny.CLASSES), 6) - 8
    log_mel = [
        (rng.normal(size=(int(rng.integers(12, 175)), 6)) + means[target]).astype(np.float32)
        for target in targets
    ]
    hsf = None
    if system == "hsf_crnn":
        hsf = (rng.normal(size=(len(targets), FUNCTIONALS)) * 1e6).astype(np.float32)
        hsf[3, 2] = np.nan
    return datasets.frames_dataset(
        datasets.frames_source(log_mel, hsf),
        targets,
        segmentations=build.segmentations(config(system)),
        form=form,
        silence=-23.0,
        shapes=2,
        batch_size=tiny.BATCH,
        train_fraction=0.5,
    )


@functools.cache
def programs(
    residence: str, size: int, devices: int, system: str = "plain_crnn", form: str = "fast"
) -> Executor:
    data = laid_out(system, form)
    c = config(system).copy_and_resolve_references()
    c.model.form = form
    return tiny.new_executor(
        size,
        devices,
        data=data if residence == "streamed" else data.loaded(),
        system=build.build_model(c, len(tiny.CLASSES), ComputeOptions()),
    )


def constants(data: datasets.Dataset, size: int) -> TrialConstants:
    statistics = [data.statistics(trial.fold.train) for trial in tiny.trials()[:size]]
    weights = np.ones(len(tiny.CLASSES), np.float32)
    return tiny.stack([TrialConstants(data.device_statistics(of), weights) for of in statistics])


def batches(data: datasets.Dataset, size: int, count: int = 12) -> tuple[np.ndarray, ...]:
    """Batches of trials that differ, in steps of both shapes."""
    return tiny.random_batches(count, list(map(Bucket, data.buckets, data.targets)), size)


def trained_and_scored(residence: str, size: int, devices: int, *system: str) -> Any:
    group, data = programs(residence, size, devices, *system), laid_out(*system)
    state, _ = group.init(list(range(size)))
    trial = group.put(constants(data, size))
    order, rows, mask = batches(data, size)
    group.prefetch(order, rows)
    for first in range(0, len(order), 5):
        part = slice(first, first + 5)
        state = group.train(state, trial, order[part], rows[part], mask[part])
    return jax.device_get((state, group.score(state.model, trial.statistics, order, rows)))


def assert_streamed_is_resident(size: int, devices: int, *system: str) -> None:
    assert len(laid_out(*system).buckets) == 2
    resident = trained_and_scored("resident", size, devices, *system)
    assert tiny.bits(trained_and_scored("streamed", size, devices, *system)) == tiny.bits(resident)
    assert programs("streamed", size, devices, *system).mesh.size == devices


@pytest.mark.parametrize(
    ("size", "devices", "system"),
    [
        (2, 2, ("hsf_crnn",)),
        (1, 2, ("hsf_crnn",)),  # the rows of a batch are spread over devices
        (4, 2, ("plain_crnn",)),  # two trials on every device
        (2, 2, ("plain_crnn", "literal")),
    ],
)
def test_states_and_logits_are_those_of_resident_data_to_the_bit(size, devices, system):
    assert_streamed_is_resident(size, devices, *system)


def test_they_are_so_with_the_emitter_of_users(newer_emitter):
    assert_streamed_is_resident(2, 2, "multi_crnn")


def trainer(workdir, residence: str) -> Trainer:
    workdir.mkdir(exist_ok=True)
    data = laid_out() if residence == "streamed" else laid_out().loaded()
    return Trainer(
        *(tiny.protocol(), data, programs(residence, 2, 2), tiny.settings(), workdir),
        *({"system": "plain_crnn"}, calibration.fit_temperature),
    )


def models(workdir) -> dict[str, bytes]:
    paths = sorted(workdir.rglob("model.npz"))
    return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def resident(tmp_path_factory) -> dict[str, bytes]:
    """Three trials, two at a time; the second group is not full."""
    workdir = tmp_path_factory.mktemp("resident")
    trainer(workdir, "resident").train(tiny.trials("a,b,c"))
    return models(workdir)


def test_the_loop_leaves_the_same_models(resident, tmp_path):
    trainer(tmp_path, "streamed").train(tiny.trials("a,b,c"))
    assert len(resident) == 3 and models(tmp_path) == resident


@pytest.mark.parametrize("call", [1, 3, 20])
def test_it_resumes_within_an_epoch_to_the_bit(call, resident, tmp_path):
    """R2: reading begins at the step of the checkpoint, whatever had been read ahead."""
    group, trials = programs("streamed", 2, 2), tiny.trials("a,b,c")
    interrupted(lambda: trainer(tmp_path, "streamed"), trials, group, after_train=[call])
    assert models(tmp_path) != resident
    trainer(tmp_path, "streamed").train(trials)
    assert models(tmp_path) == resident


class CountedReads:
    """The batch source of a dataset whose reads are counted."""

    def __init__(self, read=None):
        self.reads, data = [], laid_out()

        def counting(bucket: int, frames: Any) -> Rows:
            def count(part: np.ndarray) -> np.ndarray:
                self.reads.append((bucket, part.tolist()))
                return read(part) if read else frames[data.row[part]]

            return Rows(data.utterances(bucket), frames.shape[1:], frames.dtype, count)

        inputs = tuple(
            bucket._replace(frames=counting(number, bucket.frames))
            for number, bucket in enumerate(data.buckets)
        )
        self.programs: Any = programs("streamed", 2, 2)
        self.source = self.programs.source
        self.data = dataclasses.replace(data, buckets=inputs)
        self.buckets = [
            self.source.buckets[n]._replace(inputs=inputs[n]) for n in range(len(inputs))
        ]


@pytest.fixture
def counted(monkeypatch):
    def make(read=None) -> CountedReads:
        made = CountedReads(read)
        monkeypatch.setattr(made.source, "buckets", made.buckets)
        return made

    return make


def train(counted: CountedReads, order, rows, mask) -> Any:
    state, _ = counted.programs.init([0, 1])
    trial = counted.programs.put(constants(counted.data, 2))
    return jax.device_get(counted.programs.train(state, trial, order, rows, mask))


def test_an_utterance_of_several_trials_is_read_once(counted):
    found = counted()
    order, rows, mask = batches(found.data, 2)
    train(found, order, rows, mask)
    expected = [
        (bucket, sorted(set(found.data.utterances(bucket)[part].ravel().tolist())))
        for bucket, part in zip(order, rows, strict=True)
    ]
    assert sorted(found.reads) == sorted(expected)


def test_no_more_is_read_ahead_than_allowed(counted, monkeypatch):
    """Batches that are read but not used yet: bounded, however many steps there are."""
    monkeypatch.setattr(prefetch, "AHEAD_BYTES", 1)  # less than one: then two
    used, most = [], []
    found = counted(
        lambda part: (most.append(len(most) + 1 - len(used)), np.zeros((len(part), 6, 6)))[1]
    )
    order, rows, _ = batches(found.data, 2, count=40)
    reading = found.source._read(prefetch.Plan(order, rows))
    monkeypatch.setattr(found.source, "_put", lambda values: values)
    for _ in reading:
        used.append(1)
    assert len(used) == len(most) == 40
    assert max(most) <= 2 + 2 + 1, "those that wait, one in each thread, and the one in use"


def test_planned_batches_are_read_ahead_across_chunks_and_others_on_demand(counted):
    found = counted()
    order, rows, mask = batches(found.data, 2)
    whole = tiny.bits(train(found, order, rows, mask))
    other = np.roll(rows[:4], 1, axis=2)
    found.programs.prefetch(order, rows)
    found.reads.clear()
    state, _ = found.programs.init([0, 1])
    trial = found.programs.put(constants(found.data, 2))
    state = found.programs.train(state, trial, order[:5], rows[:5], mask[:5])
    state = found.programs.train(state, trial, order[5:], rows[5:], mask[5:])
    assert tiny.bits(state) == whole and len(found.reads) == len(order), "nothing is read twice"
    found.programs.prefetch(order, rows)
    mistaken = train(found, order[:4], other, mask[:4])
    assert tiny.bits(mistaken) == tiny.bits(train(found, order[:4], other, mask[:4]))
    assert tiny.bits(mistaken) != tiny.bits(train(found, order[:4], rows[:4], mask[:4]))


def test_what_cannot_be_read_ends_training_with_its_sentence(counted):
    def fail(part):
        raise UserError("record 3 cannot be read")

    found = counted(fail)
    with pytest.raises(UserError, match="record 3 cannot be read"):
        train(found, *batches(found.data, 2))


def test_waiting_is_counted(counted):
    found = counted()
    before = found.programs.waited
    train(found, *batches(found.data, 2))
    assert found.programs.waited > before
    assert programs("resident", 2, 2).waited == 0
