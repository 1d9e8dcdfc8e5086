"""LSTM (paper, section 3.1) and GRU over time: one unidirectional layer, zero initial state.

Right padding needs no mask here: real outputs never see it. The input projection x·W_x + b of all
steps is one matrix product outside the scan. The gradient of the LSTM is written by hand: the
backward scan emits only the gate gradients dz, and the weight gradient is one product over all
steps, where automatic differentiation would compute a product per step. Whatever does not depend on
the carry is computed outside the scans.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ser_jax.models.kernels import cpu
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions, add_bias, multiply, product


class State(NamedTuple):
    """The state that an LSTM carries from step to step."""

    hidden: Array  # [B, H]
    cell: Array  # [B, H]


def lstm(
    inputs: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    *,
    compute: ComputeOptions = DEFAULT_COMPUTE,
) -> Array:
    """Runs an LSTM over right-padded sequences [B, T, I]; returns hidden states [B, T, H].

    Weights: kernel [I, 4 H], recurrent kernel [H, 4 H], bias [4 H]; gates i, f, g, o. The state
    keeps the type of the inputs.
    """
    projected = add_bias(product(jnp.swapaxes(inputs, 0, 1), kernel, compute.operands), bias)
    if compute.native:
        return jnp.swapaxes(cpu.recur(projected, recurrent_kernel), 0, 1)
    form = recur
    if compute.pallas:
        from ser_jax.models.kernels import gpu_lstm  # Pallas takes long to import; few need it.

        form = gpu_lstm.recur
    return jnp.swapaxes(form(projected, recurrent_kernel, compute.operands), 0, 1)


def resume(
    inputs: Array,
    state: State,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    *,
    restart: Array | None = None,
    compute: ComputeOptions = DEFAULT_COMPUTE,
) -> tuple[Array, State]:
    """Continues a sequence whose earlier steps `lstm` or `resume` has run; not for training.

    Args:
      inputs: [B, T, I], the next steps; [1, T, I] if all rows read the same.
      state: After the step before them; zeros at the beginning.
      kernel: [I, 4 H], as of `lstm`.
      recurrent_kernel: [H, 4 H].
      bias: [4 H].
      restart: [T, B] bool, the rows whose state is reset to zeros before a step; None: none.
      compute: As of `lstm`; never the kernels of this package.

    Returns:
      [B, T, H], the hidden state after every step, and the state after the last.
    """
    projected = add_bias(product(jnp.swapaxes(inputs, 0, 1), kernel, compute.operands), bias)

    def step(state, now):
        z, reset = now
        if reset is not None:
            state = State(*(jnp.where(reset[:, None], 0, values) for values in state))
        state, _ = _step(state, z, recurrent_kernel, compute.operands)
        return state, state.hidden

    state, hidden = lax.scan(step, state, (projected, restart))
    return jnp.swapaxes(hidden, 0, 1), state


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def recur(projected: Array, recurrent_kernel: Array, operands: Any = None) -> Any:
    """Runs the recurrence on projected inputs, time-major; returns hidden states [T, B, H].

    `projected` [T, B, 4 H] is x·W_x + b of every step; recurrent kernel [H, 4 H]; `operands` is the
    type of the factors of matrix products, None: as they come.
    """
    return _forward(projected, recurrent_kernel, operands)[0]


def _forward(
    projected: Array, recurrent_kernel: Array, operands: Any
) -> tuple[Array, tuple[Array, ...]]:
    def step(state, z):
        state, gates = _step(state, z, recurrent_kernel, operands)
        return state, (*state, gates)

    units = recurrent_kernel.shape[0]
    zeros = jnp.zeros_like(projected, shape=(projected.shape[1], units))
    _, (hidden, cell, gates) = lax.scan(step, State(zeros, zeros), projected)
    return hidden, (hidden, cell, gates, recurrent_kernel)


def _step(state: State, z: Array, recurrent_kernel: Array, operands: Any) -> tuple[State, Array]:
    """One step from its projected input z [B, 4 H]; returns the state and the gates [B, 4 H]."""
    hidden, cell = state
    z = z + multiply(hidden, recurrent_kernel, "bh,hz->bz", operands)
    i, f, g, o = jnp.split(z, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    cell = f * cell + i * g
    return State(o * jnp.tanh(cell), cell), jnp.concatenate([i, f, g, o], axis=-1)


def _backward(
    operands: Any, residuals: tuple[Array, ...], grad_hidden: Array
) -> tuple[Array, Array]:
    hidden, cell, gates, recurrent_kernel = residuals
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    first = jnp.zeros_like(cell[:1])
    cell_before = jnp.concatenate([first, cell[:-1]])
    hidden_before = jnp.concatenate([first, hidden[:-1]])
    tanh_cell = jnp.tanh(cell)
    # dz = [dc, dc, dc, dh] · local, where the local derivatives do not depend on the carry.
    local = jnp.concatenate(
        [g * i * (1 - i), cell_before * f * (1 - f), i * (1 - g * g), tanh_cell * o * (1 - o)],
        axis=-1,
    )
    dcell = o * (1 - tanh_cell * tanh_cell)
    transposed = recurrent_kernel.T

    def step(carry, xs):
        grad_h, grad_c = carry
        grad_out, local_t, dcell_t, forget = xs
        grad_h = grad_h + grad_out
        grad_c = grad_c + grad_h * dcell_t
        grad_z = jnp.concatenate([grad_c, grad_c, grad_c, grad_h], axis=-1) * local_t
        return (multiply(grad_z, transposed, "bz,zh->bh", operands), grad_c * forget), grad_z

    zeros = jnp.zeros_like(hidden[0])
    _, grad_projected = lax.scan(step, (zeros, zeros), (grad_hidden, local, dcell, f), reverse=True)
    grad_kernel = multiply(hidden_before, grad_projected, "tbh,tbz->hz", operands)
    return grad_projected, grad_kernel


recur.defvjp(_forward, _backward)


def gru(
    inputs: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    *,
    compute: ComputeOptions = DEFAULT_COMPUTE,
) -> Array:
    """Runs a GRU (Cho et al. 2014) over right-padded sequences.

    r, u = σ(x·W + h·U + b), c = tanh(x·W_c + (r ∘ h)·U_c + b_c), h ← u ∘ h + (1 − u) ∘ c: the reset
    gate acts on the state before the recurrent product. Maps [B, T, I] to hidden states [B, T, H]
    by kernel [I, 3 H], recurrent kernel [H, 3 H] and bias [3 H]; gates r, u, c.
    """
    units, operands = recurrent_kernel.shape[0], compute.operands
    gates_kernel, candidate_kernel = jnp.split(recurrent_kernel, [2 * units], axis=1)
    projected = add_bias(product(jnp.swapaxes(inputs, 0, 1), kernel, operands), bias)

    def step(hidden: Array, z: Array) -> tuple[Array, Array]:
        gates = jax.nn.sigmoid(z[:, : 2 * units] + product(hidden, gates_kernel, operands))
        reset, update = jnp.split(gates, 2, axis=-1)
        candidate = z[:, 2 * units :] + product(reset * hidden, candidate_kernel, operands)
        candidate = jnp.tanh(candidate)
        hidden = update * hidden + (1 - update) * candidate
        return hidden, hidden

    first = jnp.zeros_like(projected, shape=(projected.shape[1], units))
    return jnp.swapaxes(lax.scan(step, first, projected)[1], 0, 1)
