"""Masked max, mean and min over time (paper, section 3.1: of the LSTM outputs of all segments).

Attentive statistics (Okabe et al., 2018) may stand beside them.

Masks are boolean and True means real data. Padding takes no part: max fills it with −inf, min with
+inf, and mean adds zeros and divides by the number of real steps. Filling goes through `jnp.where`,
never through multiplication, so a NaN in the padding reaches neither the result nor a gradient.
Every row needs at least one real step.
"""

import jax
import jax.numpy as jnp
from jax import Array

LEAST_VARIANCE = 1e-6


def length_mask(lengths: Array, steps: int) -> Array:
    """Returns [B, T] bool, True where the step is real: the first `lengths` [B] of T = `steps`."""
    return jnp.arange(steps)[None, :] < lengths[:, None]


def masked_max(values: Array, mask: Array) -> Array:
    """Returns [B, H], the maximum over the real steps of values [B, T, H] under mask [B, T]."""
    return jnp.max(jnp.where(mask[:, :, None], values, -jnp.inf), axis=1)


def masked_min(values: Array, mask: Array) -> Array:
    """Returns [B, H], the minimum over the real steps of values [B, T, H] under mask [B, T]."""
    return jnp.min(jnp.where(mask[:, :, None], values, jnp.inf), axis=1)


def masked_mean(values: Array, mask: Array) -> Array:
    """Returns [B, H], the mean over the real steps of values [B, T, H] under mask [B, T]."""
    total = jnp.sum(jnp.where(mask[:, :, None], values, 0), axis=1)
    return total / jnp.sum(mask, axis=1, dtype=values.dtype)[:, None]


def attentive_statistics(values: Array, mask: Array, scores: Array) -> Array:
    """Returns [B, 2 H], mean and deviation over the real steps, weighted by attention.

    Okabe et al. 2018, equations 5 to 7. The weights of the steps are the softmax of their scores.

    Args:
      values: [B, T, H].
      mask: [B, T] bool, True = real.
      scores: [B, T].
    """
    values = jnp.where(mask[:, :, None], values, 0)
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=1)[:, :, None]
    mean = jnp.sum(weights * values, axis=1)
    variance = jnp.sum(weights * (values - mean[:, None]) ** 2, axis=1)
    # The root has no gradient at 0, the variance of a single step.
    return jnp.concatenate([mean, jnp.sqrt(jnp.maximum(variance, LEAST_VARIANCE))], axis=-1)


def statistics_pooling(values: Array, mask: Array) -> Array:
    """Returns [B, 3 H], max, mean and min over the real steps of values [B, T, H].

    Raises:
      ValueError: If the shapes do not fit or the mask [B, T] is not boolean.
    """
    if values.ndim != 3 or mask.shape != values.shape[:2]:
        shapes = f"values {values.shape} and mask {mask.shape}"
        raise ValueError(f"{shapes}: expected [B, T, H] and [B, T]")
    if mask.dtype != jax.numpy.bool_:
        raise ValueError(f"mask is {mask.dtype}; expected bool with True = real")
    return jnp.concatenate(
        [masked_max(values, mask), masked_mean(values, mask), masked_min(values, mask)], axis=-1
    )
