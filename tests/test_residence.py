"""Where padded arrays live: the choice by size, what it says, and what it needs."""

import logging
from typing import Any

import numpy as np
import pytest

from ser_jax import config as configuration
from ser_jax import residence
from ser_jax.errors import UserError
from ser_jax.features.extract import Features

GB = 10**9


def config(**changes: Any) -> Any:
    c = configuration.get_config()
    c.training.update(changes)
    return c


@pytest.fixture
def memory(monkeypatch):
    """A host of 10 GB with a device of so many."""

    def has(device: int | None) -> None:
        monkeypatch.setattr(residence, "host_bytes", lambda: 10 * GB)
        monkeypatch.setattr(residence.capacity, "memory_limit", lambda _: device)

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
        assert residence.is_resident(config(memory_share=share), needed, deferred=False) == resident
    limit = min(10 * GB, device or 10 * GB) / GB
    assert caplog.messages == [
        f"padded arrays: {needed / GB:.2f} GB, {'resident' if resident else 'streamed'} "
        f"(training.residence=auto, training.memory_share={share:g} of {limit:.1f} GB)"
    ]


@pytest.mark.parametrize(("asked", "resident"), [("resident", True), ("streamed", False)])
def test_what_is_asked_for_goes_whatever_the_size(asked, resident, memory):
    memory(None)
    for needed in (1, 100 * GB):
        assert residence.is_resident(config(residence=asked), needed, deferred=False) == resident


def test_features_that_were_too_large_already_are_streamed(memory):
    memory(None)
    assert not residence.is_resident(config(), 1, deferred=True)


@pytest.mark.parametrize(
    ("system", "asked", "most"),
    [
        ("plain_crnn", "auto", 4 * GB),
        ("plain_crnn", "resident", np.inf),
        ("plain_crnn", "streamed", 0),
        ("svm", "streamed", np.inf),  # it needs all functionals at once
    ],
)
def test_extraction_holds_no_more_than_that(system, asked, most, memory):
    memory(None)
    c = config(residence=asked)
    c.system = system
    assert residence.most_feature_bytes(c) == most


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    limit, none = tmp_path / "memory.max", tmp_path / "max"
    none.write_text("max\n")
    monkeypatch.setattr(residence, "_LIMITS", (none, tmp_path / "not there"))
    whole = residence.host_bytes()
    assert whole > GB
    limit.write_text("123456789\n")
    monkeypatch.setattr(residence, "_LIMITS", (limit, none))
    assert residence.host_bytes() == 123456789
    limit.write_text(f"{2**62}\n")  # how version 1 says that there is no limit
    assert residence.host_bytes() == whole


def features(**kinds: Any) -> Features:
    found: dict[str, Any] = {"log_mel": [], "hsf": None} | kinds
    return Features((), found["log_mel"], found["hsf"], np.ones(3), (), {}, "", 3, sha256="5" * 64)


def test_features_in_memory_are_written_and_then_only_opened(tmp_path, monkeypatch):
    c = config(residence="streamed")
    c.features.shards = str(tmp_path)
    log_mel = [np.full((length, 2), length, np.float32) for length in (4, 2, 3)]
    hsf = np.arange(6, dtype=np.float32).reshape(3, 2)
    source = residence.in_shards(c, features(log_mel=log_mel, hsf=hsf))
    assert [path.name for path in tmp_path.iterdir()] == ["5" * 32]
    assert [array.tolist() for array in source.arrays] == [array.tolist() for array in log_mel]
    assert source.hsf is not None and [row.tolist() for row in source.hsf] == hsf.tolist()
    monkeypatch.setattr(residence.sharding, "write_shards", lambda *_: pytest.fail("they are there"))
    again = residence.in_shards(c, features(log_mel=log_mel, hsf=hsf))
    assert again.lengths.tolist() == [4, 2, 3]


def test_missing_packages_are_said_before_anything_is_written(tmp_path, monkeypatch):
    def missing() -> None:
        raise UserError("needs grain")

    monkeypatch.setattr(residence.shards, "require_packages", missing)
    c = config()
    c.features.shards = str(tmp_path / "set")
    with pytest.raises(UserError, match="needs grain"):
        residence.in_shards(c, features(log_mel=[np.ones((3, 2), np.float32)]))
    assert not list(tmp_path.iterdir())
