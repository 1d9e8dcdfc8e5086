"""The second phase of the loop: as many epochs as the first phase has chosen, not validated."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
import tiny_runs
from tiny_runs import Calls, description_of, interrupted, kill, model_of, outcome

from ser_jax.data import epoch_plans
from ser_jax.evaluation import calibration
from ser_jax.protocols.folds import REFIT
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime.progress import Advance
from ser_jax.training import model_files
from ser_jax.training import step as steps
from ser_jax.training import trials as outcomes
from ser_jax.training.trainer import Trainer
from ser_jax.training.trials import CHOOSE_EPOCH, FIXED_EPOCHS, Trial, TrialRecord, list_trials

EPOCHS = 6
CHUNK = 7
RATE = 1e-3  # the usual learning rate, for which 1e-5 is promised
TOLERANCE = 1e-5

# One process compiles the programs that these files share.


def official() -> Protocol:
    """Fold a as it is, and a fold that trains on its training and validation part for as many
    epochs as a chose."""
    first = tiny.protocol().folds[0]
    last = Fold("last", first.parts.replace("v", "t"), epochs_from="a")
    return dataclasses.replace(tiny.protocol(), folds=(first, last))


def trainer(
    workdir: Path, programs: Any, protocol: Protocol | None = None, **changes: Any
) -> Trainer:
    made = tiny.trainer(workdir, programs, **{"epochs": EPOCHS, **changes})
    if protocol is None:
        return made
    return Trainer(
        protocol, *(made.dataset, programs, made.settings, workdir, {}, calibration.fit_temperature)
    )


def history(workdir: Path, phase: int) -> list[dict[str, Any]]:
    lines = tiny_runs.timeless(tiny_runs.history(workdir))
    return [line for line in lines if line["phase"] == phase]


def steps_of(protocol: Protocol, parts: Sequence[str] = ()) -> np.ndarray:
    """Batches of each shape for the letters t and v of any of these parts (default: all folds)."""
    parts = parts or [fold.parts for fold in protocol.folds]
    rows = [np.array([n for n, part in enumerate(letters) if part in "tv"]) for letters in parts]
    return epoch_plans.steps_per_bucket([tiny.dataset().rows(part) for part in rows], tiny.BATCH)


step_by_hand = jax.jit(functools.partial(steps.train_step, tiny.model(), tiny.train_settings(RATE)))


def by_hand(protocol: Protocol, fold: Fold, seed: int, epochs: int, counts: np.ndarray) -> Any:
    """The pure step of one trial on the parts t and v, from the usual start."""
    utterances = np.array([row for row, part in enumerate(fold.parts) if part in "tv"])
    statistics = tiny.dataset().device_statistics(tiny.dataset().statistics(utterances))
    constants = steps.TrialConstants(statistics, np.ones(len(tiny.CLASSES), np.float32))
    key = int(epoch_plans.generator("init", seed, fold.name).integers(2**32))
    state = jax.tree.map(
        lambda leaf: leaf[0], jax.device_get(tiny.executor(2, 2).init([key, key])[0])
    )
    for epoch in range(1, epochs + 1):
        order = epoch_plans.shape_order(counts, protocol=protocol.sha256, epoch=epoch)
        batches = epoch_plans.training_batches(
            *(tiny.dataset().rows(utterances), counts, tiny.BATCH),
            **{"protocol": protocol.sha256, "seed": seed, "fold": fold.name, "epoch": epoch},
        )
        rows, mask = epoch_plans.in_order(order, [batches])
        assert sorted(rows[:, 0][mask[:, 0]].tolist()) == sorted(
            np.concatenate(tiny.dataset().rows(utterances))
        )
        for place, bucket in enumerate(order):
            state = step_by_hand(
                tiny.buckets()[bucket], state, constants, rows[place, 0], mask[place, 0]
            )
    return jax.device_get(state.params)


FIRST = len(tiny.steps_of_an_epoch())  # steps of an epoch of the first phase
SECOND = int(steps_of(tiny.protocol()).sum())
TRIALS = tiny.trials("a,b")


@pytest.fixture(scope="module", params=[0, CHUNK], ids=["steps", "chunks"])
def chunk(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def refitted(chunk, tmp_path_factory) -> Path:
    """Runs a and b side by side, then again."""
    workdir = tmp_path_factory.mktemp("refitted")
    trainer(workdir, tiny.executor(2, 2, chunk), refit=REFIT).train(TRIALS)
    return workdir


# --- Refit


def test_refit_is_training_by_hand_on_both_parts(chunk, tmp_path):
    """For the chosen number of epochs, from the same start, with statistics of both parts."""
    programs = tiny.executor(2, 2, chunk, learning_rate=RATE)
    trainer(tmp_path, programs, refit=REFIT, epochs=4).train(TRIALS)
    counts = steps_of(tiny.protocol())
    for trial in TRIALS:
        model = model_of(tmp_path, trial)
        epochs = model.description["best_epoch"]
        expected = by_hand(tiny.protocol(), trial.fold, trial.seed, epochs, counts)
        tiny.assert_close(model.params, expected, TOLERANCE)
        both = np.sort(np.concatenate([trial.fold.train, trial.fold.validation]))
        assert tiny.bits(model.statistics) == tiny.bits(tiny.dataset().statistics(both))


def test_the_first_phase_is_that_without_refit(refitted, chunk, tmp_path):
    """Also its scores and its temperature, which the description keeps and says so."""
    trainer(tmp_path, tiny.executor(2, 2, chunk)).train(TRIALS)
    assert history(refitted, CHOOSE_EPOCH) == history(tmp_path, CHOOSE_EPOCH)
    assert history(tmp_path, FIXED_EPOCHS) == []
    for trial in TRIALS:
        once, again = description_of(tmp_path, trial), description_of(refitted, trial)
        for name in ("best_epoch", "validation", "temperature"):
            assert again[name] == once[name]
        assert again["first_pass"]["epochs"] == once["epochs"] == EPOCHS
        assert (again["epochs"], again["epochs_from"]) == (once["best_epoch"], trial.fold.name)
        assert again["temperature_from"] == "first_pass" and again["status"] == "done"
        assert not (tmp_path / "models" / trial.name / "choice.json").exists()


def test_the_second_phase_scores_nothing(refitted, chunk, tmp_path, monkeypatch):
    numbers = [description_of(refitted, trial)["best_epoch"] for trial in TRIALS]
    assert numbers[0] != numbers[1], "otherwise many of these tests say less"
    calls = Calls(tiny.executor(2, 2, chunk), monkeypatch)
    trainer(tmp_path, tiny.executor(2, 2, chunk), refit=REFIT).train(TRIALS)
    assert calls.steps == EPOCHS * FIRST + max(numbers) * SECOND
    assert calls.scored == EPOCHS + 1, "once for the temperature"


def test_runs_of_a_group_stop_at_their_own_number(tmp_path):
    """Beyond it nothing of a trial changes: it is the same alone and by hand, within 1e-5 at the
    usual learning rate."""
    numbers = {"a": 5, "b": 2, "c": 3}
    counts = steps_of(tiny.protocol())
    trials = tiny.trials("a,b,c")
    for size in (1, 2):
        for trial in trials:
            record = TrialRecord(best_epoch=numbers[trial.fold.name], epochs=6)
            folder = tmp_path / str(size) / "models" / trial.name
            model_files.write_choice(folder, outcomes.describe_choice(trial, record, 1.5))
        executor = tiny.executor(size, size, learning_rate=RATE)
        trainer(tmp_path / str(size), executor, refit=REFIT).train(trials)
    for trial in tiny.trials("a,b,c"):
        alone, beside = (model_of(tmp_path / size, trial) for size in "12")
        tiny.assert_close(alone.params, beside.params, TOLERANCE)
        epochs = numbers[trial.fold.name]
        expected = by_hand(tiny.protocol(), trial.fold, 0, epochs, counts)
        tiny.assert_close(beside.params, expected, TOLERANCE)
        assert beside.description["epochs"] == epochs and beside.description["temperature"] == 1.5
    assert history(tmp_path / "2", CHOOSE_EPOCH) == []


def test_metrics_say_which_phase(refitted):
    numbers = {trial.fold.name: description_of(refitted, trial)["best_epoch"] for trial in TRIALS}
    lines = history(refitted, FIXED_EPOCHS)
    names = {"fold", "seed", "phase", "epoch", "loss", "skipped"}
    assert {frozenset(line) for line in lines} == {frozenset(names)}
    expected = [
        (epoch, fold) for epoch in range(1, EPOCHS + 1) for fold in "ab" if epoch <= numbers[fold]
    ]
    assert [(line["epoch"], line["fold"]) for line in lines] == expected
    assert all(0 < line["loss"] < 3 for line in lines)


# --- Epochs from another fold


@pytest.mark.parametrize("refit", ["none", REFIT])
def test_epochs_from_another_fold(tmp_path, refit):
    """Seed by seed; the fold itself has no validation scores and no temperature."""
    protocol = official()
    trials = list_trials(protocol, seeds=2, first_seed=0, folds="last,a")
    trainer(tmp_path, tiny.executor(2, 2, learning_rate=RATE), protocol, refit=refit).train(trials)
    counts = steps_of(protocol, [protocol.folds[1].parts])
    chosen = {}
    for trial in sorted(trials, key=lambda trial: trial.fold.name):
        model = model_of(tmp_path, trial)
        if trial.fold.name == "a":
            chosen[trial.seed] = model.description["best_epoch"]
            assert ("first_pass" in model.description) == (refit == REFIT)
            continue
        assert model.description["best_epoch"] == model.description["epochs"] == chosen[trial.seed]
        assert model.description["epochs_from"] == "a"
        found = [model.description[n] for n in ("validation", "temperature", "first_pass")]
        assert found == [None] * 3
        expected = by_hand(protocol, protocol.folds[1], trial.seed, chosen[trial.seed], counts)
        tiny.assert_close(model.params, expected, TOLERANCE)
    assert {line["fold"] for line in history(tmp_path, CHOOSE_EPOCH)} == {"a"}
    assert {line["fold"] for line in history(tmp_path, FIXED_EPOCHS)} == (
        {"last"} if refit == "none" else {"a", "last"}
    )


def test_the_shapes_of_the_first_phase_do_not_depend_on_the_second(tmp_path, monkeypatch):
    """Its training part is smaller; it would otherwise be trained with many empty batches."""
    protocol = official()
    calls = Calls(tiny.executor(1, 1), monkeypatch)
    trainer(tmp_path, tiny.executor(1, 1), protocol, epochs=1).train(
        list_trials(protocol, seeds=1, first_seed=0, folds="")
    )
    first = epoch_plans.steps_per_bucket(
        [tiny.dataset().rows(protocol.folds[0].train)], tiny.BATCH
    ).sum()
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
        buckets=tuple(
            inputs._replace(frames=f) for inputs, f in zip(dataset.buckets, frames, strict=True)
        ),
        targets=tuple(targets),
        sums=dataset.sums._replace(total=total),
    )


def test_nothing_leaks_from_the_test_part(tmp_path):
    """To the bit, in both phases; spoiling a row of the validation part is noticed."""
    protocol = official()
    trials = list_trials(protocol, seeds=1, first_seed=0, folds="")
    fold = protocol.folds[0]

    def models(name: str, utterances: np.ndarray) -> list[bytes]:
        data = spoilt(tiny.dataset(), utterances)
        programs = tiny.new_executor(1, 1, data=data)
        made = trainer(tmp_path / name, programs, protocol, refit=REFIT, epochs=2)
        settings = made.settings, tmp_path / name, {}, calibration.fit_temperature
        Trainer(protocol, data, programs, *settings).train(trials)
        return [
            (tmp_path / name / "models" / trial.name / "model.npz").read_bytes() for trial in trials
        ]

    sound = models("sound", np.zeros(0, int))
    assert models("test", fold.test) == sound
    other = models("train", fold.train[:1])
    assert other[0] != sound[0] and other[1] != sound[1]


# --- Divergence


def poison(made: Trainer, monkeypatch: Any, phase: int) -> Trainer:
    """Makes everything of the first trial of every group NaN in one phase."""
    constants = made.sampler.constants

    def poisoned(trials: list[Trial]) -> steps.TrialConstants:
        found = jax.device_get(constants(trials))
        if trials[0].phase == phase:
            mean = found.statistics.mean.copy()
            mean[0] = np.nan
            found = found._replace(statistics=found.statistics._replace(mean=mean))
        return made.executor.put(found)

    monkeypatch.setattr(made.sampler, "constants", poisoned)
    return made


def test_who_takes_epochs_from_a_diverged_run_is_written_off(tmp_path, monkeypatch, caplog):
    protocol = official()
    trials = list_trials(protocol, seeds=1, first_seed=0, folds="")
    poison(trainer(tmp_path, tiny.executor(2, 2), protocol), monkeypatch, CHOOSE_EPOCH).train(
        trials
    )
    assert [description_of(tmp_path, trial)["status"] for trial in trials] == ["diverged"] * 2
    assert "last-0 is not trained: fold a, from which it takes its epochs, diverged" in caplog.text
    assert not list((tmp_path / "models").rglob("*.npz")) and history(tmp_path, FIXED_EPOCHS) == []
    before = outcome(tmp_path)
    trainer(tmp_path, tiny.executor(2, 2), protocol).train(trials)
    assert outcome(tmp_path) == before


@pytest.mark.parametrize("phase", [CHOOSE_EPOCH, FIXED_EPOCHS])
def test_divergence_beside_a_sound_run(refitted, chunk, tmp_path, monkeypatch, phase):
    made = poison(trainer(tmp_path, tiny.executor(2, 2, chunk), refit=REFIT), monkeypatch, phase)
    made.train(TRIALS)
    found = description_of(tmp_path, TRIALS[0])
    assert found["status"] == "diverged" and found["epochs"] == 1
    assert (tmp_path / "models/a-0/choice.json").exists() == (phase == FIXED_EPOCHS)
    assert not (tmp_path / "models/a-0/model.npz").exists()
    sound, expected = (model_of(folder, TRIALS[1]) for folder in (tmp_path, refitted))
    assert tiny.bits(sound.params) == tiny.bits(expected.params)


# --- Interruptions


@pytest.mark.parametrize(
    "place", ["first step", "end of an epoch", "in the next epoch", "in the first phase"]
)
def test_resumes_to_the_bit(refitted, chunk, tmp_path, monkeypatch, place):
    """R2, R3: wherever SIGTERM comes, no step is lost or repeated in either phase and nothing
    differs in the end."""
    into = {
        "first step": 1,
        "end of an epoch": SECOND,
        "in the next epoch": SECOND + 2,
        "in the first phase": 3 - FIRST,
    }
    programs = tiny.executor(2, 2, chunk)
    first = interrupted(
        lambda: trainer(tmp_path, programs, refit=REFIT),
        *(TRIALS, programs),
        after_step=EPOCHS * FIRST + into[place],
    )
    calls = Calls(programs, monkeypatch)
    trainer(tmp_path, programs, refit=REFIT).train(TRIALS)
    longest = max(description_of(refitted, trial)["best_epoch"] for trial in TRIALS)
    assert first.steps + calls.steps == EPOCHS * FIRST + longest * SECOND
    assert outcome(tmp_path) == outcome(refitted)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
def test_killed_in_the_second_phase_the_first_is_not_repeated(
    refitted, chunk, tmp_path, monkeypatch, checkpoint_seconds
):
    """Without a checkpoint the second phase starts again, although the newest checkpoint may be of
    the first."""
    programs = tiny.executor(2, 2, chunk)
    interrupted(
        lambda: trainer(tmp_path, programs, refit=REFIT, checkpoint_seconds=checkpoint_seconds),
        *(TRIALS, programs),
        after_step=EPOCHS * FIRST + SECOND + 2,
        action=kill,
    )
    calls = Calls(programs, monkeypatch)
    trainer(tmp_path, programs, refit=REFIT).train(TRIALS)
    longest = max(description_of(refitted, trial)["best_epoch"] for trial in TRIALS)
    assert calls.scored == 0
    assert calls.steps == (longest - (checkpoint_seconds == 0)) * SECOND
    assert outcome(tmp_path) == outcome(refitted)


def test_killed_between_the_phases(refitted, chunk, tmp_path):
    """The newest checkpoint is of trials that have chosen since: it is not taken for one of the
    second phase."""
    programs = tiny.executor(2, 2, chunk)
    interrupted(
        lambda: trainer(tmp_path, programs, refit=REFIT, checkpoint_seconds=0.0),
        *(TRIALS, programs),
        after_step=EPOCHS * FIRST + 1,
        action=kill,
    )
    assert sorted(path.name for path in (tmp_path / "models").rglob("*.*")) == ["choice.json"] * 2
    trainer(tmp_path, programs, refit=REFIT).train(TRIALS)
    assert outcome(tmp_path) == outcome(refitted)


# --- Progress


class Bar:
    """Keeps how far the bar is after every call."""

    def __init__(self, monkeypatch: Any):
        self.fractions: list[float] = []
        monkeypatch.setattr("ser_jax.training.trainer.progress", self)

    def __call__(self, what: str, total: float, unit: str, start: float) -> "Bar":
        assert (what, unit) == ("training", "epochs")
        self.done, self.total = start, total
        self.fractions.append(start / total)
        return self

    def __enter__(self) -> Advance:
        return self.advance

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, amount: float = 1, note: str = "", skipped: float = 0) -> None:
        self.done, self.total = self.done + amount, self.total - skipped
        self.fractions.append(self.done / self.total)


def test_progress_never_runs_backwards_and_ends_at_the_end(refitted, chunk, tmp_path, monkeypatch):
    bar = Bar(monkeypatch)
    numbers = [description_of(refitted, trial)["best_epoch"] for trial in TRIALS]
    programs = tiny.executor(2, 2, chunk)
    interrupted(
        lambda: trainer(tmp_path, programs, refit=REFIT),
        *(TRIALS, programs),
        after_step=EPOCHS * FIRST + SECOND + 2,
    )
    assert bar.fractions == sorted(bar.fractions) and bar.fractions[0] == 0
    assert (bar.done, bar.total) == (2 * EPOCHS + 2, 2 * EPOCHS + sum(numbers))
    bar.fractions.clear()
    trainer(tmp_path, programs, refit=REFIT).train(TRIALS)
    assert bar.fractions == sorted(bar.fractions) and bar.fractions[0] == (2 * EPOCHS + 2) / (
        4 * EPOCHS
    )
    assert bar.done == bar.total == 2 * EPOCHS + sum(numbers)


def test_progress_when_runs_stop_or_diverge(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    bar = Bar(monkeypatch)
    programs = tiny.executor(2, 2, 0, 3)
    made = poison(trainer(tmp_path, programs, refit=REFIT, epochs=30), monkeypatch, CHOOSE_EPOCH)
    made.train(tiny.trials())
    assert bar.fractions == sorted(bar.fractions) and bar.done == bar.total < 8 * 30
