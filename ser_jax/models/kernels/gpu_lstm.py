"""The recurrence of an LSTM as one GPU program: computes what `recurrent.recur` does, in Pallas.

A block of rows runs all steps. It keeps its state in registers and reads the recurrent kernel,
which fits into the GPU's caches, gate by gate; XLA's loop launches programs in every step. Which is
faster has not been measured. Only CUDA compiles it; elsewhere it is interpreted, for tests.
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

from ser_jax.models.layers import multiply

ROWS = 16  # of a block: the fewest that Triton multiplies
ACTIVATIONS = (sigmoid, sigmoid, jnp.tanh, sigmoid)  # of the gates i, f, g, o


def fits(units: int) -> bool:
    """Returns whether a layer has a size that Triton can compute: a power of two from `ROWS`."""
    return units >= ROWS and units & (units - 1) == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def recur(projected: Array, recurrent_kernel: Array, operands: Any = None) -> Any:
    """Runs the recurrence of an LSTM, as `recurrent.recur` does; H must be one that `fits`."""
    return _forward(projected, recurrent_kernel, operands)[0]


def _forward(
    projected: Array, recurrent_kernel: Array, operands: Any
) -> tuple[Array, tuple[Array, ...]]:
    units = recurrent_kernel.shape[0]
    weights = recurrent_kernel.astype(operands or recurrent_kernel.dtype)
    hidden, cell, gates = _over_blocks(
        _forward_block, [units, units, 4 * units], projected, weights=weights
    )
    return hidden, (hidden, cell, gates, recurrent_kernel)


def _backward(
    operands: Any, residuals: tuple[Array, ...], grad_hidden: Array
) -> tuple[Array, Array]:
    hidden, cell, gates, recurrent_kernel = residuals
    weights = recurrent_kernel.T.astype(operands or recurrent_kernel.dtype)
    (grad_projected,) = _over_blocks(
        _backward_block, [gates.shape[-1]], grad_hidden, cell, gates, weights=weights
    )
    return grad_projected, multiply(hidden[:-1], grad_projected[1:], "tbh,tbz->hz", operands)


recur.defvjp(_forward, _backward)


def _forward_block(projected: Any, weights: Any, hidden: Any, cell: Any, gates: Any) -> None:
    """All steps of some rows: projected, gates [T, ROWS, 4 H]; hidden, cell [T, ROWS, H]."""
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


def _backward_block(grads: Any, cell: Any, gates: Any, weights: Any, grad_projected: Any) -> None:
    """All steps, from the last: grads, cell [T, ROWS, H]; gates, grad_projected [T, ROWS, 4 H]."""
    steps, _, units = cell.shape

    def step(done, carry):
        t = steps - 1 - done
        grad_hidden, grad_cell = carry
        i, f, g, o = (gates[t, :, pl.ds(n * units, units)] for n in range(4))
        tanh_cell = jnp.tanh(cell[t])
        last_cell = jnp.where(t > 0, cell[jnp.maximum(t - 1, 0)], 0)
        grad_hidden = grad_hidden + grads[t]
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


def _over_blocks(
    block: Callable[..., None], widths: list[int], *arrays: Array, weights: Array
) -> tuple[Array, ...]:
    """Returns the arrays of these widths that `block` fills, `ROWS` rows of [T, B, ·] at a time."""
    steps, batch, _ = arrays[0].shape
    missing = -batch % ROWS
    filled = [jnp.pad(array, ((0, 0), (0, missing), (0, 0))) for array in arrays]

    def rows(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((steps, ROWS, width), lambda n: (0, n, 0))

    shapes = [(steps, batch + missing, width) for width in widths]
    of_weights = pl.BlockSpec(weights.shape, lambda n: (0, 0))
    call = functools.partial(
        pl.pallas_call,
        block,
        grid=((batch + missing) // ROWS,),
        in_specs=[*(rows(array.shape[2]) for array in arrays), of_weights],
        out_specs=[rows(width) for width in widths],
        out_shape=[jax.ShapeDtypeStruct(shape, arrays[0].dtype) for shape in shapes],
    )
    found = lax.platform_dependent(
        *(*filled, weights),
        cuda=call(compiler_params=triton.CompilerParams(num_warps=4, num_stages=1)),
        default=call(interpret=True),
    )
    return tuple(array[:, :batch] for array in found)
