"""Batches of data that is larger than memory: read and padded while earlier steps compute.

grain reads ahead with threads; batches keep the order of the plan, whatever thread is first, and
reading may begin at any step.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.data import padding
from ser_jax.training.execution.mesh import ROWS
from ser_jax.training.step import Bucket, take

if TYPE_CHECKING:
    from ser_jax.training.execution.executor import Executor

THREADS = 4  # that read and pad
AHEAD_BYTES = 1 << 27  # of batches that wait to be used; at least two, at most MOST_AHEAD
MOST_AHEAD = 32


class Plan(NamedTuple):
    """Batches to come."""

    order: np.ndarray  # [S] integers, the bucket of every batch
    rows: np.ndarray  # [S, R, B] i32, rows of the bucket


class PrefetchedBatches:
    """Batches of buckets that are read row by row; the batch source of streamed data."""

    specs = (ROWS, ROWS)  # the rows of the batch, mask
    score_specs = (ROWS,)

    def __init__(self, executor: "Executor"):
        """Reads the buckets of an executor."""
        self.buckets, self._executor = executor.buckets, executor
        self.waited = 0.0  # s that steps have waited for their batch so far
        self._planned, self._place = Plan(np.zeros(0, np.int64), np.zeros((0, 0, 0), np.int32)), 0
        self._reading: Any = None

    @staticmethod
    def select(bucket: Bucket, mask: Any) -> tuple[Bucket, Any, Any]:
        """Returns the rows of one trial's batch as a bucket, their numbers [B] and mask [B]."""
        return bucket, jnp.arange(len(mask), dtype=jnp.int32), mask

    @staticmethod
    def select_scored(bucket: Bucket) -> tuple[Bucket, Any]:
        """Returns the rows of one trial's batch as a bucket, and their numbers [B]."""
        return bucket, jnp.arange(len(bucket.targets), dtype=jnp.int32)

    def example(self, bucket: Bucket, trials: int, rows: int) -> tuple[Any, ...]:
        """Returns shapes like those of what a program of that bucket will be given."""
        return *self.score_example(bucket, trials, rows), np.zeros((trials, rows), np.bool_)

    def score_example(self, bucket: Bucket, trials: int, rows: int) -> tuple[Any, ...]:
        """Returns the same for a program that scores."""

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((trials, rows, *leaf.shape[1:]), leaf.dtype)

        return (jax.tree.map(shape, bucket),)

    def batches(
        self, order: np.ndarray, rows: np.ndarray, mask: np.ndarray
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields the bucket of every step and what its program takes."""
        for bucket, batch, real in zip(
            order.tolist(), self._batches(Plan(order, rows)), mask, strict=True
        ):
            yield bucket, (batch, self._put(real))

    def scored(self, order: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields the bucket of every batch and what the program that scores it takes."""
        for bucket, batch in zip(order.tolist(), self._read(Plan(order, rows)), strict=True):
            yield bucket, (batch,)

    def prefetch(self, order: np.ndarray, rows: np.ndarray) -> None:
        """Reads these batches ahead, from the first call of `batches` on."""
        self._stop_reading()
        self._planned, self._place = Plan(order, rows), 0

    def _batches(self, requested: Plan) -> Iterator[Bucket]:
        """Yields these batches: read ahead where they are the next planned ones, else now."""
        part = slice(self._place, self._place + len(requested.order))
        planned = Plan(self._planned.order[part], self._planned.rows[part])
        if not all(map(np.array_equal, planned, requested)):
            return (yield from self._read(requested))
        if self._reading is None:
            self._reading = self._read(
                Plan(self._planned.order[part.start :], self._planned.rows[part.start :])
            )
        for _ in requested.order:
            yield next(self._reading)
        self._place = part.stop
        if self._place == len(self._planned.order):
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _read(self, plan: Plan) -> Iterator[Bucket]:
        """Yields the batches of a plan on the devices, read ahead by threads."""
        import grain  # It is not needed, nor need it be installed, where nothing is streamed.

        if not len(plan.order):
            return

        def read(step: int) -> Bucket:
            return self._gather(int(plan.order[step]), plan.rows[step])

        each = max(map(self._batch_bytes, set(plan.order.tolist()))) * plan.rows[0].size
        ahead = max(2, min(MOST_AHEAD, AHEAD_BYTES // each))
        options = grain.ReadOptions(num_threads=min(THREADS, ahead), prefetch_buffer_size=ahead)
        reading = iter(grain.MapDataset.range(len(plan.order)).map(read).to_iter_dataset(options))
        try:
            for _ in plan.order:
                begin = time.perf_counter()
                batch = next(reading)
                self.waited += time.perf_counter() - begin
                yield jax.tree.map(self._put, batch)
        finally:
            reading.close()

    def _gather(self, bucket: int, rows: np.ndarray) -> Bucket:
        """Reads rows [R, B] of a bucket, every one of them once; returns arrays [R, B, …]."""
        once, place = np.unique(rows, return_inverse=True)
        found = Bucket(*take(self.buckets[bucket], once))
        return jax.tree.map(lambda leaf: _spread(leaf, place.reshape(rows.shape)), found)

    def _batch_bytes(self, bucket: int) -> int:
        return sum(
            leaf.nbytes // max(1, leaf.shape[0]) for leaf in jax.tree.leaves(self.buckets[bucket])
        )

    def _put(self, values: Any) -> Any:
        return self._executor._put(values, ROWS)


def _spread(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns values[place], aligned so that CPU devices read them where they lie."""
    spread = padding.zeros((*place.shape, *values.shape[1:]), values.dtype)
    return np.take(values, place, axis=0, out=spread, mode="clip")
