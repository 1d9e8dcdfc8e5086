"""Dropout whose draws belong to rows, not to batches."""

import zlib

import jax
import jax.numpy as jnp
from jax import Array


def drop(x: Array, keys: Array | None, share: float, place: str = "") -> Array:
    """Sets a random share of the values to 0 and scales the others up, so that their mean stays.

    Args:
      x: [B, ...].
      keys: [B, 2] u32, the data of one key per row: what is dropped in a row depends on its key, the place and the
        shape only. None: nothing is dropped, as in scoring.
      share: Share that is dropped, in [0, 1).
      place: Name of the place in the model: draws of different places are independent.

    Returns:
      An array like x.
    """
    if keys is None or share == 0:
        return x

    def kept(data: Array) -> Array:
        key = jax.random.wrap_key_data(data, impl="threefry2x32")
        if place:
            key = jax.random.fold_in(key, zlib.crc32(place.encode()))
        return jax.random.bernoulli(key, 1 - share, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1 - share), 0)
