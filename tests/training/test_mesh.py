"""Runs on devices: a group gives what each run gives alone, however it is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.training import mesh as meshes


def function(table, offset, own, scale):
    """One run: own ["x" [3], "n" []] and a number; table and offset are everybody's."""
    return {"y": (table @ own["x"] + offset) * scale, "n": own["n"] + 1}


TABLE, OFFSET = np.arange(6.0, dtype=np.float32).reshape(2, 3), np.float32(0.5)
OWN = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), "n": np.arange(4)}
SCALE = np.array([1, 2, 3, 4], np.float32)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_group_equals_vmap_equals_a_loop(devices):
    mesh = meshes.run_mesh(jax.local_devices()[:devices])
    result = jax.jit(meshes.over_runs(function, mesh, 2))(TABLE, OFFSET, OWN, SCALE)
    assert result["y"].shape == (4, 2) and result["y"].sharding.is_equivalent_to(meshes.per_run(mesh), 2)
    at_once = jax.vmap(function, in_axes=(None, None, 0, 0))(TABLE, OFFSET, OWN, SCALE)
    one_by_one = [function(TABLE, OFFSET, {"x": OWN["x"][n], "n": OWN["n"][n]}, SCALE[n]) for n in range(4)]
    np.testing.assert_allclose(result["y"], at_once["y"], rtol=1e-6)
    np.testing.assert_allclose(result["y"], np.stack([run["y"] for run in one_by_one]), rtol=1e-6)
    assert result["n"].tolist() == [1, 2, 3, 4]


def test_no_shared_arguments():
    mesh = meshes.run_mesh(jax.local_devices()[:2])
    result = jax.jit(meshes.over_runs(lambda a, b: a - b, mesh, 0))(jnp.arange(2.0), jnp.ones(2))
    assert result.tolist() == [-1, 0]


def test_where_arrays_lie():
    mesh = meshes.run_mesh(jax.local_devices()[:2])
    own = jax.device_put(np.arange(4), meshes.per_run(mesh))
    assert [shard.data.tolist() for shard in own.addressable_shards] == [[0, 1], [2, 3]]
    common = jax.device_put(np.arange(4), meshes.shared(mesh))
    assert [shard.data.tolist() for shard in common.addressable_shards] == [[0, 1, 2, 3]] * 2


def test_start_devices():
    devices = jax.local_devices()  # From here on the backend runs, and its devices are what there is.
    assert meshes.start_devices(0) == devices
    assert meshes.start_devices(2) == devices[:2]
    there = f"{len(devices)} {devices[0].platform} devices"
    with pytest.raises(UserError, match=f"training.devices=99, but there are {there}"):
        meshes.start_devices(99)
    assert meshes.start_devices(0) == devices
