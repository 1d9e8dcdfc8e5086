"""The joint representation of a trained system, and the saliency of its logits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ser_jax.data.inputs import Inputs
from ser_jax.models.crnn import SKIP


class LastLayer(NamedTuple):
    """The layer that makes logits: logits = representation · kernel + bias."""

    kernel: Array  # [E, K]
    bias: Array  # [K]


def is_last_layer(name: str) -> bool:
    """Returns whether a module or array at the top of the parameters belongs to the last layer."""
    return name.startswith("softmax")


def last_layer(params: Any) -> LastLayer:
    """Returns the last layer of any of the neural systems."""
    if "softmax" in params:
        return LastLayer(params["softmax"]["kernel"], params["softmax"]["bias"])
    return LastLayer(params["softmax_kernel"], params["softmax_bias"])


def representation(model: Any, params: Any, inputs: Inputs) -> Array:
    """Returns the joint representation [B, E] of B standardised utterances.

    It is the input of the last layer: times its kernel, plus its bias, plus what skips both
    (`model.hsf_skip`), they are the logits.
    """
    size, dtype = last_layer(params).kernel.shape[0], inputs.time_arrays[0].dtype
    # With the identity in the place of its last layer a system returns the input of that layer.
    zeros, identity = jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype)
    if "softmax" in params:
        params = {**params, "softmax": {"kernel": identity, "bias": zeros}}
    else:
        params = {**params, "softmax_kernel": identity, "softmax_bias": zeros}
    if SKIP in params:
        params = {**params, SKIP: jnp.zeros((params[SKIP].shape[0], size), dtype)}
    return model.clone(classes=size).apply({"params": params}, inputs)


def saliency(model: Any, params: Any, inputs: Inputs, number: Array) -> Array:
    """Returns the saliency of one logit, |d logit / d frames| [B, F, M], of a CRNN system.

    Args:
      model: A system that reads frames.
      params: Its parameters.
      inputs: B utterances, standardised, in the fast form.
      number: [B] i32, per utterance the class of the logit.
    """

    def sum_of_logits(frames: Array) -> Array:
        logits = model.apply({"params": params}, inputs._replace(frames=frames))
        # Rows do not depend on one another, so the gradient of the sum holds that of every row.
        return jnp.sum(jnp.take_along_axis(logits, number[:, None], axis=1))

    return jnp.abs(jax.grad(sum_of_logits)(inputs.frames))
