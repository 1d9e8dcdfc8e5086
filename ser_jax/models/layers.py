"""Matrix products in a chosen precision, bias, convolution and dropout.

With `operands` = bfloat16 both factors of every product, forward and backward, are rounded to
bfloat16, while products are summed, and everything between them is computed and kept, in float32.
"""

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class ComputeOptions(NamedTuple):
    """How a system computes; the mathematics is the same."""

    # floating-point type of the factors of matrix products; None: as they come
    operands: Any = None
    # whether convolutions are written as matrix products of shifted copies: slower than XLA's
    # convolution by itself, much faster inside loops on a CPU and where every trial of a group has
    # its own kernels
    unfold: bool = False
    # whether convolution and recurrence are the package's own kernels (kernels/cpu.py): float32 on
    # CPUs only
    native: bool = False
    # whether the recurrence is one GPU program (kernels/gpu_lstm.py) instead of XLA's loop
    pallas: bool = False


DEFAULT_COMPUTE = ComputeOptions()


def multiply(left: Array, right: Array, dimensions: str, operands: Any) -> Array:
    """Returns einsum(dimensions, left, right) in the type of `left`; not to be differentiated."""
    if operands is None:
        return jnp.einsum(dimensions, left, right)
    factors = left.astype(operands), right.astype(operands)
    return jnp.einsum(dimensions, *factors, preferred_element_type=left.dtype)


def product(x: Array, kernel: Array, operands: Any) -> Array:
    """Multiplies features [..., I] by a kernel [I, O]; returns [..., O] in the type of x.

    `operands` is the type of the factors, here and in the gradient; None: as they come.
    """
    return _product(x, kernel, operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, operands: Any) -> Any:
    return multiply(x, kernel, "...i,io->...o", operands)


def _forward(x: Array, kernel: Array, operands: Any) -> tuple[Array, tuple[Array, Array]]:
    return multiply(x, kernel, "...i,io->...o", operands), (x, kernel)


def _backward(operands: Any, residuals: tuple[Array, Array], grads: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows = x.reshape(-1, x.shape[-1]), grads.reshape(-1, grads.shape[-1])
    grad_x = multiply(grads, kernel, "...o,io->...i", operands)
    return grad_x, multiply(*rows, "ri,ro->io", operands)


_product.defvjp(_forward, _backward)


def add_bias(x: Array, bias: Array) -> Array:
    """Adds bias [C] to x [..., C].

    Its gradient, a sum over everything but C, is written as a product with ones: on the CPU five
    times as fast as the reduction that automatic differentiation makes of it.
    """
    return _add_bias(x, bias)


@jax.custom_vjp
def _add_bias(x: Array, bias: Array) -> Any:
    return x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def _add_bias_backward(_: None, grads: Array) -> tuple[Array, Array]:
    rows = grads.reshape(-1, grads.shape[-1])
    return grads, jnp.ones(len(rows), grads.dtype) @ rows


_add_bias.defvjp(lambda x, bias: (_add_bias(x, bias), None), _add_bias_backward)


def convolve(x: Array, kernel: Array, compute: ComputeOptions) -> Array:
    """Convolves [B, L, I] over time by [width, I, C], without padding: [B, L − width + 1, C]."""
    width, channels, filters = kernel.shape
    if compute.unfold or compute.operands is not None:
        length = x.shape[1] - width + 1
        columns = jnp.concatenate([x[:, start : start + length] for start in range(width)], axis=-1)
        return product(columns, kernel.reshape(width * channels, filters), compute.operands)
    return lax.conv_general_dilated(
        x, kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
    )


def drop(x: Array, keys: Array | None, fraction: float, place: str = "") -> Array:
    """Sets a random fraction of the values to 0 and scales the others up, so that the mean stays.

    Args:
      x: [B, ...].
      keys: [B, 2] u32, the data of one key per row: a row's mask depends on its key, the place and
        the shape only. None: nothing is dropped, as in scoring.
      fraction: Fraction that is dropped, in [0, 1).
      place: Name of the layer: draws of different layers are independent.
    """
    if keys is None or fraction == 0:
        return x

    def kept(data: Array) -> Array:
        key = jax.random.wrap_key_data(data, impl="threefry2x32")
        if place:
            key = jax.random.fold_in(key, zlib.crc32(place.encode()))
        return jax.random.bernoulli(key, 1 - fraction, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1 - fraction), 0)
