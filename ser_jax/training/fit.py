"""The only training loop: groups of runs, epoch by epoch, until every run of the protocol has its model file.

Per epoch each run trains on a permutation of its training part, then scores its validation part; the parameters of the
best epoch are kept (higher validation UA, then lower validation loss). The loop resumes from the newest checkpoint, at
the step where that was saved.
"""

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ser_jax import atomic, metrics
from ser_jax.arrays import plans
from ser_jax.arrays.dataset import Dataset
from ser_jax.arrays.standardise import Statistics
from ser_jax.progress import Advance, progress
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.training import checkpoint, memory, model_files, selection
from ser_jax.training.group import Group, Record
from ser_jax.training.interrupt import Interrupted, Watch
from ser_jax.training.programs import Programs
from ser_jax.training.runs import Run, groups
from ser_jax.training.step import RunConstants

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The part of `config.training` that the loop reads; see config.py for units and sources."""

    epochs: int
    batch_size: int
    class_weights: str
    checkpoint_seconds: float


class Trainer:
    """Trains the runs of one protocol in one run directory."""

    def __init__(
        self,
        protocol: Protocol,
        dataset: Dataset,
        programs: Programs,
        settings: Settings,
        workdir: Path,
        description: dict[str, Any],
    ):
        """Prepares training.

        Args:
          protocol: The protocol.
          dataset: Its utterances.
          programs: Compiled programs of a group.
          settings: Settings of the loop.
          workdir: The run directory.
          description: What every `model.json` repeats: system, classes, configuration.
        """
        self.protocol = protocol
        self.dataset = dataset
        self.programs = programs
        self.settings = settings
        self.workdir = workdir
        self.description = description
        fold_rows = [dataset.rows(fold.train) for fold in protocol.folds]
        self.steps = plans.steps_per_bucket(fold_rows, settings.batch_size)
        validation_rows = [dataset.rows(fold.validation) for fold in protocol.folds]
        self.validation_steps = plans.steps_per_bucket(validation_rows, settings.batch_size)
        self._statistics: dict[str, Statistics] = {}

    def train(self, runs: list[Run]) -> None:
        """Trains every run that has no model file yet.

        Args:
          runs: The runs wanted.

        Raises:
          Interrupted: After SIGTERM or Ctrl-C, when a checkpoint of the current step is on disk.
        """
        pending = [run for run in runs if model_files.read_description(self._folder(run)) is None]
        if not pending:
            return
        total = len(runs) * self.settings.epochs
        done = (len(runs) - len(pending)) * self.settings.epochs
        with checkpoint.manager(self.workdir / "checkpoints") as checkpoints:
            position = checkpoint.restore(checkpoints) or {"runs": [], "epoch": 1}
            resumed = [run for name in position["runs"] for run in pending if run.name == name]
            start = done + len(resumed) * (position["epoch"] - 1)
            with Watch() as watch, progress("training", total, "epochs", start) as advance:
                if resumed and [run.name for run in resumed] == position["runs"] and len(resumed) <= self.programs.size:
                    log.info("resuming %s at epoch %d", ", ".join(position["runs"]), position["epoch"])
                    group = self._resume(checkpoints, resumed, position)
                    self._train_group(group, checkpoints, watch, advance)
                    pending = [run for run in pending if run not in resumed]
                for members in groups(pending, self.programs.size):
                    self._drop_metrics(members, after=0)
                    memory.return_freed_memory()
                    self._train_group(self._new_group(members), checkpoints, watch, advance)

    def constants(self, runs: list[Run]) -> RunConstants:
        """Returns statistics and class weights of the runs; a group that is not full repeats its last run."""
        by_fold = {}
        for run in runs:
            if run.fold.name not in by_fold:
                train = run.fold.train
                counts = np.bincount(self.protocol.targets[train], minlength=len(self.protocol.classes))
                weights = np.ones(len(counts))
                if self.settings.class_weights == "balanced":
                    weights = len(train) / (len(counts) * counts)
                statistics = self.dataset.device_statistics(self._fold_statistics(run.fold))
                by_fold[run.fold.name] = RunConstants(statistics, weights.astype(np.float32))
        return self.programs.put(self._stack([by_fold[run.fold.name] for run in runs]))

    def _fold_statistics(self, fold: Fold) -> Statistics:
        """Returns the statistics of a fold's training part: one for all seeds, for training and the model file."""
        if fold.name not in self._statistics:
            self._statistics[fold.name] = self.dataset.statistics(fold.train)
        return self._statistics[fold.name]

    def _folder(self, run: Run) -> Path:
        return self.workdir / "models" / run.name

    def _stack(self, trees: list[Any]) -> Any:
        trees = trees + [trees[-1]] * (self.programs.size - len(trees))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    def _new_group(self, runs: list[Run]) -> Group:
        keys = [int(plans.generator("init", run.seed, run.fold.name).integers(2**32)) for run in runs]
        state, best = self.programs.init(keys + [keys[-1]] * (self.programs.size - len(keys)))
        return Group(runs, [Record() for _ in runs], self.constants(runs), self._validation(runs), state, best)

    def _resume(self, checkpoints: Any, runs: list[Run], position: dict[str, Any]) -> Group:
        state = self.programs.state_shape
        best = jax.eval_shape(jax.vmap(selection.nothing_yet), state.params)
        saved = checkpoint.restore_arrays(checkpoints, {"state": state, "best": best})
        # The saved group may have been of another size: only its runs are taken over.
        arrays = self.programs.put(
            self._stack([jax.tree.map(lambda leaf, n=n: leaf[n], saved) for n in range(len(runs))])
        )
        records = [Record(**record) for record in position["records"]]
        self._drop_metrics(runs, after=position["epoch"] - 1)
        return Group(
            *(runs, records, self.constants(runs), self._validation(runs)),
            *(arrays["state"], arrays["best"], position["epoch"], position["step"]),
        )

    def _train_group(self, group: Group, checkpoints: Any, watch: Watch, advance: Advance) -> None:
        def save() -> None:
            self._read_scores(group, advance, late=0)
            checkpoint.save(checkpoints, {"state": group.state, "best": group.best}, group.position())

        saved = group.begin = time.monotonic()
        while group.epoch <= self.settings.epochs and any(record.active for record in group.records):
            order = plans.shape_order(self.steps, protocol=self.protocol.sha256, epoch=group.epoch)
            members = self._members(group)
            rows, mask = plans.in_order(order, [self._batches(run, record, group.epoch) for run, record in members])
            while group.step < len(order):
                part = slice(group.step, group.step + self.programs.chunk)
                group.state = self.programs.train(group.state, group.constants, order[part], rows[part], mask[part])
                group.step = min(part.stop, len(order))
                if watch.received is not None:
                    save()
                    raise Interrupted(watch.received)
            self._validate(group)
            self._read_scores(group, advance, self.programs.late)
            if watch.received is not None or time.monotonic() - saved > self.settings.checkpoint_seconds:
                save()
                saved = time.monotonic()
            if watch.received is not None:
                raise Interrupted(watch.received)
        self._read_scores(group, advance, late=0)
        self._write_models(group)
        if watch.received is not None:
            raise Interrupted(watch.received)

    def _members(self, group: Group) -> list[tuple[Run, Record | None]]:
        """Returns the runs of a group with their records; None for the repeated run of a group that is not full."""
        idle = self.programs.size - len(group.runs)
        return [*zip(group.runs, group.records, strict=True), *([(group.runs[-1], None)] * idle)]

    def _batches(self, run: Run, record: Record | None, epoch: int) -> list[plans.Batches]:
        rows = self.dataset.rows(run.fold.train)
        if record is None or not record.active:
            rows = [part[:0] for part in rows]
        return plans.training_batches(
            rows,
            self.steps,
            self.settings.batch_size,
            protocol=self.protocol.sha256,
            seed=run.seed,
            fold=run.fold.name,
            epoch=epoch,
        )

    def _validation(self, runs: list[Run]) -> tuple[np.ndarray, np.ndarray, selection.Validation]:
        """Returns order [S] and rows [S, R, B] of the validation parts, and what these rows are."""
        order = np.repeat(np.arange(len(self.validation_steps)), self.validation_steps)
        parts = [self.dataset.rows(run.fold.validation) for run in runs]
        parts += [parts[-1]] * (self.programs.size - len(runs))
        size = self.settings.batch_size
        rows, mask = plans.in_order(order, [plans.scoring_batches(part, size, self.validation_steps) for part in parts])
        targets = np.stack([self.dataset.targets[bucket][rows[step]] for step, bucket in enumerate(order)])
        filled = -(-len(order) // self.programs.score_chunk) * self.programs.score_chunk
        part = selection.Validation(*(_by_run(values, filled) for values in (targets, mask)))
        return order, rows, self.programs.put(part)

    def _validate(self, group: Group) -> None:
        """Scores the validation parts and lets that decide; the host reads the outcome later."""
        order, rows, part = group.validation
        state = group.state
        logits = self.programs.score(state.params, group.constants.statistics, order, rows)
        group.best, counters, scores = self.programs.judge(
            group.best, state.counters, group.epoch, state.params, logits, part
        )
        group.state = state._replace(counters=counters)
        group.unread.append((group.epoch, scores))
        group.epoch, group.step = group.epoch + 1, 0

    def _read_scores(self, group: Group, advance: Advance, late: int) -> None:
        """Takes finished epochs into the records and metrics.jsonl, but for the last `late`."""
        while len(group.unread) > late:
            epoch, scores = group.unread.pop(0)
            self._end_epoch(group, epoch, jax.device_get(scores), advance)

    def _end_epoch(self, group: Group, epoch: int, scores: selection.Scores, advance: Advance) -> None:
        now = time.monotonic()
        seconds, group.begin = now - group.begin, now
        lines, trained, notes = [], 0, []
        active = [n for n in range(len(group.runs)) if scores.trained[n]]
        for n in active:
            run, record = group.runs[n], group.records[n]
            record.epochs = epoch
            record.seconds += seconds / len(active)
            trained += len(run.fold.train)
            if scores.diverged[n]:
                record.status = "diverged"
                log.error("%s has diverged in epoch %d: non-finite gradients or scores", run.name, epoch)
                continue
            ua, wa = metrics.unweighted_accuracy(scores.confusion[n]), metrics.weighted_accuracy(scores.confusion[n])
            if scores.better[n]:
                record.best_epoch = epoch
                record.best_ua, record.best_wa, record.best_loss = ua, wa, float(scores.loss[n])
            if scores.stopped[n]:
                record.status = "stopped"
            lines.append(
                {
                    "fold": run.fold.name,
                    "seed": run.seed,
                    "epoch": epoch,
                    "loss": float(scores.train_loss[n]),
                    "validation_loss": float(scores.loss[n]),
                    "validation_ua": ua,
                    "validation_wa": wa,
                    "seconds": round(seconds, 4),
                }
            )
            notes.append(f"{run.name} loss {scores.train_loss[n]:.3f} UA {100 * ua:.1f}")
        with (self.workdir / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        advance(len(active), f"{' · '.join(notes)} · {trained / seconds:,.0f} utterances/s")

    def _drop_metrics(self, runs: list[Run], after: int) -> None:
        """Forgets the epochs of these runs that are about to be trained again."""
        path = self.workdir / "metrics.jsonl"
        if not path.is_file():
            return
        again = {(run.fold.name, run.seed) for run in runs}
        kept = []
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # The last line of a process that was killed.
            if (entry["fold"], entry["seed"]) not in again or entry["epoch"] <= after:
                kept.append(line + "\n")
        atomic.write_text(path, "".join(kept))

    def _write_models(self, group: Group) -> None:
        best = jax.device_get(group.best.params)
        for n, (run, record) in enumerate(zip(group.runs, group.records, strict=True)):
            failed = record.status == "diverged"
            description = {
                **self.description,
                "fold": run.fold.name,
                "seed": run.seed,
                "status": "diverged" if failed else "done",
                "best_epoch": record.best_epoch,
                "epochs": record.epochs,
                "validation": {"ua": record.best_ua, "wa": record.best_wa, "loss": record.best_loss},
                "temperature": None,
                "seconds": round(record.seconds, 3),
            }
            model_files.write_model(
                self._folder(run),
                description,
                None if failed else jax.tree.map(lambda leaf, n=n: leaf[n], best),
                None if failed else self._fold_statistics(run.fold),
            )


def _by_run(values: np.ndarray, steps: int) -> np.ndarray:
    """Turns [S, R, B] into [R, steps · B]; zeros stand for the steps that are missing."""
    filled = np.pad(values, ((0, steps - len(values)), (0, 0), (0, 0)))
    return np.moveaxis(filled, 1, 0).reshape(values.shape[1], -1)
