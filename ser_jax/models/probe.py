"""Probe: a small head on frozen embeddings of another model, as in SUPERB and EmoBox.

Softmax-weighted sum of the layers, pooling over time, dense layers, classes.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ser_jax.data.inputs import Inputs
from ser_jax.models import pooling
from ser_jax.models.crnn import Dense, dense_layer, lstm_weights
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions
from ser_jax.models.recurrent import lstm

MEAN, STATISTICS, LSTM = "mean", "statistics", "lstm"
POOLINGS = (MEAN, STATISTICS, LSTM)


class Probe(nn.Module):
    """Weighted sum of layers, pooling over time, dense layers, classes."""

    pooling: str  # of `POOLINGS`
    units: int  # LSTM units H, with pooling "lstm"
    dense: Dense
    classes: int
    compute: ComputeOptions = DEFAULT_COMPUTE

    @nn.compact
    def __call__(self, inputs: Inputs) -> Array:
        """Returns logits [B, K] of frames [B, T, L, D]."""
        if inputs.frames is None:
            raise ValueError("the batch has no embeddings, which the probe needs")
        mask = pooling.length_mask(inputs.length, inputs.frames.shape[1])
        frames = jnp.where(mask[:, :, None, None], inputs.frames, 0)
        weights = self.param("layer_weights", nn.initializers.zeros, (frames.shape[2],))
        x = jnp.einsum("btld,l->btd", frames, nn.softmax(weights))
        if self.pooling == MEAN:
            x = pooling.masked_mean(x, mask)
        else:
            if self.pooling == LSTM:
                x = lstm(x, *lstm_weights(self, x.shape[-1], self.units), compute=self.compute)
            x = pooling.statistics_pooling(x, mask)
        x = self.dense(x, inputs.keys)
        return dense_layer(self.classes, self.compute, name="softmax")(x)
