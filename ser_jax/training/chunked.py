"""Many steps are one program: the form for accelerators, which would otherwise wait for the host between steps.

The program goes through the steps by `lax.scan` and chooses the shape of each by `lax.switch`. All runs of a group take
the same shape in the same step, so the switch is a real branch.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from ser_jax.training import mesh as meshes
from ser_jax.training.compiling import Compiler
from ser_jax.training.functions import Functions
from ser_jax.training.mesh import OWN, SHARED, STEP_ROWS, STEPS_OF_RUN
from ser_jax.training.step import Bucket, RunConstants, TrainState, updates_made

SCORING, TRAINING = 0, 1  # numbers of the programs


class Chunked:
    """Programs of `chunk` steps each.

    Attributes:
      chunk: Steps of one program.
      score_chunk: Batches that are scored by one program: as many.
      late: Epochs by which results may be fetched late: 1, so that the device never waits.
    """

    late = 1

    def __init__(self, mesh: Mesh, buckets: Sequence[Bucket], functions: Functions, chunk: int):
        """Takes what the programs are made of; nothing is compiled yet."""
        self.mesh, self.buckets = mesh, tuple(buckets)
        self.chunk = self.score_chunk = chunk

        def train(buckets, state, run, order, rows, mask):
            def step(state: TrainState, batch: Any) -> tuple[TrainState, None]:
                shape, rows, mask = batch
                branches = [_of_bucket(functions.gradient, bucket) for bucket in buckets]
                updates = updates_made(run, state.adam)
                found, counters = lax.switch(shape, branches, state.params, state.counters, run, rows, mask, updates)
                params, adam = functions.moments(state.params, state.adam, found)
                params, average = functions.params(params, state.average, adam, found.good)
                return TrainState(params, adam, counters, average), None

            return lax.scan(step, state, (order, rows, mask))[0]

        def score(buckets, params, statistics, order, rows):
            def step(_, batch: Any) -> tuple[None, jax.Array]:
                shape, rows = batch
                return None, lax.switch(
                    shape, [_of_bucket(functions.score, bucket) for bucket in buckets], params, statistics, rows
                )

            return lax.scan(step, None, (order, rows))[1]

        self._train = jax.jit(
            meshes.over_runs(train, mesh, [SHARED, OWN, OWN, SHARED, STEP_ROWS, STEP_ROWS]), donate_argnums=1
        )
        self._score = jax.jit(meshes.over_runs(score, mesh, [SHARED, OWN, OWN, SHARED, STEP_ROWS], STEPS_OF_RUN))

    def compile(
        self, compiler: Compiler, state: TrainState, run: RunConstants, batch: tuple[int, int], training: bool
    ) -> None:
        """See `Stepwise.compile`; a program holds all buckets, so there is one for training and one for scoring."""

        def shape(sizes: tuple[int, ...], kind: Any, spec: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(sizes, kind, sharding=meshes.place(self.mesh, spec))

        order = shape((self.chunk,), np.int32, SHARED)
        rows, mask = (shape((self.chunk, *batch), kind, STEP_ROWS) for kind in (np.int32, np.bool_))

        def train() -> Any:
            return self._train.lower(self.buckets, state, run, order, rows, mask)

        def score() -> Any:
            return self._score.lower(self.buckets, state.params, run.statistics, order, rows)

        self._programs = compiler.begin(lambda lower: lower(), [score, train] if training else [score])
        compiler.wait()  # Minutes, maybe: before training begins, which would have to save when it is stopped.

    def train(self, state: TrainState, run: RunConstants, order: Any, rows: Any, mask: Any) -> TrainState:
        """See `Programs.train`; what is missing to a whole chunk are steps without work."""
        for start in range(0, len(order), self.chunk):
            part = slice(start, start + self.chunk)
            state = self._programs[TRAINING](self.buckets, state, run, *self._put(order[part], rows[part], mask[part]))
            meshes.settle(self.mesh, state)
        return state

    def score(self, params: Any, statistics: Any, order: Any, rows: Any) -> tuple[Any, ...]:
        """See `Programs.score`."""
        found = []
        for start in range(0, len(order), self.chunk):
            part = slice(start, start + self.chunk)
            found.append(self._programs[SCORING](self.buckets, params, statistics, *self._put(order[part], rows[part])))
        return tuple(found)

    def _put(self, order: np.ndarray, *batches: np.ndarray) -> Any:
        missing = self.chunk - len(order)
        batches = tuple(np.pad(batch, ((0, missing), (0, 0), (0, 0))) for batch in batches)
        order = jax.device_put(np.pad(order, (0, missing)).astype(np.int32), meshes.place(self.mesh, SHARED))
        return order, *jax.device_put(batches, meshes.place(self.mesh, STEP_ROWS))


def _of_bucket(function: Any, bucket: Bucket) -> Any:
    return lambda *arguments: function(bucket, *arguments)
