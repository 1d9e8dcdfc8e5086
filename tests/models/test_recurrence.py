"""The LSTM against a NumPy loop, flax's cell and automatic differentiation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from recurrent_loops import numpy_lstm

from ser_jax.models import recurrence


def weights(batch=3, steps=7, size=5, units=4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    return draw(batch, steps, size), draw(size, 4 * units), draw(units, 4 * units), draw(4 * units)


def test_one_unit_one_step_by_hand():
    """z = (0, ln 3, 0, 0) with zero cell: i = 1/2, g = 0 gives c = 0; then one step with g = tanh 1."""
    one = jnp.ones((1, 1, 1))
    out = recurrence.lstm(one, jnp.array([[0.0, 0.0, 1.0, 0.0]]), jnp.zeros((1, 4)), jnp.zeros(4))
    np.testing.assert_allclose(out, [[[0.5 * np.tanh(0.5 * np.tanh(1.0))]]], rtol=1e-6)


def test_numpy_loop(float64):
    args = weights()
    np.testing.assert_allclose(recurrence.lstm(*map(jnp.asarray, args)), numpy_lstm(*args), rtol=1e-12, atol=1e-14)


def test_flax_cell(float64):
    inputs, kernel, recurrent_kernel, bias = map(jnp.asarray, weights())
    cell = nn.OptimizedLSTMCell(4, param_dtype=jnp.float64)
    params = {}
    gates = (jnp.split(weight, 4, axis=-1) for weight in (kernel, recurrent_kernel, bias))
    for name, wx, wh, b in zip("ifgo", *gates, strict=True):
        params[f"i{name}"] = {"kernel": wx}
        params[f"h{name}"] = {"kernel": wh, "bias": b}
    expected: Any = nn.RNN(cell).apply({"params": {"cell": params}}, inputs)
    np.testing.assert_allclose(recurrence.lstm(inputs, kernel, recurrent_kernel, bias), expected, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_gradient_equals_automatic_differentiation(float64, steps):
    args = tuple(map(jnp.asarray, weights(steps=steps)))

    def plain(projected, recurrent_kernel):
        def step(carry, z):
            i, f, g, o = jnp.split(z + carry[0] @ recurrent_kernel, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (hidden, cell), hidden

        zeros = jnp.zeros((projected.shape[1], recurrent_kernel.shape[0]))
        return jax.lax.scan(step, (zeros, zeros), projected)[1]

    projected = jnp.swapaxes(args[0], 0, 1) @ args[1]

    def gradients(form):
        scale = jnp.arange(1.0, 5.0)[None, None, :]
        return jax.grad(lambda p, w: jnp.sum(jnp.sin(form(p, w) * scale)), argnums=(0, 1))(projected, args[2])

    for a, b in zip(gradients(recurrence.recur), gradients(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_finite_differences(float64):
    args = tuple(map(jnp.asarray, weights(batch=2, steps=4, size=3, units=2)))
    check_grads(recurrence.lstm, args, order=1, modes=["rev"])


def test_outputs_never_see_right_padding():
    inputs, *rest = (jnp.asarray(a, jnp.float32) for a in weights(steps=9))
    padded = inputs.at[:, 5:].set(jnp.nan)
    np.testing.assert_array_equal(recurrence.lstm(inputs, *rest)[:, :5], recurrence.lstm(padded, *rest)[:, :5])


def test_a_sequence_goes_on_where_it_was_left(float64):
    rng = np.random.default_rng(5)
    inputs, kernel = rng.normal(size=(2, 7, 3)), rng.normal(size=(3, 16))
    weights = (kernel, rng.normal(size=(4, 16)), rng.normal(size=16))
    state = recurrence.State(jnp.zeros((2, 4)), jnp.zeros((2, 4)))
    found = []
    for part in np.split(inputs, [1, 5], axis=1):
        hidden, state = recurrence.resume(jnp.asarray(part), state, *map(jnp.asarray, weights))
        found.append(hidden)
    np.testing.assert_allclose(np.concatenate(found, axis=1), numpy_lstm(inputs, *weights), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(state.hidden, found[-1][:, -1])
