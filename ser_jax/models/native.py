"""The kernels of kernels.cc as functions of JAX arrays, with their gradients; float32, on CPUs.

They compute what convolution.py, recurrence.py and training/optimiser.py define, faster than XLA's programs do:
docs/performance.md.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ser_jax.models.native_library import load

POOL = 3


def pooled_convolution(x: Array, kernel: Array, bias: Array, stride: int) -> Array:
    """Computes what `convolution.pooled_convolution` computes.

    Args:
      x: [B, L, I].
      kernel: [width, I, C].
      bias: [C].
      stride: Of the max-pool.

    Returns:
      [B, P, C].
    """
    return _stage(x, kernel, bias, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _stage(x: Array, kernel: Array, bias: Array, stride: int) -> Any:
    return _stage_forward(x, kernel, bias, stride)[0]


def _stage_forward(x: Array, kernel: Array, bias: Array, stride: int) -> tuple[Array, tuple[Array, ...]]:
    rows = x.shape[1] - kernel.shape[0] + 1
    shape = (x.shape[0], (rows - POOL) // stride + 1, kernel.shape[2])
    outputs = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct(shape, np.uint8)
    y, which = _call("convolve_forward", outputs, x, kernel, bias, stride=np.int64(stride))
    return y, (x, kernel, which)


def _stage_backward(stride: int, residuals: tuple[Array, ...], slope: Array) -> tuple[Array, Array, Array]:
    x, kernel, which = residuals
    outputs = _like(kernel), jax.ShapeDtypeStruct(kernel.shape[2:], np.float32)
    of_kernel, of_bias = _call("convolve_kernel_gradient", outputs, x, which, slope, stride=np.int64(stride))
    # A call of its own, which XLA leaves out where nobody asks for this gradient.
    of_inputs = _call("convolve_inputs_gradient", _like(x), kernel, which, slope, stride=np.int64(stride))
    return of_inputs, of_kernel, of_bias


_stage.defvjp(_stage_forward, _stage_backward)


@jax.custom_vjp
def recur(projected: Array, recurrent_kernel: Array) -> Any:
    """Runs the recurrence of an LSTM, as `recurrence.recur` does.

    Args:
      projected: [T, B, 4 H].
      recurrent_kernel: [H, 4 H].

    Returns:
      [T, B, H].
    """
    return _recur_forward(projected, recurrent_kernel)[0]


def _recur_forward(projected: Array, recurrent_kernel: Array) -> tuple[Array, tuple[Array, ...]]:
    state = jax.ShapeDtypeStruct((*projected.shape[:2], recurrent_kernel.shape[0]), np.float32)
    hidden, cell, gates = _call("lstm_forward", (state, state, _like(projected)), projected, recurrent_kernel)
    return hidden, (hidden, cell, gates, recurrent_kernel)


def _recur_backward(residuals: tuple[Array, ...], slope: Array) -> tuple[Array, Array]:
    hidden, cell, gates, recurrent_kernel = residuals
    of_projected = _call("lstm_backward", _like(gates), cell, gates, recurrent_kernel, slope)
    before = jnp.concatenate([jnp.zeros_like(hidden[:1]), hidden[:-1]])  # A slice of both would copy the larger one.
    rows = before.reshape(-1, before.shape[-1]), of_projected.reshape(-1, of_projected.shape[-1])
    return of_projected, jnp.einsum("rh,rz->hz", *rows)


recur.defvjp(_recur_forward, _recur_backward)


def adam(
    inputs: Array, slopes: Array, state: Array, value: Array, moment1: Array, moment2: Array, **constants: float
) -> tuple[Array, Array, Array]:
    """Updates a kernel whose gradient is inputsᵀ · slopes, where it lies if its buffer is given up.

    Args:
      inputs: [B, I].
      slopes: [B, O].
      state: [4] f32: 0 to leave everything as it is, else 1; what the gradient is scaled by; what the first and the
        second moment are multiplied by in the step.
      value: [I, O], the kernel.
      moment1: [I, O].
      moment2: [I, O].
      **constants: rate, weight_decay, decay1, share1 (1 − decay1), decay2, share2, epsilon; see `optimiser`.

    Returns:
      The new kernel and moments.
    """
    call = _target("adam_of_product", [_like(value)] * 3, vmap_method="broadcast_all", aliases={3: 0, 4: 1, 5: 2})
    attributes = {name: np.float32(constant) for name, constant in constants.items()}
    return tuple(call(inputs, slopes, state, value, moment1, moment2, **attributes))


def _call(name: str, outputs: Any, *arguments: Array, **attributes: np.int64) -> Any:
    if any(value.dtype == np.float64 for value in arguments):
        raise TypeError("the kernels compute in float32")
    return _target(name, outputs)(*arguments, **attributes)


def _target(name: str, outputs: Any, vmap_method: str = "sequential", aliases: dict[int, int] | None = None) -> Any:
    target = load().prefix + name
    return jax.ffi.ffi_call(target, outputs, vmap_method=vmap_method, input_output_aliases=aliases)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, np.float32)
