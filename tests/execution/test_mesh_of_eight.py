"""Eight devices, more than the other tests have: in a process of its own, for the number is set
once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from commands import FORKS

from ser_jax.training import step as steps

RUNS, STEPS, LEARNING_RATE = 4, 30, 1e-3
PROMISED = 1e-5  # R12


def train_on(counts: list[int]) -> dict[int, tuple[tuple[int, ...], list[np.ndarray]]]:
    """Trains the same 30 steps of four runs on as many devices; returns the meshes' shapes and the
    parameters."""
    jax.config.update("jax_num_cpu_devices", 8)
    order, rows, mask = tiny.random_batches(STEPS)
    constants = tiny.stack([tiny.constants(trial) for trial in tiny.trials()])
    found = {}
    for count in counts:
        programs = tiny.new_executor(RUNS, count, learning_rate=LEARNING_RATE)
        state: steps.TrainState = programs.init(list(range(RUNS)))[0]
        start = [np.array(leaf) for leaf in jax.tree.leaves(state.params)]
        state = programs.train(state, programs.put(constants), order, rows, mask)
        params = [np.array(leaf) for leaf in jax.tree.leaves(state.params)]
        assert all(jnp.any(before != after) for before, after in zip(start, params, strict=True))
        found[count] = (programs.mesh.devices.shape, params)
    return found


@pytest.fixture(scope="module")
def trained():
    with FORKS.Pool(1) as pool:
        return pool.apply(train_on, ([1, 2, 4, 8],))


def test_any_number_of_devices_trains_the_same(trained):
    """Trials first, then rows: eight devices share four trials and the rows of every batch."""
    shapes = {count: shape for count, (shape, _) in trained.items()}
    assert shapes == {1: (1, 1), 2: (2, 1), 4: (4, 1), 8: (4, 2)}
    for count in (2, 4, 8):
        pairs = zip(trained[1][1], trained[count][1], strict=True)
        assert max(np.abs(a - b).max() for a, b in pairs) < PROMISED
