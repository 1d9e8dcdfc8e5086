"""The recurrence of an LSTM as one GPU program: all steps of a block of rows without going back to the host or to XLA.

What `recurrence.recur` computes, written in Pallas for Triton. A block of rows keeps its state in registers and reads
the recurrent kernel, which is small enough for the GPU's caches, gate by gate; XLA's loop starts programs anew in every
step. Which of them is faster is to be measured. Only CUDA compiles it; elsewhere it is interpreted, which is for tests.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.nn import sigmoid

from ser_jax.models.arithmetic import multiply

ROWS = 16  # of a block: the fewest that Triton multiplies
ACTIVATIONS = (sigmoid, sigmoid, jnp.tanh, sigmoid)  # of the gates i, f, g, o


def fits(units: int) -> bool:
    """Tells whether a layer of so many units can be computed this way: Triton's arrays have powers of two as sizes."""
    return units >= ROWS and units & (units - 1) == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def recur(projected: Array, recurrent_kernel: Array, operands: Any = None) -> Any:
    """Runs the recurrence on projected inputs, time-major.

    Args:
      projected: [T, B, 4 H], x·W_x + b of every step.
      recurrent_kernel: [H, 4 H]; `fits(H)`.
      operands: Type of the factors of matrix products; None: as they come.

    Returns:
      [T, B, H], the hidden state after every step.
    """
    return _forward(projected, recurrent_kernel, operands)[0]


def _forward(projected: Array, recurrent_kernel: Array, operands: Any) -> tuple[Array, tuple[Array, ...]]:
    units = recurrent_kernel.shape[0]
    weights = recurrent_kernel.astype(operands or recurrent_kernel.dtype)
    hidden, cell, gates = _over_blocks(_forward_block, [units, units, 4 * units], projected, weights=weights)
    return hidden, (hidden, cell, gates, recurrent_kernel)


def _backward(operands: Any, residuals: tuple[Array, ...], grad_hidden: Array) -> tuple[Array, Array]:
    hidden, cell, gates, recurrent_kernel = residuals
    weights = recurrent_kernel.T.astype(operands or recurrent_kernel.dtype)
    (grad_projected,) = _over_blocks(_backward_block, [gates.shape[-1]], grad_hidden, cell, gates, weights=weights)
    return grad_projected, multiply(hidden[:-1], grad_projected[1:], "tbh,tbz->hz", operands)


recur.defvjp(_forward, _backward)


def _forward_block(projected: Any, weights: Any, hidden: Any, cell: Any, gates: Any) -> None:
    """All steps of some rows: projected [T, R, 4 H] and weights [H, 4 H] give hidden, cell [T, R, H], gates."""
    units = weights.shape[0]

    def step(t, state):
        last_hidden, last_cell = state
        found = []
        for n, activation in enumerate(ACTIVATIONS):
            columns = pl.ds(n * units, units)
            z = projected[t, :, columns] + _dot(last_hidden, weights[:, columns])
            found.append(activation(z))
            gates[t, :, columns] = found[-1]
        i, f, g, o = found
        new_cell = f * last_cell + i * g
        new_hidden = o * jnp.tanh(new_cell)
        cell[t], hidden[t] = new_cell, new_hidden
        return new_hidden, new_cell

    zeros = jnp.zeros(hidden.shape[1:], hidden.dtype)
    lax.fori_loop(0, projected.shape[0], step, (zeros, zeros))


def _backward_block(slope: Any, cell: Any, gates: Any, weights: Any, grad_projected: Any) -> None:
    """All steps of some rows, from the last: slope, cell [T, R, H], gates [T, R, 4 H], weights [4 H, H]."""
    steps, _, units = cell.shape

    def step(done, carry):
        t = steps - 1 - done
        grad_hidden, grad_cell = carry
        i, f, g, o = (gates[t, :, pl.ds(n * units, units)] for n in range(4))
        tanh_cell = jnp.tanh(cell[t])
        last_cell = jnp.where(t > 0, cell[jnp.maximum(t - 1, 0)], 0)
        grad_hidden = grad_hidden + slope[t]
        grad_cell = grad_cell + grad_hidden * o * (1 - tanh_cell * tanh_cell)
        of_gates = (
            grad_cell * g * i * (1 - i),
            grad_cell * last_cell * f * (1 - f),
            grad_cell * i * (1 - g * g),
            grad_hidden * tanh_cell * o * (1 - o),
        )
        before = jnp.zeros_like(grad_hidden)
        for n, dz in enumerate(of_gates):
            part = pl.ds(n * units, units)
            grad_projected[t, :, part] = dz
            before += _dot(dz, weights[part, :])
        return before, grad_cell * f

    zeros = jnp.zeros(cell.shape[1:], cell.dtype)
    lax.fori_loop(0, steps, step, (zeros, zeros))


def _dot(left: Array, right: Array) -> Array:
    return jnp.dot(left.astype(right.dtype), right, preferred_element_type=left.dtype)


def _over_blocks(block: Callable[..., None], widths: list[int], *arrays: Array, weights: Array) -> tuple[Array, ...]:
    """Calls `block` for every `ROWS` rows of arrays [T, B, ·], with all weights; it fills arrays of these widths."""
    steps, batch, _ = arrays[0].shape
    missing = -batch % ROWS
    filled = [jnp.pad(array, ((0, 0), (0, missing), (0, 0))) for array in arrays]

    def rows(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((steps, ROWS, width), lambda n: (0, n, 0))

    call = functools.partial(
        pl.pallas_call,
        block,
        grid=((batch + missing) // ROWS,),
        in_specs=[*(rows(array.shape[2]) for array in arrays), pl.BlockSpec(weights.shape, lambda n: (0, 0))],
        out_specs=[rows(width) for width in widths],
        out_shape=[jax.ShapeDtypeStruct((steps, batch + missing, width), arrays[0].dtype) for width in widths],
    )
    found = lax.platform_dependent(
        *(*filled, weights),
        cuda=call(compiler_params=triton.CompilerParams(num_warps=4, num_stages=1)),
        default=call(interpret=True),
    )
    return tuple(array[:, :batch] for array in found)
