"""End2You, the end-to-end baseline of the paper's table 2: CNN and recurrent net on the raw wave.

Per chunk of 40 ms: dropout – convolution 40 x 20 – ReLU – max-pool 2 over time – convolution 40 x
40 – ReLU – max-pool 10 across channels; then recurrent layers over the chunks, the last real step,
one linear layer. It departs from the code published in 2018 in two places: nothing is dropped when
scores are computed, and what is read is the last step of the utterance, not of its padding.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from ser_jax.data.inputs import Inputs
from ser_jax.models import pooling
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions, add_bias, drop, product
from ser_jax.models.recurrent import gru, lstm

glorot = nn.initializers.glorot_uniform()

# Cell → layer, number of gates, and those whose bias begins at 1: the state is kept at first.
CELLS = {"lstm": (lstm, 4, slice(1, 2)), "gru": (gru, 3, slice(0, 2))}
BLOCK = 8  # outputs of one row of the unfolded product


class End2You(nn.Module):
    """Two convolutions per chunk, recurrent layers over chunks, last real step, linear."""

    filters: int  # filters of both convolutions
    widths: tuple[int, int]  # their widths: samples, pooled samples
    pools: tuple[int, int]  # max-pool over time after the first, across channels after the second
    cell: str  # "lstm" or "gru"
    units: int  # units H of a recurrent layer
    layers: int  # recurrent layers
    dropout: float  # fraction of the samples that is dropped in training
    classes: int  # size K of the softmax
    compute: ComputeOptions = DEFAULT_COMPUTE  # how products are computed

    @nn.compact
    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K]."""
        if inputs.wave is None:
            raise ValueError("the batch has no wave, which End2You needs")
        count = inputs.wave.shape[1]
        chunks = jnp.where(pooling.length_mask(inputs.length, count)[:, :, None], inputs.wave, 0)
        chunks = drop(chunks, inputs.keys, self.dropout)
        layer, gates, open_gates = CELLS[self.cell]
        x = self._features(chunks)
        for number in range(1, self.layers + 1):
            name = f"{self.cell}{number}"
            width, orthogonal = gates * self.units, nn.initializers.orthogonal()
            weights = (
                self.param(f"{name}_kernel", glorot, (x.shape[-1], width)),
                self.param(f"{name}_recurrent_kernel", orthogonal, (self.units, width)),
                self.param(f"{name}_bias", _ones_in(open_gates), (gates, self.units)).reshape(-1),
            )
            x = layer(x, *weights, compute=self.compute)
        last = jnp.arange(count)[None, :] == inputs.length[:, None] - 1
        x = jnp.sum(jnp.where(last[:, :, None], x, 0), axis=1)
        kernel = self.param("softmax_kernel", glorot, (self.units, self.classes))
        bias = self.param("softmax_bias", nn.initializers.zeros, (self.classes,))
        return add_bias(product(x, kernel, self.compute.operands), bias)

    def _features(self, chunks: Array) -> Array:
        """Maps chunks [B, C, S] to features [B, C, rows · groups], time before channels."""
        batch, count, samples = chunks.shape
        kernel1 = self.param("conv1_kernel", glorot, (self.widths[0], 1, self.filters))
        bias1 = self.param("conv1_bias", nn.initializers.zeros, (self.filters,))
        kernel2 = self.param("conv2_kernel", glorot, (self.widths[1], self.filters, self.filters))
        bias2 = self.param("conv2_bias", nn.initializers.zeros, (self.filters,))
        # Where only the sizes of parameters matter, the chunks may be integers as they lie in
        # memory.
        x = chunks.reshape(batch * count, samples, 1).astype(kernel1.dtype)
        x = convolve_same(x, kernel1, self.compute)
        x = x.reshape(batch * count, samples // self.pools[0], self.pools[0], self.filters)
        x = nn.relu(add_bias(jnp.max(x, axis=2), bias1))
        # The biases of the second convolution differ between the channels that are pooled: they
        # come first.
        x = add_bias(convolve_same(x, kernel2, self.compute), bias2)
        x = x.reshape(*x.shape[:2], self.filters // self.pools[1], self.pools[1])
        return nn.relu(jnp.max(x, axis=3)).reshape(batch, count, -1)


def _ones_in(rows: slice) -> nn.initializers.Initializer:
    return lambda key, shape, dtype=jnp.float32: jnp.zeros(shape, dtype).at[rows].set(1)


def convolve_same(x: Array, kernel: Array, compute: ComputeOptions) -> Array:
    """Convolves [N, L, I] over time by [width, I, C]; zeros around x keep its length: [N, L, C].

    If the width is even there is one more of them behind x than before it. Unfolded, a row of the
    product is a block of outputs, and the kernel is repeated in it, once for every shift: a fifth
    more products than in the convolution of width 40, but a sixth of the copies that a row per
    output takes.
    """
    if not compute.unfold and compute.operands is None:
        numbers = ("NHC", "HIO", "NHC")
        return lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=numbers)
    rows, length, channels = x.shape
    width, _, filters = kernel.shape
    blocks = -(-length // BLOCK)
    under = -(-(width + BLOCK - 1) // BLOCK)  # blocks of inputs that a block of outputs reads
    before = (width - 1) // 2
    behind = (blocks + under - 1) * BLOCK - length - before
    x = jnp.pad(x, ((0, 0), (before, behind), (0, 0))).reshape(rows, -1, BLOCK * channels)
    columns = jnp.concatenate([x[:, block : block + blocks] for block in range(under)], axis=-1)
    shifted = [
        jnp.pad(kernel, ((n, under * BLOCK - width - n), (0, 0), (0, 0))) for n in range(BLOCK)
    ]
    repeated = jnp.stack(shifted, axis=2).reshape(-1, BLOCK * filters)
    x = product(columns, repeated, compute.operands)
    return x.reshape(rows, blocks * BLOCK, filters)[:, :length]
