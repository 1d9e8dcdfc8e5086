"""The compiled programs of a group of runs and the data they read, ready before the first step."""

import functools
import logging
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.arrays.dataset import Dataset
from ser_jax.training import mesh as meshes
from ser_jax.training import selection
from ser_jax.training import step as steps
from ser_jax.training.chunked import Chunked
from ser_jax.training.compiling import Compiler, tracing
from ser_jax.training.functions import Recipe, functions
from ser_jax.training.mesh import OWN, SHARED
from ser_jax.training.stepwise import Stepwise
from ser_jax.training.streamed import Streamed

log = logging.getLogger(__name__)


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder` (private to the user), so that the next start compiles nothing."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class Programs:
    """Programs and data of one group size.

    Attributes:
      mesh: Mesh with the axes "run" and "data".
      size: Runs in a group.
      recipe: How the system is trained.
      chunk: Training steps that are handed over at once, when everything is compiled.
      score_chunk: Batches whose logits come together.
      late: By how many epochs results may be fetched late.
      seconds: Wall time until the programs could be used; most are still being compiled then.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        *,
        classes: int,
        batch_size: int,
        devices: list[Any],
        size: int,
        chunk: int,
        training: bool,
        split_rows: bool = True,
        long_steps: bool = False,
    ):
        """Puts the data on the devices and begins to compile the programs of every bucket.

        Args:
          model: The system.
          dataset: All utterances.
          recipe: How it is trained.
          classes: Number of classes K.
          batch_size: Rows B of a batch.
          devices: Devices; see `mesh.make_mesh`.
          size: Runs in a group.
          chunk: Steps of one program; 0: every step is dispatched by itself, as steps of streamed data always are.
          training: Whether to compile what training needs, too.
          split_rows: Whether devices that are left over share the rows of a batch.
          long_steps: Whether steps that are dispatched by themselves are waited for; see `Stepwise`.
        """
        self.mesh, self.size = meshes.make_mesh(devices, size, batch_size if split_rows else 1), size
        self.recipe = recipe
        buckets = list(map(steps.Bucket, dataset.buckets, dataset.targets))
        if not dataset.streamed:
            buckets = [self._put(bucket, SHARED) for bucket in buckets]
        axis = meshes.DATA if self.mesh.shape[meshes.DATA] > 1 else None
        of_run = functions(model, recipe, axis)
        self._init = jax.jit(of_run.init)
        self._example = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), buckets[0].inputs)
        self._first = jax.jit(meshes.over_runs(selection.nothing_yet, self.mesh, [OWN]))
        self._judge = jax.jit(
            meshes.over_runs(of_run.judge, self.mesh, [OWN, OWN, SHARED, OWN, OWN, OWN]), donate_argnums=(0, 1)
        )
        self._close = jax.jit(meshes.over_runs(selection.close, self.mesh, [OWN, SHARED, OWN, OWN]), donate_argnums=0)
        if dataset.streamed:
            self._engine = Streamed(self.mesh, buckets, of_run, long_steps)
        elif chunk:
            self._engine = Chunked(self.mesh, buckets, of_run, chunk)
        else:
            self._engine = Stepwise(self.mesh, buckets, of_run, long_steps)
        self.chunk, self.score_chunk, self.late = self._engine.chunk, self._engine.score_chunk, self._engine.late

        self._begin = time.monotonic()
        self.state_shape = self._group_shape(jax.eval_shape(self._init, jax.random.key(0), self._example))
        statistics = dataset.device_statistics(dataset.statistics(dataset.utterances(0)[:1]))
        key = np.zeros(2, np.uint32) if recipe.draws else None
        run_shape = self._group_shape(steps.RunConstants(statistics, np.zeros(classes, np.float32), key))
        self._compiler, self._compiled = Compiler(), False
        self._engine.compile(self._compiler, self.state_shape, run_shape, (size, batch_size), training)
        self.seconds = time.monotonic() - self._begin

    def next_chunk(self) -> int:
        """Returns how many training steps to hand over next.

        As long as programs are being compiled it is one, so that a signal waits for one of them and not for all.
        """
        if not self._compiled and self._compiler.ended:
            self._compiled = True
            log.info("compiled %d programs in %.1f s", len(self._compiler), time.monotonic() - self._begin)
        return self.chunk if self._compiled else 1

    def wait(self) -> None:
        """Returns when all programs are compiled."""
        self._compiler.wait()

    def stop_compiling(self) -> None:
        """Drops what is not being compiled yet, so that the process may leave."""
        self._compiler.cancel()

    def announce(self, order: np.ndarray, rows: np.ndarray) -> None:
        """Says which batches `train` will be given next, so that those of streamed data are read ahead."""
        if isinstance(self._engine, Streamed):
            self._engine.announce(order, rows)

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for data so far; 0 where these are in memory."""
        return self._engine.waited if isinstance(self._engine, Streamed) else 0.0

    def train(self, state: steps.TrainState, run: Any, order: Any, rows: Any, mask: Any) -> steps.TrainState:
        """One `train_step` per batch for every run of the group; the state is consumed.

        Args:
          state: State of the group.
          run: Constants of the runs.
          order: [S] integers, the bucket of every step.
          rows: [S, R, B] i32, the batches.
          mask: [S, R, B] bool.

        Returns:
          The new state.
        """
        return self._engine.train(state, run, order, rows, mask)

    def score(self, params: Any, statistics: Any, order: Any, rows: Any) -> tuple[jax.Array, ...]:
        """Scores batches.

        Args:
          params: Parameters of the runs.
          statistics: Standardisation of the runs.
          order: [S] integers, the bucket of every batch.
          rows: [S, R, B] i32, the batches.

        Returns:
          Logits: arrays [R, …, K] that together hold, run by run, the rows of all S batches in order, and behind them
          those of steps that fill up the last chunk.
        """
        return self._engine.score(params, statistics, order, rows)

    def judge(
        self, best: selection.Best, counters: Any, epoch: int, params: Any, logits: Any, part: selection.Validation
    ) -> tuple[selection.Best, steps.Counters, selection.Scores]:
        """`selection.judge` of every run of the group; `best` and `counters` are consumed."""
        meshes.settle(self.mesh, logits)
        number = self._put(np.int32(epoch), SHARED)
        return meshes.settle(self.mesh, self._judge(best, counters, number, params, logits, part))

    def close(self, counters: Any, epoch: int, last: Any, params: Any) -> tuple[steps.Counters, selection.Scores]:
        """`selection.close` of every run of the group; `counters` are consumed."""
        return meshes.settle(self.mesh, self._close(counters, self._put(np.int32(epoch), SHARED), last, params))

    def put(self, tree: Any) -> Any:
        """Puts arrays with a leading run axis on the devices of their runs."""
        return self._put(tree, OWN)

    def _put(self, tree: Any, spec: Any) -> Any:
        return jax.device_put(tree, meshes.place(self.mesh, spec))

    def _group_shape(self, tree: Any) -> Any:
        sharding = meshes.place(self.mesh, OWN)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.size, *leaf.shape), leaf.dtype, sharding=sharding), tree
        )

    def init(self, keys: list[int]) -> tuple[steps.TrainState, selection.Best]:
        """Returns the initial state of a group.

        Args:
          keys: One number per run, from which its parameters are drawn.
        """
        with tracing:  # Nothing can begin before this.
            states = [jax.device_get(self._init(jax.random.key(key), self._example)) for key in keys]
            state = self.put(jax.tree.map(lambda *leaves: np.stack(leaves), *states))
            return state, self._first(state.params)

    @functools.cached_property
    def parameters(self) -> int:
        """Number of trained parameters of one run."""
        return sum(leaf.size // self.size for leaf in jax.tree.leaves(self.state_shape.params))
