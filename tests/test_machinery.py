"""From a configuration to programs: how steps are dispatched, how products are computed, how many runs form a group."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax import machinery
from ser_jax.errors import UserError
from ser_jax.features.extract import Features
from ser_jax.models import build, recurrence_gpu
from ser_jax.models.arithmetic import DEFAULT, Arithmetic
from ser_jax.models.native_library import UnavailableError
from ser_jax.training import mesh

# 150 training and 70 test utterances in two buckets; at 32 a batch 4 + 2 and 2 + 1 batches.
FOLD = SimpleNamespace(train=[np.arange(100), np.arange(50)], test=[np.arange(50), np.arange(20)])
PROTOCOL: Any = SimpleNamespace(folds=(FOLD,), classes=("angry", "sad"))
DATASET: Any = SimpleNamespace(rows=lambda part: part, buckets=[None], streamed=False)


FIT = 4  # runs on a GPU


@pytest.fixture
def made(monkeypatch) -> Any:
    """What `make_programs` makes programs of: a function of keys of `training` that returns system and arguments."""

    def make(
        platform="cpu", there=2, runs=5, training=True, system="multi_crnn", units=128, kind="cpu", **changes: Any
    ) -> Any:
        c = configuration.get_config()
        c.system, c.model.lstm_units = system, units
        c.training.update({"kernels": "xla"} | changes)
        devices: Any = [SimpleNamespace(platform=platform, device_kind=kind)] * there
        return machinery.make_programs(c, DATASET, PROTOCOL, devices, runs, training=training)

    monkeypatch.setattr(
        machinery, "Programs", lambda model, dataset, recipe, **arguments: (model, arguments | {"draws": recipe.draws})
    )
    monkeypatch.setattr(machinery.build, "count_parameters", lambda model, inputs: 7)
    for name, value in {"memory_limit": 100, "data_bytes": 10, "run_bytes": 80 // FIT}.items():
        monkeypatch.setattr(machinery.capacity, name, lambda *_, value=value: value)
    return make


@pytest.mark.parametrize(
    ("platform", "dispatch", "chunk"),
    [("cpu", "auto", 0), ("cpu", "step", 0), ("cpu", "chunk", 6), ("gpu", "auto", 6), ("gpu", "step", 0)],
)
def test_an_epoch_of_steps_is_one_program_on_accelerators(platform, dispatch, chunk, made):
    """And its convolutions are unfolded: XLA's are slow inside loops."""
    model, arguments = made(platform=platform, dispatch=dispatch)
    assert arguments["chunk"] == chunk and model.arithmetic == Arithmetic(unfold=chunk > 0)


@pytest.mark.parametrize(
    ("changes", "native"),
    [
        ({}, True),
        ({"precision": "tf32"}, True),
        ({"kernels": "xla"}, False),
        ({"precision": "bf16"}, False),
        ({"dispatch": "chunk"}, False),
        ({"platform": "gpu", "dispatch": "step"}, False),
        ({"system": "end2you"}, False),
    ],
)
def test_own_kernels_train_on_a_cpu_in_float32(changes, native, made, monkeypatch, caplog):
    """There is no compiler to be had on some machines; then XLA trains, and says so."""
    caplog.set_level("INFO")
    monkeypatch.setattr(machinery.kernel_parity, "prepare", lambda of_training: "cc 1")
    assert made(**{"kernels": "auto"} | changes)[0].arithmetic.native == native
    assert ("kernels compiled by cc 1" in caplog.text) == native

    def fails(of_training):
        raise UnavailableError("no compiler")

    monkeypatch.setattr(machinery.kernel_parity, "prepare", fails)
    assert not made(**{"kernels": "auto"} | changes)[0].arithmetic.native
    assert ("XLA's (no compiler)" in caplog.text) == native
    if changes.get("kernels") != "xla" and changes.get("system") != "end2you":
        with pytest.raises(UserError, match="training.kernels=native cannot be: .*; training.kernels=auto takes"):
            made(**changes | {"kernels": "native"})


GPU = {"platform": "gpu", "kind": "NVIDIA H200"}


@pytest.mark.parametrize("wanted", ["auto", "scan", "pallas"])
def test_the_recurrence_is_one_program_where_it_is_asked_for(wanted, made, caplog):
    """`auto` waits for a GPU on which it was timed. It is compared with the loop first, here interpreted."""
    caplog.set_level("INFO")
    assert made(**GPU, recurrence=wanted)[0].arithmetic.pallas == (wanted == "pallas")
    assert ("which gives the results of XLA's loop" in caplog.text) == (wanted == "pallas")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "it is for GPUs of NVIDIA, not for cpu"),
        ({"platform": "tpu", "kind": "TPU v5e"}, "it is for GPUs of NVIDIA, not for TPU v5e"),
        (GPU | {"system": "end2you"}, "it is for plain_crnn, hsf_crnn, multi_crnn, not for end2you"),
        (GPU | {"units": 100}, "the LSTM has 100 units, and it takes powers of two from 16"),
    ],
)
def test_where_the_recurrence_cannot_be_one_program(changes, reason, made):
    with pytest.raises(UserError, match=f"training.recurrence=pallas cannot be: {reason}; use training.recurrence="):
        made(**changes, recurrence="pallas")


def test_a_recurrence_that_errs_is_refused(made, monkeypatch):
    exact: Any = recurrence_gpu.recur
    monkeypatch.setattr(recurrence_gpu, "recur", lambda *given: 1.001 * exact(*given))
    with pytest.raises(UserError, match=r"cannot be: its results differ from those of XLA's loop by 1\.\de-03"):
        made(**GPU, recurrence="pallas")


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_streamed_data_are_trained_step_by_step_and_take_no_room(platform, made, monkeypatch):
    monkeypatch.setattr(DATASET, "streamed", True)
    told = []
    monkeypatch.setattr(machinery.capacity, "largest_group", lambda runs, **sizes: told.append(sizes["data"]) or runs)
    model, arguments = made(platform=platform)
    assert arguments["chunk"] == 0 and not model.arithmetic.unfold
    assert told == ([0] if platform == "gpu" else [])


def test_scoring_alone_has_chunks_of_its_own(made, monkeypatch):
    assert made(dispatch="chunk", training=False)[1]["chunk"] == 3
    monkeypatch.setattr(FOLD, "test", [np.arange(0), np.arange(0)])
    assert made(dispatch="chunk", training=False)[1]["chunk"] == 1, "0 would mean: step by step"


def test_a_long_epoch_is_cut_evenly(made):
    assert made(dispatch="chunk", batch_size=1)[1]["chunk"] == 50 <= machinery.MOST_STEPS


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_precision(precision, made, monkeypatch):
    """bf16 rounds the factors itself; the others are a setting of jax."""
    model, _ = made(precision=precision)
    assert model.arithmetic == (Arithmetic(jnp.bfloat16) if precision == "bf16" else DEFAULT)
    settings: Any = jax.config
    before = settings.jax_default_matmul_precision
    c = configuration.get_config()
    c.training.precision, c.training.compilation_cache = precision, False
    monkeypatch.setattr(machinery.memory, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(machinery.mesh, "start_devices", lambda count: [])
    try:
        machinery.start(c)
        expected = "tensorfloat32" if precision == "tf32" else "float32"
        assert settings.jax_default_matmul_precision == expected
    finally:
        jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize(
    ("platform", "there", "runs", "group", "size"),
    [
        ("cpu", 2, 5, 0, 2),
        ("cpu", 4, 3, 0, 3),
        ("cpu", 2, 5, 5, 5),
        ("gpu", 1, 3, 0, 3),
        ("gpu", 1, 9, 0, 3),  # four fit: three groups of three
        ("gpu", 1, 9, 9, 9),
    ],
)
def test_group(platform, there, runs, group, size, made):
    """One run per CPU device, as many as fit on an accelerator, unless a number is given."""
    assert made(platform, there, runs, group=group)[1]["size"] == size


@pytest.mark.parametrize("there", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("runs", [1, 2, 3, 5, 7, 10, 17, 50])
def test_no_device_is_given_more_runs_than_fit(there, runs, made):
    """However the mesh divides the group: data and parameters lie on a device whole, even where rows are split."""
    size = made("gpu", there, runs)[1]["size"]
    run_axis = mesh.make_mesh(range(there), size, 32).shape["run"]
    assert size / run_axis <= FIT


@pytest.mark.parametrize(("platform", "devices", "split"), [("cpu", 0, False), ("cpu", 2, True), ("gpu", 0, True)])
def test_devices_that_are_left_over_split_rows(platform, devices, split, made):
    """But not on a CPU whose devices nobody asked for: one of them uses all cores."""
    assert made(platform, devices=devices)[1]["split_rows"] == split


@pytest.mark.parametrize(("system", "expected"), [("multi_crnn", (False, False)), ("end2you", (True, True))])
def test_only_the_system_on_waves_draws_and_takes_long_steps(system, expected, made):
    arguments = made(system=system)[1]
    assert (arguments["draws"], arguments["long_steps"]) == expected


def test_no_dropout_draws_nothing():
    c = configuration.get_config()
    c.system, c.model.end2you_dropout = "end2you", 0.0
    assert not build.uses_dropout(c) and build.uses_wave(c)


def frames_of(residence: str, folder: Path, deferred: bool = False, **changes: Any) -> Any:
    """The dataset of three utterances."""
    c = configuration.get_config()
    c.training.residence, c.features.shards = residence, str(folder)
    c.training.update(changes)
    log_mel = [np.full((size, 40), size, np.float32) for size in (90, 60, 200)]
    features = Features((), log_mel, None, np.ones(3), (), {}, "", 0, sha256="0" * 64)
    if deferred:
        lengths = np.array([90, 60, 200])
        features = dataclasses.replace(features, log_mel=[], deferred={"logmel": Later(log_mel, lengths)})
    protocol: Any = SimpleNamespace(ids="abc", targets=np.zeros(3, np.int32), folds=(SimpleNamespace(train=[0, 1, 2]),))
    return machinery.make_dataset(c, protocol, features)


class Later(list):
    def __init__(self, values, lengths):
        super().__init__(values)
        self._lengths = lengths

    def lengths(self):
        return self._lengths


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(("residence", "changes"), [("streamed", {}), ("auto", {"memory_share": 1e-9})])
def test_a_dataset_in_shards_holds_what_one_in_memory_holds(residence, changes, deferred, tmp_path):
    resident = frames_of("auto", tmp_path)
    streamed = frames_of(residence, tmp_path, deferred, **changes)
    assert not resident.streamed and streamed.streamed and len(resident.buckets) == len(streamed.buckets)
    for one, other in zip(resident.buckets, streamed.buckets, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames[:])
        np.testing.assert_array_equal(one.length, other.length)
    everything = np.arange(3)
    for one, other in zip(resident.statistics(everything), streamed.statistics(everything), strict=True):
        np.testing.assert_array_equal(one, other)
    assert resident.padding_ratio == streamed.padding_ratio


def test_a_dataset_of_waves():
    """Buckets, batches and shares as for frames; neither frames nor statistics."""
    c = configuration.get_config()
    c.system, c.training.shapes, c.training.batch_size = "end2you", 2, 1
    waves = [np.ones(size, np.int16) for size in (640, 641, 3000)]
    features = Features((), [np.ones((3, 40), np.float32)] * 3, None, np.ones(3), (), {}, "", 0, waves)
    protocol: Any = SimpleNamespace(ids="abc", targets=np.zeros(3, np.int32), folds=(SimpleNamespace(train=[0, 1, 2]),))
    data = machinery.make_dataset(c, protocol, features)
    assert [np.asarray(inputs.wave).shape for inputs in data.buckets] == [(2, 2, 640), (1, 5, 640)]
    assert data.sums is None and all(inputs.frames is None for inputs in data.buckets)
