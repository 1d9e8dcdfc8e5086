"""The three systems of Luo, Zou and Huang (Interspeech 2018), figures 1 to 3, as Flax modules.

All fully connected layers are sigmoid unless told otherwise; the last one gives logits (softmax is in the loss). All
three share `model.apply({"params": params}, inputs) -> logits`; what a system does not use is None in the inputs.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ser_jax.arrays.inputs import Channel, Inputs, segment_count
from ser_jax.models import convolution, pooling, recurrence
from ser_jax.models.arithmetic import DEFAULT, Arithmetic, product
from ser_jax.models.dropout import drop

glorot = nn.initializers.glorot_uniform()

# Collections of a layer that is tapped: what it is given, and what is added to its products. The gradient with respect
# to the second is the factor by which that of the kernel is the product of the first (training/factored.py).
FACTORS, PROBES = "factors", "probes"


class CRNN(nn.Module):
    """CNN per segment, LSTM over segments, max, mean and min over time (figure 1, up to the first dense layer).

    Attributes:
      channel: Segment length and hop.
      filters: Filters C of each convolution.
      widths: Widths of the two convolutions, in steps of their input.
      units: LSTM units H.
      arithmetic: How products are computed.
    """

    channel: Channel
    filters: int
    widths: tuple[int, int]
    units: int
    arithmetic: Arithmetic = DEFAULT

    def __call__(self, values: Array, length: Array) -> Array:
        """Embeds a batch.

        Args:
          values: [B, F, M] frames (fast form) or [B, T, W, M] segments (literal form).
          length: [B] i32, real frames.

        Returns:
          [B, 3 H].
        """
        hidden, _ = self.hidden(values, length)
        return pooling.statistics_pooling(hidden, pooling.length_mask(self._count(length), hidden.shape[1]))

    @nn.compact
    def hidden(
        self,
        values: Array,
        length: Array,
        state: recurrence.State | None = None,
        restart: Array | None = None,
    ) -> tuple[Array, recurrence.State | None]:
        """Computes the hidden state after every segment; what `__call__` pools.

        Args:
          values: As of `__call__`.
          length: As of `__call__`.
          state: Where the recurrence goes on, for rows that are all real; None: at the beginning. One row of values may
            be read by several rows of the state.
          restart: See `recurrence.resume`.

        Returns:
          [B, T, H], and the state after the last segment, None if none was given.
        """
        window, hop = self.channel
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
            features = convolution.cnn_literal(jnp.where(mask[:, :, None, None], values, 0), kernels, self.arithmetic)
        else:
            real = pooling.length_mask((count - 1) * hop + window, values.shape[1])
            frames = jnp.where(real[:, :, None], values, 0)
            features = convolution.cnn_fast(frames, kernels, window, hop, self.arithmetic)
        units = self.units
        weights = (
            self.param("lstm_kernel", glorot, (features.shape[-1], 4 * units)),
            self.param("lstm_recurrent_kernel", nn.initializers.orthogonal(), (units, 4 * units)),
            self.param("lstm_bias", _forget_bias_one, (4 * units,)),
        )
        if state is None:
            return recurrence.lstm(features, *weights, arithmetic=self.arithmetic), None
        return recurrence.resume(features, state, *weights, restart=restart, arithmetic=self.arithmetic)

    def _count(self, length: Array) -> Array:
        return segment_count(length, *self.channel)


def _forget_bias_one(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    del key
    return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1)


def _layer(width: int, arithmetic: Arithmetic, name: str | None = None) -> nn.Dense:
    """Returns a fully connected layer."""

    def dot_general(x, kernel, dimensions, precision=None):
        del dimensions, precision  # The last axis of x by the first of the kernel, in the precision of the session.
        return product(x, kernel, arithmetic.operands)

    return nn.Dense(width, kernel_init=glorot, dot_general=dot_general, name=name)


class Dense(nn.Module):
    """A stack of fully connected layers.

    Attributes:
      widths: Their widths.
      activation: sigmoid or relu.
      dropout: Share of the inputs of every layer that is dropped in training.
      first_dropout: The same of the first layer; None: the same share.
      arithmetic: How products are computed.
      tapped: Whether the first layer has the collections FACTORS and PROBES, where those are asked for.
    """

    widths: Sequence[int]
    activation: Callable[[Array], Array] = nn.sigmoid
    dropout: float = 0.0
    first_dropout: float | None = None
    arithmetic: Arithmetic = DEFAULT
    tapped: bool = False

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        """Maps [B, I] to [B, widths[-1]]; keys [B, 2] are None where nothing is dropped."""
        share = self.dropout if self.first_dropout is None else self.first_dropout
        for number, width in enumerate(self.widths):
            x = drop(x, keys, share, f"{self.name}/{number}")
            if tapped := self.tapped and number == 0 and not self.is_initializing():
                self.sow(FACTORS, FACTORS, x)
            x = _layer(width, self.arithmetic)(x)
            x = self.activation(self.perturb(PROBES, x, PROBES) if tapped else x)
            share = self.dropout
        return x


class PlainCRNN(nn.Module):
    """Figure 1: CRNN 384 → 128 → 32 → classes."""

    crnn: CRNN
    head: Dense
    classes: int
    arithmetic: Arithmetic = DEFAULT

    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K]."""
        return self.answer((self.crnn(_values(inputs, 0), inputs.length),), inputs.keys)

    @nn.compact
    def answer(self, pooled: tuple[Array], keys: Array | None = None) -> Array:
        """Returns logits [B, K], given what the CRNN pooled, [B, 3 H]."""
        x = self.head(pooled[0], keys)
        return _layer(self.classes, self.arithmetic, name="softmax")(x)


class HSFCRNN(nn.Module):
    """Figure 2: CRNN 384 → 128, joined with functionals 6373 → 1024 → 520 → 128; 256 → 32 → classes."""

    crnn: CRNN
    crnn_dense: Dense
    hsf_dense: Dense
    head: Dense
    classes: int
    arithmetic: Arithmetic = DEFAULT

    @nn.compact
    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K]."""
        learned = self.crnn_dense(self.crnn(_values(inputs, 0), inputs.length), inputs.keys)
        if inputs.hsf is None:
            raise ValueError("the batch has no functionals, which HSF-CRNN needs")
        handcrafted = self.hsf_dense(inputs.hsf, inputs.keys)
        x = self.head(jnp.concatenate([learned, handcrafted], axis=-1), inputs.keys)
        return _layer(self.classes, self.arithmetic, name="softmax")(x)


class MultiCRNN(nn.Module):
    """Figure 3: short CRNN 384 → 128 → 128, joined with the long CRNN's 384; 512 → 128 → classes."""

    short: CRNN
    long: CRNN
    short_dense: Dense
    head: Dense
    classes: int
    arithmetic: Arithmetic = DEFAULT

    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K]."""
        short = self.short(_values(inputs, 0), inputs.length)
        return self.answer((short, self.long(_values(inputs, 1), inputs.length)), inputs.keys)

    @nn.compact
    def answer(self, pooled: tuple[Array, Array], keys: Array | None = None) -> Array:
        """Returns logits [B, K], given what the short and the long CRNN pooled, [B, 3 H] each."""
        short = self.short_dense(pooled[0], keys)
        x = self.head(jnp.concatenate([short, pooled[1]], axis=-1), keys)
        return _layer(self.classes, self.arithmetic, name="softmax")(x)


def _values(inputs: Inputs, channel: int) -> Array:
    values = inputs.frames if inputs.segments is None else inputs.segments[channel]
    if values is None:
        raise ValueError("the batch has neither frames nor segments")
    return values
