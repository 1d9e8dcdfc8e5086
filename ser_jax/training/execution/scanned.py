"""Many steps in one program: for accelerators, which would otherwise wait for the host.

The program goes through the steps by `lax.scan` and chooses the bucket of each by `lax.switch`. All
trials of a group take the same bucket in the same step, so the switch is a real branch.
"""

from typing import Any

import jax
import numpy as np
from jax import lax

from ser_jax.training import step
from ser_jax.training.execution import mesh as meshes
from ser_jax.training.execution.compilation import Compiler
from ser_jax.training.execution.executor import Executor
from ser_jax.training.execution.mesh import PER_TRIAL, REPLICATED, STEP_ROWS, STEPS_PER_TRIAL
from ser_jax.training.step import TrainState, TrialConstants

SCORING, TRAINING = 0, 1  # numbers of the programs


class Scanned(Executor):
    """Trains with programs of `plan.chunk` steps each; see `Executor`."""

    def _compile(
        self, compiler: Compiler, state: TrainState, trial: TrialConstants, training: bool
    ) -> None:
        """A program holds all buckets, so there is one for training and one for scoring."""
        plan, mesh, model, settings = self.plan, self.mesh, self._model, self.settings
        self.score_chunk = plan.chunk

        def gradients_of(bucket):
            return lambda *arguments: step.compute_gradients(
                model, settings, bucket, *arguments, axis=self._axis
            )

        def train(buckets, state, trial, order, rows, mask):
            def one(state: TrainState, batch: Any) -> tuple[TrainState, None]:
                number, rows, mask = batch
                gradients, counters = lax.switch(
                    *(number, list(map(gradients_of, buckets)), state.params, state.counters),
                    *(trial, rows, mask, step.updates_made(trial, state.adam)),
                )
                return step.apply_gradients(settings, state, gradients, counters), None

            return lax.scan(one, state, (order, rows, mask))[0]

        def logits_of(bucket):
            return lambda *arguments: step.score_step(model, bucket, *arguments)

        def score(buckets, params, statistics, order, rows):
            def one(_, batch: Any) -> tuple[None, jax.Array]:
                number, rows = batch
                branches = list(map(logits_of, buckets))
                return None, lax.switch(number, branches, params, statistics, rows)

            return lax.scan(one, None, (order, rows))[1]

        specs = [REPLICATED, PER_TRIAL, PER_TRIAL, REPLICATED, STEP_ROWS]
        self._train = jax.jit(
            meshes.over_trials(train, mesh, [*specs, STEP_ROWS]), donate_argnums=1
        )
        self._score = jax.jit(meshes.over_trials(score, mesh, specs, STEPS_PER_TRIAL))
        order = self._shape((plan.chunk,), np.int32, REPLICATED)
        batch = (plan.chunk, plan.trials, plan.rows)
        rows, mask = (self._shape(batch, dtype, STEP_ROWS) for dtype in (np.int32, np.bool_))

        def lower_train() -> Any:
            return self._train.lower(self.buckets, state, trial, order, rows, mask)

        def lower_score() -> Any:
            return self._score.lower(self.buckets, state.params, trial.statistics, order, rows)

        programs = [lower_score, lower_train] if training else [lower_score]
        self._programs = compiler.submit(lambda lower: lower(), programs)
        # Minutes, maybe: before training begins, which would have to save when it is stopped.
        compiler.wait()

    def train(self, state: TrainState, trial: Any, order: Any, rows: Any, mask: Any) -> TrainState:
        """See `Executor.train`; the last chunk is filled up with steps that change nothing."""
        for start in range(0, len(order), self.plan.chunk):
            part = slice(start, start + self.plan.chunk)
            batches = self._put_chunk(order[part], rows[part], mask[part])
            state = self._programs[TRAINING](self.buckets, state, trial, *batches)
            self._synchronize(state)
        return state

    def score(self, params: Any, statistics: Any, order: Any, rows: Any) -> tuple[Any, ...]:
        """See `Executor.score`."""
        logits = []
        for start in range(0, len(order), self.plan.chunk):
            part = slice(start, start + self.plan.chunk)
            batches = self._put_chunk(order[part], rows[part])
            logits.append(self._programs[SCORING](self.buckets, params, statistics, *batches))
        return tuple(logits)

    def _put_chunk(self, order: np.ndarray, *batches: np.ndarray) -> Any:
        missing = self.plan.chunk - len(order)
        filled = tuple(np.pad(batch, ((0, missing), (0, 0), (0, 0))) for batch in batches)
        numbers = np.pad(order, (0, missing)).astype(np.int32)
        return self._put(numbers, REPLICATED), *self._put(filled, STEP_ROWS)
