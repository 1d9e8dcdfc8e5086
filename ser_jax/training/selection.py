"""What is decided at the end of an epoch: is it the best so far, is it time to stop. Pure functions of one run.

It is decided where the parameters are, so that no training waits for the host.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ser_jax.arrays.inputs import Array
from ser_jax.training.step import MOST_BAD_STEPS, Counters, cross_entropy


class Best(NamedTuple):
    """The best epoch of one run: higher validation UA, then lower validation loss.

    Attributes:
      params: Its parameters.
      ua: [] f32, its UA on the validation part.
      loss: [] f32, its mean cross-entropy there.
      epoch: [] i32, its number; 0 before the first, when UA and loss say nothing.
    """

    params: Any
    ua: Array
    loss: Array
    epoch: Array


class Validation(NamedTuple):
    """The validation part of one run, in the order in which it is scored.

    Attributes:
      targets: [V] i32, class numbers.
      mask: [V] bool, True = an utterance of the validation part.
    """

    targets: Array
    mask: Array


class Scores(NamedTuple):
    """What the host gets to know of an epoch of one run.

    Attributes:
      train_loss: [] f32, weighted mean cross-entropy over the epoch's batches.
      loss: [] f32, mean cross-entropy on the validation part; None without one.
      confusion: [K, K] i32 on the validation part, rows = truth; None without one.
      trained: [] bool, whether the run was still in training in this epoch.
      diverged: [] bool, whether it has diverged in it.
      better: [] bool, whether this is the best epoch so far; None without a validation part.
      stopped: [] bool, whether the run ends with it, for want of a better one or because its number is reached.
      skipped: [] i32, steps skipped for a gradient or loss that is not finite, up to the end of the epoch.
    """

    train_loss: Array
    loss: Any
    confusion: Any
    trained: Array
    diverged: Array
    better: Any
    stopped: Array
    skipped: Array


def nothing_yet(params: Any) -> Best:
    """Returns the state before the first epoch."""
    return Best(jax.tree.map(jnp.copy, params), jnp.float32(-1), jnp.float32(0), jnp.int32(0))


def judge(
    best: Best,
    counters: Counters,
    epoch: Array,
    params: Any,
    logits: tuple[Array, ...],
    part: Validation,
    *,
    patience: int,
) -> tuple[Best, Counters, Scores]:
    """Ends an epoch of one run.

    Args:
      best: The best epoch before this one.
      counters: Sums of the epoch.
      epoch: [] i32, its number, from 1.
      params: Parameters after it.
      logits: Arrays [..., K] that together hold V rows.
      part: What the rows are.
      patience: Epochs without a better one after which the run stops; 0: it never does.

    Returns:
      The best epoch so far, the counters of the next epoch, and the scores.
    """
    rows = jnp.concatenate([values.reshape(-1, values.shape[-1]) for values in logits])
    classes = rows.shape[-1]
    loss = cross_entropy(rows, part.targets, part.mask.astype(rows.dtype)) / jnp.maximum(jnp.sum(part.mask), 1)
    cell = jnp.where(part.mask, part.targets * classes + jnp.argmax(rows, axis=-1), classes * classes)
    confusion = jnp.zeros(classes * classes + 1, jnp.int32).at[cell].add(1)[:-1].reshape(classes, classes)
    counts = jnp.sum(confusion, axis=1)
    recalls = jnp.diagonal(confusion) / jnp.maximum(counts, 1)
    ua = jnp.sum(recalls) / jnp.maximum(jnp.sum(counts > 0), 1)  # over the classes that the part has
    finite = jnp.all(jnp.isfinite(rows) | ~part.mask[:, None]) & jnp.isfinite(loss) & _finite(params)
    diverged = counters.active & ((counters.bad_steps >= MOST_BAD_STEPS) | ~finite)
    alive = counters.active & ~diverged
    better = alive & ((best.epoch == 0) | (ua > best.ua) | ((ua == best.ua) & (loss < best.loss)))
    stopped = alive & ~better & (patience > 0) & (epoch - best.epoch >= patience)
    scores = Scores(
        _train_loss(counters),
        loss,
        confusion,
        counters.active,
        diverged,
        better,
        stopped,
        counters.skipped,
    )
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), Best(params, ua, loss, epoch), best)
    return best, _next_epoch(counters, alive & ~stopped), scores


def close(counters: Counters, epoch: Array, last: Array, params: Any) -> tuple[Counters, Scores]:
    """Ends an epoch of one run that trains for a given number of epochs, without validation.

    Args:
      counters: Sums of the epoch.
      epoch: [] i32, its number, from 1.
      last: [] i32, the number of epochs to train.
      params: Parameters after the epoch.

    Returns:
      The counters of the next epoch, and the scores.
    """
    diverged = counters.active & ((counters.bad_steps >= MOST_BAD_STEPS) | ~_finite(params))
    alive = counters.active & ~diverged
    stopped = alive & (epoch >= last)
    scores = Scores(_train_loss(counters), None, None, counters.active, diverged, None, stopped, counters.skipped)
    return _next_epoch(counters, alive & ~stopped), scores


def _finite(params: Any) -> Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def _train_loss(counters: Counters) -> Array:
    return counters.loss_sum / jnp.maximum(counters.weight_sum, jnp.finfo(counters.weight_sum.dtype).tiny)


def _next_epoch(counters: Counters, active: Array) -> Counters:
    zero = jnp.zeros_like(counters.loss_sum)
    return counters._replace(loss_sum=zero, weight_sum=zero, active=active)
