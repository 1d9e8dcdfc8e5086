"""The GRU by hand, against a NumPy loop and finite differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from recurrent_loops import numpy_gru

from ser_jax.models.arithmetic import Arithmetic
from ser_jax.models.gru import gru


def weights(batch=3, steps=7, size=5, units=4, dtype: Any = np.float64):
    rng = np.random.default_rng(0)
    shapes = (batch, steps, size), (size, 3 * units), (units, 3 * units), (3 * units,)
    return tuple(jnp.asarray(rng.normal(size=shape).astype(dtype)) for shape in shapes)


def test_one_unit_two_steps_by_hand():
    """Gates r = ¾, u = ¼ throughout and candidate tanh(x + r·h): h₁ = ¾·tanh 1, h₂ = ¼·h₁ + ¾·tanh(1 + ¾·h₁)."""
    bias, kernel = jnp.array([np.log(3.0), -np.log(3.0), 0.0]), jnp.array([[0.0, 0.0, 1.0]])
    out = gru(jnp.ones((1, 2, 1)), kernel, jnp.array([[0.0, 0.0, 1.0]]), bias)
    first = 0.75 * np.tanh(1.0)
    np.testing.assert_allclose(out[0, :, 0], [first, first / 4 + 0.75 * np.tanh(1 + 0.75 * first)], rtol=1e-6)


def test_numpy_loop(float64):
    args = weights()
    np.testing.assert_allclose(gru(*args), numpy_gru(*map(np.asarray, args)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 4])
def test_gradient(float64, steps):
    check_grads(gru, weights(batch=2, steps=steps, size=3, units=2), order=1, modes=["rev"], atol=1e-7, rtol=1e-7)


def test_bfloat16_rounds_the_factors_only():
    args = weights(dtype=np.float32)
    rough = gru(*args, arithmetic=Arithmetic(jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - gru(*args)).max() < 0.1


def test_no_step_sees_a_later_one():
    inputs, *rest = weights(dtype=np.float32)
    spoilt = inputs.at[:, 4:].set(jnp.nan)
    np.testing.assert_array_equal(jax.jit(gru)(spoilt, *rest)[:, :4], jax.jit(gru)(inputs, *rest)[:, :4])
