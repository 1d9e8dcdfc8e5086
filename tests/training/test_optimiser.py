"""The optimisers behind a clip: by hand, against optax, and updates that are switched off."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ser_jax import config as configuration
from ser_jax.data.inputs import Inputs
from ser_jax.models import build
from ser_jax.training import step as steps
from ser_jax.training.step import (
    Gradients,
    TrainSettings,
    global_norm,
    init_adam,
    update_moments,
    update_params,
)


def update(params, state, gradient, good=True, *, clip_norm=1.0, learning_rate=0.1, **options):
    good = jnp.asarray(good)
    settings = TrainSettings(learning_rate, clip_norm, **options)
    gradients = Gradients(gradient, global_norm(gradient), good)
    params, state = update_moments(settings, params, state, gradients)
    return update_params(settings, params, None, state, good)[0], state


def tree_of(rng, dtype, scale=1.0):
    return {
        "kernel": jnp.asarray(scale * rng.normal(size=(3, 4)), dtype),
        "dense": {"bias": jnp.asarray([scale * rng.normal()], dtype)},
    }


def test_one_parameter_by_hand(float64):
    """Algorithm 1 of Kingma and Ba, written out; the third gradient is clipped from 3 to 1."""
    value, m, v = 2.0, 0.0, 0.0
    params, state = {"w": jnp.array([value])}, init_adam({"w": jnp.array([value])})
    for t, (grad, clipped) in enumerate([(0.5, 0.5), (-0.25, -0.25), (3.0, 1.0)], start=1):
        m = 0.9 * m + 0.1 * clipped
        v = 0.999 * v + 0.001 * clipped**2
        value -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        params, state = update(params, state, {"w": jnp.array([grad])})
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
        state, oracle_state = init_adam(params), oracle.init(params)
        step = jax.jit(lambda p, s, g: update(p, s, g, clip_norm=clip_norm))
        oracle_step = jax.jit(oracle.update)
        norms = []
        for _ in range(20):
            gradient = tree_of(rng, dtype, scale=float(rng.choice([0.1, 3.0])))
            norms.append(float(global_norm(gradient)))
            params, state = step(params, state, gradient)
            updates, oracle_state = oracle_step(gradient, oracle_state)
            expected = optax.apply_updates(expected, updates)
        assert 4 < sum(norm < 1.0 for norm in norms) < 16
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        tiny.assert_close(params, expected, 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize(("length", "kept"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1e15, 1.0)])
def test_clip(length, kept):
    """A gradient over several leaves keeps its direction; its norm is cut to the limit."""
    gradient = {"a": jnp.array([0.6 * length]), "b": jnp.array([[0.8 * length]])}
    np.testing.assert_allclose(global_norm(gradient), length, rtol=1e-6)
    state = update(gradient, init_adam(gradient), gradient)[1]
    np.testing.assert_allclose(state.moment1["a"], [0.1 * 0.6 * kept], rtol=1e-6)
    np.testing.assert_allclose(state.moment2["b"], [[0.001 * (0.8 * kept) ** 2]], rtol=1e-6)


def test_average_by_hand(float64):
    """The first update keeps 2/11 of the average, the second 3/12, until that reaches the decay."""
    params = average = {"w": jnp.array([5.0, -1.0])}
    state = init_adam(params)
    mean, settings = np.array([5.0, -1.0]), TrainSettings(0.1, 1.0, ema=0.3)
    for kept in (2 / 11, 3 / 12, 0.3, 0.3):
        gradient = {"w": jnp.array([1.0, -2.0])}
        gradients = Gradients(gradient, jnp.array(0.1), jnp.array(True))
        params, state = update_moments(settings, params, state, gradients)
        params, average = update_params(settings, params, average, state, jnp.array(True))
        mean = kept * mean + (1 - kept) * np.asarray(params["w"])
        np.testing.assert_allclose(average["w"], mean, rtol=1e-12)
    same = update_params(settings, params, average, state, jnp.array(False))
    assert tiny.bits(same) == tiny.bits((params, average))


@pytest.mark.parametrize(("bad", "updates"), [(np.nan, 0), (0.0, 0), (np.inf, 3), (1.0, 3)])
def test_switched_off_nothing_changes(bad, updates):
    """To the bit, from the first step on; a zero gradient, too, would otherwise move Adam."""
    rng = np.random.default_rng(0)
    params = {**tree_of(rng, "float32"), "zero": jnp.array([-0.0, 0.0])}
    state = init_adam(params)
    for _ in range(updates):
        params, state = update(params, state, {**tree_of(rng, "float32"), "zero": jnp.zeros(2)})
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), params)
    assert tiny.bits(update(params, state, gradient, good=False)) == tiny.bits((params, state))
    assert tiny.bits(update(params, state, params)) != tiny.bits((params, state))


ORACLES = {
    "adam": optax.adamw,
    "sgd": lambda rate, **decay: optax.chain(
        optax.trace(0.9), optax.add_decayed_weights(**decay), optax.scale_by_learning_rate(rate)
    ),
    "lion": optax.lion,
}


@pytest.mark.parametrize("schedule", steps.SCHEDULES)
@pytest.mark.parametrize("optimizer", ORACLES)
def test_other_optimisers_and_schedules_are_optax(optimizer, schedule, float64):
    """Warm-up over 3 of 10 updates, then the schedule; the last rate of those that decay is 0."""
    rng = np.random.default_rng(0)
    settings = TrainSettings(
        *(0.1, 1.0), weight_decay=0.03, optimizer=optimizer, schedule=schedule, warmup_updates=3
    )._replace(total_updates=10)
    decay = {
        "constant": optax.warmup_constant_schedule(0.0, 0.1, 3),
        "cosine": optax.warmup_cosine_decay_schedule(0.0, 0.1, 3, 10),
        "linear": optax.join_schedules(
            [optax.linear_schedule(0.0, 0.1, 3), optax.linear_schedule(0.1, 0.0, 7)], [3]
        ),
    }[schedule]
    oracle = optax.chain(
        optax.clip_by_global_norm(1.0),
        ORACLES[optimizer](
            # Rates are as precise as the number of updates.
            lambda count: decay(count.astype("int64")),
            weight_decay=0.03,
            mask={"kernel": True, "dense": {"bias": False}},
        ),
    )
    params = expected = tree_of(rng, "float64")
    state, oracle_state = steps.init_state(params, settings), oracle.init(params)
    state = state._replace(adam=state.adam._replace(count=jnp.array(0, "int64")))
    oracle_step = jax.jit(oracle.update)
    step = jax.jit(lambda state, *rest: steps.apply_gradients(settings, state, *rest))
    for _ in range(10):
        gradient = tree_of(rng, "float64")
        gradients = Gradients(gradient, global_norm(gradient), jnp.array(True))
        state = step(state, gradients, state.counters)
        updates, oracle_state = oracle_step(gradient, oracle_state, expected)
        expected = optax.apply_updates(expected, updates)
        tiny.assert_close(state.params, expected, 1e-9)
    switched_off = step(state, gradients._replace(valid=jnp.array(False)), state.counters)
    assert tiny.bits(switched_off) == tiny.bits(state)


@pytest.mark.parametrize("system", ["plain_crnn", "hsf_crnn", "multi_crnn", "end2you"])
def test_weight_decay_reaches_kernels_and_no_bias(system):
    """End2You keeps the biases of its gates as rows of an array: they are biases all the same."""
    c = configuration.get_config()
    c.system = system
    arrays: Any = {"frames": jnp.zeros((1, 60, 40)), "hsf": jnp.zeros((1, 9))}
    if system == "end2you":
        arrays = {"wave": jnp.zeros((1, 2, 640))}
    inputs = Inputs(jnp.ones(1, jnp.int32), **arrays)
    model = build.build_model(c, 4)
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    named = {
        jax.tree_util.keystr(path): steps.decays(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    assert named == {name: "bias" not in name for name in named} and any(named.values())
    assert all("bias" in name or "kernel" in name for name in named)


def last_layer_and_front(rng: np.random.Generator) -> Any:
    return {
        "crnn": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "bias": jnp.ones(2)},
        "softmax": {"kernel": jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)},
    }


@pytest.mark.parametrize("optimizer", steps.OPTIMIZERS)
def test_the_rate_of_all_layers_but_the_last(optimizer):
    """Every layer as if its own rate were that of all; at 0 not even the sign of a zero changes."""
    rng = np.random.default_rng(0)
    start = last_layer_and_front(rng)
    start["crnn"]["bias"] = jnp.array([-0.0, 1e-30])
    gradients = [last_layer_and_front(rng) for _ in range(3)]

    def trained(rate: float, front_rate: float) -> Any:
        options = {"weight_decay": 0.1, "ema": 0.9, "optimizer": optimizer}
        settings = TrainSettings(rate, 1e9, **options, front_rate=front_rate)
        state = steps.init_state(start, settings)
        step = jax.jit(lambda state, *rest: steps.apply_gradients(settings, state, *rest))
        for grads in gradients:
            found = Gradients(grads, global_norm(grads), jnp.array(True))
            state = step(state, found, state.counters)
        return state

    slow, fast, both, frozen = (
        trained(*rates) for rates in ((0.01, 1), (0.1, 1), (0.1, 0.1), (0.1, 0))
    )
    for found, front in (
        (both, slow),
        (frozen, steps.init_state(start, TrainSettings(1, 1, ema=0.9))),
    ):
        for tree in ("params", "average"):
            expected = {**getattr(front, tree), "softmax": getattr(fast, tree)["softmax"]}
            tiny.assert_close(getattr(found, tree), expected, 1e-7)
    for tree in (frozen.params, frozen.average):
        assert tiny.bits(tree["crnn"]) == tiny.bits(start["crnn"])


def test_frozen_layers_do_not_count_in_the_norm():
    state = tiny.member(tiny.executor(2, 2).init([0, 0])[0], 0)
    batch = jnp.arange(tiny.BATCH), jnp.ones(tiny.BATCH, bool)

    def gradients(front_rate: float) -> Gradients:
        settings = tiny.train_settings(front_rate=front_rate)
        compute = jax.jit(functools.partial(steps.compute_gradients, tiny.model(), settings))
        trial = tiny.constants(tiny.trials("a")[0])
        return compute(tiny.buckets()[0], state.params, state.counters, trial, *batch)[0]

    every, last = gradients(1.0), gradients(0.0)
    tiny.assert_close(last.grads["softmax"], every.grads["softmax"], 0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves({**last.grads, "softmax": 0}))
    assert 0 < last.norm < every.norm and last.valid


@pytest.mark.parametrize("system", [name for name, spec in build.REGISTRY.items() if spec.build])
def test_every_system_has_a_last_layer_of_as_many_outputs_as_classes(system):
    c = configuration.get_config()
    c.system = system
    example = build.example(c, (2, 3))
    shapes = [
        jax.eval_shape(build.build_model(c, classes).init, jax.random.key(0), example)
        for classes in (4, 5)
    ]
    four, five = (
        {
            jax.tree_util.keystr(path): (
                leaf.shape,
                steps.TrainSettings(1, 1, front_rate=0.5).rate_factor(path),
            )
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree["params"])
        }
        for tree in shapes
    )
    for name, (shape, factor) in four.items():
        assert (factor == 1) == (shape != five[name][0]), name
