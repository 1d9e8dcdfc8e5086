"""Which kind of system a name stands for, and what is refused before features are extracted."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from ser_jax import config, machinery, systems
from ser_jax.baselines.svm_runs import SVM
from ser_jax.errors import UserError
from ser_jax.features.extract import Features
from ser_jax.protocols.protocol import Fold, Protocol

PROTOCOL = Protocol(
    "tiny", "test", ("angry", "sad"), {}, ("1", "2"), ("angry", "sad"), ("", ""), (Fold("a", "tt"),), "none"
)


def configured(system: str, **svm: Any) -> config.Config:
    c = config.get_config()
    c.system = system
    c.svm.update(svm)
    return c


@pytest.fixture
def no_devices(monkeypatch):
    """Starting jax is an error."""

    def start(_):
        raise AssertionError("jax is started")

    monkeypatch.setattr(machinery, "start", start)


@pytest.mark.parametrize(
    ("system", "uses"),
    [("plain_crnn", False), ("hsf_crnn", True), ("multi_crnn", False), ("end2you", False), ("svm", True)],
)
def test_who_reads_functionals(system, uses):
    assert systems.uses_hsf(configured(system)) == uses


@pytest.mark.parametrize("system", config.SYSTEMS)
def test_who_reads_log_mel(system):
    assert systems.uses_log_mel(configured(system)) == (system not in ("end2you", "svm"))


@pytest.mark.parametrize("system", config.SYSTEMS)
def test_who_reads_waves(system):
    assert systems.uses_wave(configured(system)) == (system == "end2you")


@pytest.mark.parametrize("system", config.NEURAL_SYSTEMS)
def test_neural_systems_start_jax_at_once(system, no_devices):
    with pytest.raises(AssertionError, match="jax is started"):
        systems.start(configured(system), training=True)


def test_the_svm_is_made_without_jax(no_devices):
    make = systems.start(configured("svm", c=(1.0, 0.5, 1.0), workers=3), training=True)
    features = Features((), [], np.zeros((2, 7), np.float32), np.ones(2), (), {}, "", 0)
    system = make(PROTOCOL, features, 1)
    assert isinstance(system, SVM) and system.settings.c == (0.5, 1.0), "ascending, each once"
    assert (system.parameters, system.devices, system.compile_seconds) == (2 * 7 + 2, "3 x cpu", 0.0)
    assert "uncalibrated" in system.probabilities


def test_only_training_needs_scikit_learn(no_devices, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    systems.start(configured("svm"), training=False)
    with pytest.raises(UserError, match="scikit-learn, which is not installed"):
        systems.start(configured("svm"), training=True)
