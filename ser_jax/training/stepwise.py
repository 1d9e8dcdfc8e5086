"""Every step is dispatched by itself: the form for CPUs, where XLA's convolution is ten times slower inside a loop.

A train step is three programs, the gradient of its bucket's shape and two of the optimiser (see optimiser.py).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ser_jax.training import mesh as meshes
from ser_jax.training.functions import Functions
from ser_jax.training.mesh import OWN, ROWS, SHARED
from ser_jax.training.step import Bucket, RunConstants, TrainState


class Stepwise:
    """Programs of one step each.

    Attributes:
      chunk: Steps of one program: 1.
      late: Epochs by which results may be fetched late: 0.
    """

    chunk, late = 1, 0

    def __init__(self, mesh: Mesh, buckets: Sequence[Bucket], functions: Functions):
        """Takes what the programs are made of; nothing is compiled yet."""
        self.mesh, self.buckets = mesh, buckets
        self._gradient = jax.jit(
            meshes.over_runs(functions.gradient, mesh, [SHARED, OWN, OWN, OWN, ROWS, ROWS]), donate_argnums=2
        )
        self._score = jax.jit(meshes.over_runs(functions.score, mesh, [SHARED, OWN, OWN, ROWS], ROWS))
        self._moments = jax.jit(meshes.over_runs(functions.moments, mesh, [OWN] * 4), donate_argnums=0)
        self._params = jax.jit(meshes.over_runs(functions.params, mesh, [OWN] * 3), donate_argnums=0)
        self._gradients: list[Any] = []
        self._scores: list[Any] = []

    def compile(self, pool: Any, state: TrainState, run: RunConstants, batch: tuple[int, int], training: bool) -> None:
        """Compiles the programs of every bucket, several at a time.

        Args:
          pool: An executor.
          state: Shapes of a group's state.
          run: Shapes of the runs' constants.
          batch: Runs R and rows B.
          training: Whether to compile what training needs, too.
        """
        rows, mask = (
            jax.ShapeDtypeStruct(batch, kind, sharding=meshes.place(self.mesh, ROWS)) for kind in (np.int32, np.bool_)
        )

        def gradient(bucket: Bucket) -> Any:
            return self._gradient.lower(bucket, state.params, state.counters, run, rows, mask).compile()

        def score(bucket: Bucket) -> Any:
            return self._score.lower(bucket, state.params, run.statistics, rows).compile()

        gradients = pool.map(gradient, self.buckets if training else [])
        scores = pool.map(score, self.buckets)
        self._gradients, self._scores = list(gradients), list(scores)

    def train(self, state: TrainState, run: RunConstants, order: Any, rows: Any, mask: Any) -> TrainState:
        """See `Programs.train`."""
        for bucket, *batch in zip(order.tolist(), rows, mask, strict=True):
            found, counters = self._gradients[bucket](
                self.buckets[bucket], state.params, state.counters, run, *self._put(batch)
            )
            adam = self._moments(state.adam, found.gradient, found.norm, found.good)
            params = self._params(state.params, adam, found.good)
            state = meshes.settle(self.mesh, TrainState(params, adam, counters))
        return state

    def score(self, params: Any, statistics: Any, order: Any, rows: Any) -> tuple[Any, ...]:
        """See `Programs.score`."""
        return tuple(
            self._scores[bucket](self.buckets[bucket], params, statistics, self._put(batch))
            for bucket, batch in zip(order.tolist(), rows, strict=True)
        )

    def _put(self, batch: Any) -> Any:
        return jax.device_put(batch, meshes.place(self.mesh, ROWS))
