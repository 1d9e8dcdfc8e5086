"""LSTM over time: one unidirectional layer, zero initial state (paper, section 2.1).

Gates are ordered input, forget, cell, output; a single bias. Right padding needs no mask here: real outputs never see
it.

The input projection x·W_x + b of all steps is one matrix product outside the scan. The gradient is written by hand: the
backward scan emits only the gate gradients dz, and the weight gradient is one product over all steps, where automatic
differentiation would compute a product per step. Whatever does not depend on the carry is computed outside the scans.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ser_jax.models import native
from ser_jax.models.arithmetic import DEFAULT, Arithmetic, add_bias, multiply, product


class State(NamedTuple):
    """What an LSTM carries from step to step.

    Attributes:
      hidden: [B, H].
      cell: [B, H].
    """

    hidden: Array
    cell: Array


def lstm(
    inputs: Array, kernel: Array, recurrent_kernel: Array, bias: Array, *, arithmetic: Arithmetic = DEFAULT
) -> Array:
    """Runs an LSTM over right-padded sequences.

    Args:
      inputs: [B, T, I], the input of every step.
      kernel: [I, 4 H], input weights; gates i, f, g, o.
      recurrent_kernel: [H, 4 H], recurrent weights.
      bias: [4 H].
      arithmetic: How to compute. The state keeps the type of the inputs.

    Returns:
      [B, T, H], the hidden state after every step.
    """
    projected = add_bias(product(jnp.swapaxes(inputs, 0, 1), kernel, arithmetic.operands), bias)
    if arithmetic.native:
        return jnp.swapaxes(native.recur(projected, recurrent_kernel), 0, 1)
    form = recur
    if arithmetic.pallas:
        from ser_jax.models import recurrence_gpu  # Pallas takes long to import, and hardly anybody needs it.

        form = recurrence_gpu.recur
    return jnp.swapaxes(form(projected, recurrent_kernel, arithmetic.operands), 0, 1)


def resume(
    inputs: Array,
    state: State,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    *,
    restart: Array | None = None,
    arithmetic: Arithmetic = DEFAULT,
) -> tuple[Array, State]:
    """Goes on with a sequence whose earlier steps `lstm` or `resume` has run; its gradient is not meant to be taken.

    Args:
      inputs: [B, T, I], the next steps; [1, T, I] if all rows read the same.
      state: After the step before them; zeros at the beginning.
      kernel: [I, 4 H].
      recurrent_kernel: [H, 4 H].
      bias: [4 H].
      restart: [T, B] bool, the rows that begin anew with a step, from a state of zeros; None: none.
      arithmetic: As of `lstm`; never the kernels of this package.

    Returns:
      [B, T, H], the hidden state after every step, and the state after the last.
    """
    projected = add_bias(product(jnp.swapaxes(inputs, 0, 1), kernel, arithmetic.operands), bias)

    def step(state, now):
        z, anew = now
        if anew is not None:
            state = State(*(jnp.where(anew[:, None], 0, values) for values in state))
        state, _ = _step(state, z, recurrent_kernel, arithmetic.operands)
        return state, state.hidden

    state, hidden = lax.scan(step, state, (projected, restart))
    return jnp.swapaxes(hidden, 0, 1), state


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def recur(projected: Array, recurrent_kernel: Array, operands: Any = None) -> Any:
    """Runs the recurrence on projected inputs, time-major.

    Args:
      projected: [T, B, 4 H], x·W_x + b of every step.
      recurrent_kernel: [H, 4 H].
      operands: Type of the factors of matrix products; None: as they come.

    Returns:
      [T, B, H], the hidden state after every step.
    """
    return _forward(projected, recurrent_kernel, operands)[0]


def _forward(projected: Array, recurrent_kernel: Array, operands: Any) -> tuple[Array, tuple[Array, ...]]:
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
    i, f, g, o = jnp.split(z + multiply(hidden, recurrent_kernel, "bh,hz->bz", operands), 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    cell = f * cell + i * g
    return State(o * jnp.tanh(cell), cell), jnp.concatenate([i, f, g, o], axis=-1)


def _backward(operands: Any, residuals: tuple[Array, ...], grad_hidden: Array) -> tuple[Array, Array]:
    hidden, cell, gates, recurrent_kernel = residuals
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    first = jnp.zeros_like(cell[:1])
    cell_before = jnp.concatenate([first, cell[:-1]])
    hidden_before = jnp.concatenate([first, hidden[:-1]])
    tanh_cell = jnp.tanh(cell)
    # dz = [dc, dc, dc, dh] · slopes, where the slopes do not depend on the carry.
    slopes = jnp.concatenate(
        [g * i * (1 - i), cell_before * f * (1 - f), i * (1 - g * g), tanh_cell * o * (1 - o)], axis=-1
    )
    cell_slope = o * (1 - tanh_cell * tanh_cell)
    transposed = recurrent_kernel.T

    def step(carry, xs):
        grad_h, grad_c = carry
        grad_out, slope, cell_slope_t, forget = xs
        grad_h = grad_h + grad_out
        grad_c = grad_c + grad_h * cell_slope_t
        grad_z = jnp.concatenate([grad_c, grad_c, grad_c, grad_h], axis=-1) * slope
        return (multiply(grad_z, transposed, "bz,zh->bh", operands), grad_c * forget), grad_z

    zeros = jnp.zeros_like(hidden[0])
    _, grad_projected = lax.scan(step, (zeros, zeros), (grad_hidden, slopes, cell_slope, f), reverse=True)
    grad_kernel = multiply(hidden_before, grad_projected, "tbh,tbz->hz", operands)
    return grad_projected, grad_kernel


recur.defvjp(_forward, _backward)
