"""The only training loop: groups of runs, epoch by epoch, until every run of the protocol has its model file.

Per epoch each run trains on a permutation of its training part. In the first phase it then scores its validation part;
the parameters of the best epoch are kept (higher validation UA, then lower validation loss). In the second phase runs
train for a given number of epochs, which the first phase has found. The loop resumes from the newest checkpoint, at the
step where that was saved.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ser_jax.arrays import plans
from ser_jax.arrays.dataset import Dataset
from ser_jax.progress import Advance, progress
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import checkpoint, journal, memory, outcome, scoring, selection
from ser_jax.training.feed import Feed
from ser_jax.training.group import Group, Record
from ser_jax.training.interrupt import Interrupted, Watch
from ser_jax.training.ledger import Ledger
from ser_jax.training.programs import Programs
from ser_jax.training.runs import CHOICE, GIVEN, Run, groups

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The part of `config.training` that the loop reads; see config.py for units and sources."""

    epochs: int
    batch_size: int
    class_weights: str
    refit: str
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
        calibrate: Callable[[np.ndarray, np.ndarray], float],
        folder: Path | None = None,
    ):
        """Prepares training.

        Args:
          protocol: The protocol.
          dataset: Its utterances.
          programs: Compiled programs of a group.
          settings: Settings of the loop.
          workdir: The run directory.
          description: What every `model.json` repeats: system, classes, configuration.
          calibrate: Validation logits [n, K] f64 and class numbers [n] → the temperature of a run.
          folder: Where checkpoints and lines of metrics are kept, if not in the run directory.
        """
        self.protocol = protocol
        self.dataset = dataset
        self.programs = programs
        self.settings = settings
        self.folder = folder or workdir
        self.calibrate = calibrate
        self.feed = Feed(
            *(protocol, dataset, programs),
            batch_size=settings.batch_size,
            class_weights=settings.class_weights,
            refit=settings.refit,
        )
        self.ledger = Ledger(workdir, self.feed.folds, description, self.feed.statistics)

    def train(self, runs: list[Run]) -> None:
        """Trains every run that has no model file yet.

        Args:
          runs: The runs wanted, and those that they take their number of epochs from.

        Raises:
          Interrupted: After SIGTERM or Ctrl-C, when a checkpoint of the current step is on disk.
        """
        pending = [run for run in runs if not self.ledger.finished(run)]
        if not pending:
            return
        self.ledger.check(runs)
        choosing = self.ledger.choosing(pending)
        # How long runs train in the second phase is not known yet: for as many epochs as may be, until it turns out.
        most = self.settings.epochs
        total = most * sum(len(self.ledger.phases(run)) for run in runs)
        second = most * sum(GIVEN in self.ledger.phases(run) for run in pending)
        with checkpoint.manager(self.folder / "checkpoints") as checkpoints:
            resumed, position = self._saved(checkpoints, [*choosing, *self.ledger.given(pending)])
            done = sum(record["epochs"] for record in position["records"]) if resumed else 0
            start = total - most * len(choosing) - second + done
            with Watch() as watch, progress("training", total, "epochs", start) as advance:
                self._train_phase(choosing, checkpoints, watch, advance)
                given = self.ledger.given(pending)
                advance(0, skipped=second - sum(run.epochs or 0 for run in given))
                self._train_phase(given, checkpoints, watch, advance)

    def _train_phase(self, runs: list[Run], checkpoints: Any, watch: Watch, advance: Advance) -> None:
        resumed, position = self._saved(checkpoints, runs)
        if resumed:
            log.info("resuming %s at epoch %d", ", ".join(position["runs"]), position["epoch"])
            for group in self._resume(checkpoints, resumed, position):
                self._train_group(group, checkpoints, watch, advance)
        for members in groups([run for run in runs if run not in resumed], self.programs.size):
            journal.forget(self.folder, members, after=0)
            memory.return_freed_memory()
            self._train_group(self._new_group(members), checkpoints, watch, advance)

    def _saved(self, checkpoints: Any, runs: list[Run]) -> tuple[list[Run], dict[str, Any]]:
        """Returns the runs that the newest checkpoint is of, none if not all of them are wanted; and its position."""
        position = checkpoint.restore(checkpoints)
        if position is None:
            return [], {}
        saved = list(zip(position["runs"], position["given_epochs"], strict=True))
        found = [run for key in saved for run in runs if (run.name, run.epochs) == key]
        return (found if len(found) == len(saved) else []), position

    def _new_group(self, runs: list[Run]) -> Group:
        keys = [int(plans.generator("init", run.seed, run.fold.name).integers(2**32)) for run in runs]
        state, best = self.programs.init(keys + [keys[-1]] * (self.programs.size - len(keys)))
        records = [Record() for _ in runs]
        return Group(
            *(runs, records, self.feed.constants(runs), self._judged_by(runs)),
            *(state, best if runs[0].phase == CHOICE else None),
        )

    def _resume(self, checkpoints: Any, runs: list[Run], position: dict[str, Any]) -> Iterator[Group]:
        """Yields the runs of the newest checkpoint, in as many groups as it takes: it may be of a larger one."""
        like: dict[str, Any] = {"state": self.programs.state_shape}
        if runs[0].phase == CHOICE:
            like["best"] = jax.eval_shape(jax.vmap(selection.nothing_yet), like["state"].params)
        saved = checkpoint.restore_arrays(checkpoints, like)
        journal.forget(self.folder, runs, after=position["epoch"] - 1)
        for start in range(0, len(runs), self.programs.size):
            places = range(len(runs))[start : start + self.programs.size]
            arrays = self.programs.put(
                self.feed.stack([jax.tree.map(lambda leaf, n=n: leaf[n], saved) for n in places])
            )
            members, records = [runs[n] for n in places], [Record(**position["records"][n]) for n in places]
            yield Group(
                *(members, records, self.feed.constants(members), self._judged_by(members)),
                *(arrays["state"], arrays.get("best"), position["epoch"], position["step"]),
            )

    def _train_group(self, group: Group, checkpoints: Any, watch: Watch, advance: Advance) -> None:
        def save() -> None:
            self._read_scores(group, advance, late=0)
            checkpoint.save(checkpoints, group.arrays(), group.position())

        saved = group.begin = time.monotonic()
        planned = [run.epochs or self.settings.epochs for run in group.runs]
        while group.epoch <= max(planned) and any(record.active for record in group.records):
            active = [record.active for record in group.records]
            order, rows, mask = self.feed.epoch(group.runs, active, group.epoch)
            self.programs.announce(order[group.step :], rows[group.step :])
            while group.step < len(order):
                part = slice(group.step, group.step + self.programs.next_chunk())
                group.state = self.programs.train(group.state, group.constants, order[part], rows[part], mask[part])
                group.step = min(part.stop, len(order))
                if watch.received is not None:
                    save()
                    raise Interrupted(watch.received)
            self._judge(group)
            self._read_scores(group, advance, self.programs.late)
            if watch.received is not None or time.monotonic() - saved > self.settings.checkpoint_seconds:
                save()
                saved = time.monotonic()
            if watch.received is not None:
                raise Interrupted(watch.received)
        self._read_scores(group, advance, late=0)
        advance(0, skipped=sum(planned) - sum(record.epochs for record in group.records))
        self._end(group)
        if watch.received is not None:
            raise Interrupted(watch.received)

    def _judged_by(self, runs: list[Run]) -> Any:
        """Returns what ends the epochs of a group; see `Group`."""
        if runs[0].phase == GIVEN:
            return self.programs.put(self.feed.stack([np.int32(run.epochs or 0) for run in runs]))
        return self.feed.validation(runs)

    def _judge(self, group: Group) -> None:
        """Scores the validation parts, if any, and lets that decide; the host reads the outcome later."""
        state = group.state
        if group.best is None:
            counters, scores = self.programs.close(state.counters, group.epoch, group.judged_by, state.model)
        else:
            order, rows, part = group.judged_by
            logits = self.programs.score(state.model, group.constants.statistics, order, rows)
            group.best, counters, scores = self.programs.judge(
                group.best, state.counters, group.epoch, state.model, logits, part
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
            skipped = int(scores.skipped[n])
            if skipped > record.skipped:
                log.warning("%s: %d steps skipped in epoch %d, not finite", run.name, skipped - record.skipped, epoch)
            record.skipped = skipped
            if scores.diverged[n]:
                record.status = outcome.DIVERGED
                log.error("%s has diverged in epoch %d: non-finite gradients or scores", run.name, epoch)
                continue
            found = jax.tree.map(lambda leaf, n=n: leaf[n], scores)
            line = journal.make_line(run, epoch, found, seconds)
            notes.append(f"{run.name} loss {line['loss']:.3f}")
            if found.better is not None:
                notes[-1] += f" UA {100 * line['validation_ua']:.1f}"
                if found.better:
                    record.best_epoch = epoch
                    record.best_ua, record.best_wa = line["validation_ua"], line["validation_wa"]
                    record.best_loss = line["validation_loss"]
            if found.stopped:
                record.status = "stopped"
            lines.append(line)
        journal.append(self.folder, lines)
        advance(len(active), f"{' · '.join(notes)} · {trained / seconds:,.0f} utterances/s")

    def _end(self, group: Group) -> None:
        """Writes the best parameters of every run, or those it had when its number of epochs was reached."""
        temperatures: list[float | None] = [None] * len(group.runs)
        params = group.state.model  # A run that stopped has not changed since.
        if group.best is not None:
            params = group.best.params
            temperatures = self._temperatures(group, params)
        params = jax.device_get(params)
        for n, (run, record) in enumerate(zip(group.runs, group.records, strict=True)):
            self.ledger.end(run, record, jax.tree.map(lambda leaf, n=n: leaf[n], params), temperatures[n])

    def _temperatures(self, group: Group, params: Any) -> list[float | None]:
        """Returns the temperature of every run with these parameters; None if it has diverged."""
        parts = [
            run.fold.validation if record.status != outcome.DIVERGED else run.fold.validation[:0]
            for run, record in zip(group.runs, group.records, strict=True)
        ]
        parts += [parts[-1][:0]] * (self.programs.size - len(parts))
        logits = scoring.group_logits(
            self.programs, self.dataset, params, group.constants.statistics, parts, self.settings.batch_size
        )
        return [
            self.calibrate(values, self.protocol.targets[part]) if len(part) else None
            for values, part in zip(logits, parts, strict=True)
        ]
