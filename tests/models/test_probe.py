"""The probe: its size, a hand-computed case, padding, and pooling before the layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_same, values_and_gradients

from ser_jax import config as configuration
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import Statistics, standardise
from ser_jax.models import build, probe

LAYERS, WIDTH, CLASSES = 3, 4, 2


def model_of(pooling: str) -> Any:
    c = configuration.get_config()
    c.system, c.model.probe_pooling = "probe", pooling
    c.model.lstm_units, c.model.probe_dense = 5, (6,)
    return build.build_model(c, CLASSES)


def batch(lengths, frames=0, fill=0.0) -> Inputs:
    """Random frames, each a function of its row; the padding holds `fill`."""
    values = np.full((len(lengths), frames or max(lengths), LAYERS, WIDTH), fill, np.float32)
    for row, length in enumerate(lengths):
        values[row, :length] = np.random.default_rng(row).normal(size=(length, LAYERS, WIDTH))
    return Inputs(jnp.array(lengths), frames=jnp.asarray(values))


def outcome(model: Any, params: Any, inputs: Inputs) -> Any:
    """Logits, and gradients of the parameters."""
    return values_and_gradients(lambda p: model.apply({"params": p}, inputs), params)


def params_of(model: Any, inputs: Inputs) -> Any:
    params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
    return {**params, "layer_weights": jnp.array([0.5, -1.0, 2.0])}


@pytest.mark.parametrize(
    ("pooling", "pooled", "extra"),
    [("mean", WIDTH, 0), ("statistics", 3 * WIDTH, 0), ("lstm", 15, 4 * 5 * (WIDTH + 5 + 1))],
)
def test_size(pooling, pooled, extra):
    expected = LAYERS + extra + 6 * (pooled + 1) + CLASSES * 7
    assert build.count_parameters(model_of(pooling), batch([2])) == expected


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [[4.5]]), ("statistics", [[6.5, 4.5, 2.5]])],  # of 2.5 and 6.5: max, mean, min
)
def test_a_case_by_hand(pooling, expected):
    """Layers weigh 1/4 and 3/4; no dense layer, and the identity as the last one."""
    frames = np.array([[[[1.0], [3.0]], [[5.0], [7.0]]]], np.float32)  # [1, 2, 2, 1]
    inputs, size = Inputs(jnp.array([2]), frames=jnp.asarray(frames)), len(expected[0])
    c = configuration.get_config()
    c.system, c.model.probe_pooling, c.model.probe_dense = "probe", pooling, ()
    params = {
        "layer_weights": jnp.log(jnp.array([1.0, 3.0])),
        "softmax": {"kernel": jnp.eye(size), "bias": jnp.zeros(size)},
    }
    got: Any = build.build_model(c, size).apply({"params": params}, inputs)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", probe.POOLINGS)
@pytest.mark.parametrize("fill", [7.0, np.nan])
def test_padding_changes_neither_logits_nor_gradients(pooling, fill):
    model, lengths = model_of(pooling), [3, 1, 5]
    tight = batch(lengths)
    params = params_of(model, tight)
    padded = outcome(model, params, batch(lengths, frames=9, fill=fill))
    assert_same(padded, outcome(model, params, tight), 1e-5)


def test_the_mean_of_layers_is_the_layers_of_the_mean():
    """What is pooled when it is read trains and scores as what is pooled by the model."""
    model, lengths = model_of("mean"), [3, 1, 5]
    rng = np.random.default_rng(1)
    shape = (LAYERS, WIDTH)
    statistics = Statistics(rng.normal(size=shape), rng.uniform(0.5, 2, size=shape))
    statistics = Statistics(*(None if v is None else v.astype(np.float32) for v in statistics))
    whole = batch(lengths)
    means = [np.asarray(whole.frames)[n, :length].mean(0) for n, length in enumerate(lengths)]
    pooled = Inputs(jnp.ones(3, jnp.int32), frames=jnp.asarray(np.stack(means)[:, None]))
    params = params_of(model, whole)
    one, other = (
        outcome(model, params, standardise(inputs, statistics, jnp)) for inputs in (whole, pooled)
    )
    assert_same(one, other, 1e-5)
