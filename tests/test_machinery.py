"""From a configuration to programs: how steps are dispatched, how products are computed, how many runs form a group."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax import machinery
from ser_jax.features.extract import Features
from ser_jax.models import build
from ser_jax.models.arithmetic import DEFAULT, Arithmetic
from ser_jax.training import mesh

# 150 training and 70 test utterances in two buckets; at 32 a batch 4 + 2 and 2 + 1 batches.
FOLD = SimpleNamespace(train=[np.arange(100), np.arange(50)], test=[np.arange(50), np.arange(20)])
PROTOCOL: Any = SimpleNamespace(folds=(FOLD,), classes=("angry", "sad"))
DATASET: Any = SimpleNamespace(rows=lambda part: part, buckets=[None])


FIT = 4  # runs on a GPU


@pytest.fixture
def made(monkeypatch) -> Any:
    """What `make_programs` makes programs of: a function of keys of `training` that returns system and arguments."""

    def make(platform="cpu", there=2, runs=5, training=True, system="multi_crnn", **changes: Any) -> Any:
        c = configuration.get_config()
        c.system = system
        c.training.update(changes)
        devices: Any = [SimpleNamespace(platform=platform)] * there
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
