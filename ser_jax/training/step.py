"""The train step and the scoring step that all systems share: pure functions of one run.

Nothing here knows of folds, files or devices; `vmap`, `shard_map` and `jit` are applied where the functions are called.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ser_jax.arrays.inputs import Array, Inputs
from ser_jax.arrays.standardise import Statistics, standardise
from ser_jax.training import optimiser
from ser_jax.training.augmentation import Augmentation, vary_frames, vary_hsf

MOST_BAD_STEPS = 5

Apply = Callable[[Any, Inputs], Array]
Differentiate = Callable[[Callable[[Array], tuple[Array, Array]], Any, Inputs], tuple[Any, Array]]


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
      key: [2] u32, data of the key of what its steps draw; None if they draw nothing.
    """

    statistics: Statistics
    class_weights: Array
    key: Array | None = None


class Counters(NamedTuple):
    """Sums of one run.

    Attributes:
      loss_sum: [] f32, weighted cross-entropy summed since the epoch began.
      weight_sum: [] f32, sum of the weights.
      skipped: [] i32, steps skipped for a non-finite gradient, ever.
      bad_steps: [] i32, the same in a row; at MOST_BAD_STEPS the run has diverged and nothing changes any more.
      active: [] bool, False once the run has stopped or diverged; nothing changes any more.
    """

    loss_sum: Array
    weight_sum: Array
    skipped: Array
    bad_steps: Array
    active: Array


class TrainState(NamedTuple):
    """State of one run.

    Attributes:
      params: Parameters.
      adam: State of the optimiser.
      counters: Sums.
      average: Running average of the parameters; None without one.
    """

    params: Any
    adam: optimiser.Adam
    counters: Counters
    average: Any = None

    @property
    def model(self) -> Any:
        """The parameters that are scored and kept: the average, if there is one."""
        return self.params if self.average is None else self.average


def init_state(params: Any, averaged: bool = False) -> TrainState:
    """Returns the state of a run before its first step."""
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    counters = Counters(zero, zero, none, none, jnp.array(True))
    return TrainState(params, optimiser.init(params), counters, jax.tree.map(jnp.copy, params) if averaged else None)


class Gradient(NamedTuple):
    """Result of one batch.

    Attributes:
      gradient: A tree like the parameters.
      norm: [] f32, its global norm.
      good: [] bool, whether it is to be applied.
    """

    gradient: Any
    norm: Array
    good: Array


def take(bucket: Bucket, rows: Array) -> tuple[Inputs, Array]:
    """Gathers rows [B] of a bucket; returns raw inputs and class numbers [B]."""
    return jax.tree.map(lambda values: values[rows], bucket.inputs), bucket.targets[rows]


def updates_made(run: RunConstants, adam: optimiser.Adam) -> Array | None:
    """Returns the number that tells the random draws of one step from those of another; None if nothing is drawn."""
    return None if run.key is None else adam.count


def row_keys(key: Array, updates: Array, rows: int, axis: str | None) -> Array:
    """Returns [rows, 2] u32: a key for every row of a batch.

    They follow from the run's key, the number of updates it has made and the row's place in the batch, so that neither
    an interruption nor the other runs nor the number of devices changes what is drawn.

    Args:
      key: [2] u32, key of the run.
      updates: [] i32, updates made.
      rows: How many rows of the batch are here.
      axis: Name of the mesh axis over which the rows of the batch are spread; None: all of them are here.
    """
    first = 0 if axis is None else lax.axis_index(axis) * rows
    of_step = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), updates)
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(of_step, first + jnp.arange(rows)))


def cross_entropy(logits: Array, targets: Array, weights: Array, smoothing: float = 0.0) -> Array:
    """Returns Σ w·ce of logits [B, K], class numbers [B] and weights [B] (0 for a row that does not count).

    With `smoothing` s the truth is 1 − s + s/K, and s/K for the other classes (Szegedy et al. 2016, section 7).
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(jnp.where(weights > 0, losses, 0) * weights)


def differentiated(
    objective: Callable[[Array], tuple[Array, Array]], params: Any, inputs: Inputs, *, apply: Apply
) -> tuple[Any, Array]:
    """Returns the gradient of objective(apply(params, inputs))[0], a tree like the parameters, and its [1]."""
    return jax.grad(lambda params: objective(apply(params, inputs)), has_aux=True)(params)


def gradient_step(
    bucket: Bucket,
    params: Any,
    counters: Counters,
    run: RunConstants,
    rows: Array,
    mask: Array,
    updates: Array | None = None,
    *,
    apply: Apply,
    axis: str | None = None,
    smoothing: float = 0.0,
    augmentation: Augmentation | None = None,
    differentiate: Differentiate | None = None,
) -> tuple[Gradient, Counters]:
    """Computes the gradient of one batch of one run.

    The loss is Σ w·ce / max(Σ w, tiny).

    Args:
      bucket: The bucket that the batch is from.
      params: Parameters.
      counters: Sums of the run.
      run: Statistics, class weights and key.
      rows: [B] i32, the batch: rows of the bucket.
      mask: [B] bool, True = a real utterance of this run.
      updates: [] i32, see `updates_made`.
      apply: (params, inputs) → logits [B, K].
      axis: Name of the mesh axis over which the rows of the batch are spread; None: all of them are here.
      smoothing: See `cross_entropy`.
      augmentation: How the batch is varied; None: not at all.
      differentiate: Another form of `differentiated`; None: that one.

    Returns:
      The gradient of the whole batch, not to be applied where that holds no real row, it is not finite or the run has
      stopped or diverged; and the new sums.
    """
    # What fills the batch up repeats its first real row: 0 · NaN would otherwise reach the gradient.
    rows = jnp.where(mask, rows, rows[jnp.argmax(mask)])
    raw, targets = take(bucket, rows)
    keys = None if run.key is None else row_keys(run.key, updates, len(rows), axis)
    if augmentation is None:
        inputs = standardise(raw, run.statistics, jnp)
    else:
        assert keys is not None
        inputs = standardise(vary_frames(raw, keys, run.statistics, augmentation), run.statistics, jnp)
        inputs = vary_hsf(inputs, keys, augmentation)
    if axis is not None:  # There may be no real row among those that are here.
        inputs = jax.tree.map(lambda values: jnp.where(jnp.any(mask), values, jnp.ones_like(values)), inputs)
    inputs = inputs._replace(keys=keys)
    weights = jnp.where(mask, run.class_weights[targets], 0)
    weight, real = _summed((jnp.sum(weights), jnp.sum(mask)), axis)

    def loss(logits):
        total = cross_entropy(logits, targets, weights, smoothing)
        return total / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny), total

    differentiate = differentiate or functools.partial(differentiated, apply=apply)
    gradient, total = _summed(differentiate(loss, params, inputs), axis)
    norm = optimiser.global_norm(gradient)
    work = (real > 0) & counters.active & (counters.bad_steps < MOST_BAD_STEPS)
    finite = jnp.isfinite(norm) & jnp.isfinite(counters.loss_sum + total)
    good = work & finite
    bad = (work & ~finite).astype(jnp.int32)
    counters = Counters(
        loss_sum=counters.loss_sum + jnp.where(good, total, 0),
        weight_sum=counters.weight_sum + jnp.where(good, weight, 0),
        skipped=counters.skipped + bad,
        bad_steps=jnp.where(good, 0, counters.bad_steps + bad),
        active=counters.active,
    )
    return Gradient(gradient, norm, good), counters


def _summed(tree: Any, axis: str | None) -> Any:
    return tree if axis is None else lax.psum(tree, axis)


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
    weight_decay: float = 0.0,
    ema: float = 0.0,
    **options: Any,
) -> TrainState:
    """One update of one run; arguments as for `gradient_step` and the optimiser.

    A gradient that is not to be applied leaves parameters and optimiser as they are, to the bit.
    """
    found, counters = gradient_step(
        *(bucket, state.params, state.counters, run, rows, mask, updates_made(run, state.adam)),
        apply=apply,
        **options,
    )
    adam = optimiser.update_moments(state.adam, found.gradient, found.norm, found.good, clip_norm=clip_norm)
    params, average = optimiser.update_params(
        *(state.params, state.average, adam, found.good),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        ema=ema,
    )
    return TrainState(params, adam, counters, average)


def score_step(bucket: Bucket, params: Any, statistics: Statistics, rows: Array, *, apply: Apply) -> Array:
    """Returns the logits [B, K] of one batch of one run; arguments as for `train_step`."""
    return apply(params, standardise(take(bucket, rows)[0], statistics, jnp))
