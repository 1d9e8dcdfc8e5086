"""The base of both executors: data on the devices, initial states, ends of epochs.

`per_step.PerStep` dispatches every step by itself (CPUs), `scanned.Scanned` many at once
(accelerators). Both train on the same batches in the same order.
"""

import abc
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ser_jax.data.dataset import Dataset
from ser_jax.runtime.progress import counted
from ser_jax.training import early_stopping
from ser_jax.training.execution import mesh as meshes
from ser_jax.training.execution.compilation import Compiler, tracing
from ser_jax.training.execution.mesh import PER_TRIAL, REPLICATED
from ser_jax.training.execution.plan import ExecutionPlan
from ser_jax.training.step import Bucket, Counters, TrainSettings, TrainState, TrialConstants
from ser_jax.training.step import init_state as initial_state

log = logging.getLogger(__name__)


class Executor(abc.ABC):
    """Trains and scores groups of trials with programs compiled for one group size.

    Attributes: `chunk`, steps that are handed over at once when all is compiled; `state_shape` and
    `best_shape`, shapes of the state of a group and of its best epochs; `seconds`, wall time until
    programs could be used (most are still being compiled then).
    """

    score_chunk = 1  # batches whose logits come together

    def __init__(
        self,
        plan: ExecutionPlan,
        model: nn.Module,
        dataset: Dataset,
        settings: TrainSettings,
        *,
        initial_params: Callable[[jax.Array], Any],
        classes: int,
        devices: list[Any],
        training: bool = True,
    ):
        """Puts the data on the devices and starts to compile the programs of every bucket.

        `initial_params` draws parameters from a key. Without `training` only the programs that
        score are compiled.
        """
        self.plan, self.settings, self.chunk = plan, settings, plan.chunk
        self.mesh = meshes.make_mesh(devices, plan.mesh_shape)
        self._model, self._initial_params = model, initial_params
        self._axis = meshes.DATA if plan.mesh_shape[1] > 1 else None
        buckets = list(map(Bucket, dataset.buckets, dataset.targets))
        if not plan.streamed:
            buckets = [self._put(bucket, REPLICATED) for bucket in buckets]
        self.buckets = tuple(buckets)
        self._init = jax.jit(self._init_state)
        no_best = functools.partial(early_stopping.no_best_epoch, classes=classes)
        self._no_best = jax.jit(meshes.over_trials(no_best, self.mesh, [PER_TRIAL]))
        end_epoch = functools.partial(early_stopping.end_epoch, patience=settings.patience)
        specs = [PER_TRIAL, PER_TRIAL, REPLICATED, PER_TRIAL, PER_TRIAL, PER_TRIAL]
        self._end_epoch = jax.jit(
            meshes.over_trials(end_epoch, self.mesh, specs), donate_argnums=(0, 1)
        )
        self._end_fixed_epoch = jax.jit(
            meshes.over_trials(
                early_stopping.end_epoch_without_validation,
                self.mesh,
                [PER_TRIAL, REPLICATED, PER_TRIAL, PER_TRIAL],
            ),
            donate_argnums=0,
        )
        self._begin = time.monotonic()
        shapes = jax.eval_shape(self._init, jax.random.key(0), {})
        self.state_shape: TrainState = self._group_shape(shapes)
        self.best_shape = jax.eval_shape(self._no_best, self.state_shape.params)
        statistics = dataset.device_statistics(dataset.statistics(dataset.utterances(0)[:1]))
        key = np.zeros(2, np.uint32) if settings.draws else None
        last = max(int(part.max(initial=0)) for part in dataset.targets)
        weights = np.zeros(classes * (1 + last // classes), np.float32)
        batch_weight = np.float32(1) if settings.equal_weights else None
        trial = self._group_shape(TrialConstants(statistics, weights, key, batch_weight))
        self._compiler, self._compiled = Compiler(), False
        self._compile(self._compiler, self.state_shape, trial, training)
        self.seconds = time.monotonic() - self._begin

    @abc.abstractmethod
    def _compile(
        self, compiler: Compiler, state: TrainState, trial: TrialConstants, training: bool
    ) -> None:
        """Starts to compile the programs, for these shapes of a group."""

    @abc.abstractmethod
    def train(
        self, state: TrainState, trial: Any, order: np.ndarray, rows: np.ndarray, mask: np.ndarray
    ) -> TrainState:
        """Makes one `step.train_step` per batch for every trial of the group.

        Args:
          state: State of the group; it is consumed.
          trial: Constants of the trials.
          order: [S] integers, the bucket of every step.
          rows: [S, R, B] i32, the batches: rows of the buckets.
          mask: [S, R, B] bool, True = a real utterance of the trial.
        """

    @abc.abstractmethod
    def score(
        self, params: Any, statistics: Any, order: np.ndarray, rows: np.ndarray
    ) -> tuple[jax.Array, ...]:
        """Scores batches; `order` and `rows` as for `train`.

        Returns:
          Logits: arrays [R, …, K] that together hold, trial by trial, the rows of all S batches in
          order, and behind them those of steps that fill up the last chunk.
        """

    def prefetch(self, order: np.ndarray, rows: np.ndarray) -> None:  # noqa: B027 (optional)
        """Names the batches that `train` will be given next, so that they can be read ahead."""

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for data so far; 0 where these are in memory."""
        return 0.0

    def next_chunk(self) -> int:
        """Returns how many training steps to hand over next.

        As long as programs are being compiled it is one, so that a signal waits for one of them.
        """
        if not self._compiled and self._compiler.done:
            self._compiled = True
            seconds = time.monotonic() - self._begin
            log.info("compiled %s in %.1f s", counted(len(self._compiler), "program"), seconds)
        return self.chunk if self._compiled else 1

    def wait(self) -> None:
        """Returns when all programs are compiled."""
        self._compiler.wait()

    def stop_compiling(self) -> None:
        """Drops what is not being compiled yet, so that the process may leave."""
        self._compiler.cancel()

    def init(
        self, keys: list[int], given: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[TrainState, early_stopping.Best]:
        """Returns the initial state of a group.

        Args:
          keys: Per trial, a number to draw its parameters from.
          given: Per trial, those at the top of its tree of parameters that are not drawn; empty:
            all are.
        """
        with tracing:  # Nothing can begin before this.
            states = [
                jax.device_get(self._init(jax.random.key(key), own))
                for key, own in zip(keys, given or [{}] * len(keys), strict=True)
            ]
            state = self.put(jax.tree.map(lambda *leaves: np.stack(leaves), *states))
            return state, self._no_best(state.params)

    def end_epoch(
        self,
        best: early_stopping.Best,
        counters: Counters,
        epoch: int,
        params: Any,
        logits: Any,
        part: early_stopping.Validation,
    ) -> tuple[early_stopping.Best, Counters, early_stopping.Scores]:
        """`early_stopping.end_epoch` of every trial; `best` and `counters` are consumed."""
        self._synchronize(logits)
        number = self._put(np.int32(epoch), REPLICATED)
        return self._synchronize(self._end_epoch(best, counters, number, params, logits, part))

    def end_epoch_without_validation(
        self, counters: Counters, epoch: int, last: Any, params: Any
    ) -> tuple[Counters, early_stopping.Scores]:
        """`early_stopping.end_epoch_without_validation` of every trial; `counters` are consumed."""
        number = self._put(np.int32(epoch), REPLICATED)
        return self._synchronize(self._end_fixed_epoch(counters, number, last, params))

    def put(self, tree: Any) -> Any:
        """Puts arrays with a leading trial axis on the devices of their trials."""
        return self._put(tree, PER_TRIAL)

    @functools.cached_property
    def parameters(self) -> int:
        """Number of trained parameters of one trial."""
        leaves = jax.tree.leaves(self.state_shape.params)
        return sum(leaf.size // self.plan.trials for leaf in leaves)

    def _init_state(self, key: jax.Array, given: Mapping[str, Any]) -> TrainState:
        return initial_state({**self._initial_params(key), **given}, self.settings)

    def _put(self, tree: Any, spec: Any) -> Any:
        return jax.device_put(tree, meshes.sharding(self.mesh, spec))

    def _synchronize(self, tree: Any) -> Any:
        return jax.block_until_ready(tree) if self.plan.synchronize else tree

    def _shape(self, sizes: tuple[int, ...], dtype: Any, spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=meshes.sharding(self.mesh, spec))

    def _group_shape(self, tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: self._shape((self.plan.trials, *leaf.shape), leaf.dtype, PER_TRIAL), tree
        )
