"""Adam behind a clip: three steps by hand, optax as oracle, and the switch that leaves everything as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ser_jax.training import optimiser


def update(params, state, gradient, good=True, *, clip_norm=1.0, learning_rate=0.1):
    good = jnp.asarray(good)
    norm = optimiser.global_norm(gradient)
    state = optimiser.update_moments(state, gradient, norm, good, clip_norm=clip_norm)
    params, _ = optimiser.update_params(
        *(params, None, state, good), learning_rate=learning_rate, weight_decay=0.0, ema=0.0
    )
    return params, state


def tree_of(rng, dtype, scale=1.0):
    return {"a": jnp.asarray(scale * rng.normal(size=(3, 4)), dtype), "b": [jnp.asarray(scale * rng.normal(), dtype)]}


def test_one_parameter_by_hand(float64):
    """Algorithm 1 of Kingma and Ba, written out; the third gradient is clipped from 3 to 1."""
    value, m, v = 2.0, 0.0, 0.0
    params, state = {"w": jnp.array([value])}, optimiser.init({"w": jnp.array([value])})
    for t, (slope, clipped) in enumerate([(0.5, 0.5), (-0.25, -0.25), (3.0, 1.0)], start=1):
        m = 0.9 * m + 0.1 * clipped
        v = 0.999 * v + 0.001 * clipped**2
        value -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        params, state = update(params, state, {"w": jnp.array([slope])})
        np.testing.assert_allclose(params["w"], [value], rtol=1e-12)
        assert int(state.count) == t
    np.testing.assert_allclose([state.moment1["w"], state.moment2["w"]], [[m], [v]], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip_norm", [1.0, 1e9], ids=["clipped", "never clipped"])
def test_against_optax(dtype, clip_norm):
    """20 steps; with the norm limited to 1, about half of the gradients are clipped."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        params = expected = tree_of(rng, dtype)
        oracle = optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(0.1))
        state, oracle_state = optimiser.init(params), oracle.init(params)
        step = jax.jit(lambda p, s, g: update(p, s, g, clip_norm=clip_norm))
        oracle_step = jax.jit(oracle.update)
        norms = []
        for _ in range(20):
            gradient = tree_of(rng, dtype, scale=float(rng.choice([0.1, 3.0])))
            norms.append(float(optimiser.global_norm(gradient)))
            params, state = step(params, state, gradient)
            updates, oracle_state = oracle_step(gradient, oracle_state)
            expected = optax.apply_updates(expected, updates)
        assert 4 < sum(norm < 1.0 for norm in norms) < 16
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        tiny.assert_close(params, expected, 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize(("length", "kept"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (5.0, 1.0), (1e15, 1.0)])
def test_clip(length, kept):
    """A gradient over several leaves keeps its direction; from the limit on it has the norm of the limit."""
    gradient = {"a": jnp.array([0.6 * length]), "b": jnp.array([[0.8 * length]])}
    np.testing.assert_allclose(optimiser.global_norm(gradient), length, rtol=1e-6)
    state = update(gradient, optimiser.init(gradient), gradient)[1]
    np.testing.assert_allclose(state.moment1["a"], [0.1 * 0.6 * kept], rtol=1e-6)
    np.testing.assert_allclose(state.moment2["b"], [[0.001 * (0.8 * kept) ** 2]], rtol=1e-6)


def test_weight_decay_is_that_of_adamw(float64):
    """10 steps against optax; a bias is not decayed."""
    rng = np.random.default_rng(0)
    params = expected = tree_of(rng, "float64")
    oracle = optax.adamw(0.1, weight_decay=0.03, mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree))
    state, oracle_state = optimiser.init(params), oracle.init(params)
    for _ in range(10):
        gradient = tree_of(rng, "float64", scale=0.1)
        norm = optimiser.global_norm(gradient)
        state = optimiser.update_moments(state, gradient, norm, jnp.array(True), clip_norm=1e9)
        params, _ = optimiser.update_params(
            *(params, None, state, jnp.array(True)), learning_rate=0.1, weight_decay=0.03, ema=0.0
        )
        updates, oracle_state = oracle.update(gradient, oracle_state, expected)
        expected = optax.apply_updates(expected, updates)
    tiny.assert_close(params, expected, 1e-12)


def test_average_by_hand(float64):
    """The first update keeps 2/11 of what was there, the second 3/12, from 0.3 on it is the decay that rules."""
    params = average = {"w": jnp.array([5.0, -1.0])}
    state = optimiser.init(params)
    mean = np.array([5.0, -1.0])
    for kept in (2 / 11, 3 / 12, 0.3, 0.3):
        gradient = {"w": jnp.array([1.0, -2.0])}
        state = optimiser.update_moments(state, gradient, jnp.array(0.1), jnp.array(True), clip_norm=1.0)
        params, average = optimiser.update_params(
            *(params, average, state, jnp.array(True)), learning_rate=0.1, weight_decay=0.0, ema=0.3
        )
        mean = kept * mean + (1 - kept) * np.asarray(params["w"])
        np.testing.assert_allclose(average["w"], mean, rtol=1e-12)
    same = optimiser.update_params(
        *(params, average, state, jnp.array(False)), learning_rate=0.1, weight_decay=0.5, ema=0.3
    )
    assert tiny.bits(same) == tiny.bits((params, average))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1.0])
@pytest.mark.parametrize("updates", [0, 3])
def test_switched_off_nothing_changes(bad, updates):
    """To the bit, from the first step on; a zero gradient, too, would otherwise move Adam."""
    rng = np.random.default_rng(0)
    params = {**tree_of(rng, "float32"), "zero": jnp.array([-0.0, 0.0])}
    state = optimiser.init(params)
    for _ in range(updates):
        params, state = update(params, state, {**tree_of(rng, "float32"), "zero": jnp.zeros(2)})
    after = update(params, state, jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), params), good=False)
    assert tiny.bits(after) == tiny.bits((params, state))
    assert tiny.bits(update(params, state, params)) != tiny.bits((params, state))
