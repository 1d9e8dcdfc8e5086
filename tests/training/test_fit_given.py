"""The second phase of the loop: a given number of epochs without validation, found by the first."""

import dataclasses
import functools
import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from ser_jax.arrays import plans
from ser_jax.evaluation import calibration
from ser_jax.progress import Advance
from ser_jax.protocols.folds import REFIT
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.training import fit, model_files
from ser_jax.training import outcome as outcomes
from ser_jax.training import step as steps
from ser_jax.training.fit import Trainer
from ser_jax.training.group import Record
from ser_jax.training.interrupt import Interrupted
from ser_jax.training.runs import CHOICE, GIVEN, Run, list_runs

EPOCHS = 6
CHUNK = 7
RATE = 1e-3  # the usual learning rate, for which 1e-5 is promised
TOLERANCE = 1e-5

pytestmark = pytest.mark.xdist_group("training")  # One process compiles the programs that these files share.


def official() -> Protocol:
    """Fold a as it is, and a fold that trains on its training and validation part for as many epochs as a chose."""
    first = tiny.protocol().folds[0]
    last = Fold("last", first.parts.replace("v", "t"), epochs_from="a")
    return dataclasses.replace(tiny.protocol(), folds=(first, last))


def trainer(workdir: Path, programs: Any, protocol: Protocol | None = None, **changes: Any) -> Trainer:
    made = tiny.trainer(workdir, programs, **{"epochs": EPOCHS, **changes})
    if protocol is None:
        return made
    return Trainer(protocol, *(made.dataset, programs, made.settings, workdir, {}, calibration.fit_temperature))


def history(workdir: Path, phase: int) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{**line, "seconds": None} for line in lines if line["phase"] == phase]


def description(workdir: Path, run: Run) -> dict[str, Any]:
    found = model_files.read_description(workdir / "models" / run.name)
    assert found is not None
    return found


def outcome(workdir: Path) -> dict[str, Any]:
    """Everything that a training leaves behind, except for times."""

    def timeless(values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: timeless(v) if isinstance(v, dict) else v
            for name, v in values.items()
            if name not in ("seconds", "seal")
        }

    found: dict[str, Any] = {"metrics": [history(workdir, phase) for phase in (CHOICE, GIVEN)]}
    for path in sorted((workdir / "models").rglob("*.*")):
        content = path.read_bytes()
        found[str(path.relative_to(workdir))] = content if path.suffix == ".npz" else timeless(json.loads(content))
    return found


def steps_of(protocol: Protocol, parts: Sequence[str]) -> np.ndarray:
    """Batches of each shape that hold the utterances with the letters t and v of any of these parts."""
    rows = [[row for row, part in enumerate(letters) if part in "tv"] for letters in parts]
    return plans.steps_per_bucket([tiny.dataset().rows(np.array(part)) for part in rows], tiny.BATCH)


step_by_hand = jax.jit(
    functools.partial(steps.train_step, apply=tiny.apply, learning_rate=RATE, clip_norm=tiny.CLIP_NORM)
)


def by_hand(protocol: Protocol, fold: Fold, seed: int, epochs: int, counts: np.ndarray) -> Any:
    """The pure step of one run on the utterances with the letters t and v, from the usual start."""
    utterances = np.array([row for row, part in enumerate(fold.parts) if part in "tv"])
    statistics = tiny.dataset().device_statistics(tiny.dataset().statistics(utterances))
    constants = steps.RunConstants(statistics, np.ones(len(tiny.CLASSES), np.float32))
    key = int(plans.generator("init", seed, fold.name).integers(2**32))
    state = jax.tree.map(lambda leaf: leaf[0], jax.device_get(tiny.programs(2, 2).init([key, key])[0]))
    for epoch in range(1, epochs + 1):
        order = plans.shape_order(counts, protocol=protocol.sha256, epoch=epoch)
        batches = plans.training_batches(
            *(tiny.dataset().rows(utterances), counts, tiny.BATCH),
            **{"protocol": protocol.sha256, "seed": seed, "fold": fold.name, "epoch": epoch},
        )
        rows, mask = plans.in_order(order, [batches])
        assert sorted(rows[:, 0][mask[:, 0]].tolist()) == sorted(np.concatenate(tiny.dataset().rows(utterances)))
        for place, bucket in enumerate(order):
            state = step_by_hand(tiny.buckets()[bucket], state, constants, rows[place, 0], mask[place, 0])
    return jax.device_get(state.params)


class Calls:
    """Counts the steps that are trained and the scorings, and does something after a step."""

    def __init__(self, programs: Any, monkeypatch: Any, *, after_step: int = 0, action: Any = None):
        self.steps = self.scored = 0
        train, score = programs.train, programs.score

        def counted_train(state, run, order, rows, mask):
            result = train(state, run, order, rows, mask)
            self.steps += len(order)
            if after_step and self.steps - len(order) < after_step <= self.steps:
                (action or (lambda: signal.raise_signal(signal.SIGTERM)))()
            return result

        def counted_score(*arguments):
            self.scored += 1
            return score(*arguments)

        monkeypatch.setattr(programs, "train", counted_train)
        monkeypatch.setattr(programs, "score", counted_score)


class Killed(BaseException):
    """Stands for the end of the process."""


def kill() -> None:
    raise Killed


FIRST = len(tiny.steps_of_an_epoch())  # steps of an epoch of the first phase
SECOND = int(steps_of(tiny.protocol(), [fold.parts for fold in tiny.protocol().folds]).sum())
RUNS = tiny.runs("a,b")


@pytest.fixture(scope="module", params=[0, CHUNK], ids=["steps", "chunks"])
def chunk(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def refitted(chunk, tmp_path_factory) -> Path:
    """Runs a and b side by side, then again."""
    workdir = tmp_path_factory.mktemp("refitted")
    trainer(workdir, tiny.programs(2, 2, chunk), refit=REFIT).train(RUNS)
    return workdir


# --- Refit ------------------------------------------------------------------------------------------------------------


def test_refit_is_training_by_hand_on_both_parts(chunk, tmp_path):
    """For the chosen number of epochs, from the same start, with statistics of both parts."""
    programs = tiny.programs(2, 2, chunk, learning_rate=RATE)
    trainer(tmp_path, programs, refit=REFIT, epochs=4).train(RUNS)
    counts = steps_of(tiny.protocol(), [fold.parts for fold in tiny.protocol().folds])
    for run in RUNS:
        model = model_files.read_model(tmp_path / "models" / run.name)
        epochs = model.description["best_epoch"]
        expected = by_hand(tiny.protocol(), run.fold, run.seed, epochs, counts)
        tiny.assert_close(model.params, expected, TOLERANCE)
        both = np.sort(np.concatenate([run.fold.train, run.fold.validation]))
        assert tiny.bits(model.statistics) == tiny.bits(tiny.dataset().statistics(both))


def test_the_first_phase_is_that_without_refit(refitted, chunk, tmp_path):
    """Also its scores and its temperature, which the description keeps and says so."""
    trainer(tmp_path, tiny.programs(2, 2, chunk)).train(RUNS)
    assert history(refitted, CHOICE) == history(tmp_path, CHOICE) and history(tmp_path, GIVEN) == []
    for run in RUNS:
        once, again = description(tmp_path, run), description(refitted, run)
        for name in ("best_epoch", "validation", "temperature"):
            assert again[name] == once[name]
        assert again["first_pass"]["epochs"] == once["epochs"] == EPOCHS
        assert (again["epochs"], again["epochs_from"]) == (once["best_epoch"], run.fold.name)
        assert again["temperature_from"] == "first_pass" and again["status"] == "done"
        assert not (tmp_path / "models" / run.name / "choice.json").exists()


def test_the_second_phase_scores_nothing(refitted, chunk, tmp_path, monkeypatch):
    numbers = [description(refitted, run)["best_epoch"] for run in RUNS]
    assert numbers[0] != numbers[1], "otherwise many of these tests say less"
    calls = Calls(tiny.programs(2, 2, chunk), monkeypatch)
    trainer(tmp_path, tiny.programs(2, 2, chunk), refit=REFIT).train(RUNS)
    assert calls.steps == EPOCHS * FIRST + max(numbers) * SECOND
    assert calls.scored == EPOCHS + 1, "once for the temperature"


def test_runs_of_a_group_stop_at_their_own_number(tmp_path):
    """Beyond it nothing of a run changes: it is the same alone and by hand, within 1e-5 at the usual learning rate."""
    numbers = {"a": 5, "b": 2, "c": 3}
    counts = steps_of(tiny.protocol(), [fold.parts for fold in tiny.protocol().folds])
    for size in (1, 2):
        for run in tiny.runs("a,b,c"):
            model_files.write_choice(
                tmp_path / str(size) / "models" / run.name,
                outcomes.describe_choice(run, Record(best_epoch=numbers[run.fold.name], epochs=6), 1.5),
            )
        trainer(tmp_path / str(size), tiny.programs(size, size, learning_rate=RATE), refit=REFIT).train(
            tiny.runs("a,b,c")
        )
    for run in tiny.runs("a,b,c"):
        alone, beside = (model_files.read_model(tmp_path / size / "models" / run.name) for size in "12")
        tiny.assert_close(alone.params, beside.params, TOLERANCE)
        epochs = numbers[run.fold.name]
        tiny.assert_close(beside.params, by_hand(tiny.protocol(), run.fold, 0, epochs, counts), TOLERANCE)
        assert beside.description["epochs"] == epochs and beside.description["temperature"] == 1.5
    assert history(tmp_path / "2", CHOICE) == []


def test_metrics_say_which_phase(refitted):
    numbers = {run.fold.name: description(refitted, run)["best_epoch"] for run in RUNS}
    lines = history(refitted, GIVEN)
    assert {frozenset(line) for line in lines} == {
        frozenset({"fold", "seed", "phase", "epoch", "loss", "skipped", "seconds"})
    }
    expected = [(epoch, fold) for epoch in range(1, EPOCHS + 1) for fold in "ab" if epoch <= numbers[fold]]
    assert [(line["epoch"], line["fold"]) for line in lines] == expected
    assert all(0 < line["loss"] < 3 for line in lines)


def test_other_seeds_share_nothing(tmp_path):
    runs = tiny.runs("a", seeds=2)
    trainer(tmp_path, tiny.programs(2, 2), refit=REFIT, epochs=2).train(runs)
    one, other = (model_files.read_model(tmp_path / "models" / run.name).params for run in runs)
    assert tiny.bits(one) != tiny.bits(other)


# --- Epochs from another fold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("refit", ["none", REFIT])
def test_epochs_from_another_fold(tmp_path, refit):
    """Seed by seed; the fold itself has no validation scores and no temperature."""
    protocol = official()
    runs = list_runs(protocol, seeds=2, first_seed=0, folds="last,a")
    trainer(tmp_path, tiny.programs(2, 2, learning_rate=RATE), protocol, refit=refit).train(runs)
    counts = steps_of(protocol, [protocol.folds[1].parts])
    chosen = {}
    for run in sorted(runs, key=lambda run: run.fold.name):
        model = model_files.read_model(tmp_path / "models" / run.name)
        if run.fold.name == "a":
            chosen[run.seed] = model.description["best_epoch"]
            assert ("first_pass" in model.description) == (refit == REFIT)
            continue
        assert model.description["best_epoch"] == model.description["epochs"] == chosen[run.seed]
        assert model.description["epochs_from"] == "a"
        assert all(model.description[name] is None for name in ("validation", "temperature", "first_pass"))
        expected = by_hand(protocol, protocol.folds[1], run.seed, chosen[run.seed], counts)
        tiny.assert_close(model.params, expected, TOLERANCE)
    assert {line["fold"] for line in history(tmp_path, CHOICE)} == {"a"}
    assert {line["fold"] for line in history(tmp_path, GIVEN)} == ({"last"} if refit == "none" else {"a", "last"})


def test_the_shapes_of_the_first_phase_do_not_depend_on_the_second(tmp_path, monkeypatch):
    """Its training part is smaller; it would otherwise be trained with many empty batches."""
    protocol = official()
    calls = Calls(tiny.programs(1, 1), monkeypatch)
    trainer(tmp_path, tiny.programs(1, 1), protocol, epochs=1).train(
        list_runs(protocol, seeds=1, first_seed=0, folds="")
    )
    first = plans.steps_per_bucket([tiny.dataset().rows(protocol.folds[0].train)], tiny.BATCH).sum()
    assert calls.steps == first + steps_of(protocol, [protocol.folds[1].parts]).sum()
    assert first < steps_of(protocol, [protocol.folds[1].parts]).sum()


def spoilt(dataset: Any, utterances: np.ndarray) -> Any:
    """The dataset with other frames and other labels for some utterances."""
    frames = [np.array(inputs.frames) for inputs in dataset.buckets]
    targets = [values.copy() for values in dataset.targets]
    for number in utterances:
        frames[dataset.bucket[number]][dataset.row[number]] += 5
        targets[dataset.bucket[number]][dataset.row[number]] = -1
    total = dataset.sums.total.copy()
    total[utterances] += 1e6
    return dataclasses.replace(
        dataset,
        buckets=tuple(inputs._replace(frames=f) for inputs, f in zip(dataset.buckets, frames, strict=True)),
        targets=tuple(targets),
        sums=dataset.sums._replace(total=total),
    )


def test_nothing_leaks_from_the_test_part(tmp_path):
    """To the bit, in both phases; spoiling a row of the validation part is noticed."""
    protocol = official()
    runs = list_runs(protocol, seeds=1, first_seed=0, folds="")
    fold = protocol.folds[0]

    def models(name: str, utterances: np.ndarray) -> list[bytes]:
        data = spoilt(tiny.dataset(), utterances)
        programs = tiny.new_programs(1, 1, data=data)
        made = trainer(tmp_path / name, programs, protocol, refit=REFIT, epochs=2)
        settings = made.settings, tmp_path / name, {}, calibration.fit_temperature
        Trainer(protocol, data, programs, *settings).train(runs)
        return [(tmp_path / name / "models" / run.name / "model.npz").read_bytes() for run in runs]

    sound = models("sound", np.zeros(0, int))
    assert models("test", fold.test) == sound
    other = models("train", fold.train[:1])
    assert other[0] != sound[0] and other[1] != sound[1]


# --- Divergence -------------------------------------------------------------------------------------------------------


def poison(made: Trainer, monkeypatch: Any, phase: int) -> Trainer:
    """Makes everything of the first run of every group NaN in one phase."""
    constants = made.feed.constants

    def poisoned(runs: list[Run]) -> steps.RunConstants:
        found = jax.device_get(constants(runs))
        if runs[0].phase == phase:
            mean = found.statistics.mean.copy()
            mean[0] = np.nan
            found = found._replace(statistics=found.statistics._replace(mean=mean))
        return made.programs.put(found)

    monkeypatch.setattr(made.feed, "constants", poisoned)
    return made


def test_who_takes_epochs_from_a_diverged_run_is_written_off(tmp_path, monkeypatch, caplog):
    protocol = official()
    runs = list_runs(protocol, seeds=1, first_seed=0, folds="")
    poison(trainer(tmp_path, tiny.programs(2, 2), protocol), monkeypatch, CHOICE).train(runs)
    assert [description(tmp_path, run)["status"] for run in runs] == ["diverged"] * 2
    assert "last-0 is not trained: fold a, from which it takes its epochs, diverged" in caplog.text
    assert not list((tmp_path / "models").rglob("*.npz")) and history(tmp_path, GIVEN) == []
    before = outcome(tmp_path)
    trainer(tmp_path, tiny.programs(2, 2), protocol).train(runs)
    assert outcome(tmp_path) == before


@pytest.mark.parametrize("phase", [CHOICE, GIVEN])
def test_divergence_beside_a_sound_run(refitted, chunk, tmp_path, monkeypatch, phase):
    made = poison(trainer(tmp_path, tiny.programs(2, 2, chunk), refit=REFIT), monkeypatch, phase)
    made.train(RUNS)
    found = description(tmp_path, RUNS[0])
    assert found["status"] == "diverged" and found["epochs"] == 1
    assert (tmp_path / "models/a-0/choice.json").exists() == (phase == GIVEN)
    assert not (tmp_path / "models/a-0/model.npz").exists()
    sound, expected = (model_files.read_model(folder / "models" / RUNS[1].name) for folder in (tmp_path, refitted))
    assert tiny.bits(sound.params) == tiny.bits(expected.params)


# --- Interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["first step", "end of an epoch", "in the next epoch", "in the first phase"])
def test_resumes_to_the_bit(refitted, chunk, tmp_path, monkeypatch, place):
    """R2, R3: wherever SIGTERM comes, no step is lost or repeated in either phase and nothing differs in the end."""
    into = {
        "first step": 1,
        "end of an epoch": SECOND,
        "in the next epoch": SECOND + 2,
        "in the first phase": 3 - FIRST,
    }
    programs = tiny.programs(2, 2, chunk)
    with monkeypatch.context() as patch:
        calls = Calls(programs, patch, after_step=EPOCHS * FIRST + into[place])
        with pytest.raises(Interrupted, match="SIGTERM"):
            trainer(tmp_path, programs, refit=REFIT).train(RUNS)
    before = calls.steps
    calls = Calls(programs, monkeypatch)
    trainer(tmp_path, programs, refit=REFIT).train(RUNS)
    longest = max(description(refitted, run)["best_epoch"] for run in RUNS)
    assert before + calls.steps == EPOCHS * FIRST + longest * SECOND
    assert outcome(tmp_path) == outcome(refitted)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
def test_killed_in_the_second_phase_the_first_is_not_repeated(
    refitted, chunk, tmp_path, monkeypatch, checkpoint_seconds
):
    """Without a checkpoint the second phase begins anew, although the newest checkpoint may be of the first."""
    programs = tiny.programs(2, 2, chunk)
    with monkeypatch.context() as patch:
        Calls(programs, patch, after_step=EPOCHS * FIRST + SECOND + 2, action=kill)
        with pytest.raises(Killed):
            trainer(tmp_path, programs, refit=REFIT, checkpoint_seconds=checkpoint_seconds).train(RUNS)
    calls = Calls(programs, monkeypatch)
    trainer(tmp_path, programs, refit=REFIT).train(RUNS)
    longest = max(description(refitted, run)["best_epoch"] for run in RUNS)
    assert calls.scored == 0
    assert calls.steps == (longest - (checkpoint_seconds == 0)) * SECOND
    assert outcome(tmp_path) == outcome(refitted)


def test_killed_between_the_phases(refitted, chunk, tmp_path, monkeypatch):
    """The newest checkpoint is of runs that have chosen since: it is not taken for one of the second phase."""
    programs = tiny.programs(2, 2, chunk)
    with monkeypatch.context() as patch:
        Calls(programs, patch, after_step=EPOCHS * FIRST + 1, action=kill)
        with pytest.raises(Killed):
            trainer(tmp_path, programs, refit=REFIT, checkpoint_seconds=0.0).train(RUNS)
    assert sorted(path.name for path in (tmp_path / "models").rglob("*.*")) == ["choice.json"] * 2
    trainer(tmp_path, programs, refit=REFIT).train(RUNS)
    assert outcome(tmp_path) == outcome(refitted)


# --- Progress ---------------------------------------------------------------------------------------------------------


class Bar:
    """Keeps how far the bar is after every call."""

    def __init__(self, monkeypatch: Any):
        self.shares: list[float] = []
        monkeypatch.setattr(fit, "progress", self)

    def __call__(self, what: str, total: float, unit: str, start: float) -> "Bar":
        assert (what, unit) == ("training", "epochs")
        self.done, self.total = start, total
        self.shares.append(start / total)
        return self

    def __enter__(self) -> Advance:
        return self.advance

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, amount: float = 1, note: str = "", skipped: float = 0) -> None:
        self.done, self.total = self.done + amount, self.total - skipped
        self.shares.append(self.done / self.total)


def test_progress_never_runs_backwards_and_ends_at_the_end(refitted, chunk, tmp_path, monkeypatch):
    bar = Bar(monkeypatch)
    numbers = [description(refitted, run)["best_epoch"] for run in RUNS]
    programs = tiny.programs(2, 2, chunk)
    with monkeypatch.context() as patch:
        Calls(programs, patch, after_step=EPOCHS * FIRST + SECOND + 2)
        with pytest.raises(Interrupted):
            trainer(tmp_path, programs, refit=REFIT).train(RUNS)
    assert bar.shares == sorted(bar.shares) and bar.shares[0] == 0
    assert (bar.done, bar.total) == (2 * EPOCHS + 2, 2 * EPOCHS + sum(numbers))
    bar.shares.clear()
    trainer(tmp_path, programs, refit=REFIT).train(RUNS)
    assert bar.shares == sorted(bar.shares) and bar.shares[0] == (2 * EPOCHS + 2) / (4 * EPOCHS)
    assert bar.done == bar.total == 2 * EPOCHS + sum(numbers)


def test_progress_when_runs_stop_or_diverge(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    bar = Bar(monkeypatch)
    programs = tiny.programs(2, 2, 0, 3)
    made = poison(trainer(tmp_path, programs, refit=REFIT, epochs=30), monkeypatch, CHOICE)
    made.train(tiny.runs())
    assert bar.shares == sorted(bar.shares) and bar.done == bar.total < 8 * 30
