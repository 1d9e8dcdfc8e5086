"""The train step and the scoring step that all systems share: pure functions of one run.

Nothing here knows of folds, files or devices; `vmap`, `shard_map` and `jit` are applied where the functions are called.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ser_jax.arrays.inputs import Array, Inputs
from ser_jax.arrays.standardise import Statistics, standardise
from ser_jax.training import optimiser

MOST_BAD_STEPS = 5

Apply = Callable[[Any, Inputs], Array]


class Bucket(NamedTuple):
    """Utterances of one padded length, shared by all runs.

    Attributes:
      inputs: Raw features of n utterances.
      targets: [n] i32, class numbers; −1 where unknown.
    """

    inputs: Inputs
    targets: Array


class RunConstants(NamedTuple):
    """What distinguishes a run besides its parameters and batches.

    Attributes:
      statistics: Standardisation of its training part.
      class_weights: [K] f32, weight of every class in the loss.
    """

    statistics: Statistics
    class_weights: Array


class TrainState(NamedTuple):
    """State of one run.

    Attributes:
      params: Parameters.
      adam: State of the optimiser.
      loss_sum: [] f32, weighted cross-entropy summed since the epoch began.
      weight_sum: [] f32, sum of the weights.
      skipped: [] i32, steps skipped for a non-finite gradient, ever.
      bad_steps: [] i32, the same in a row; at MOST_BAD_STEPS the run has diverged and nothing changes any more.
    """

    params: Any
    adam: optimiser.Adam
    loss_sum: Array
    weight_sum: Array
    skipped: Array
    bad_steps: Array


def init_state(params: Any) -> TrainState:
    """Returns the state of a run before its first step."""
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return TrainState(params, optimiser.init(params), zero, zero, none, none)


def take(bucket: Bucket, rows: Array, statistics: Statistics) -> tuple[Inputs, Array]:
    """Gathers rows [B] of a bucket and standardises them; returns inputs and class numbers [B]."""
    inputs = jax.tree.map(lambda values: values[rows], bucket.inputs)
    return standardise(inputs, statistics, jnp), bucket.targets[rows]


def cross_entropy(logits: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Returns Σ w·ce and Σ w of logits [B, K], class numbers [B] and weights [B] (0 for a row that does not count)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(jnp.where(weights > 0, losses, 0) * weights), jnp.sum(weights)


def train_step(
    bucket: Bucket,
    state: TrainState,
    run: RunConstants,
    rows: Array,
    mask: Array,
    *,
    apply: Apply,
    learning_rate: float,
    clip_norm: float,
) -> TrainState:
    """One update of one run.

    The loss is Σ w·ce / max(Σ w, tiny). Where a batch holds no real row, the gradient is not finite or the run has
    diverged, parameters and optimiser stay as they are, to the bit.

    Args:
      bucket: The bucket that the batch is from.
      state: State of the run.
      run: Statistics and class weights.
      rows: [B] i32, the batch: rows of the bucket.
      mask: [B] bool, True = a real utterance of this run.
      apply: (params, inputs) → logits [B, K].
      learning_rate: Of Adam.
      clip_norm: Largest global norm of the gradient.

    Returns:
      The new state.
    """
    inputs, targets = take(bucket, rows, run.statistics)
    weights = jnp.where(mask, run.class_weights[targets], 0)

    def loss(params):
        total, weight = cross_entropy(apply(params, inputs), targets, weights)
        return total / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny), (total, weight)

    gradient, (total, weight) = jax.grad(loss, has_aux=True)(state.params)
    norm = optimiser.global_norm(gradient)
    work = jnp.any(mask) & (state.bad_steps < MOST_BAD_STEPS)
    finite = jnp.isfinite(norm)
    good = work & finite
    params, adam = optimiser.update(
        state.params, state.adam, gradient, norm, good, learning_rate=learning_rate, clip_norm=clip_norm
    )
    bad = (work & ~finite).astype(jnp.int32)
    return TrainState(
        params=params,
        adam=adam,
        loss_sum=state.loss_sum + jnp.where(good, total, 0),
        weight_sum=state.weight_sum + jnp.where(good, weight, 0),
        skipped=state.skipped + bad,
        bad_steps=jnp.where(good, 0, state.bad_steps + bad),
    )


def score_step(bucket: Bucket, params: Any, statistics: Statistics, rows: Array, *, apply: Apply) -> Array:
    """Returns the logits [B, K] of one batch of one run; arguments as for `train_step`."""
    inputs, _ = take(bucket, rows, statistics)
    return apply(params, inputs)
