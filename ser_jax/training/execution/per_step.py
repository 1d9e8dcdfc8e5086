"""Steps dispatched one by one: for CPUs, where XLA's convolution in a loop is ten times slower.

A step is two programs: gradient and moments, one for every bucket, and the parameters (step.py
says why). Where batches come from is the concern of a batch source: `ResidentBatches` gathers them
on the device, `prefetch.PrefetchedBatches` reads them from disk while earlier steps compute. Both
train the same, to the bit.
"""

import collections
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ser_jax.training import step
from ser_jax.training.execution import mesh as meshes
from ser_jax.training.execution.compilation import Compiler
from ser_jax.training.execution.executor import Executor
from ser_jax.training.execution.mesh import PER_TRIAL, REPLICATED, ROWS, STEP_ROWS
from ser_jax.training.execution.prefetch import PrefetchedBatches
from ser_jax.training.step import Bucket, TrainState, TrialConstants


class ResidentBatches:
    """Batches of buckets that lie on the devices, which gather their rows.

    Rows and masks are handed over for many steps together: a transfer for every step would cost
    more than the call.
    """

    specs = (REPLICATED, REPLICATED, STEP_ROWS, STEP_ROWS)  # bucket, step, rows, mask
    score_specs = (REPLICATED, ROWS)  # bucket, rows
    waited = 0.0  # s, for data to be read

    def __init__(self, executor: Executor):
        """Reads the buckets of an executor."""
        self._buckets, self._put, self._chunk = executor.buckets, executor._put, executor.plan.chunk
        self._steps = [self._put(np.int32(number), REPLICATED) for number in range(self._chunk)]

    @staticmethod
    def select(bucket: Bucket, number: Any, rows: Any, mask: Any) -> tuple[Bucket, Any, Any]:
        """Returns bucket, rows [B] and mask [B] of one trial's batch."""
        return bucket, rows[number], mask[number]

    @staticmethod
    def select_scored(bucket: Bucket, rows: Any) -> tuple[Bucket, Any]:
        """Returns bucket and rows [B] of one trial's batch."""
        return bucket, rows

    def example(self, bucket: Bucket, trials: int, rows: int) -> tuple[Any, ...]:
        """Returns what a program of that bucket will be given, with NumPy arrays for batches."""
        shape = (self._chunk, trials, rows)
        return bucket, np.int32(0), np.zeros(shape, np.int32), np.zeros(shape, np.bool_)

    def score_example(self, bucket: Bucket, trials: int, rows: int) -> tuple[Any, ...]:
        """Returns the same for a program that scores."""
        return bucket, np.zeros((trials, rows), np.int32)

    def prefetch(self, order: np.ndarray, rows: np.ndarray) -> None:
        """Does nothing: the batches are in memory."""

    def batches(
        self, order: np.ndarray, rows: np.ndarray, mask: np.ndarray
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields the bucket of every step and what its program takes."""
        for first in range(0, len(order), self._chunk):
            part = slice(first, first + self._chunk)
            missing = ((0, self._chunk - len(order[part])), (0, 0), (0, 0))
            both = [self._put(np.pad(values[part], missing), STEP_ROWS) for values in (rows, mask)]
            for number, bucket in enumerate(order[part].tolist()):
                yield bucket, (self._buckets[bucket], self._steps[number], *both)

    def scored(self, order: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields the bucket of every batch and what the program that scores it takes."""
        for bucket, batch in zip(order.tolist(), rows, strict=True):
            yield bucket, (self._buckets[bucket], self._put(batch, ROWS))


class PerStep(Executor):
    """Trains with two programs a step; see `Executor`."""

    def _compile(
        self, compiler: Compiler, state: TrainState, trial: TrialConstants, training: bool
    ) -> None:
        plan, mesh, model, settings = self.plan, self.mesh, self._model, self.settings
        source = PrefetchedBatches(self) if plan.streamed else ResidentBatches(self)
        self.source = source
        low_rank = step.uses_low_rank(model, settings, self._axis)

        def gradients_of(params, counters, trial, updates, *batch):
            bucket, rows, mask = source.select(*batch)
            return step.compute_gradients(
                *(model, settings, bucket, params, counters, trial, rows, mask, updates),
                axis=self._axis,
            )

        def moments_of(params, adam, gradients):
            return step.update_moments(settings, params, adam, gradients)

        def params_of(params, average, adam, valid):
            return step.update_params(settings, params, average, adam, valid, low_rank=low_rank)

        def score_of(params, statistics, *batch):
            bucket, rows = source.select_scored(*batch)
            return step.score_step(model, bucket, params, statistics, rows)

        gradients = meshes.over_trials(gradients_of, mesh, [*[PER_TRIAL] * 4, *source.specs])
        moments = meshes.over_trials(moments_of, mesh, [PER_TRIAL] * 3, squeeze=False)

        def first_half(params: Any, rest: Any, trial: TrialConstants, *batch: Any) -> Any:
            adam, counters = rest
            updates = step.updates_made(trial, adam)
            found, counters = gradients(params, counters, trial, updates, *batch)
            params, adam = moments(params, adam, found)
            return found.valid, params, (adam, counters)

        self._first_half = jax.jit(first_half, donate_argnums=(0, 1))
        self._second_half = jax.jit(
            meshes.over_trials(params_of, mesh, [PER_TRIAL] * 4, squeeze=False),
            donate_argnums=(0, 1),
        )
        self._score = jax.jit(
            meshes.over_trials(score_of, mesh, [PER_TRIAL, PER_TRIAL, *source.score_specs], ROWS)
        )

        def lower_step(bucket: Bucket) -> Any:
            batch = source.example(bucket, plan.trials, plan.rows)
            rest = state.adam, state.counters
            return self._first_half.lower(
                state.params, rest, trial, *map(self._shapes, batch, source.specs)
            )

        def lower_score(bucket: Bucket) -> Any:
            batch = source.score_example(bucket, plan.trials, plan.rows)
            return self._score.lower(
                state.params, trial.statistics, *map(self._shapes, batch, source.score_specs)
            )

        options = plan.compiler_options
        self._steps = compiler.submit(lower_step, self.buckets if training else [], options)
        self._scores = compiler.submit(lower_score, self.buckets, options)

    def prefetch(self, order: np.ndarray, rows: np.ndarray) -> None:
        """See `Executor.prefetch`."""
        self.source.prefetch(order, rows)

    @property
    def waited(self) -> float:
        """See `Executor`."""
        return self.source.waited

    def train(self, state: TrainState, trial: Any, order: Any, rows: Any, mask: Any) -> TrainState:
        """See `Executor.train`."""
        params, average, rest = state.params, state.average, (state.adam, state.counters)
        in_flight = collections.deque()
        for bucket, batch in self.source.batches(order, rows, mask):
            valid, params, rest = self._steps[bucket](params, rest, trial, *batch)
            params, average = self._second_half(params, average, rest[0], valid)
            self._synchronize(params)
            if self.plan.in_flight is not None:
                in_flight.append(valid)
                if len(in_flight) > self.plan.in_flight:
                    jax.block_until_ready(in_flight.popleft())
        adam, counters = rest
        return TrainState(params, adam, counters, average)

    def score(self, params: Any, statistics: Any, order: Any, rows: Any) -> tuple[Any, ...]:
        """See `Executor.score`."""
        logits: list[Any] = []
        for bucket, batch in self.source.scored(order, rows):
            logits.append(self._scores[bucket](params, statistics, *batch))
            if self.plan.in_flight is not None and len(logits) > self.plan.in_flight:
                jax.block_until_ready(logits[-1 - self.plan.in_flight])
        return tuple(logits)

    def _shapes(self, tree: Any, spec: Any) -> Any:
        return jax.tree.map(lambda leaf: self._shape(leaf.shape, leaf.dtype, spec), tree)
