"""Adam behind a clip of the gradient's global norm, in place and with a switch.

Kingma and Ba 2015, algorithm 1; the paper names no optimiser. The same mathematics as
`optax.chain(clip_by_global_norm(c), adam(lr))`, which is the oracle of the tests. It stands here because the update of
HSF-CRNN's 7.3 million parameters is what its step costs: XLA makes one loop per result, and where a loop overwrites what
another still reads it copies the whole array first. Writing the moments first and reading them back for the parameters
(the barrier) lets every loop work in place.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ser_jax.arrays.inputs import Array

DECAY1, DECAY2, EPSILON = 0.9, 0.999, 1e-8


class Adam(NamedTuple):
    """State of the optimiser.

    Attributes:
      moment1: Running mean of the clipped gradient, a tree like the parameters.
      moment2: Running mean of its square.
      count: [] i32, updates made.
    """

    moment1: Any
    moment2: Any
    count: Array


def init(params: Any) -> Adam:
    """Returns the state before the first update."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Adam(zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32))


def global_norm(gradient: Any) -> Array:
    """Returns the Euclidean norm of all gradients together, [] f32."""
    return jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(gradient)))


def update(
    params: Any, state: Adam, gradient: Any, norm: Array, good: Array, *, learning_rate: float, clip_norm: float
) -> tuple[Any, Adam]:
    """Makes one update, or none.

    Args:
      params: Parameters.
      state: State of the optimiser.
      gradient: Gradient, a tree like the parameters.
      norm: [] its global norm.
      good: [] bool; False leaves parameters and state as they are, to the bit.
      learning_rate: Step size.
      clip_norm: Largest norm; a longer gradient is scaled down to it.

    Returns:
      New parameters and state.
    """
    scale = jnp.where(norm < clip_norm, 1, clip_norm / norm)
    count = state.count + 1
    correction1 = 1 - DECAY1 ** count.astype(jnp.float32)
    correction2 = 1 - DECAY2 ** count.astype(jnp.float32)

    def first(moment, slope):
        return jnp.where(good, DECAY1 * moment + (1 - DECAY1) * (slope * scale), moment)

    def second(moment, slope):
        return jnp.where(good, DECAY2 * moment + (1 - DECAY2) * (slope * scale) ** 2, moment)

    def move(value, moment1, moment2):
        step = (moment1 / correction1) / (jnp.sqrt(moment2 / correction2) + EPSILON)
        return jnp.where(good, value - learning_rate * step, value)

    moments = jax.tree.map(first, state.moment1, gradient), jax.tree.map(second, state.moment2, gradient)
    moment1, moment2 = lax.optimization_barrier(moments)
    params = jax.tree.map(move, params, moment1, moment2)
    return params, Adam(moment1, moment2, jnp.where(good, count, state.count))
