"""Which utterances fill which batch: a pure function of protocol, seed, fold and epoch.

The order of bucket shapes in an epoch is shared by all trials of a protocol, so that they can train
side by side; which rows fill each batch is the trial's own. A trial therefore sees the same batches
alone, in any group and after any interruption.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Batches(NamedTuple):
    """The batches of one bucket in one epoch of one trial."""

    rows: np.ndarray  # [S, B] i32, rows of the bucket in S steps; 0 where the mask is False
    mask: np.ndarray  # [S, B] bool, True = a real utterance of this trial


def generator(*key: str | int) -> np.random.Generator:
    """Returns a Philox generator keyed by the hash of `key`."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def steps_per_bucket(rows_of_folds: Sequence[Sequence[np.ndarray]], batch_size: int) -> np.ndarray:
    """Returns [buckets], the batches of each shape in an epoch: enough for the largest fold.

    `rows_of_folds` holds, for every fold of the protocol and every bucket, the training rows.
    """
    sizes = np.array([[len(rows) for rows in fold] for fold in rows_of_folds])
    return -(-sizes.max(axis=0) // batch_size)


def count_batches(rows: Sequence[np.ndarray], batch_size: int) -> int:
    """Returns how many batches of an epoch hold any of the training rows, given by bucket."""
    return sum(-(-len(part) // batch_size) for part in rows)


def even_chunk(steps: int, most: int) -> int:
    """Returns the chunk length, at most `most`, that divides `steps` with the least remainder."""
    return max(1, -(-steps // max(1, -(-steps // most))))


def shape_order(steps: np.ndarray, *, protocol: str, epoch: int) -> np.ndarray:
    """Returns the bucket of every step of an epoch (from 1), shuffled; the same for all trials.

    `steps` [buckets] is the number of batches of each shape, `protocol` the protocol's SHA-256.
    """
    return generator("order", protocol, epoch).permutation(np.repeat(np.arange(len(steps)), steps))


def versions(
    variants: int, utterances: int, *, protocol: str, seed: int, fold: str, epoch: int
) -> np.ndarray | None:
    """Returns [utterances], which version of each an epoch of a trial takes; None without variants.

    0 is the utterance as it is, v its variant v; each as often. The arguments are those of
    `training_batches`: neither the buckets nor what else is trained on changes the draw.
    """
    if not variants:
        return None
    return generator("variants", protocol, seed, fold, epoch).integers(
        variants + 1, size=utterances
    )


def training_batches(
    rows: Sequence[np.ndarray],
    steps: np.ndarray,
    batch_size: int,
    *,
    protocol: str,
    seed: int,
    fold: str,
    epoch: int,
) -> list[Batches]:
    """Fills the batches of one epoch of one trial; every training row is used exactly once.

    The rows of a bucket are spread evenly over as few batches as hold them; the other steps hold no
    row.

    Args:
      rows: Per bucket, the training rows of the fold.
      steps: [buckets], batches of each shape.
      batch_size: Rows B of a batch.
      protocol: SHA-256 of the protocol.
      seed: Seed of the trial.
      fold: Name of the fold.
      epoch: Number of the epoch, from 1.

    Returns:
      One `Batches` per bucket, [steps, B].
    """
    draw = generator("rows", protocol, seed, fold, epoch)
    filled = []
    for bucket_rows, count in zip(rows, steps, strict=True):
        shape = (count, batch_size)
        batches = Batches(np.zeros(shape, np.int32), np.zeros(shape, bool))
        used = -(-len(bucket_rows) // batch_size)
        if used:
            places = draw.permutation(count)[:used]
            parts = np.array_split(draw.permutation(bucket_rows), used)
            for place, part in zip(places, parts, strict=True):
                batches.rows[place, : len(part)] = part
                batches.mask[place, : len(part)] = True
        filled.append(batches)
    return filled


def in_order(order: np.ndarray, trials: Sequence[Sequence[Batches]]) -> Batches:
    """Lines up the batches of several trials for the steps of an epoch.

    Args:
      order: [S], the bucket of every step; each bucket as often as it has batches.
      trials: For every trial one `Batches` per bucket.

    Returns:
      Rows and masks [S, R, B].
    """
    steps = np.empty(len(order), np.int64)  # step → place in the batches of all buckets
    steps[np.argsort(order, kind="stable")] = np.arange(len(order))
    rows = [np.concatenate([batches.rows for batches in trial])[steps] for trial in trials]
    mask = [np.concatenate([batches.mask for batches in trial])[steps] for trial in trials]
    return Batches(np.stack(rows, axis=1), np.stack(mask, axis=1))


def scoring_batches(
    rows: Sequence[np.ndarray], batch_size: int, steps: Sequence[int] | np.ndarray | None = None
) -> list[Batches]:
    """Fills batches in order, for validation and test; every row is used exactly once.

    `rows` and `steps` are per bucket: the rows to score, and how many batches to make (trials that
    are scored side by side need the same); None: as few as hold the rows.
    """
    filled = []
    for bucket, bucket_rows in enumerate(rows):
        count = -(-len(bucket_rows) // batch_size) if steps is None else steps[bucket]
        flat = np.zeros(count * batch_size, np.int32)
        flat[: len(bucket_rows)] = bucket_rows
        mask = np.arange(count * batch_size) < len(bucket_rows)
        filled.append(Batches(flat.reshape(count, batch_size), mask.reshape(count, batch_size)))
    return filled
