"""The kernel that is updated by the factors of its gradient, against the optimiser and the gradient written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax import config as configuration
from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import Statistics
from ser_jax.models import build, native_library
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.training import factored, optimiser
from ser_jax.training import functions as of_run
from ser_jax.training import step as steps
from ser_jax.training.optimiser import Factors

pytestmark = pytest.mark.skipif(native_library.compiler() is None, reason="there is no C++ compiler")

RECIPE = {"clip_norm": 1.0, "learning_rate": 0.1, "weight_decay": 0.01}


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def updated(params, state, gradient, good=True, **recipe):
    """Everything that `factored` does in a step."""
    recipe = RECIPE | recipe
    norm, good = optimiser.global_norm(gradient), jnp.array(good)
    state = optimiser.update_moments(state, gradient, norm, good, clip_norm=recipe["clip_norm"])
    return factored.update(params, state, gradient, norm, good, **recipe)


def test_a_step_by_hand():
    """Gradient (2, 0)ᵀ · 3 = (6, 0)ᵀ: moments 0.6 and 0.036, a step of −0.5 · 6 / 6; where it is 0, nothing moves."""
    params = {"w": jnp.array([[1.0], [2.0]])}
    gradient = {"w": Factors(jnp.array([[2.0, 0.0]]), jnp.array([[3.0]]))}
    params, state = updated(
        params, optimiser.init(params), gradient, clip_norm=1e9, learning_rate=0.5, weight_decay=0.0
    )
    np.testing.assert_allclose(params["w"], [[0.5], [2.0]], rtol=1e-5)  # float32 has five digits of 1 − 0.999
    np.testing.assert_allclose(state.moment1["w"], [[0.6], [0.0]], rtol=1e-6)
    np.testing.assert_allclose(state.moment2["w"], [[0.036], [0.0]], rtol=1e-6)
    assert int(state.count) == 1


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 70)),
    clip_norm=st.sampled_from([1.0, 1e9]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
@example(sizes=(32, 193, 64), clip_norm=1.0, weight_decay=0.1, seed=0)
def test_it_is_the_optimiser(sizes, clip_norm, weight_decay, seed):
    """Three steps against those of the written gradient in float64."""
    rows, wide, narrow = sizes
    (kernel,) = draw(seed, (wide, narrow))
    params, state = {"w": kernel}, optimiser.init({"w": kernel})
    recipe = {"clip_norm": clip_norm, "weight_decay": weight_decay, "learning_rate": 0.1}
    seen = [Factors(*draw(seed + n, (rows, wide), (rows, narrow))) for n in range(3)]
    for factors in seen:
        params, state = updated(params, state, {"w": factors}, **recipe)
    with jax.enable_x64(True):
        exact = {"w": jnp.asarray(kernel, jnp.float64)}
        expected, good, known = optimiser.init(exact), jnp.array(True), np.ones((wide, narrow), bool)
        for factors in seen:
            inputs, slopes = (jnp.asarray(values, jnp.float64) for values in factors)
            gradient = {"w": inputs.T @ slopes}
            norm = optimiser.global_norm(gradient)
            expected = optimiser.update_moments(expected, gradient, norm, good, clip_norm=clip_norm)
            # Where a mean is nearly 0, float32 does not know its direction, and Adam's step is all direction.
            mean = np.abs(expected.moment1["w"])
            known &= mean > 1e-4 * mean.max()
            exact, _ = optimiser.update_params(
                *(exact, None, expected, good), learning_rate=0.1, weight_decay=weight_decay, ema=0.0
            )
        exact, expected = jax.tree.map(np.asarray, (exact, expected))
    np.testing.assert_allclose(
        state.moment1["w"], expected.moment1["w"], atol=2e-6 * np.abs(expected.moment1["w"]).max()
    )
    np.testing.assert_allclose(
        state.moment2["w"], expected.moment2["w"], atol=2e-6 * np.abs(expected.moment2["w"]).max()
    )
    assert known.mean() > 0.5
    np.testing.assert_allclose(params["w"][known], exact["w"][known], rtol=0, atol=1e-3 * 0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.0])
def test_switched_off_nothing_changes(bad):
    """To the bit, after an update that has made the moments something."""
    kernel, inputs, slopes = draw(0, (90, 20), (4, 90), (4, 20))
    params, state = updated({"w": kernel}, optimiser.init({"w": kernel}), {"w": Factors(inputs, slopes)})
    after = updated(params, state, {"w": Factors(inputs, bad * slopes)}, good=False)
    assert tiny.bits(after) == tiny.bits((params, state))
    assert tiny.bits(updated(params, state, {"w": Factors(inputs, slopes)})) != tiny.bits((params, state))


def test_the_norm_is_that_of_the_product():
    inputs, slopes, other = draw(0, (5, 30), (5, 7), (3, 4))
    norm = optimiser.global_norm({"a": Factors(inputs, slopes), "b": other})
    np.testing.assert_allclose(norm**2, np.sum((inputs.T @ slopes) ** 2) + np.sum(other**2), rtol=1e-6)
    assert optimiser.global_norm({"a": Factors(inputs, 0 * slopes)}) == 0
    assert np.isnan(optimiser.global_norm({"a": Factors(inputs, np.nan * slopes)}))


def test_runs_of_a_group_on_one_device():
    """Each is what it would be alone; one that is switched off stays."""
    kernels, inputs, slopes = draw(0, (3, 100, 33), (3, 6, 100), (3, 6, 33))
    good = jnp.array([True, False, True])

    def one(kernel, inputs, slopes, good):
        return updated({"w": kernel}, optimiser.init({"w": kernel}), {"w": Factors(inputs, slopes)}, good)

    together = jax.jit(jax.vmap(one))(kernels, inputs, slopes, good)
    for run in range(3):
        alone = jax.jit(one)(kernels[run], inputs[run], slopes[run], good[run])
        tiny.assert_close(jax.tree.map(lambda leaf, run=run: leaf[run], together), alone, 1e-6)
    assert tiny.bits(together[0]["w"][1]) == tiny.bits(kernels[1])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_hsf_crnn_trains_the_same(dropout):
    """Parameters and moments after five steps with the written gradient, XLA's programs and the same draws."""
    c = configuration.get_config()
    c.system = "hsf_crnn"
    c.model.filters, c.model.lstm_units = 6, 8
    c.model.hsf_crnn_dense, c.model.hsf_dense, c.model.hsf_head = (8,), (20, 9), (8,)
    c.model.hsf_dropout = c.model.dropout = dropout
    frames, hsf = draw(0, (6, 60, 5), (6, 70))
    bucket = steps.Bucket(
        Inputs(jnp.asarray([50, 60, 41, 33, 60, 30], jnp.int32), frames=frames, hsf=hsf),
        jnp.arange(6, dtype=jnp.int32) % 4,
    )
    statistics = Statistics(jnp.zeros(5), jnp.ones(5), jnp.zeros(70), jnp.ones(70))
    key = jax.random.key_data(jax.random.key(1)) if dropout else None
    run = steps.RunConstants(statistics, jnp.ones(4), key)
    found = []
    for native in (True, False):
        model = build.build_model(c, 4, Arithmetic(native=native))
        assert (factored.differentiated(model) is not None) == native
        recipe = of_run.Recipe(0.02, 1.0, weight_decay=0.01, ema=0.9, dropout=dropout > 0)
        state = trained(of_run.functions(model, recipe, None), bucket, run)
        found.append((state.params, state.average, state.adam.moment1))
    own, usual = found
    tiny.assert_close(own, usual, 3e-5)


def trained(functions, bucket, run):
    state = functions.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[:1], bucket.inputs))

    @jax.jit
    def step(state, rows):
        updates = steps.updates_made(run, state.adam)
        found, counters = functions.gradient(
            bucket, state.params, state.counters, run, rows, jnp.array([True, True, True, False]), updates
        )
        params, adam = functions.moments(state.params, state.adam, found)
        return steps.TrainState(
            adam=adam,
            counters=counters,
            **dict(zip(("params", "average"), functions.params(params, state.average, adam, found.good), strict=True)),
        )

    for n in range(5):
        state = step(state, jnp.array([n, (n + 1) % 6, (n + 3) % 6, 0], jnp.int32))
    assert int(state.adam.count) == 5
    return state
