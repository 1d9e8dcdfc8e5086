"""Every step is dispatched by itself: the form for CPUs, where XLA's convolution is ten times slower inside a loop.

A step is two programs: gradient and moments, of its bucket's shape, and the parameters (optimiser.py says why not one).
Batches are handed over for many steps together, and the step counts itself: a transfer for every step would cost more
than the call.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ser_jax.training import mesh as meshes
from ser_jax.training.compiling import Compiler
from ser_jax.training.functions import Functions
from ser_jax.training.mesh import OWN, ROWS, SHARED, STEP_ROWS
from ser_jax.training.step import Bucket, RunConstants, TrainState, updates_made

CHUNK = 16  # steps whose batches are handed over together; a signal waits for that many, and for those in flight


class Stepwise:
    """Programs of one step each.

    Attributes:
      chunk: Training steps whose batches are handed over together; 1 if steps are long.
      score_chunk: Batches that are scored by one program: 1.
      late: Epochs by which results may be fetched late: 0.
    """

    score_chunk, late = 1, 0

    def __init__(self, mesh: Mesh, buckets: Sequence[Bucket], functions: Functions, long_steps: bool = False):
        """Takes what the programs are made of; nothing is compiled yet.

        Args:
          mesh: Mesh with the axes "run" and "data".
          buckets: The data.
          functions: Functions of one run.
          long_steps: Whether to wait for every step, so that a signal finds one in flight and not sixteen.
        """
        self.mesh, self.buckets = mesh, buckets
        self.chunk, self._wait = (1, True) if long_steps else (CHUNK, False)

        def gradient(bucket, params, counters, number, run, rows, mask, updates):
            return *functions.gradient(bucket, params, counters, run, rows[number], mask[number], updates), number + 1

        gradients = meshes.over_runs(gradient, mesh, [SHARED, OWN, OWN, OWN, OWN, STEP_ROWS, STEP_ROWS, OWN])
        moments = meshes.over_runs(functions.moments, mesh, [OWN] * 3, drop=False)

        def step(bucket: Bucket, params: Any, rest: Any, run: RunConstants, rows: Any, mask: Any) -> Any:
            adam, counters, number = rest
            updates = updates_made(run, adam)
            found, counters, number = gradients(bucket, params, counters, number, run, rows, mask, updates)
            params, adam = moments(params, adam, found)
            return found.good, params, (adam, counters, number)

        self._gradient = jax.jit(step, donate_argnums=(1, 2))
        self._params = jax.jit(meshes.over_runs(functions.params, mesh, [OWN] * 4, drop=False), donate_argnums=(0, 1))
        self._score = jax.jit(meshes.over_runs(functions.score, mesh, [SHARED, OWN, OWN, ROWS], ROWS))

    def compile(
        self, compiler: Compiler, state: TrainState, run: RunConstants, batch: tuple[int, int], training: bool
    ) -> None:
        """Begins to compile the programs of every bucket; each may be used as soon as it is there.

        Args:
          compiler: What compiles.
          state: Shapes of a group's state.
          run: Shapes of the runs' constants.
          batch: Runs R and rows B.
          training: Whether to compile what training needs, too.
        """
        options = meshes.compiler_options(self.mesh)
        rows, mask = (self._shape((self.chunk, *batch), kind, STEP_ROWS) for kind in (np.int32, np.bool_))
        rest = state.adam, state.counters, self._shape(batch[:1], np.int32, OWN)

        def gradient(bucket: Bucket) -> Any:
            return self._gradient.lower(bucket, state.params, rest, run, rows, mask)

        def score(bucket: Bucket) -> Any:
            scored = self._shape(batch, np.int32, ROWS)
            return self._score.lower(bucket, state.params, run.statistics, scored)

        self._gradients = compiler.begin(gradient, self.buckets if training else [], options)
        self._scores = compiler.begin(score, self.buckets, options)

    def train(self, state: TrainState, run: RunConstants, order: Any, rows: Any, mask: Any) -> TrainState:
        """See `Programs.train`."""
        for first in range(0, len(order), self.chunk):
            part = slice(first, first + self.chunk)
            batches = [self._put(self._filled(values[part]), STEP_ROWS) for values in (rows, mask)]
            number = self._put(np.zeros(rows.shape[1], np.int32), OWN)
            params, average, rest = state.params, state.average, (state.adam, state.counters, number)
            for bucket in order[part].tolist():
                good, params, rest = self._gradients[bucket](self.buckets[bucket], params, rest, run, *batches)
                params, average = self._params(params, average, rest[0], good)
                meshes.settle(self.mesh, params)
                if self._wait:
                    jax.block_until_ready(params)
            state = TrainState(params, rest[0], rest[1], average)
        return state

    def score(self, params: Any, statistics: Any, order: Any, rows: Any) -> tuple[Any, ...]:
        """See `Programs.score`."""
        return tuple(
            self._scores[bucket](self.buckets[bucket], params, statistics, self._put(batch, ROWS))
            for bucket, batch in zip(order.tolist(), rows, strict=True)
        )

    def _filled(self, batches: np.ndarray) -> np.ndarray:
        return np.pad(batches, ((0, self.chunk - len(batches)), (0, 0), (0, 0)))

    def _shape(self, sizes: tuple[int, ...], kind: Any, spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, kind, sharding=meshes.place(self.mesh, spec))

    def _put(self, values: Any, spec: Any) -> Any:
        return jax.device_put(values, meshes.place(self.mesh, spec))
