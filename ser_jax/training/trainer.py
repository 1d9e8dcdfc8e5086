"""The only training loop: groups of trials, epoch by epoch, until every trial has its model file.

In every epoch a trial trains on a permutation of its training part. Where its validation part
chooses the epoch, it then scores that part, and the parameters of the best epoch are kept (higher
validation UA, then lower validation loss). Other trials train for a fixed number of epochs, which
an earlier trial has found. The loop resumes from the newest checkpoint, at the step of that.

`BatchSampler` says which utterances a group trains on and scores; an executor computes.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ser_jax.data import epoch_plans
from ser_jax.data.dataset import Dataset
from ser_jax.data.standardise import Statistics
from ser_jax.protocols.protocol import Fold, Protocol, stratum_weights
from ser_jax.runtime import machine
from ser_jax.runtime.progress import Advance, counted, progress
from ser_jax.runtime.signals import Interrupted, Watch
from ser_jax.training import checkpoint, early_stopping, metrics_log, model_files, scoring
from ser_jax.training.execution.executor import Executor
from ser_jax.training.step import TrialConstants
from ser_jax.training.trials import (
    CHOOSE_EPOCH,
    FIXED_EPOCHS,
    Trial,
    TrialGroup,
    TrialRecord,
    TrialRegistry,
    folds_of_phases,
    trial_groups,
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """The part of `config.training` that the loop reads; see config.py for units and sources."""

    epochs: int
    batch_size: int
    class_weights: str
    refit: str
    checkpoint_seconds: float


class BatchSampler:
    """Statistics, class weights, batches and validation parts of the trials of one protocol."""

    def __init__(
        self, protocol: Protocol, dataset: Dataset, executor: Executor, settings: LoopSettings
    ):
        """Counts the batches of an epoch."""
        self._protocol, self._dataset, self._executor = protocol, dataset, executor
        self._settings = settings
        self.folds = folds_of_phases(protocol, settings.refit)  # by phase and name
        self._steps = {
            phase: self._steps_for([fold.train for fold in folds.values()])
            for phase, folds in self.folds.items()
        }
        self._validation_steps = self._steps_for(
            [fold.validation for fold in self.folds[CHOOSE_EPOCH].values()]
        )
        self._statistics: dict[Fold, Statistics] = {}

    def statistics(self, fold: Fold) -> Statistics:
        """Returns the statistics of a fold's training part, the same for all seeds."""
        if fold not in self._statistics:
            self._statistics[fold] = self._dataset.statistics(fold.train)
        return self._statistics[fold]

    def constants(self, trials: list[Trial]) -> TrialConstants:
        """Returns the constants of trials of one phase, on the devices."""
        by_fold = {}
        for fold in {trial.fold.name: trial.fold for trial in trials}.values():
            strata = self._protocol.strata[fold.train]
            sizes = len(self._protocol.classes) * len(self._protocol.corpora)
            weights = np.ones(sizes)
            if self._settings.class_weights == "balanced":
                weights = stratum_weights(strata, sizes)
            weights = weights.astype(np.float32)
            statistics = self._dataset.device_statistics(self.statistics(fold))
            by_fold[fold.name] = TrialConstants(statistics, weights)
            if self._executor.settings.equal_weights:
                rows = self._dataset.rows(fold.train)
                batches = epoch_plans.count_batches(rows, self._settings.batch_size)
                mean = np.float32(weights[strata].sum() / batches)
                by_fold[fold.name] = by_fold[fold.name]._replace(batch_weight=mean)
        constants = [by_fold[trial.fold.name]._replace(key=self._key(trial)) for trial in trials]
        return self._executor.put(self.stack(constants))

    def _key(self, trial: Trial) -> np.ndarray | None:
        if not self._executor.settings.draws:
            return None
        draw = epoch_plans.generator("dropout", trial.seed, trial.fold.name)
        return draw.integers(2**32, size=2, dtype=np.uint32)

    def epoch(
        self, trials: list[Trial], active: list[bool], epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns order [S], rows and mask [S, R, B] of an epoch, from 1; see `Executor.train`.

        Trials that are not active, and the repeated trial of a group that is not full, get no row.
        """
        steps = self._steps[trials[0].phase]
        order = epoch_plans.shape_order(steps, protocol=self._protocol.sha256, epoch=epoch)
        idle = self._executor.plan.trials - len(trials)
        batches = []
        filled = [*trials, *trials[-1:] * idle]
        variants = len(self._dataset.versions) - 1
        for trial, trains in zip(filled, [*active, *[False] * idle], strict=True):
            draw: Any = {"protocol": self._protocol.sha256, "seed": trial.seed}
            draw |= {"fold": trial.fold.name, "epoch": epoch}
            version = epoch_plans.versions(variants, len(self._protocol.ids), **draw)
            rows = self._dataset.rows(trial.fold.train, version)
            if not trains:
                rows = [part[:0] for part in rows]
            batches.append(
                epoch_plans.training_batches(rows, steps, self._settings.batch_size, **draw)
            )
        rows, mask = epoch_plans.in_order(order, batches)
        return order, rows, mask

    def validation(
        self, trials: list[Trial]
    ) -> tuple[np.ndarray, np.ndarray, early_stopping.Validation]:
        """Returns order [S] and rows [S, R, B] of the validation parts, and what these rows are."""
        steps = self._validation_steps
        order = np.repeat(np.arange(len(steps)), steps)
        parts = [self._dataset.rows(trial.fold.validation) for trial in trials]
        parts += [parts[-1]] * (self._executor.plan.trials - len(trials))
        size = self._settings.batch_size
        rows, mask = epoch_plans.in_order(
            order, [epoch_plans.scoring_batches(part, size, steps) for part in parts]
        )
        targets = np.stack(
            [self._dataset.targets[bucket][rows[step]] for step, bucket in enumerate(order)]
        ) % len(self._protocol.classes)
        chunk = self._executor.score_chunk
        filled = -(-len(order) // chunk) * chunk
        part = early_stopping.Validation(*(_by_trial(leaf, filled) for leaf in (targets, mask)))
        return order, rows, self._executor.put(part)

    def stack(self, trees: list[Any]) -> Any:
        """Stacks trees of the trials; a group that is not full repeats its last trial."""
        trees = trees + [trees[-1]] * (self._executor.plan.trials - len(trees))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    def _steps_for(self, parts: list[np.ndarray]) -> np.ndarray:
        """Returns [buckets], how many batches of each shape hold any of the parts."""
        if not parts:
            return np.zeros(len(self._dataset.buckets), np.int64)
        return epoch_plans.steps_per_bucket(
            [self._dataset.rows(part) for part in parts], self._settings.batch_size
        )


def _by_trial(values: np.ndarray, steps: int) -> np.ndarray:
    """Turns [S, R, B] into [R, steps · B]; zeros stand for the steps that are missing."""
    filled = np.pad(values, ((0, steps - len(values)), (0, 0), (0, 0)))
    return np.moveaxis(filled, 1, 0).reshape(values.shape[1], -1)


class Trainer:
    """Trains the trials of one protocol in one run directory."""

    def __init__(
        self,
        protocol: Protocol,
        dataset: Dataset,
        executor: Executor,
        settings: LoopSettings,
        workdir: Path,
        description: dict[str, Any],
        calibrate: Callable[[np.ndarray, np.ndarray], float],
        folder: Path | None = None,
        trained_with: dict[str, Any] | None = None,
        initial: Mapping[str, Mapping[str, Any]] | None = None,
        listen: Callable[[list[dict[str, Any]]], None] = lambda lines: None,
    ):
        """Prepares training.

        Args:
          protocol: The protocol.
          dataset: Its utterances.
          executor: Trains and scores groups of trials.
          settings: Settings of the loop.
          workdir: The run directory.
          description: What every `model.json` repeats: system, classes, configuration.
          calibrate: Validation logits [n, K] f64 and class numbers [n] → temperature of a trial.
          folder: Where checkpoints and lines of metrics are kept, if not in the run directory.
          trained_with: What fixes the bits of a training here; recorded for every trial.
          initial: Per name of a fold the parameters to start from, see `Executor.init`; None:
            random ones.
          listen: Called with lines of metrics when they have been written.
        """
        self.listen = listen
        self.protocol, self.dataset, self.executor = protocol, dataset, executor
        self.settings, self.calibrate = settings, calibrate
        self.trained_with, self.initial = trained_with, initial
        self.folder = folder or workdir
        self.sampler = BatchSampler(protocol, dataset, executor, settings)
        self.registry = TrialRegistry(
            workdir, self.sampler.folds, description, self.sampler.statistics
        )

    def train(self, trials: list[Trial]) -> None:
        """Trains every trial that has no model file yet.

        Trials must include those that others take their number of epochs from.

        Raises:
          Interrupted: After SIGTERM or Ctrl-C, when a checkpoint of the current step is on disk.
        """
        registry, most = self.registry, self.settings.epochs
        pending = [trial for trial in trials if not registry.finished(trial)]
        if not pending:
            return
        registry.check(trials)
        first = registry.to_choose_epoch(pending)
        # How many epochs a second phase takes is not known before the first has ended: the progress
        # bar counts the most, and skips what turns out to be left.
        total = most * sum(len(registry.phases(trial)) for trial in trials)
        second = most * sum(FIXED_EPOCHS in registry.phases(trial) for trial in pending)
        with checkpoint.open_checkpoints(self.folder / "checkpoints") as checkpoints:
            requested = [*first, *registry.to_train_fixed(pending)]
            resumed, position = self._saved(checkpoints, requested)
            done = sum(record["epochs"] for record in position["records"]) if resumed else 0
            start = total - most * len(first) - second + done
            with Watch() as watch, progress("training", total, "epochs", start) as advance:
                self._train_phase(first, checkpoints, watch, advance)
                fixed = registry.to_train_fixed(pending)
                advance(0, skipped=second - sum(trial.epochs or 0 for trial in fixed))
                self._train_phase(fixed, checkpoints, watch, advance)

    def _train_phase(
        self, trials: list[Trial], checkpoints: Any, watch: Watch, advance: Advance
    ) -> None:
        resumed, position = self._saved(checkpoints, trials)
        if resumed:
            log.info("resuming %s at epoch %d", ", ".join(position["runs"]), position["epoch"])
            for group in self._resume(checkpoints, resumed, position):
                self._train_group(group, checkpoints, watch, advance)
        rest = [trial for trial in trials if trial not in resumed]
        for members in trial_groups(rest, self.executor.plan.trials):
            metrics_log.drop_lines(self.folder, members, after=0)
            machine.return_freed_memory()
            self._train_group(self._new_group(members), checkpoints, watch, advance)

    def _saved(self, checkpoints: Any, trials: list[Trial]) -> tuple[list[Trial], dict[str, Any]]:
        """Returns the trials of the newest checkpoint, if all are requested, and its position."""
        position = checkpoints.position
        if position is None:
            return [], {}
        saved = list(zip(position["runs"], position["given_epochs"], strict=True))
        found = [trial for key in saved for trial in trials if (trial.name, trial.epochs) == key]
        return (found if len(found) == len(saved) else []), position

    def _new_group(self, trials: list[Trial]) -> TrialGroup:
        keys = [
            int(epoch_plans.generator("init", trial.seed, trial.fold.name).integers(2**32))
            for trial in trials
        ]
        given = [self.initial[trial.fold.name] for trial in trials] if self.initial else []
        idle = self.executor.plan.trials - len(trials)
        state, best = self.executor.init(keys + keys[-1:] * idle, given + given[-1:] * idle)
        return TrialGroup(
            trials,
            [TrialRecord() for _ in trials],
            self.sampler.constants(trials),
            self._epoch_end_inputs(trials),
            state,
            best if trials[0].phase == CHOOSE_EPOCH else None,
        )

    def _resume(
        self, checkpoints: Any, trials: list[Trial], position: dict[str, Any]
    ) -> Iterator[TrialGroup]:
        """Yields the trials of the newest checkpoint; it may be of a larger group than fits now."""
        like: dict[str, Any] = {"state": self.executor.state_shape}
        if trials[0].phase == CHOOSE_EPOCH:
            like["best"] = self.executor.best_shape
        saved = checkpoints.restore(like)
        metrics_log.drop_lines(self.folder, trials, after=position["epoch"] - 1)
        size = self.executor.plan.trials
        for start in range(0, len(trials), size):
            places = range(len(trials))[start : start + size]
            of_trials = [jax.tree.map(lambda leaf, n=n: leaf[n], saved) for n in places]
            arrays = self.executor.put(self.sampler.stack(of_trials))
            members = [trials[n] for n in places]
            yield TrialGroup(
                members,
                [TrialRecord(**position["records"][n]) for n in places],
                self.sampler.constants(members),
                self._epoch_end_inputs(members),
                arrays["state"],
                arrays.get("best"),
                position["epoch"],
                position["step"],
            )

    def _train_group(
        self, group: TrialGroup, checkpoints: Any, watch: Watch, advance: Advance
    ) -> None:
        def save() -> None:
            """Saves, then leaves if a signal has come, be it during the save."""
            self._read_scores(group, advance, delay=0)
            checkpoints.save(group.arrays(), group.position())
            if watch.received is not None:
                raise Interrupted(watch.received)

        executor = self.executor
        for record in group.records:
            if self.trained_with and record.active:
                record.trains_with(self.trained_with)
        watch.saves = False  # Nothing is new yet, and its first program may take long to compile.
        saved = group.begin = time.monotonic()
        planned = [trial.epochs or self.settings.epochs for trial in group.trials]
        while group.epoch <= max(planned) and any(record.active for record in group.records):
            active = [record.active for record in group.records]
            order, rows, mask = self.sampler.epoch(group.trials, active, group.epoch)
            executor.prefetch(order[group.step :], rows[group.step :])
            while group.step < len(order):
                part = slice(group.step, group.step + executor.next_chunk())
                group.state = executor.train(
                    group.state, group.constants, order[part], rows[part], mask[part]
                )
                group.step = min(part.stop, len(order))
                watch.saves = True
                if watch.received is not None:
                    save()
            self._end_epoch(group)
            self._read_scores(group, advance, executor.plan.metrics_delay)
            interval = self.settings.checkpoint_seconds
            if watch.received is not None or time.monotonic() - saved > interval:
                save()
                saved = time.monotonic()
        self._read_scores(group, advance, delay=0)
        advance(0, skipped=sum(planned) - sum(record.epochs for record in group.records))
        self._write_models(group)
        if watch.received is not None:
            raise Interrupted(watch.received)

    def _epoch_end_inputs(self, trials: list[Trial]) -> Any:
        """Returns what ends the epochs of a group; see `TrialGroup`."""
        if trials[0].phase == FIXED_EPOCHS:
            last = [np.int32(trial.epochs or 0) for trial in trials]
            return self.executor.put(self.sampler.stack(last))
        return self.sampler.validation(trials)

    def _end_epoch(self, group: TrialGroup) -> None:
        """Scores the validation parts, if any, and decides on the devices; the host reads later."""
        state = group.state
        if group.best is None:
            counters, scores = self.executor.end_epoch_without_validation(
                state.counters, group.epoch, group.epoch_end_inputs, state.model
            )
        else:
            order, rows, part = group.epoch_end_inputs
            logits = self.executor.score(state.model, group.constants.statistics, order, rows)
            group.best, counters, scores = self.executor.end_epoch(
                group.best, state.counters, group.epoch, state.model, logits, part
            )
        group.state = state._replace(counters=counters)
        group.unread.append((group.epoch, scores))
        group.epoch, group.step = group.epoch + 1, 0

    def _read_scores(self, group: TrialGroup, advance: Advance, delay: int) -> None:
        """Takes finished epochs into the records and metrics.jsonl, but for the last `delay`."""
        while len(group.unread) > delay:
            epoch, scores = group.unread.pop(0)
            self._record_epoch(group, epoch, jax.device_get(scores), advance)

    def _record_epoch(
        self, group: TrialGroup, epoch: int, scores: early_stopping.Scores, advance: Advance
    ) -> None:
        now = time.monotonic()
        seconds, group.begin = now - group.begin, now
        lines, trained, notes = [], 0, []
        active = [n for n in range(len(group.trials)) if scores.trained[n]]
        for n in active:
            trial, record = group.trials[n], group.records[n]
            record.epochs = epoch
            record.seconds += seconds / len(active)
            trained += len(trial.fold.train)
            skipped = int(scores.skipped[n]) - record.skipped
            if skipped:
                log.warning(
                    "%s: %s skipped in epoch %d because loss or gradient was not finite",
                    *(trial.name, counted(skipped, "update"), epoch),
                )
            record.skipped += skipped
            if scores.diverged[n]:
                record.status = model_files.DIVERGED
                message = "%s has diverged in epoch %d: non-finite gradients or scores"
                log.error(message, trial.name, epoch)
                continue
            own = jax.tree.map(lambda leaf, n=n: leaf[n], scores)
            line = metrics_log.make_line(trial, epoch, own, seconds)
            notes.append(f"{trial.name} loss {line['loss']:.3f}")
            if own.better is not None:
                notes[-1] += f" UA {100 * line['validation_ua']:.1f}"
                if own.better:
                    record.best_epoch = epoch
                    record.best_ua, record.best_wa = line["validation_ua"], line["validation_wa"]
                    record.best_loss = line["validation_loss"]
            if own.stopped:
                record.status = "stopped"
            lines.append(line)
        metrics_log.append_lines(self.folder, lines)
        self.listen(lines)
        advance(len(active), f"{' · '.join(notes)} · {trained / seconds:,.0f} utterances/s")

    def _write_models(self, group: TrialGroup) -> None:
        """Writes the best parameters of every trial, or those after its fixed number of epochs."""
        temperatures: list[float | None] = [None] * len(group.trials)
        params = group.state.model  # A trial that stopped has not changed since.
        if group.best is not None:
            params = group.best.params
            temperatures = self._temperatures(group, params)
        params = jax.device_get(params)
        for n, (trial, record) in enumerate(zip(group.trials, group.records, strict=True)):
            own = jax.tree.map(lambda leaf, n=n: leaf[n], params)
            self.registry.finish(trial, record, own, temperatures[n])

    def _temperatures(self, group: TrialGroup, params: Any) -> list[float | None]:
        """Returns the temperature of every trial with these parameters; None if it has diverged."""
        parts = [
            trial.fold.validation[: 0 if record.status == model_files.DIVERGED else None]
            for trial, record in zip(group.trials, group.records, strict=True)
        ]
        parts += [parts[-1][:0]] * (self.executor.plan.trials - len(parts))
        logits = scoring.group_logits(
            *(self.executor, self.dataset, params, group.constants.statistics, parts),
            self.settings.batch_size,
        )
        return [
            self.calibrate(values, self.protocol.targets[part]) if len(part) else None
            for values, part in zip(logits, parts, strict=True)
        ]
