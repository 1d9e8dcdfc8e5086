"""The execution plan as a table: configuration, data and devices in, the plan out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ser_jax import config as configuration
from ser_jax.data import dataset as datasets
from ser_jax.models import build
from ser_jax.models.kernels import gpu_lstm, verify
from ser_jax.models.kernels.cpu import UnavailableError
from ser_jax.runtime.errors import UserError
from ser_jax.training.augmentation import Augmentation
from ser_jax.training.execution import plan as plans
from ser_jax.training.execution.plan import DataFacts, DeviceFacts

CPU, CPUS = DeviceFacts("cpu"), DeviceFacts("cpu", count=2)
GPU = DeviceFacts("gpu", "NVIDIA H200", memory=1000)
TPUS = DeviceFacts("tpu", "TPU v5e", 4, 1000)
DATA = DataFacts(steps=150, resident_bytes=400, trial_bytes=50)  # ten trials fit on a device
STREAMED = dataclasses.replace(DATA, resident_bytes=0, streamed=True)


def make(devices=CPUS, data=DATA, trials=5, system="multi_crnn", **training: Any) -> Any:
    c = configuration.get_config()
    c.system = system
    c.training.update(training)
    return plans.make_plan(c, trials, data, devices)


# What is given, and what of the plan follows from it.
TABLE = [
    ({}, {"per_step": True, "chunk": 16, "trials": 2, "mesh_shape": (2, 1), "metrics_delay": 0}),
    ({}, {"native": True, "unfold": False, "in_flight": None, "one_thread_each": True}),
    ({"devices": CPU}, {"trials": 1, "one_thread_each": False, "synchronize": False}),
    ({"dispatch": "step"}, {"per_step": True}),
    ({"dispatch": "chunk"}, {"per_step": False, "chunk": 50, "native": False, "unfold": True}),
    # On a CPU rows are spread over devices only where somebody has asked for devices.
    ({"trials": 1}, {"mesh_shape": (1, 1), "synchronize": False}),
    ({"trials": 1, "devices_wanted": 2}, {"mesh_shape": (1, 2), "synchronize": True}),
    ({"group": 5}, {"trials": 5, "mesh_shape": (1, 1)}),
    ({"kernels": "xla"}, {"native": False}),
    ({"precision": "bf16"}, {"native": False, "operands": jnp.bfloat16}),
    ({"precision": "tf32"}, {"native": True, "operands": None}),
    ({"recurrence": "scan"}, {"pallas": False}),
    ({"data": STREAMED}, {"streamed": True, "in_flight": 4, "chunk": 16}),
    # A step of the system on waves takes seconds: a signal must not wait for sixteen of them.
    ({"system": "end2you"}, {"chunk": 1, "in_flight": 0, "native": False}),
    # Accelerators: many steps a program, no more trials than fit, rows on devices left over.
    ({"devices": GPU}, {"per_step": False, "chunk": 50, "unfold": True, "metrics_delay": 1}),
    ({"devices": GPU, "trials": 9}, {"trials": 9, "native": False, "pallas": False}),
    ({"devices": GPU, "trials": 15}, {"trials": 8}),
    ({"devices": GPU, "trials": 15, "group": 15}, {"trials": 15}),
    ({"devices": GPU, "recurrence": "pallas"}, {"pallas": True}),
    ({"devices": GPU, "dispatch": "step"}, {"per_step": True, "unfold": False, "native": False}),
    ({"devices": GPU, "data": STREAMED}, {"per_step": True, "streamed": True}),
    ({"devices": TPUS, "trials": 2}, {"trials": 2, "mesh_shape": (2, 2), "synchronize": False}),
    ({"devices": TPUS, "trials": 50}, {"trials": 28, "mesh_shape": (4, 1)}),
]


@pytest.mark.parametrize(("given", "expected"), TABLE)
def test_plan(given, expected):
    given = dict(given)
    training = {"devices": given.pop("devices_wanted")} if "devices_wanted" in given else {}
    devices, data = given.pop("devices", CPUS), given.pop("data", DATA)
    trials, system = given.pop("trials", 5), given.pop("system", "multi_crnn")
    c = configuration.get_config()
    c.system = system
    c.training.update(given | training)
    plan = plans.make_plan(c, trials, data, devices)
    values = {**vars(plan), **plan.compute._asdict()}
    assert {name: values[name] for name in expected} == expected
    assert plan.rows == c.training.batch_size and plan.chunk >= 1 and str(plan)


def test_scoring_nothing_takes_a_chunk_all_the_same():
    assert make(GPU, dataclasses.replace(DATA, steps=0)).chunk == 1


GROUPS = [
    # trials, devices, memory, data, one trial → group
    (50, 1, None, 10, 10, 50),  # unknown: everything at once
    (50, 1, 1000, 400, 5, 50),  # 500 / 5 = 100 fit
    (50, 1, 1000, 400, 20, 25),  # 25 fit: two groups
    (50, 1, 1000, 400, 24, 17),  # 20 fit: three groups of 17, 17, 16
    (50, 4, 1000, 400, 100, 20),  # 13 a device are wanted, 5 fit: three groups of 5 a device
    (3, 8, 1000, 400, 100, 3),  # more devices than trials
    (1, 1, 1000, 400, 500, 1),  # just so
]


@pytest.mark.parametrize(("trials", "devices", "memory", "data", "trial", "expected"), GROUPS)
def test_largest_group(trials, devices, memory, data, trial, expected):
    facts = DataFacts(1, data, trial), DeviceFacts("gpu", count=devices, memory=memory)
    assert plans.largest_group(trials, *facts) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_no_device_is_given_more_trials_than_fit(count):
    """However the mesh divides the group: data and parameters lie whole on a device."""
    for trials in (1, 2, 3, 5, 7, 10, 17, 50):
        plan = make(DeviceFacts("gpu", count=count, memory=1000), trials=trials)
        assert plan.trials / plan.mesh_shape[0] <= 10


def test_not_even_one_trial_fits():
    data = DataFacts(1, 20 * 10**9, 15 * 10**8)
    sentence = r"data take 20\.0 GB and one trial about 1\.5 GB, but a device offers 16\.0 GB"
    with pytest.raises(UserError, match=f"{sentence}.*batch_size"):
        plans.largest_group(4, data, DeviceFacts("gpu", count=2, memory=16 * 10**9))


@pytest.mark.parametrize("trials", [1, 3, 5])
@pytest.mark.parametrize("devices", [CPU, CPUS, dataclasses.replace(CPUS, count=16), GPU, TPUS])
@pytest.mark.parametrize("given", [{}, {"group": 4}, {"dispatch": "chunk"}, {"kernels": "xla"}])
def test_what_is_recorded_plans_the_same_again(given, devices, trials):
    """The recorded keys of the configuration, on as many devices as they name."""
    first = make(devices, trials=trials, **given)
    record = first.record(devices)
    assert record["processor"] and record["jaxlib"] and record["compiler"] is None
    c = configuration.get_config()
    keys = {key.removeprefix("training."): value for key, value in record.items() if "." in key}
    c.training.update(keys)
    there = dataclasses.replace(devices, count=c.training.devices)
    again = plans.make_plan(c, trials, DATA, there)
    assert again == first and again.record(there) == record


def test_what_data_and_trials_take():
    data = tiny.dataset()
    buckets: Any = data.buckets
    arrays = [array for bucket in buckets for array in (bucket.frames, bucket.length)]
    parameters = build.count_parameters(tiny.model(), data.buckets[0])
    assert parameters == tiny.executor(2, 2).parameters
    longest = max(bucket.frames.shape[1] for bucket in buckets)
    parts = [data.rows(fold.train) for fold in tiny.protocol().folds]
    facts = plans.data_facts(data, parts, parameters, tiny.BATCH)
    assert facts.resident_bytes == sum(array.nbytes for array in (*arrays, *data.targets))
    assert facts.trial_bytes == 4 * (6 * parameters + 2000 * tiny.BATCH * longest)
    slowed = plans.trial_bytes(
        data, parameters, tiny.BATCH, Augmentation(speed=0.5)
    )  # twice as long, and one
    assert slowed == 4 * (6 * parameters + 2000 * tiny.BATCH * 2 * longest)
    assert facts.steps == len(tiny.steps_of_an_epoch()) and not facts.streamed


def test_chunks_of_waves_take_more():
    waves = [np.ones(size, np.int16) for size in (30, 100)]
    source, targets = datasets.waves_source(waves), np.zeros(2, np.int32)
    data = datasets.waves_dataset(
        source, targets, chunk=10, shapes=2, batch_size=1, train_fraction=1.0
    ).loaded()
    assert plans.data_bytes(data) == 2 * (30 + 100) + 2 * 4 + 2 * 4
    assert plans.trial_bytes(data, 7, 2) == 4 * (6 * 7 + 300_000 * 2 * 10)


def test_facts_of_the_devices_here():
    found = plans.device_facts(jax.local_devices(backend="cpu"))
    assert found == DeviceFacts("cpu", "cpu", len(jax.local_devices(backend="cpu")), None)


# --- Own kernels, as far as they can be used on this machine


def with_kernels(devices=CPUS, system="plain_crnn", units=128, **training: Any) -> Any:
    c = configuration.get_config()
    c.system, c.model.lstm_units = system, units
    c.training.update(training)
    return plans.with_own_kernels(plans.make_plan(c, 2, DATA, devices), c, devices)


def test_without_a_compiler_xla_trains_and_says_so(monkeypatch, caplog):
    def fails():
        raise UnavailableError("no compiler")

    monkeypatch.setattr(verify, "prepare", fails)
    caplog.set_level("INFO")
    assert not with_kernels().compute.native and "XLA's (no compiler)" in caplog.text
    with pytest.raises(UserError, match="native cannot be: no compiler; training.kernels=auto"):
        with_kernels(kernels="native")


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"dispatch": "chunk"}])
def test_own_kernels_are_refused_where_they_cannot_be(changes):
    with pytest.raises(UserError, match="training.kernels=native cannot be: they are for"):
        with_kernels(kernels="native", **changes)
    assert with_kernels(kernels="xla", **changes) == with_kernels(kernels="auto", **changes)


CANNOT = [
    ({"devices": CPU}, "it is for GPUs of NVIDIA, not for cpu"),
    ({"devices": TPUS}, "it is for GPUs of NVIDIA, not for TPU v5e"),
    ({"system": "end2you"}, "it is for plain_crnn, hsf_crnn, multi_crnn, not for end2you"),
    ({"units": 100}, "the LSTM has 100 units, and it takes powers of two from 16"),
]


@pytest.mark.parametrize(("changes", "reason"), CANNOT)
def test_where_the_recurrence_cannot_be_one_program(changes, reason):
    sentence = f"training.recurrence=pallas cannot be: {reason}; use training.recurrence="
    with pytest.raises(UserError, match=sentence):
        with_kernels(**{"devices": GPU, "recurrence": "pallas"} | changes)


def test_the_recurrence_is_compared_with_the_loop_first(monkeypatch, caplog):
    """Here interpreted."""
    caplog.set_level("INFO")
    assert with_kernels(GPU, recurrence="pallas").compute.pallas
    assert "which gives the results of XLA's loop" in caplog.text
    exact: Any = gpu_lstm.recur
    monkeypatch.setattr(gpu_lstm, "recur", lambda *given: 1.001 * exact(*given))
    with pytest.raises(UserError, match=r"results differ from those of XLA's loop by 1\.\de-03"):
        with_kernels(GPU, recurrence="pallas")
