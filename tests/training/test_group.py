"""What a checkpoint holds of a group: everything, but of a run whose values are no longer finite nothing (R18)."""

import jax
import numpy as np
import pytest
import tiny

from ser_jax.training import selection
from ser_jax.training.group import Group, Record
from ser_jax.training.step import MOST_BAD_STEPS, init_state


def group(best: bool = True) -> Group:
    params = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((2, 1), np.float32)}
    state = jax.device_get(jax.vmap(init_state)(params))
    found = jax.device_get(jax.vmap(selection.nothing_yet)(params)) if best else None
    runs = tiny.runs("a,b")
    return Group(runs, [Record(), Record()], None, None, state, found)


@pytest.mark.parametrize("best", [True, False])
def test_what_is_finite_is_saved_to_the_bit(best):
    made = group(best)
    assert tiny.bits(made.arrays()) == tiny.bits({"state": made.state} | ({"best": made.best} if best else {}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["params", "moment", "best"])
def test_a_lost_run_is_saved_as_zeros_that_count_as_diverged_and_its_neighbour_to_the_bit(where, value):
    made, sound = group(), group().arrays()
    assert made.best is not None
    leaf = {"params": made.state.params, "moment": made.state.adam.moment2, "best": made.best.params}[where]["w"]
    leaf = leaf.copy()
    leaf[1, 2] = value
    if where == "params":
        made.state = made.state._replace(params={**made.state.params, "w": leaf})
    elif where == "moment":
        made.state = made.state._replace(adam=made.state.adam._replace(moment2={**made.state.adam.moment2, "w": leaf}))
    else:
        made.best = made.best._replace(params={**made.best.params, "w": leaf})
    found = made.arrays()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    first, second = (jax.tree.map(lambda leaf, n=n: leaf[n], found) for n in (0, 1))
    assert tiny.bits(first) == tiny.bits(jax.tree.map(lambda leaf: leaf[0], sound))
    counters = second["state"].counters
    assert (int(counters.bad_steps), bool(counters.active)) == (MOST_BAD_STEPS, True)
    assert not any(
        np.any(leaf) for leaf in jax.tree.leaves((second["state"].params, second["state"].adam, second["best"]))
    )
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(sound)]
