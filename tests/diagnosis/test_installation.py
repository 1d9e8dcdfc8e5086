"""`ser-jax doctor --system`: every line is there, and what is missing or broken is a sentence."""

import importlib.metadata
import sys
import types

import pytest

from ser_jax.diagnosis import installation
from ser_jax.experiment import setup
from ser_jax.runtime.errors import UserError


@pytest.fixture
def devices(monkeypatch):
    device = types.SimpleNamespace(platform="cpu", device_kind="AMD")
    monkeypatch.setattr(setup, "start", lambda config: [device, device])


@pytest.mark.usefixtures("devices")
def test_what_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "true")
    (tmp_path / "ser_jax").mkdir()
    (tmp_path / "ser_jax/x").write_bytes(bytes(3_000_000))
    required = ["jax>=0.10", "pytest>=8; extra == 'test'", "numpy>=2 ; extra == 'none'"]
    required += ["jax[tpu]; extra == 'tpu'", "no-such.thing>=1; extra == 'none'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    lines = [line.split(maxsplit=1) for line in installation.report().splitlines() if line]
    found = {first: rest[0] if rest else "" for first, *rest in lines}
    assert found.keys() >= {"versions", "machine", "extras", "python", "jax", "cores", "memory"}
    assert found["devices"] == "2 (cpu, AMD)"
    assert found["cache"] == f"{tmp_path / 'ser_jax'}, 3 MB"
    assert "CXX=true" in found["environment"]
    assert found["test"] == "installed" and found["none"] == "lacks no-such.thing"
    assert found["tpu"] == "lacks libtpu"


def test_what_is_broken_is_said(monkeypatch):
    def broken(*_):
        raise UserError("no such\n  platform")

    def uninstalled(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(setup, "start", broken)
    monkeypatch.setattr(importlib.metadata, "requires", uninstalled)
    monkeypatch.setenv("CXX", "/no/compiler")
    monkeypatch.setitem(sys.modules, "opensmile", None)  # its import fails
    text = installation.report()
    for line in (
        "jax does not start: no such platform",
        "none (c++, g++, clang++ or CXX)",
        "not installed: pip install",
        "ser_jax is not installed, only imported",
    ):
        assert line in text
