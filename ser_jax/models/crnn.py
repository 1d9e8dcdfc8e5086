"""The three systems of Luo, Zou and Huang (Interspeech 2018), figures 1 to 3, as Flax modules.

Fully connected layers are sigmoid by default; the last one gives logits (softmax is in the loss).
All three share `model.apply({"params": params}, inputs) -> logits`; features that a system does not
read are None in the inputs.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ser_jax.data.inputs import Inputs, Segmentation, segment_count
from ser_jax.models import convolution, pooling, recurrent
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions, drop, product

glorot = nn.initializers.glorot_uniform()

SKIP = "softmax_skip_kernel"  # name of the parameter of `HSFCRNN.skip`
TAP = "tap"  # name of a tapped layer's intermediate and perturbation, see `Dense`


class Attention(nn.Module):
    """Scores vᵀ tanh(W h + b) of steps (Okabe et al., 2018, equation 3; softmax ignores its k)."""

    units: int  # units A of the hidden layer
    compute: ComputeOptions = DEFAULT_COMPUTE  # how products are computed

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        """Maps hidden states [B, T, H] to scores [B, T]."""
        x = nn.tanh(dense_layer(self.units, self.compute)(hidden))
        kernel = self.param("score_kernel", glorot, (self.units, 1))
        return product(x, kernel, self.compute.operands)[:, :, 0]


class CRNN(nn.Module):
    """CNN per segment, LSTM over segments, max, mean and min over time (part of figure 1)."""

    segmentation: Segmentation  # segment length and hop
    filters: int  # filters C of each convolution
    widths: tuple[int, int]  # widths of the two convolutions, in steps of their input
    units: int  # LSTM units H
    compute: ComputeOptions = DEFAULT_COMPUTE  # how products are computed
    residual: bool = False  # whether a linear map of the LSTM's input is added to its output
    attention: Attention | None = None  # scores segments for attentive statistics; None: without

    def __call__(self, values: Array, length: Array) -> Array:
        """Embeds frames [B, F, M] (fast form) or segments [B, T, W, M] (literal form): [B, 3 H].

        With attention [B, 5 H]: its mean and deviation come last. Real frames: length [B] i32.
        """
        hidden, _ = self.hidden(values, length)
        mask = pooling.length_mask(self._count(length), hidden.shape[1])
        pooled = pooling.statistics_pooling(hidden, mask)
        if self.attention is None:
            return pooled
        attentive = pooling.attentive_statistics(hidden, mask, self.attention(hidden))
        return jnp.concatenate([pooled, attentive], axis=-1)

    @nn.compact
    def hidden(
        self,
        values: Array,
        length: Array,
        state: recurrent.State | None = None,
        restart: Array | None = None,
    ) -> tuple[Array, recurrent.State | None]:
        """Computes the hidden state after every segment, which `__call__` pools.

        With `residual` a linear map of the segment is added to it; the recurrence reads it without.

        The recurrence goes on from `state`, for rows without padding; None: zeros. One row of
        values may serve several rows of the state. For `restart` see `recurrent.resume`.

        Returns:
          [B, T, H], and the state after the last segment, None if none was given.
        """
        window, hop = self.segmentation
        bands = values.shape[-1]
        kernels = convolution.Kernels(
            self.param("conv1_kernel", glorot, (self.widths[0], bands, self.filters)),
            self.param("conv1_bias", nn.initializers.zeros, (self.filters,)),
            self.param("conv2_kernel", glorot, (self.widths[1], self.filters, self.filters)),
            self.param("conv2_bias", nn.initializers.zeros, (self.filters,)),
        )
        count = self._count(length)
        if values.ndim == 4:
            mask = pooling.length_mask(count, values.shape[1])
            features = convolution.cnn_literal(
                jnp.where(mask[:, :, None, None], values, 0), kernels, self.compute
            )
        else:
            real = pooling.length_mask((count - 1) * hop + window, values.shape[1])
            frames = jnp.where(real[:, :, None], values, 0)
            features = convolution.cnn_fast(frames, kernels, window, hop, self.compute)
        weights = lstm_weights(self, features.shape[-1], self.units)
        if state is None:
            hidden = recurrent.lstm(features, *weights, compute=self.compute)
        else:
            hidden, state = recurrent.resume(
                features, state, *weights, restart=restart, compute=self.compute
            )
        if self.residual:
            kernel = self.param("residual_kernel", glorot, (features.shape[-1], self.units))
            hidden = hidden + product(features, kernel, self.compute.operands)
        return hidden, state

    def _count(self, length: Array) -> Array:
        return segment_count(length, *self.segmentation)


def lstm_weights(module: nn.Module, inputs: int, units: int) -> tuple[Array, Array, Array]:
    """Returns the parameters of an LSTM of a module: kernel, recurrent kernel, bias."""
    return (
        module.param("lstm_kernel", glorot, (inputs, 4 * units)),
        module.param("lstm_recurrent_kernel", nn.initializers.orthogonal(), (units, 4 * units)),
        module.param("lstm_bias", _forget_bias_one, (4 * units,)),
    )


def _forget_bias_one(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    del key
    return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1)


def dense_layer(width: int, compute: ComputeOptions, name: str | None = None) -> nn.Dense:
    """Returns a fully connected layer."""

    def dot_general(x, kernel, dimensions, precision=None):
        del dimensions, precision  # always the last axis of x and the first of the kernel
        return product(x, kernel, compute.operands)

    return nn.Dense(width, kernel_init=glorot, dot_general=dot_general, name=name)


class Dense(nn.Module):
    """A stack of fully connected layers."""

    widths: Sequence[int]  # their widths
    activation: Callable[[Array], Array] = nn.sigmoid  # sigmoid or relu
    dropout: float = 0.0  # fraction of the inputs of every layer that is dropped in training
    first_dropout: float | None = None  # the same of the first layer; None: the same fraction
    compute: ComputeOptions = DEFAULT_COMPUTE  # how products are computed
    # whether the first layer records its input in Flax's collection "intermediates" and adds
    # "perturbations" to its products, where `apply` is given these collections. The gradient of its
    # kernel is the product of the input and the perturbation's gradient
    tapped: bool = False

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        """Maps [B, I] to [B, widths[-1]]; keys [B, 2] are None where nothing is dropped."""
        fraction = self.dropout if self.first_dropout is None else self.first_dropout
        for number, width in enumerate(self.widths):
            x = drop(x, keys, fraction, f"{self.name}/{number}")
            if tapped := self.tapped and number == 0 and not self.is_initializing():
                self.sow("intermediates", TAP, x)
            x = dense_layer(width, self.compute)(x)
            x = self.activation(self.perturb(TAP, x) if tapped else x)
            fraction = self.dropout
        return x


class PlainCRNN(nn.Module):
    """Figure 1: CRNN 384 → 128 → 32 → classes."""

    crnn: CRNN
    head: Dense
    classes: int
    compute: ComputeOptions = DEFAULT_COMPUTE

    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K]."""
        return self.answer((self.crnn(_values(inputs, 0), inputs.length),), inputs.keys)

    @nn.compact
    def answer(self, pooled: tuple[Array], keys: Array | None = None) -> Array:
        """Returns logits [B, K], from the pooled states [B, 3 H] of the CRNN."""
        x = self.head(pooled[0], keys)
        return dense_layer(self.classes, self.compute, name="softmax")(x)


class HSFCRNN(nn.Module):
    """Figure 2: CRNN 384 → 128 and functionals D → 1024 → 520 → 128; 256 → 32 → classes.

    D is 6373 with ComParE_2016. Embeddings of any width may stand in their place, or behind them.
    """

    crnn: CRNN
    crnn_dense: Dense
    hsf_dense: Dense
    head: Dense
    classes: int
    compute: ComputeOptions = DEFAULT_COMPUTE
    skip: bool = False  # whether a linear map of the functionals is added to the logits

    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K]."""
        if inputs.hsf is None:
            raise ValueError("the batch has no functionals, which HSF-CRNN needs")
        return self.answer(self.pool(inputs), inputs.hsf, inputs.keys)

    def pool(self, inputs: Inputs) -> Array:
        """Returns the pooled states [B, 3 H] of the CRNN."""
        return self.crnn(_values(inputs, 0), inputs.length)

    @nn.compact
    def answer(self, pooled: Array, hsf: Array, keys: Array | None = None) -> Array:
        """Returns logits [B, K], from pooled states [B, 3 H] and functionals [B, D]."""
        learned, handcrafted = self.crnn_dense(pooled, keys), self.hsf_dense(hsf, keys)
        x = self.head(jnp.concatenate([learned, handcrafted], axis=-1), keys)
        logits = dense_layer(self.classes, self.compute, name="softmax")(x)
        if not self.skip:
            return logits
        # From zeros, so that training starts as without it, and of inputs whose norm is about 1:
        # a step of Adam would else move logits by thousands of times the learning rate.
        x = drop(hsf, keys, self.hsf_dense.first_dropout or 0, "skip") / math.sqrt(hsf.shape[-1])
        kernel = self.param(SKIP, nn.initializers.zeros, (hsf.shape[-1], self.classes))
        return logits + product(x, kernel, self.compute.operands)


class MultiCRNN(nn.Module):
    """Figure 3: short CRNN 384 → 128 → 128 and long CRNN 384; 512 → 128 → classes."""

    short: CRNN
    long: CRNN
    short_dense: Dense
    head: Dense
    classes: int
    compute: ComputeOptions = DEFAULT_COMPUTE

    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K]."""
        short = self.short(_values(inputs, 0), inputs.length)
        return self.answer((short, self.long(_values(inputs, 1), inputs.length)), inputs.keys)

    @nn.compact
    def answer(self, pooled: tuple[Array, Array], keys: Array | None = None) -> Array:
        """Returns logits [B, K], from the pooled states [B, 3 H] of both CRNNs."""
        short = self.short_dense(pooled[0], keys)
        x = self.head(jnp.concatenate([short, pooled[1]], axis=-1), keys)
        return dense_layer(self.classes, self.compute, name="softmax")(x)


def _values(inputs: Inputs, number: int) -> Array:
    values = inputs.frames if inputs.segments is None else inputs.segments[number]
    if values is None:
        raise ValueError("the batch has neither frames nor segments")
    return values
