"""LSTM and GRU by hand, against NumPy loops, Flax's cell and automatic differentiation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_same, values_and_gradients
from jax.test_util import check_grads
from recurrent_loops import numpy_gru, numpy_lstm

from ser_jax.models.layers import ComputeOptions, product
from ser_jax.models.recurrent import State, gru, lstm, resume

LAYERS = {"lstm": (lstm, numpy_lstm, 4), "gru": (gru, numpy_gru, 3)}


def weights(layer="lstm", batch=3, steps=7, size=5, units=4, dtype: Any = np.float64):
    rng, width = np.random.default_rng(0), LAYERS[layer][2] * units
    shapes = (batch, steps, size), (size, width), (units, width), (width,)
    return tuple(jnp.asarray(rng.normal(size=shape).astype(dtype)) for shape in shapes)


def test_lstm_of_one_unit_by_hand():
    """Gates i, f, o = 1/2 and g = tanh 1: c = 1/2 · tanh 1, h = 1/2 · tanh c."""
    kernel = jnp.array([[0.0, 0.0, 1.0, 0.0]])
    out = lstm(jnp.ones((1, 1, 1)), kernel, jnp.zeros((1, 4)), jnp.zeros(4))
    np.testing.assert_allclose(out, [[[0.5 * np.tanh(0.5 * np.tanh(1.0))]]], rtol=1e-6)


def test_gru_of_one_unit_by_hand():
    """Gates r = ¾, u = ¼: h₁ = ¾·tanh 1, h₂ = ¼·h₁ + ¾·tanh(1 + ¾·h₁)."""
    bias, kernel = jnp.array([np.log(3.0), -np.log(3.0), 0.0]), jnp.array([[0.0, 0.0, 1.0]])
    out = gru(jnp.ones((1, 2, 1)), kernel, jnp.array([[0.0, 0.0, 1.0]]), bias)
    first = 0.75 * np.tanh(1.0)
    expected = [first, first / 4 + 0.75 * np.tanh(1 + 0.75 * first)]
    np.testing.assert_allclose(out[0, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_numpy_loop(float64, layer):
    args, (form, loop, _) = weights(layer), LAYERS[layer]
    np.testing.assert_allclose(form(*args), loop(*map(np.asarray, args)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_finite_differences(float64, layer, steps):
    args = weights(layer, batch=2, steps=steps, size=3, units=2)
    check_grads(LAYERS[layer][0], args, order=1, modes=["rev"], atol=1e-7, rtol=1e-7)


def test_lstm_equals_the_cell_of_flax(float64):
    def flax(inputs, *weights):
        params = {}
        for name, wx, wh, b in zip("ifgo", *(jnp.split(w, 4, -1) for w in weights), strict=True):
            params |= {f"i{name}": {"kernel": wx}, f"h{name}": {"kernel": wh, "bias": b}}
        cell = nn.OptimizedLSTMCell(4, param_dtype=jnp.float64)
        return nn.RNN(cell).apply({"params": {"cell": params}}, inputs)

    args = weights()
    assert_same(values_and_gradients(lstm, *args), values_and_gradients(flax, *args))


@pytest.mark.parametrize("operands", [None, jnp.bfloat16])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_gradient_of_the_lstm_equals_automatic_differentiation(float64, steps, operands):
    """In bfloat16 the states are never rounded, only what is multiplied by a kernel."""

    def plain(inputs, kernel, recurrent_kernel, bias):
        hidden = cell = jnp.zeros((len(inputs), len(recurrent_kernel)))
        found = []
        for x in jnp.swapaxes(inputs, 0, 1):
            recurrent = product(hidden, recurrent_kernel, operands)
            gates = product(x, kernel, operands) + recurrent + bias[None]
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            found.append(hidden)
        return jnp.stack(found, axis=1)

    def own(*args):
        return lstm(*args, compute=ComputeOptions(operands))

    args = weights(steps=steps)
    assert_same(values_and_gradients(own, *args), values_and_gradients(plain, *args))


def test_bfloat16_rounds_the_factors_of_the_gru_only():
    args = weights("gru", dtype=np.float32)
    rough = gru(*args, compute=ComputeOptions(jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - gru(*args)).max() < 0.1


@pytest.mark.parametrize("layer", LAYERS)
def test_no_step_sees_a_later_one(layer):
    inputs, *rest = weights(layer, dtype=np.float32)
    form = jax.jit(LAYERS[layer][0])
    padded = inputs.at[:, 5:].set(jnp.nan)
    np.testing.assert_array_equal(form(inputs, *rest)[:, :5], form(padded, *rest)[:, :5])


def test_a_sequence_goes_on_where_it_was_left(float64):
    inputs, *rest = weights()
    state, found = State(jnp.zeros((3, 4)), jnp.zeros((3, 4))), []
    for part in jnp.split(inputs, [1, 5], axis=1):
        hidden, state = resume(part, state, *rest)
        found.append(hidden)
    expected = numpy_lstm(*map(np.asarray, (inputs, *rest)))
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(state.hidden, found[-1][:, -1])
