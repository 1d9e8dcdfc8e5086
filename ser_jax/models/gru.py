"""GRU over time in the form of Cho et al. 2014: the reset gate acts on the state before the recurrent product.

One unidirectional layer, zero initial state; gates are ordered reset, update, candidate. Right padding needs no mask
here: real outputs never see it.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from ser_jax.models.arithmetic import DEFAULT, Arithmetic, add_bias, product


def gru(
    inputs: Array, kernel: Array, recurrent_kernel: Array, bias: Array, *, arithmetic: Arithmetic = DEFAULT
) -> Array:
    """Runs a GRU over right-padded sequences.

    r, u = σ(x·W + h·U + b), c = tanh(x·W_c + (r ∘ h)·U_c + b_c), then h becomes u ∘ h + (1 − u) ∘ c.

    Args:
      inputs: [B, T, I], the input of every step.
      kernel: [I, 3 H], input weights; gates r, u, c.
      recurrent_kernel: [H, 3 H], recurrent weights.
      bias: [3 H].
      arithmetic: How products are computed.

    Returns:
      [B, T, H], the hidden state after every step.
    """
    units, operands = recurrent_kernel.shape[0], arithmetic.operands
    gates_kernel, candidate_kernel = recurrent_kernel[:, : 2 * units], recurrent_kernel[:, 2 * units :]
    projected = add_bias(product(jnp.swapaxes(inputs, 0, 1), kernel, operands), bias)

    def step(hidden: Array, z: Array) -> tuple[Array, Array]:
        gates = jax.nn.sigmoid(z[:, : 2 * units] + product(hidden, gates_kernel, operands))
        reset, update = jnp.split(gates, 2, axis=-1)
        candidate = jnp.tanh(z[:, 2 * units :] + product(reset * hidden, candidate_kernel, operands))
        hidden = update * hidden + (1 - update) * candidate
        return hidden, hidden

    first = jnp.zeros_like(projected, shape=(projected.shape[1], units))
    return jnp.swapaxes(lax.scan(step, first, projected)[1], 0, 1)
