"""Epoch plans: which utterances fill which batch, as a pure function of (protocol, seed, fold, epoch).

The order of bucket shapes in an epoch is shared by all runs of a protocol, so that runs can train side by side; which
rows fill each batch is the run's own. A run therefore sees the same batches alone, in any group and after any
interruption.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Batches(NamedTuple):
    """The batches of one bucket in one epoch of one run.

    Attributes:
      rows: [S, B] i32, rows of the bucket; 0 where the mask is False.
      mask: [S, B] bool, True = a real utterance of this run.
    """

    rows: np.ndarray
    mask: np.ndarray


def generator(*key: str | int) -> np.random.Generator:
    """Returns a Philox generator keyed by the hash of `key`."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def steps_per_bucket(rows_of_folds: Sequence[Sequence[np.ndarray]], batch_size: int) -> np.ndarray:
    """Returns [buckets], how many batches of each shape an epoch has: enough for the fold with the most.

    Args:
      rows_of_folds: For every fold of the protocol and every bucket, the training rows.
      batch_size: Rows B of a batch.
    """
    sizes = np.array([[len(rows) for rows in fold] for fold in rows_of_folds])
    return -(-sizes.max(axis=0) // batch_size)


def even_chunk(steps: int, most: int) -> int:
    """Returns the length of the chunks, at most `most`, into which so many steps divide with the least left over."""
    return max(1, -(-steps // max(1, -(-steps // most))))


def shape_order(steps: np.ndarray, *, protocol: str, epoch: int) -> np.ndarray:
    """Returns the bucket of every step of an epoch, shuffled; the same for all runs.

    Args:
      steps: [buckets], batches of each shape.
      protocol: SHA-256 of the protocol.
      epoch: Number of the epoch, from 1.
    """
    return generator("order", protocol, epoch).permutation(np.repeat(np.arange(len(steps)), steps))


def training_batches(
    rows: Sequence[np.ndarray], steps: np.ndarray, batch_size: int, *, protocol: str, seed: int, fold: str, epoch: int
) -> list[Batches]:
    """Fills the batches of one epoch of one run; every training row is used exactly once.

    The rows of a bucket are spread evenly over as few batches as hold them; steps that are left over hold no row.

    Args:
      rows: Per bucket, the training rows of the fold.
      steps: [buckets], batches of each shape.
      batch_size: Rows B of a batch.
      protocol: SHA-256 of the protocol.
      seed: Seed of the run.
      fold: Name of the fold.
      epoch: Number of the epoch, from 1.

    Returns:
      One `Batches` per bucket, [steps, B].
    """
    draw = generator("rows", protocol, seed, fold, epoch)
    filled = []
    for bucket_rows, count in zip(rows, steps, strict=True):
        batches = Batches(np.zeros((count, batch_size), np.int32), np.zeros((count, batch_size), bool))
        used = -(-len(bucket_rows) // batch_size)
        if used:
            places = draw.permutation(count)[:used]
            for place, part in zip(places, np.array_split(draw.permutation(bucket_rows), used), strict=True):
                batches.rows[place, : len(part)] = part
                batches.mask[place, : len(part)] = True
        filled.append(batches)
    return filled


def in_order(order: np.ndarray, runs: Sequence[Sequence[Batches]]) -> Batches:
    """Lines up the batches of several runs for the steps of an epoch.

    Args:
      order: [S], the bucket of every step; each bucket as often as it has batches.
      runs: For every run one `Batches` per bucket.

    Returns:
      Rows and masks [S, R, B].
    """
    steps = np.empty(len(order), np.int64)
    steps[np.argsort(order, kind="stable")] = np.arange(len(order))  # step → place in the buckets' batches, end to end
    return Batches(
        np.stack([np.concatenate([batches.rows for batches in run])[steps] for run in runs], axis=1),
        np.stack([np.concatenate([batches.mask for batches in run])[steps] for run in runs], axis=1),
    )


def scoring_batches(
    rows: Sequence[np.ndarray], batch_size: int, steps: Sequence[int] | np.ndarray | None = None
) -> list[Batches]:
    """Fills batches in order, for validation and test; every row is used exactly once.

    Args:
      rows: Per bucket, the rows to score.
      batch_size: Rows B of a batch.
      steps: Per bucket, how many batches to make (runs that are scored side by side need the same); None: as few as
        hold the rows.

    Returns:
      One `Batches` per bucket.
    """
    filled = []
    for bucket, bucket_rows in enumerate(rows):
        count = -(-len(bucket_rows) // batch_size) if steps is None else steps[bucket]
        flat = np.zeros(count * batch_size, np.int32)
        flat[: len(bucket_rows)] = bucket_rows
        mask = np.arange(count * batch_size) < len(bucket_rows)
        filled.append(Batches(flat.reshape(count, batch_size), mask.reshape(count, batch_size)))
    return filled
