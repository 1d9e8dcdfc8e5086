"""Matrix products: in which precision, and convolution as one of them.

With `operands` = bfloat16 both factors of every product, forward and backward, are rounded to bfloat16, while products
are summed, and everything between them is computed and kept, in float32.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Arithmetic(NamedTuple):
    """How a system computes; the mathematics is the same.

    Attributes:
      operands: Floating-point type of the factors of matrix products; None: as they come.
      unfold: Whether convolutions are written as matrix products of shifted copies: slower than XLA's convolution by
        itself, much faster inside loops on a CPU and where every run of a group has kernels of its own.
      native: Whether convolution and recurrence are the package's own kernels (native.py): float32 on CPUs only.
      pallas: Whether the recurrence is one program of the GPU (recurrence_gpu.py) instead of a loop of XLA's.
    """

    operands: Any = None
    unfold: bool = False
    native: bool = False
    pallas: bool = False


DEFAULT = Arithmetic()


def multiply(left: Array, right: Array, dimensions: str, operands: Any) -> Array:
    """Returns einsum(dimensions, left, right), in the type of `left`; its gradient is not meant to be taken."""
    if operands is None:
        return jnp.einsum(dimensions, left, right)
    factors = left.astype(operands), right.astype(operands)
    return jnp.einsum(dimensions, *factors, preferred_element_type=left.dtype)


def product(x: Array, kernel: Array, operands: Any) -> Array:
    """Multiplies features by a kernel.

    Args:
      x: [..., I].
      kernel: [I, O].
      operands: Type of the factors, here and in the gradient; None: as they come.

    Returns:
      [..., O] in the type of x.
    """
    return _product(x, kernel, operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, operands: Any) -> Any:
    return multiply(x, kernel, "...i,io->...o", operands)


def _forward(x: Array, kernel: Array, operands: Any) -> tuple[Array, tuple[Array, Array]]:
    return multiply(x, kernel, "...i,io->...o", operands), (x, kernel)


def _backward(operands: Any, residuals: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows, slopes = x.reshape(-1, x.shape[-1]), slope.reshape(-1, slope.shape[-1])
    return multiply(slope, kernel, "...o,io->...i", operands), multiply(rows, slopes, "ri,ro->io", operands)


_product.defvjp(_forward, _backward)


def add_bias(x: Array, bias: Array) -> Array:
    """Adds bias [C] to x [..., C].

    Its gradient, a sum over everything but C, is written as a product with ones: on the CPU five times as fast as the
    reduction that automatic differentiation makes of it.
    """
    return _add_bias(x, bias)


@jax.custom_vjp
def _add_bias(x: Array, bias: Array) -> Any:
    return x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def _add_bias_backward(_: None, slope: Array) -> tuple[Array, Array]:
    rows = slope.reshape(-1, slope.shape[-1])
    return slope, jnp.ones(len(rows), slope.dtype) @ rows


_add_bias.defvjp(lambda x, bias: (_add_bias(x, bias), None), _add_bias_backward)


def convolve(x: Array, kernel: Array, arithmetic: Arithmetic) -> Array:
    """Convolves over time, without padding.

    Args:
      x: [B, L, I].
      kernel: [width, I, C].
      arithmetic: How to compute.

    Returns:
      [B, L − width + 1, C].
    """
    width, channels, filters = kernel.shape
    if arithmetic.unfold or arithmetic.operands is not None:
        length = x.shape[1] - width + 1
        columns = jnp.concatenate([x[:, start : start + length] for start in range(width)], axis=-1)
        return product(columns, kernel.reshape(width * channels, filters), arithmetic.operands)
    return lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC"))
