"""Checkpoints: to the bit, the newest one, and never silently none."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ser_jax.errors import UserError
from ser_jax.training import checkpoint


class State(NamedTuple):
    """Like a group's state: named tuples, dicts, several dtypes."""

    params: dict
    count: jax.Array


POSITION = {
    "runs": ["Ä%2F-0", "b-1"],
    "epoch": 3,
    "step": 17,
    "records": [{"best_ua": 0.1 + 0.2, "best_loss": float("inf"), "best_epoch": None, "status": "training"}],
}


def arrays_of(seed):
    rng = np.random.default_rng(seed)
    odd = np.array([[-0.0, 1e-42, np.pi], [3e38, -1e-45, 1 / 3]], np.float32)
    params = {"a": jnp.asarray(odd), "b": {"c": jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)}}
    return {"state": State(params, jnp.array([seed, 7], jnp.int32)), "best": params}


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_roundtrip_to_the_bit_and_the_newest_wins(tmp_path):
    shapes = jax.eval_shape(lambda: arrays_of(0))
    with checkpoint.manager(tmp_path / "c") as checkpoints:
        assert checkpoint.restore(checkpoints) is None
        for seed in range(3):
            checkpoint.save(checkpoints, arrays_of(seed), {**POSITION, "step": seed})
            assert checkpoint.restore(checkpoints) == {**POSITION, "step": seed}
    with checkpoint.manager(tmp_path / "c") as checkpoints:
        assert checkpoint.restore(checkpoints) == {**POSITION, "step": 2}
        restored = checkpoint.restore_arrays(checkpoints, shapes)
        assert same(restored, arrays_of(2)) and not same(restored, arrays_of(1))
        checkpoint.save(checkpoints, arrays_of(3), POSITION)
        assert checkpoint.restore(checkpoints) == POSITION
        assert same(checkpoint.restore_arrays(checkpoints, shapes), arrays_of(3))
        assert len(checkpoints.all_steps()) == 2, "only what resuming needs"


def test_another_shape_is_refused(tmp_path):
    """R26: parameters of another architecture never arrive silently cut or filled."""
    with checkpoint.manager(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, {"w": jnp.ones((2, 3))}, POSITION)
        with pytest.raises(UserError, match=rf"{tmp_path}: checkpoint 1 is of another system .*\(3,\), here \(4,\)"):
            checkpoint.restore_arrays(checkpoints, {"w": jnp.ones((2, 4))})
        with pytest.raises(ValueError):
            checkpoint.restore_arrays(checkpoints, {"v": jnp.ones((2, 3))})


def test_a_group_of_another_size_is_handed_over_as_it_was(tmp_path):
    with checkpoint.manager(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, {"w": jnp.arange(6.0).reshape(2, 3)}, POSITION)
        for size in (1, 2, 4):
            found = checkpoint.restore_arrays(checkpoints, {"w": jax.ShapeDtypeStruct((size, 3), jnp.float32)})
            assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_orbax_refuses_to_save_is_an_error(tmp_path, monkeypatch):
    """Orbax says no by returning False."""
    with checkpoint.manager(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints, "should_save", lambda step: False)
        with pytest.raises(UserError, match=rf"{tmp_path}: checkpoint 1 was not saved; move the folder away"):
            checkpoint.save(checkpoints, {"w": jnp.zeros(2)}, POSITION)
