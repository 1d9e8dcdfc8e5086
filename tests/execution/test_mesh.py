"""Runs and rows on devices: a group gives what each run gives alone, however it is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ser_jax.runtime.errors import UserError
from ser_jax.training.execution import mesh as meshes
from ser_jax.training.execution.mesh import (
    DATA,
    PER_TRIAL,
    REPLICATED,
    ROWS,
    STEP_ROWS,
    STEPS_PER_TRIAL,
)

RUNS, STEPS, BATCH = 4, 3, 4
RNG = np.random.default_rng(0)
TABLE, OFFSET = np.arange(6.0, dtype=np.float32).reshape(2, 3), np.float32(0.5)
OF_RUN = {"x": RNG.normal(size=(RUNS, 3)).astype(np.float32), "n": np.arange(RUNS)}
SCALE = np.array([1, 2, 3, 4], np.float32)
BATCHES = RNG.normal(size=(RUNS, BATCH, 2)).astype(np.float32)
ALL_BATCHES = RNG.normal(size=(STEPS, RUNS, BATCH, 2)).astype(np.float32)


def new_mesh(devices: int, runs: int = RUNS, rows: int = BATCH) -> jax.sharding.Mesh:
    return meshes.make_mesh(jax.local_devices(), meshes.mesh_shape(devices, runs, rows))


@pytest.mark.parametrize(
    ("devices", "runs", "rows", "shape"),
    [
        (4, 4, 8, (4, 1)),
        (4, 2, 8, (2, 2)),
        (4, 1, 6, (1, 3)),  # four devices cannot share six rows evenly
        (4, 3, 5, (3, 1)),
        (4, 6, 8, (3, 1)),  # two runs on each of three
        (4, 8, 8, (4, 1)),
        (4, 1, 8, (1, 4)),
        (4, 5, 7, (1, 1)),
        (2, 5, 8, (1, 2)),
        (1, 5, 8, (1, 1)),
        (2, 1, 1, (1, 1)),
    ],
)
def test_devices_are_given_runs_and_then_rows(devices, runs, rows, shape):
    mesh = new_mesh(devices, runs, rows)
    assert mesh.axis_names == ("run", "data") and mesh.devices.shape == shape
    assert mesh.devices.ravel().tolist() == jax.local_devices()[: shape[0] * shape[1]]


# --- Functions of one run


def function(table, offset, own, scale):
    """One run: own ["x" [3], "n" []] and a number; table and offset are everybody's."""
    return {"y": (table @ own["x"] + offset) * scale, "n": own["n"] + 1}


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_group_equals_vmap_equals_a_loop(devices):
    mesh = new_mesh(devices)
    spread = jax.jit(
        meshes.over_trials(function, mesh, [REPLICATED, REPLICATED, PER_TRIAL, PER_TRIAL])
    )
    result = spread(TABLE, OFFSET, OF_RUN, SCALE)
    assert result["y"].shape == (4, 2) and result["y"].sharding.is_equivalent_to(
        meshes.sharding(mesh, PER_TRIAL), 2
    )
    at_once = jax.vmap(function, in_axes=(None, None, 0, 0))(TABLE, OFFSET, OF_RUN, SCALE)
    one_by_one = [
        function(TABLE, OFFSET, {"x": OF_RUN["x"][n], "n": OF_RUN["n"][n]}, SCALE[n])
        for n in range(4)
    ]
    np.testing.assert_allclose(result["y"], at_once["y"], rtol=1e-6)
    np.testing.assert_allclose(result["y"], np.stack([run["y"] for run in one_by_one]), rtol=1e-6)
    assert result["n"].tolist() == [1, 2, 3, 4]


# What a run makes of its rows: a value per row, then their sum. RUNS on 1, 2 and 4 devices; two
# runs, whose rows are spread as well; one run, for which there is no vmap.
SPREAD = pytest.mark.parametrize(
    ("devices", "runs"), [(1, 4), (2, 4), (4, 4), (2, 2), (4, 2), (4, 1), (1, 1)]
)


def rows_of(own, rows):
    return rows @ own[:2] + own[2]


def total_of(own, rows, axis):
    total = jnp.sum(rows_of(own, rows))
    return lax.psum(total, axis) if axis else total


@SPREAD
def test_rows_against_a_loop(devices, runs):
    """ROWS in and out, and sums over the rows of all devices of a run."""
    mesh, own = new_mesh(devices, runs), OF_RUN["x"][:runs]
    found = jax.jit(meshes.over_trials(rows_of, mesh, [PER_TRIAL, ROWS], ROWS))(own, BATCHES[:runs])
    assert found.sharding.is_equivalent_to(meshes.sharding(mesh, ROWS), 2)
    expected = np.stack([rows_of(own[n], BATCHES[n]) for n in range(runs)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    axis = DATA if mesh.shape[DATA] > 1 else None
    total = meshes.over_trials(lambda own, rows: total_of(own, rows, axis), mesh, [PER_TRIAL, ROWS])
    np.testing.assert_allclose(jax.jit(total)(own, BATCHES[:runs]), expected.sum(axis=1), rtol=1e-5)


@SPREAD
def test_steps_against_a_loop(devices, runs):
    """SHARED, OWN and STEP_ROWS in, STEPS_PER_TRIAL out: what a chunk of steps takes and gives."""
    mesh, own = new_mesh(devices, runs), OF_RUN["x"][:runs]
    factors = np.array([1, -2, 3], np.float32)

    def scan(factors, own, rows):
        return lax.scan(
            lambda _, batch: (None, batch[0] * rows_of(own, batch[1])), None, (factors, rows)
        )[1]

    spread = jax.jit(
        meshes.over_trials(scan, mesh, [REPLICATED, PER_TRIAL, STEP_ROWS], STEPS_PER_TRIAL)
    )
    found = spread(factors, own, ALL_BATCHES[:, :runs])
    assert found.shape == (runs, STEPS, BATCH)
    assert found.sharding.is_equivalent_to(meshes.sharding(mesh, STEPS_PER_TRIAL), 3)
    expected = [
        [factors[s] * rows_of(own[n], ALL_BATCHES[s, n]) for s in range(STEPS)] for n in range(runs)
    ]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-6)


# --- Devices


def test_where_arrays_lie():
    mesh = new_mesh(4, 2)

    def shards(shape, spec):
        values = np.arange(np.prod(shape)).reshape(shape)
        return [
            shard.data.tolist()
            for shard in jax.device_put(values, meshes.sharding(mesh, spec)).addressable_shards
        ]

    assert shards((4,), PER_TRIAL) == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert shards((4,), REPLICATED) == [[0, 1, 2, 3]] * 4
    assert shards((2, 4), ROWS) == [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]
    assert shards((2, 2, 2), STEP_ROWS) == [
        [[[0]], [[4]]],
        [[[1]], [[5]]],
        [[[2]], [[6]]],
        [[[3]], [[7]]],
    ]
    assert shards((2, 2, 2), STEPS_PER_TRIAL) == [
        [[[0], [2]]],
        [[[1], [3]]],
        [[[4], [6]]],
        [[[5], [7]]],
    ]


def test_start_devices():
    devices = (
        jax.local_devices()
    )  # From here on the backend runs, and its devices are what there is.
    assert meshes.start_devices(0) == devices
    assert meshes.start_devices(2) == devices[:2]
    there = f"{len(devices)} {devices[0].platform} devices"
    with pytest.raises(UserError, match=f"training.devices=99, but there are {there}"):
        meshes.start_devices(99)
    assert meshes.start_devices(0) == devices
