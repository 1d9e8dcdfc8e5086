"""The CNN of the CRNN, in its literal and its fast form (paper, section 3.1).

Convolution (full spectrum, moves in time only) – ReLU – max-pool 3 stride 2 – convolution – ReLU –
max-pool 3 stride 2, all without padding; as mathematics both convolutions are one-dimensional over
time.

literal: the paper cuts overlapping segments of W frames and runs the CNN on each. It is the oracle.
fast: with VALID padding an output depends only on the frames under it, so whatever neighbouring
segments share is computed once over the whole utterance. The CNN has stride 4: where the hop is a
multiple of 4 the whole CNN is shared and a segment is a slice of its output; for any other hop the
first convolution and a stride-1 running maximum are shared.

Max-pool is the maximum of three strided slices (its gradient is several times faster than that of a
windowed reduction), and it comes before bias and ReLU: same values, fewer of them.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, export
from jax.nn import relu

from ser_jax.models.kernels import cpu
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions, add_bias, convolve

POOL = cpu.POOL
STRIDE = 2


class Kernels(NamedTuple):
    """Weights of the two convolutions."""

    kernel1: Array  # [5, M, C], width in frames, bands, filters
    bias1: Array  # [C]
    kernel2: Array  # [3, C, C]
    bias2: Array  # [C]


def cnn_literal(
    segments: Array, kernels: Kernels, compute: ComputeOptions = DEFAULT_COMPUTE
) -> Array:
    """Maps log-mel segments [B, T, W, M] to features [B, T, rows · C], time before filters."""
    batch, steps, window, bands = segments.shape
    x = segments.reshape(batch * steps, window, bands)
    x = pooled_convolution(x, kernels.kernel1, kernels.bias1, STRIDE, compute)
    x = pooled_convolution(x, kernels.kernel2, kernels.bias2, STRIDE, compute)
    return x.reshape(batch, steps, -1)


def cnn_fast(
    frames: Array,
    kernels: Kernels,
    window: int,
    hop: int,
    compute: ComputeOptions = DEFAULT_COMPUTE,
) -> Array:
    """Computes the features of `cnn_literal` from whole utterances.

    Maps log-mel frames [B, F, M], F ≥ W, finite everywhere, to [B, T, rows · C] with
    T = (F − W)//hop + 1. W = `window` and `hop` are in frames.
    """
    batch, length, _ = frames.shape
    steps = (length - window) // hop + 1
    rows1 = _pooled(window - kernels.kernel1.shape[0] + 1)
    rows2 = _pooled(rows1 - kernels.kernel2.shape[0] + 1)
    if hop % (STRIDE * STRIDE) == 0:
        x = pooled_convolution(frames, kernels.kernel1, kernels.bias1, STRIDE, compute)
        x = pooled_convolution(x, kernels.kernel2, kernels.bias2, STRIDE, compute)
        x = windows(x, steps, hop // (STRIDE * STRIDE), rows2, 1)
    else:
        x = pooled_convolution(frames, kernels.kernel1, kernels.bias1, 1, compute)
        x = windows(x, steps, hop, rows1, STRIDE)
        x = x.reshape(batch * steps, rows1, -1)
        x = pooled_convolution(x, kernels.kernel2, kernels.bias2, STRIDE, compute)
    return x.reshape(batch, steps, -1)


def pooled_convolution(
    x: Array, kernel: Array, bias: Array, stride: int, compute: ComputeOptions = DEFAULT_COMPUTE
) -> Array:
    """Computes relu(max-pool(conv(x)) + bias), which equals max-pool(relu(conv(x) + bias)).

    Maps [B, L, I] by a kernel [width, I, C] and a bias [C] to [B, P, C] with P = (L − width + 1 −
    POOL)//stride + 1; `stride` is that of the max-pool.
    """
    if compute.native:
        return cpu.pooled_convolution(x, kernel, bias, stride)
    x = convolve(x, kernel, compute)
    return relu(add_bias(_pool(x) if stride == STRIDE else _running_maximum(x), bias))


def windows(x: Array, count: int, hop: int, rows: int, stride: int) -> Array:
    """Cuts overlapping windows out of a sequence, without a gather: its gradient is a scatter.

    Only in exported programs, whose length is not known and which have no gradient, is it a gather.

    Maps [B, L, C] to [B, T = count, rows, C]: element (k, j) is row k·hop + j·stride of x.
    """
    if export.is_symbolic_dim(count):
        index = jnp.arange(count)[:, None] * hop + jnp.arange(rows)[None, :] * stride
        return x.at[:, index].get(mode="promise_in_bounds")
    batch, length, channels = x.shape
    span = (rows - 1) * stride + 1
    blocks_per_window = -(-span // hop)
    blocks = count + blocks_per_window - 1
    x = jnp.pad(x[:, : blocks * hop], ((0, 0), (0, max(0, blocks * hop - length)), (0, 0)))
    x = x.reshape(batch, blocks, hop, channels)
    x = jnp.concatenate([x[:, b : b + count] for b in range(blocks_per_window)], axis=2)
    return x[:, :, :span:stride]


def _running_maximum(x: Array) -> Array:
    size = x.shape[1] - POOL + 1
    return jnp.maximum(jnp.maximum(x[:, :size], x[:, 1 : size + 1]), x[:, 2 : size + 2])


def _pool(x: Array) -> Array:
    size = STRIDE * (_pooled(x.shape[1]) - 1) + 1
    first, second, third = (x[:, offset : offset + size : STRIDE] for offset in range(POOL))
    return jnp.maximum(jnp.maximum(first, second), third)


def _pooled(size: int) -> int:
    return (size - POOL) // STRIDE + 1
