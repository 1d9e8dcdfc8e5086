"""Joining a Ray cluster: what is refused, with its sentence, before anything is tried for minutes."""

import importlib.util
import socket

import pytest

from ser_jax.errors import UserError
from ser_jax.features import ray_cluster


def refusal(address: str) -> str:
    with pytest.raises(UserError) as info, ray_cluster.joined(address):
        pass
    return str(info.value)


def test_without_ray(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "ser_jax[ray]", on every node' in refusal("")


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", "a b:1", "head:6379/x"])
def test_addresses_that_are_none(address, monkeypatch):
    monkeypatch.setattr(ray_cluster, "require_ray", lambda: None)
    assert refusal(address).startswith(f"--address={address}: name the cluster's head as HOST:PORT, or auto")


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(ray_cluster, "require_ray", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    said = refusal(f"127.0.0.1:{port}")
    assert said.startswith(f"--address=127.0.0.1:{port}: no Ray cluster can be joined there") and "--head" in said
