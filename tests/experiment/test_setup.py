"""From a configuration to devices, training settings and padded data, in memory or in shards."""

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax.experiment import setup
from ser_jax.features.extraction import Features
from ser_jax.models import build
from ser_jax.training.step import TrainSettings

GB = 10**9


def config(system: str = "multi_crnn", **training: Any) -> Any:
    c = configuration.get_config()
    c.system = system
    c.training.update(training)
    return c


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_precision(precision):
    """bf16 rounds the factors in the program; the others are a setting of jax."""
    settings: Any = jax.config
    before = settings.jax_default_matmul_precision
    c = config(precision=precision, compilation_cache=False)
    assert build.operands(c) == (jnp.bfloat16 if precision == "bf16" else None)
    try:
        assert setup.start(c) == jax.local_devices()
        expected = "tensorfloat32" if precision == "tf32" else "float32"
        assert settings.jax_default_matmul_precision == expected
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_train_settings():
    """Every key that a step reads; augmentation and dropout only where something is drawn."""
    assert setup.train_settings(config()) == TrainSettings(1e-3, 1.0, equal_weights=True)
    assert setup.train_settings(config(front_rate=0.1)).front_rate == 0.1
    c = config(weight_decay=0.1, ema=0.9, label_smoothing=0.2, patience=3, loss_divisor="own")
    c.model.dropout, c.augment.speed = 0.3, 0.1
    found = setup.train_settings(c)
    plain = TrainSettings(1e-3, 1.0, 3, 0.1, 0.9, 0.2, None, True)
    assert found._replace(augmentation=None) == plain
    assert found.augmentation is not None and found.augmentation.speed == 0.1 and found.draws
    c = config("end2you")
    c.model.end2you_dropout = 0.0
    assert not setup.train_settings(c).dropout


# --- Padded data


class Later(list):
    def lengths(self):
        return np.array([len(array) for array in self])


def dataset_of(c: Any, *, deferred: bool = False, waves: Any = ()) -> Any:
    """The dataset of three utterances."""
    log_mel = [np.full((size, 40), size, np.float32) for size in (90, 60, 200)]
    features = Features((), log_mel, None, np.ones(3), (), {}, "", 0, list(waves), sha256="0" * 64)
    if deferred:
        features = dataclasses.replace(features, log_mel=[], deferred={"logmel": Later(log_mel)})
    fold = SimpleNamespace(train=[0, 1, 2])
    protocol: Any = SimpleNamespace(
        ids="abc", targets=np.zeros(3, np.int32), strata=np.zeros(3, np.int32), folds=(fold,)
    )
    return setup.make_dataset(c, protocol, features)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("training", [{"residence": "streamed"}, {"memory_share": 1e-9}], ids=str)
def test_a_dataset_in_shards_holds_what_one_in_memory_holds(training, deferred, tmp_path):
    resident = dataset_of(config())
    c = config(**training)
    c.features.shards = str(tmp_path)
    streamed = dataset_of(c, deferred=deferred)
    assert not resident.streamed and streamed.streamed
    for one, other in zip(resident.buckets, streamed.buckets, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames[:])
        np.testing.assert_array_equal(one.length, other.length)
    statistics = (data.statistics(np.arange(3)) for data in (resident, streamed))
    for one, other in zip(*statistics, strict=True):
        np.testing.assert_array_equal(one, other)
    assert resident.padding_ratio == streamed.padding_ratio


@pytest.mark.parametrize(("name", "value"), [("speed", 0.1), ("silence_frames", 5)])
def test_augmentation_that_lengthens_gets_whole_utterances(name, value):
    """Of 200 frames, segments of 30 every 20 frames cover 190."""
    c = config("plain_crnn", shapes=1)
    c.augment.noise = 0.5
    assert [np.asarray(inputs.frames).shape for inputs in dataset_of(c).buckets] == [(3, 190, 40)]
    c.augment[name] = value
    (bucket,) = dataset_of(c).buckets
    assert np.all(np.asarray(bucket.frames)[2] == 200) and np.asarray(bucket.frames).shape[1] == 200


def test_a_dataset_of_waves():
    """Buckets, batches and shares as for frames; neither frames nor statistics."""
    waves = [np.ones(size, np.int16) for size in (640, 641, 3000)]
    data = dataset_of(config("end2you", shapes=2, batch_size=1), waves=waves)
    assert [np.asarray(inputs.wave).shape for inputs in data.buckets] == [(2, 2, 640), (1, 5, 640)]
    assert data.sums is None and all(inputs.frames is None for inputs in data.buckets)


def test_features_in_memory_are_written_and_then_only_opened(tmp_path, monkeypatch):
    c = config(residence="streamed")
    c.features.shards = str(tmp_path)
    log_mel = [np.full((length, 2), length, np.float32) for length in (4, 2, 3)]
    hsf = np.arange(6, dtype=np.float32).reshape(3, 2)
    features = Features((), log_mel, hsf, np.ones(3), (), {}, "", 3, sha256="5" * 64)
    source = setup.in_shards(c, features)
    assert [path.name for path in tmp_path.iterdir()] == ["5" * 32]
    assert [array.tolist() for array in source.arrays] == [array.tolist() for array in log_mel]
    assert source.hsf is not None and [row.tolist() for row in source.hsf] == hsf.tolist()
    monkeypatch.setattr(setup.record_files, "write", lambda *_: pytest.fail("they are there"))
    assert setup.in_shards(c, features).lengths.tolist() == [4, 2, 3]


# --- Where padded arrays live


@pytest.fixture
def memory(monkeypatch):
    """Makes a host of 10 GB with a device of so many bytes."""

    def has(device: int | None) -> None:
        monkeypatch.setattr(setup, "host_bytes", lambda: 10 * GB)
        monkeypatch.setattr(setup.plan, "device_memory", lambda _: device)

    return has


@pytest.mark.parametrize(
    ("device", "share", "needed", "resident"),
    [
        (None, 0.4, 4 * GB, True),
        (None, 0.4, 4 * GB + 1, False),
        (None, 1.0, 10 * GB, True),
        (2 * GB, 0.5, GB, True),  # what is smaller, host or device
        (2 * GB, 0.5, GB + 1, False),
        (80 * GB, 0.5, 5 * GB + 1, False),
    ],
)
def test_auto_goes_by_size(device, share, needed, resident, memory, caplog):
    memory(device)
    with caplog.at_level(logging.INFO, logger="ser_jax"):
        assert setup.is_resident(config(memory_share=share), needed, deferred=False) == resident
    limit = min(10 * GB, device or 10 * GB) / GB
    assert caplog.messages == [
        f"padded arrays: {needed / GB:.2f} GB, {'resident' if resident else 'streamed'} "
        f"(training.residence=auto, training.memory_share={share:g} of {limit:.1f} GB)"
    ]
    assert not setup.is_resident(config(memory_share=share), needed, deferred=True)


@pytest.mark.parametrize(
    ("system", "residence", "most"),
    [
        ("plain_crnn", "auto", 4 * GB),
        ("plain_crnn", "resident", np.inf),
        ("plain_crnn", "streamed", 0),
        ("svm", "streamed", np.inf),  # it needs all functionals at once
    ],
)
def test_a_residence_goes_whatever_the_size_and_limits_extraction(system, residence, most, memory):
    memory(None)
    c = config(system, residence=residence)
    assert setup.most_feature_bytes(c) == most
    if residence != "auto":
        for needed in (1, 100 * GB):
            found = setup.is_resident(c, needed, deferred=False)
            assert found == (residence == "resident")


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    limit, none = tmp_path / "memory.max", tmp_path / "max"
    none.write_text("max\n")
    monkeypatch.setattr(setup, "_LIMITS", (none, Path(tmp_path / "not there")))
    whole = setup.host_bytes()
    assert whole > GB
    monkeypatch.setattr(setup, "_LIMITS", (limit, none))
    # A large limit is how version 1 says that there is none.
    for text, expected in (("123456789\n", 123456789), (f"{2**62}\n", whole)):
        limit.write_text(text)
        assert setup.host_bytes() == expected


@pytest.mark.parametrize(
    ("card", "platforms", "told"), [(True, "", True), (True, "cpu", False), (False, "", False)]
)
def test_a_cpu_run_beside_an_nvidia_card_says_so(monkeypatch, caplog, card, platforms, told):
    monkeypatch.setattr(setup, "has_nvidia", lambda: card)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    setup.start(config(compilation_cache=False))
    assert ("has an NVIDIA card, and jax computes on the CPU" in caplog.text) == told
