"""The end of an epoch of one trial: scores, best epoch so far, early stopping, divergence.

Pure functions that run on the devices, where the parameters are: no training waits for the host.
UAs are compared in integers: in float32 the equal recalls (7, 7, 7, 7) and (9, 9, 9, 1) of ten have
different means.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ser_jax.data.inputs import Array
from ser_jax.training.step import MOST_BAD_STEPS, Counters, cross_entropy


class Best(NamedTuple):
    """The best epoch of one trial: higher validation UA, then lower validation loss."""

    params: Any  # its parameters
    hits: Array  # [K] i32, correct predictions of every class of the validation part
    loss: Array  # [] f32, its mean cross-entropy on the validation part
    epoch: Array  # [] i32, its number; 0 before the first, when hits and loss mean nothing


class Validation(NamedTuple):
    """The validation part of one trial with V rows, in the order of the logits."""

    targets: Array  # [V] i32, class numbers
    mask: Array  # [V] bool, True = an utterance of the validation part


class Scores(NamedTuple):
    """What the host reads of one epoch of one trial; loss, confusion, better: None if unscored."""

    train_loss: Array  # [] f32, weighted mean cross-entropy over the epoch's batches
    loss: Any  # [] f32, mean cross-entropy on the validation part
    confusion: Any  # [K, K] i32 on the validation part, rows = truth
    trained: Array  # [] bool, whether the trial was still in training in this epoch
    diverged: Array  # [] bool, whether it has diverged in it
    better: Any  # [] bool, whether this is the best epoch so far
    stopped: Array  # [] bool, whether this is its last epoch: by patience or by number
    skipped: Array  # [] i32, updates skipped for non-finite loss or gradient so far


def no_best_epoch(params: Any, classes: int) -> Best:
    """Returns the state before the first epoch."""
    hits = jnp.zeros(classes, jnp.int32)
    return Best(jax.tree.map(jnp.copy, params), hits, jnp.float32(0), jnp.int32(0))


def compare_ua(hits: Array, others: Array, counts: Array) -> Array:
    """Compares two UAs over the same utterances without rounding.

    The difference Σ (hits − others) / counts is written out in base 256, all classes side by side.
    Unless it is 0 it is at least 1 / lcm(counts), so it shows within 3 K + 1 digits.

    Args:
      hits: [K] i32, correct predictions of every class.
      others: [K] i32, those of the other UA.
      counts: [K] i32, utterances of every class, below 2²³; a class without any takes no part.

    Returns:
      [] i32: 1, 0 or −1 where the first UA is higher than, equal to or lower than the other.
    """
    classes, counts = len(counts), jnp.maximum(counts, 1)

    def next_digit(_: Any, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        # The difference is between `total` and `total` + K, in units of the last digit; clipped,
        # what is decided stays decided.
        total, rest = carried
        rest = 256 * rest
        total = 256 * total + jnp.sum(rest // counts)
        return jnp.clip(total, -classes, 1), rest % counts

    difference = hits - others
    start = jnp.clip(jnp.sum(difference // counts), -classes, 1), difference % counts
    total, _ = lax.fori_loop(0, 3 * classes + 1, next_digit, start)
    return jnp.where(total > 0, 1, jnp.where(total > -classes, 0, -1))


def end_epoch(
    best: Best,
    counters: Counters,
    epoch: Array,
    params: Any,
    logits: tuple[Array, ...],
    part: Validation,
    *,
    patience: int,
) -> tuple[Best, Counters, Scores]:
    """Ends epoch number `epoch` ([] i32, from 1) of one trial that chooses its best epoch.

    Args:
      best: The best epoch before this one.
      counters: Sums of the epoch.
      epoch: Its number.
      params: Parameters after it.
      logits: Arrays [..., K] that together hold V rows.
      part: The targets of these rows, and which of them are real.
      patience: Epochs without a better one after which the trial stops; 0: never.

    Returns:
      The best epoch so far, the counters of the next epoch, and the scores.
    """
    rows = jnp.concatenate([values.reshape(-1, values.shape[-1]) for values in logits])
    classes = rows.shape[-1]
    total = cross_entropy(rows, part.targets, part.mask.astype(rows.dtype))
    loss = total / jnp.maximum(jnp.sum(part.mask), 1)
    cell = part.targets * classes + jnp.argmax(rows, axis=-1)
    cell = jnp.where(part.mask, cell, classes * classes)
    cells = jnp.zeros(classes * classes + 1, jnp.int32).at[cell].add(1)
    confusion = cells[:-1].reshape(classes, classes)
    hits = jnp.diagonal(confusion)
    ua = compare_ua(hits, best.hits, jnp.sum(confusion, axis=1))
    finite = jnp.all(jnp.isfinite(rows) | ~part.mask[:, None]) & jnp.isfinite(loss)
    diverged = _diverged(counters, params, finite)
    alive = counters.active & ~diverged
    better = alive & ((best.epoch == 0) | (ua > 0) | ((ua == 0) & (loss < best.loss)))
    stopped = alive & ~better & (patience > 0) & (epoch - best.epoch >= patience)
    scores = Scores(
        *(_train_loss(counters), loss, confusion, counters.active),
        *(diverged, better, stopped, counters.skipped),
    )
    best = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), Best(params, hits, loss, epoch), best
    )
    return best, _next_epoch(counters, alive & ~stopped), scores


def end_epoch_without_validation(
    counters: Counters, epoch: Array, last: Array, params: Any
) -> tuple[Counters, Scores]:
    """Ends epoch number `epoch` of `last` ([] i32 both) of one trial; `params` are those after it.

    Returns the counters of the next epoch, and the scores.
    """
    diverged = _diverged(counters, params, jnp.bool_(True))
    alive = counters.active & ~diverged
    stopped = alive & (epoch >= last)
    scores = Scores(
        *(_train_loss(counters), None, None, counters.active),
        *(diverged, None, stopped, counters.skipped),
    )
    return _next_epoch(counters, alive & ~stopped), scores


def _diverged(counters: Counters, params: Any, finite: Array) -> Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]
    finite &= jnp.all(jnp.array(leaves))
    return counters.active & ((counters.bad_steps >= MOST_BAD_STEPS) | ~finite)


def _train_loss(counters: Counters) -> Array:
    tiny = jnp.finfo(counters.weight_sum.dtype).tiny
    return counters.loss_sum / jnp.maximum(counters.weight_sum, tiny)


def _next_epoch(counters: Counters, active: Array) -> Counters:
    zero = jnp.zeros_like(counters.loss_sum)
    return counters._replace(loss_sum=zero, weight_sum=zero, active=active)
