"""Adam behind a clip of the gradient's global norm, with a switch.

Kingma and Ba 2015, algorithm 1; the paper names no optimiser. The same mathematics as
`optax.chain(clip_by_global_norm(c), adam(lr))`, which is the oracle of the tests.

It stands here, in two functions, because the update of HSF-CRNN's 7.3 million parameters is what its step costs. On
the CPU XLA makes one loop per result; in one program the loop of the parameters reads the old moments, which the others
overwrite, so XLA copies every array first. As two programs, moments before parameters, every loop works in place; also
behind the gradient in its program, as long as the moments keep the run axis that they come with. With the
package's own kernels that largest one is updated elsewhere: factored.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ser_jax.arrays.inputs import Array

DECAY1, DECAY2, EPSILON = 0.9, 0.999, 1e-8


class Factors(NamedTuple):
    """A gradient inputsᵀ · slopes that is not written out; see factored.py.

    Attributes:
      inputs: [B, I].
      slopes: [B, O].
    """

    inputs: Array
    slopes: Array


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
    """Returns the Euclidean norm of all gradients together, [] f32; products sum faster than XLA's reduction does."""

    def square(leaf: Any) -> Array:
        if isinstance(leaf, Factors):  # ‖XᵀS‖² = Σ (X Xᵀ)(S Sᵀ), element by element
            return jnp.maximum(jnp.vdot(leaf.inputs @ leaf.inputs.T, leaf.slopes @ leaf.slopes.T), 0)
        return jnp.vdot(leaf, leaf)

    leaves = jax.tree.leaves(gradient, is_leaf=lambda node: isinstance(node, Factors))
    return jnp.sqrt(sum(map(square, leaves)))


def clip_scale(norm: Array, clip_norm: float) -> Array:
    """Returns [] f32, by what a gradient of that global norm is multiplied so that it is no longer than `clip_norm`."""
    return jnp.where(norm < clip_norm, 1, clip_norm / norm)


def corrections(count: Array) -> tuple[Array, Array]:
    """Returns [] f32 each, by what both moments are divided after so many updates: they began at zero."""
    return 1 - DECAY1**count, 1 - DECAY2**count


def update_moments(state: Adam, gradient: Any, norm: Array, good: Array, *, clip_norm: float) -> Adam:
    """Takes a gradient into the moments, except where it is given by its factors.

    Args:
      state: State of the optimiser.
      gradient: Gradient, a tree like the parameters.
      norm: [] its global norm.
      good: [] bool; False leaves the state as it is, to the bit.
      clip_norm: Largest norm; a longer gradient is scaled down to it.

    Returns:
      The new state.
    """
    scale = clip_scale(norm, clip_norm)

    def first(moment, slope):
        if isinstance(slope, Factors):
            return moment
        return jnp.where(good, DECAY1 * moment + (1 - DECAY1) * (slope * scale), moment)

    def second(moment, slope):
        if isinstance(slope, Factors):
            return moment
        return jnp.where(good, DECAY2 * moment + (1 - DECAY2) * (slope * scale) ** 2, moment)

    return Adam(
        jax.tree.map(first, state.moment1, gradient),
        jax.tree.map(second, state.moment2, gradient),
        jnp.where(good, state.count + 1, state.count),
    )


def update_params(
    params: Any,
    average: Any,
    state: Adam,
    good: Array,
    *,
    learning_rate: float,
    weight_decay: float,
    ema: float,
    moved: Callable[[tuple[Any, ...]], bool] | None = None,
) -> tuple[Any, Any]:
    """Moves the parameters along the moments of `update_moments`; with `good` False all stay, to the bit.

    Args:
      params: Parameters.
      average: Their running average, a tree like them; None without one.
      state: State of the optimiser.
      good: [] bool.
      learning_rate: Of Adam.
      weight_decay: Share of a kernel that is taken off per unit of the learning rate (decoupled: Loshchilov and Hutter
        2019); biases stay.
      ema: Decay of the average; in the first updates less, (1 + n) / (10 + n), so that it leaves the initial values.
      moved: Path of a leaf → whether it has been moved already; None: none has.

    Returns:
      The new parameters and their new average.
    """
    correction1, correction2 = corrections(state.count)

    def move(path, value, moment1, moment2):
        if moved is not None and moved(path):
            return value
        step = (moment1 / correction1) / (jnp.sqrt(moment2 / correction2) + EPSILON)
        if weight_decay and value.ndim > 1:
            step += weight_decay * value
        return jnp.where(good, value - learning_rate * step, value)

    params = jax.tree.map_with_path(move, params, state.moment1, state.moment2)
    if average is None:
        return params, None
    kept = jnp.minimum(ema, (1.0 + state.count) / (10.0 + state.count))

    def mix(mean, value):
        return jnp.where(good, kept * mean + (1 - kept) * value, mean)

    return params, jax.tree.map(mix, average, params)
