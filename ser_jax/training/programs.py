"""The compiled programs of a group: a train step and a scoring step per length bucket, ready before the first step."""

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.arrays.dataset import Dataset
from ser_jax.training import mesh as meshes
from ser_jax.training import optimiser
from ser_jax.training import step as steps


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder` (private to the user), so that the next start compiles nothing."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class Programs:
    """Programs and data of one group size.

    Attributes:
      mesh: Mesh with the axis "run".
      size: Runs in a group.
      seconds: Wall time of compilation.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        *,
        learning_rate: float,
        clip_norm: float,
        classes: int,
        batch_size: int,
        devices: list[Any],
        size: int,
        training: bool,
    ):
        """Puts the data on the devices and compiles the programs of every bucket.

        Args:
          model: The system.
          dataset: All utterances.
          learning_rate: Of Adam.
          clip_norm: Largest global norm of the gradient.
          classes: Number of classes K.
          batch_size: Rows B of a batch.
          devices: Devices; the largest number of them that divides the group is used.
          size: Runs in a group.
          training: Whether to compile what training needs, too.
        """
        used = max(count for count in range(1, len(devices) + 1) if size % count == 0)
        self.mesh = meshes.run_mesh(devices[:used])
        self.size = size
        self._model = model
        self._init = jax.jit(functools.partial(_init, model=model))
        self.buckets = [
            jax.device_put(steps.Bucket(inputs, targets), meshes.shared(self.mesh))
            for inputs, targets in zip(dataset.buckets, dataset.targets, strict=True)
        ]
        self._example = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), self.buckets[0].inputs)
        self.keep_best = jax.jit(
            meshes.over_runs(lambda best, params, better: _choose(better, params, best), self.mesh, 0),
            donate_argnums=0,
        )
        begin = time.monotonic()
        self.state_shape = self._group_shape(jax.eval_shape(self._init, jax.random.key(0), self._example))
        constants = steps.RunConstants(
            dataset.device_statistics(dataset.statistics(dataset.utterances(0)[:1])), jnp.zeros(classes)
        )
        run_shape = self._group_shape(constants)
        rows = self._group_shape(jax.ShapeDtypeStruct((batch_size,), jnp.int32))
        mask = self._group_shape(jax.ShapeDtypeStruct((batch_size,), jnp.bool_))
        gradient = functools.partial(steps.gradient_step, apply=self._apply)
        score = functools.partial(steps.score_step, apply=self._apply)
        gradient = jax.jit(meshes.over_runs(gradient, self.mesh, 1), donate_argnums=2)
        score = jax.jit(meshes.over_runs(score, self.mesh, 1))
        moments = functools.partial(optimiser.update_moments, clip_norm=clip_norm)
        params = functools.partial(optimiser.update_params, learning_rate=learning_rate)
        self._moments = jax.jit(meshes.over_runs(moments, self.mesh, 0), donate_argnums=0)
        self._params = jax.jit(meshes.over_runs(params, self.mesh, 0), donate_argnums=0)

        state = self.state_shape

        def compile_gradient(bucket: steps.Bucket) -> Callable[..., Any]:
            return gradient.lower(bucket, state.params, state.counters, run_shape, rows, mask).compile()

        def compile_score(bucket: steps.Bucket) -> Callable[..., Any]:
            return score.lower(bucket, state.params, run_shape.statistics, rows).compile()

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            gradients = pool.map(compile_gradient, self.buckets if training else [])
            scores = pool.map(compile_score, self.buckets)
            self._gradient, self._score = list(gradients), list(scores)
        self.seconds = time.monotonic() - begin

    def train(self, bucket: int, state: steps.TrainState, run: Any, rows: Any, mask: Any) -> steps.TrainState:
        """One `train_step` of every run of the group, as three programs (see optimiser.py); the state is consumed.

        Args:
          bucket: Number of the bucket that the batches are from.
          state: State of the group.
          run: Constants of the runs.
          rows: [R, B] i32.
          mask: [R, B] bool.

        Returns:
          The new state.
        """
        found, counters = self._gradient[bucket](
            self.buckets[bucket], state.params, state.counters, run, *self.put((rows, mask))
        )
        adam = self._moments(state.adam, found.gradient, found.norm, found.good)
        return steps.TrainState(self._params(state.params, adam, found.good), adam, counters)

    def score(self, bucket: int, params: Any, statistics: Any, rows: Any) -> jax.Array:
        """Returns the logits [R, B, K] of one batch [R, B] of rows of every run of the group."""
        return self._score[bucket](self.buckets[bucket], params, statistics, self.put(rows))

    def _apply(self, params: Any, inputs: Any) -> Any:
        return self._model.apply({"params": params}, inputs)

    def _group_shape(self, tree: Any) -> Any:
        sharding = meshes.per_run(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.size, *leaf.shape), leaf.dtype, sharding=sharding), tree
        )

    def put(self, tree: Any) -> Any:
        """Puts arrays with a leading run axis on the devices of their runs."""
        return jax.device_put(tree, meshes.per_run(self.mesh))

    def init(self, keys: list[int]) -> steps.TrainState:
        """Returns the initial state of a group.

        Args:
          keys: One number per run, from which its parameters are drawn.
        """
        states = [jax.device_get(self._init(jax.random.key(key), self._example)) for key in keys]
        return self.put(jax.tree.map(lambda *leaves: np.stack(leaves), *states))

    @functools.cached_property
    def parameters(self) -> int:
        """Number of trained parameters of one run."""
        return sum(leaf.size // self.size for leaf in jax.tree.leaves(self.state_shape.params))


def _init(key: jax.Array, example: Any, *, model: nn.Module) -> steps.TrainState:
    return steps.init_state(model.init(key, example)["params"])


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
