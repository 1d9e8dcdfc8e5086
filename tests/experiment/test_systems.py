"""Which kind of system a name stands for, and what is refused before features are extracted."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from ser_jax import config
from ser_jax.baselines.svm_system import SVM
from ser_jax.experiment import setup, systems
from ser_jax.features.extraction import Features
from ser_jax.models import build
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime.errors import UserError

LABELS = ("angry", "sad")
PROTOCOL = Protocol(
    "tiny", "test", LABELS, {}, ("1", "2"), LABELS, ("", ""), (Fold("a", "tt"),), "none"
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

    monkeypatch.setattr(setup, "start", start)


@pytest.mark.parametrize("system", build.REGISTRY)
def test_which_features_a_system_reads(system):
    c = configured(system)
    assert build.uses_hsf(c) == (system in ("hsf_crnn", "svm", "fusion"))
    assert build.uses_log_mel(c) == (system not in ("end2you", "probe", "svm"))
    assert build.uses_embedded_frames(c) == (system == "probe")
    assert build.uses_wave(c) == (system == "end2you")


@pytest.mark.parametrize("system", [name for name, spec in build.REGISTRY.items() if spec.build])
def test_neural_systems_start_jax_at_once(system, no_devices):
    with pytest.raises(AssertionError, match="jax is started"):
        systems.start(configured(system), training=True)


def test_the_svm_is_made_without_jax(no_devices):
    make = systems.start(configured("svm", c=(1.0, 0.5, 1.0), workers=3), training=True)
    features = Features((), [], np.zeros((2, 7), np.float32), np.ones(2), (), {}, "", 0)
    system = make(PROTOCOL, features, 1)
    assert isinstance(system, SVM) and system.settings.c == (0.5, 1.0), "ascending, each once"
    facts = (system.parameters, system.devices, system.compile_seconds)
    assert facts == (2 * 7 + 2, "3 x cpu", 0.0)


def test_only_training_needs_scikit_learn(no_devices, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    systems.start(configured("svm"), training=False)
    with pytest.raises(UserError, match="scikit-learn, which is not installed"):
        systems.start(configured("svm"), training=True)
