"""Every step is dispatched by itself, and its batch is read and padded while the steps before it compute.

The form for data that are larger than memory. The steps are those of `stepwise`, to the bit on a CPU: only, what they
read of a bucket is not gathered on the device but brought along. grain reads ahead with threads; batches keep the order
of the plan, whatever thread is first, and reading may begin at any step.
"""

import collections
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ser_jax.arrays import padding
from ser_jax.training import mesh as meshes
from ser_jax.training.compiling import Compiler
from ser_jax.training.functions import Functions
from ser_jax.training.mesh import OWN, ROWS
from ser_jax.training.step import Bucket, RunConstants, TrainState, take, updates_made
from ser_jax.training.stepwise import CHUNK

THREADS = 4  # that read and pad
AHEAD_BYTES = 1 << 27  # of batches that wait to be used; at least two, at most MOST_AHEAD
MOST_AHEAD = 32
IN_FLIGHT = 4  # steps that are handed over but not done: each keeps its batch in memory


class Plan(NamedTuple):
    """Batches to come.

    Attributes:
      order: [S] integers, the bucket of every batch.
      rows: [S, R, B] i32, rows of the bucket.
    """

    order: np.ndarray
    rows: np.ndarray


class Streamed:
    """Programs of one step each, and what reads for them.

    Attributes:
      chunk: Training steps that are handed over at once; 1 if steps are long.
      score_chunk: Batches that are scored by one program: 1.
      late: Epochs by which results may be fetched late: 0.
      waited: Seconds that steps have waited for their batch so far.
    """

    score_chunk, late = 1, 0

    def __init__(self, mesh: Mesh, buckets: Sequence[Bucket], functions: Functions, long_steps: bool = False):
        """Takes what the programs are made of; nothing is compiled yet.

        Args:
          mesh: Mesh with the axes "run" and "data".
          buckets: The data, on the host or to be read; see `arrays.rows`.
          functions: Functions of one run.
          long_steps: Whether to wait for every step, so that a signal finds one in flight.
        """
        self.mesh, self.buckets = mesh, buckets
        self.chunk, self._in_flight = (1, 0) if long_steps else (CHUNK, IN_FLIGHT)
        self.waited = 0.0

        def gradient(batch, params, counters, run, mask, updates):
            rows = jnp.arange(len(mask), dtype=jnp.int32)
            return functions.gradient(batch, params, counters, run, rows, mask, updates)

        def score(batch, params, statistics):
            return functions.score(batch, params, statistics, jnp.arange(len(batch.targets), dtype=jnp.int32))

        gradients = meshes.over_runs(gradient, mesh, [ROWS, OWN, OWN, OWN, ROWS, OWN])
        moments = meshes.over_runs(functions.moments, mesh, [OWN] * 3, drop=False)

        def step(batch: Bucket, params: Any, rest: Any, run: RunConstants, mask: Any) -> Any:
            adam, counters = rest
            found, counters = gradients(batch, params, counters, run, mask, updates_made(run, adam))
            params, adam = moments(params, adam, found)
            return found.good, params, (adam, counters)

        self._gradient = jax.jit(step, donate_argnums=(1, 2))
        self._params = jax.jit(meshes.over_runs(functions.params, mesh, [OWN] * 4, drop=False), donate_argnums=(0, 1))
        self._score = jax.jit(meshes.over_runs(score, mesh, [ROWS, OWN, OWN], ROWS))
        self._announced, self._place = Plan(np.zeros(0, np.int64), np.zeros((0, 0, 0), np.int32)), 0
        self._reading: Any = None

    def compile(
        self, compiler: Compiler, state: TrainState, run: RunConstants, batch: tuple[int, int], training: bool
    ) -> None:
        """See `Stepwise.compile`."""
        options = meshes.compiler_options(self.mesh)
        rows = meshes.place(self.mesh, ROWS)
        mask = jax.ShapeDtypeStruct(batch, np.bool_, sharding=rows)

        def shape(bucket: Bucket) -> Any:
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((*batch, *leaf.shape[1:]), leaf.dtype, sharding=rows), bucket
            )

        def gradient(bucket: Bucket) -> Any:
            rest = state.adam, state.counters
            return self._gradient.lower(shape(bucket), state.params, rest, run, mask)

        def score(bucket: Bucket) -> Any:
            return self._score.lower(shape(bucket), state.params, run.statistics)

        self._gradients = compiler.begin(gradient, self.buckets if training else [], options)
        self._scores = compiler.begin(score, self.buckets, options)

    def announce(self, order: np.ndarray, rows: np.ndarray) -> None:
        """Says which batches `train` will be given from here on, chunk by chunk, so that they are read ahead."""
        self._stop_reading()
        self._announced, self._place = Plan(order, rows), 0

    def train(self, state: TrainState, run: RunConstants, order: Any, rows: Any, mask: Any) -> TrainState:
        """See `Programs.train`."""
        in_flight = collections.deque()
        for bucket, batch, real in zip(order.tolist(), self._batches(Plan(order, rows)), mask, strict=True):
            params, average, rest = state.params, state.average, (state.adam, state.counters)
            good, params, rest = self._gradients[bucket](batch, params, rest, run, self._put(real))
            params, average = self._params(params, average, rest[0], good)
            meshes.settle(self.mesh, params)
            state = TrainState(params, rest[0], rest[1], average)
            in_flight.append(good)
            if len(in_flight) > self._in_flight:
                jax.block_until_ready(in_flight.popleft())
        return state

    def score(self, params: Any, statistics: Any, order: Any, rows: Any) -> tuple[Any, ...]:
        """See `Programs.score`."""
        logits: list[Any] = []
        for bucket, batch in zip(order.tolist(), self._read(Plan(order, rows)), strict=True):
            logits.append(self._scores[bucket](batch, params, statistics))
            if len(logits) > self._in_flight:
                jax.block_until_ready(logits[-1 - self._in_flight])
        return tuple(logits)

    def _batches(self, asked: Plan) -> Iterator[Bucket]:
        """Yields the batches asked for: those that were announced, as far as they are."""
        part = slice(self._place, self._place + len(asked.order))
        announced = Plan(self._announced.order[part], self._announced.rows[part])
        if not all(map(np.array_equal, announced, asked)):
            return (yield from self._read(asked))
        if self._reading is None:
            self._reading = self._read(Plan(self._announced.order[part.start :], self._announced.rows[part.start :]))
        for _ in asked.order:
            yield next(self._reading)
        self._place = part.stop
        if self._place == len(self._announced.order):
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
        return sum(leaf.nbytes // max(1, leaf.shape[0]) for leaf in jax.tree.leaves(self.buckets[bucket]))

    def _put(self, values: Any) -> Any:
        return jax.device_put(values, meshes.place(self.mesh, ROWS))


def _spread(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns values[place], aligned so that CPU devices read them where they lie."""
    spread = padding.zeros((*place.shape, *values.shape[1:]), values.dtype)
    return np.take(values, place, axis=0, out=spread, mode="clip")
