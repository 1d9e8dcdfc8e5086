"""What goes on in a trained system: its joint representation, and what its logits depend on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ser_jax.arrays.inputs import Inputs


class LastLayer(NamedTuple):
    """The layer that makes logits: logits = representation · kernel + bias.

    Attributes:
      kernel: [E, K].
      bias: [K].
    """

    kernel: Array
    bias: Array


def last_layer(params: Any) -> LastLayer:
    """Returns the last layer of any of the neural systems."""
    if "softmax" in params:
        return LastLayer(params["softmax"]["kernel"], params["softmax"]["bias"])
    return LastLayer(params["softmax_kernel"], params["softmax_bias"])


def representation(model: Any, params: Any, inputs: Inputs) -> Array:
    """Computes the joint representation: what the last layer reads.

    Args:
      model: A system.
      params: Its parameters.
      inputs: B utterances, standardised.

    Returns:
      [B, E]; times the kernel of the last layer, plus its bias, they are the logits.
    """
    size, dtype = last_layer(params).kernel.shape[0], inputs.time_arrays[0].dtype
    # With the identity in the place of its last layer a system says what that layer reads.
    nothing, same = jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype)
    if "softmax" in params:
        params = {**params, "softmax": {"kernel": same, "bias": nothing}}
    else:
        params = {**params, "softmax_kernel": same, "softmax_bias": nothing}
    return model.clone(classes=size).apply({"params": params}, inputs)


def saliency(model: Any, params: Any, inputs: Inputs, number: Array) -> Array:
    """Computes how much a logit moves with every value of the spectrogram: the plain input gradient, without its sign.

    Args:
      model: A system that reads frames.
      params: Its parameters.
      inputs: B utterances, standardised, in the fast form.
      number: [B] i32, per utterance the class whose logit is asked about.

    Returns:
      [B, F, M], |d logit / d frames|; exactly 0 in the padding and in frames that no segment holds.
    """

    def chosen(frames: Array) -> Array:
        logits = model.apply({"params": params}, inputs._replace(frames=frames))
        # Rows do not depend on one another, so the gradient of the sum holds that of every row.
        return jnp.sum(jnp.take_along_axis(logits, number[:, None], axis=1))

    return jnp.abs(jax.grad(chosen)(inputs.frames))
