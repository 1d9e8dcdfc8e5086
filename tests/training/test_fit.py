"""The training loop: it learns, keeps the best epoch, resumes to the bit (R2), separates trials."""

import dataclasses
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import scipy.special
import tiny
from tiny_runs import (
    Calls,
    description_of,
    history,
    interrupted,
    kill,
    model_of,
    of_trial,
    outcome,
    params_of,
    timeless,
)

from ser_jax import metrics
from ser_jax.evaluation import calibration
from ser_jax.runtime import signals
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.signals import Interrupted
from ser_jax.training import checkpoint, model_files, scoring
from ser_jax.training import trainer as loop

STEPS = len(tiny.steps_of_an_epoch())
EPOCHS, PATIENCE = 30, 3
CHUNK = 7  # an epoch is a whole chunk and part of another
CALLS = -(-STEPS // CHUNK)  # of the training program by chunk in an epoch
assert STEPS % CHUNK
TOLERANCE = 0.01 * tiny.LEARNING_RATE
THREE = tiny.trials("a,b,c")

# One process compiles the programs that these files share.


def logits_of(model, numbers: np.ndarray) -> np.ndarray:
    executor = tiny.executor(2, 2)
    return scoring.model_logits(executor, tiny.dataset(), [model], [numbers], tiny.BATCH)[0]


def scores(model, numbers: np.ndarray) -> tuple[float, float, float]:
    """UA, WA and loss of a stored model."""
    logits = logits_of(model, numbers)
    targets = tiny.protocol().targets[numbers]
    confusion = metrics.confusion_matrix(targets, logits.argmax(axis=1), len(tiny.CLASSES))
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -np.mean(log_probabilities[np.arange(len(targets)), targets])
    return metrics.unweighted_accuracy(confusion), metrics.weighted_accuracy(confusion), float(loss)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """All four folds, two at a time, until they have learnt."""
    workdir = tmp_path_factory.mktemp("trained")
    tiny.trainer(workdir, tiny.executor(2, 2), epochs=EPOCHS).train(tiny.trials())
    return workdir


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """Three trials, two at a time, for 3 epochs; the second group is not full."""
    workdir = tmp_path_factory.mktemp("short")
    tiny.trainer(workdir, tiny.executor(2, 2)).train(THREE)
    return workdir


@pytest.fixture(scope="module")
def chunked(tmp_path_factory) -> Path:
    """The same three trials, many steps at once."""
    workdir = tmp_path_factory.mktemp("chunked")
    tiny.trainer(workdir, tiny.executor(2, 2, CHUNK)).train(THREE)
    return workdir


# --- Learning


def test_learns(trained):
    """Classifies speakers that are not in the training part: chance is ¼."""
    found = []
    for trial in tiny.trials():
        found.append(scores(model_of(trained, trial), trial.fold.test)[0])
        lines = of_trial(trained, trial)
        assert 0.8 < lines[0]["loss"] < 1.6, "about ln 4 before anything is learnt"
        assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert min(found) > 0.5 and np.mean(found) > 0.8


def test_damage_to_a_finished_run_is_found_before_others_are_trained(short, tmp_path, monkeypatch):
    """R7: not hours later, when everything is scored."""
    workdir = tmp_path / "copy"
    shutil.copytree(short, workdir)
    path = workdir / "models/a-0/model.npz"
    path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(workdir / "models/b-0")
    count = Calls(tiny.executor(2, 2), monkeypatch)
    with pytest.raises(UserError, match=rf"{path} is not the file that model.json describes"):
        tiny.trainer(workdir, tiny.executor(2, 2)).train(THREE)
    assert count.calls == 0


def test_metrics_are_complete(trained):
    lines = history(trained)
    groups = [["a", "b"], ["c", "d"]]
    expected = [
        (fold, 0, epoch) for group in groups for epoch in range(1, EPOCHS + 1) for fold in group
    ]
    assert [(line["fold"], line["seed"], line["epoch"]) for line in lines] == expected
    names = {"fold", "seed", "phase", "epoch", "loss", "skipped", "seconds", "seal"}
    names |= {"validation_loss", "validation_ua", "validation_wa"}
    assert {frozenset(line) for line in lines} == {frozenset(names)}
    for line in lines:
        assert 0 < line["loss"] < 3 and 0 < line["validation_loss"] < 5 and line["seconds"] > 0
        assert 0 <= line["validation_ua"] <= 1 and 0 <= line["validation_wa"] <= 1


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_every_utterance_weighs_the_same_in_an_epoch(class_weights):
    """The divisor is the mean weight of the batches that an epoch has."""
    plan = SimpleNamespace(trials=2)
    programs: Any = SimpleNamespace(
        plan=plan, settings=tiny.train_settings(equal_weights=True), put=lambda tree: tree
    )
    settings = tiny.settings(class_weights=class_weights)
    sampler = loop.BatchSampler(tiny.protocol(), tiny.dataset(), programs, settings)
    pair = tiny.trials("a,b")
    constants = sampler.constants(pair)
    assert constants.batch_weight is not None
    order, rows, mask = sampler.epoch(pair, [True, True], epoch=2)
    targets = [tiny.dataset().targets[bucket][rows[step]] for step, bucket in enumerate(order)]
    for n in range(2):
        weights = constants.class_weights[n][np.array(targets)[:, n]] * mask[:, n]
        batches = weights.sum(axis=1)[mask[:, n].any(axis=1)]
        assert np.ptp(mask[:, n].sum(axis=1)) > 0, "or nothing is shown"
        np.testing.assert_allclose(constants.batch_weight[n], batches.mean(), rtol=1e-6)


def test_best_epoch_is_stored(trained):
    """Highest validation UA, then lowest loss, from metrics.jsonl; and the stored parameters have
    those scores."""
    ties = 0
    for trial in tiny.trials():
        lines = of_trial(trained, trial)
        # Rounded: UAs that are equal in fractions may differ in their last digit.
        best = max(lines, key=lambda one: (round(one["validation_ua"], 9), -one["validation_loss"]))
        ties += sum(line["validation_ua"] == best["validation_ua"] for line in lines) - 1
        model = model_of(trained, trial)
        description = model.description
        assert description["best_epoch"] == best["epoch"] and description["epochs"] == EPOCHS
        assert (description["fold"], description["status"]) == (trial.fold.name, "done")
        recorded = {name: best[f"validation_{name}"] for name in ("ua", "wa", "loss")}
        assert description["validation"] == recorded
        ua, wa, loss = scores(model, trial.fold.validation)
        assert (ua, wa) == (recorded["ua"], recorded["wa"])
        assert loss == pytest.approx(recorded["loss"], rel=1e-6)
        statistics = tiny.dataset().statistics(trial.fold.train)
        assert tiny.bits(model.statistics) == tiny.bits(statistics)
    assert ties, "otherwise this says nothing about ties"


def test_temperature_is_the_best_of_a_grid(trained):
    """It minimises validation loss and prior of the stored parameters, to the width of the grid."""
    grid = np.geomspace(0.25, 20.0, 4001)
    found = []
    for trial in tiny.trials():
        model, numbers = model_of(trained, trial), trial.fold.validation
        logits = logits_of(model, numbers)
        truth = logits[np.arange(len(numbers)), tiny.protocol().targets[numbers]]
        losses = [np.mean(scipy.special.logsumexp(logits / t, axis=1) - truth / t) for t in grid]
        losses += (np.log(grid) / calibration.SPREAD) ** 2 / 2 / len(numbers)
        found.append(model.description["temperature"])
        assert found[-1] == pytest.approx(grid[np.argmin(losses)], rel=2e-3)
    assert len(set(found)) == 4 and any(0.3 < temperature < 10 for temperature in found)


def test_finished_runs_are_not_trained_again(trained, monkeypatch):
    count = Calls(tiny.executor(2, 2), monkeypatch)
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    tiny.trainer(trained, tiny.executor(2, 2), epochs=EPOCHS).train(tiny.trials())
    assert count.calls == count.scored == 0
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_seeds_differ(tmp_path):
    trials = tiny.trials("a", seeds=2)
    tiny.trainer(tmp_path, tiny.executor(2, 2), epochs=1).train(trials)
    assert [trial.name for trial in trials] == ["a-0", "a-1"]
    assert tiny.bits(params_of(tmp_path, trials[0])) != tiny.bits(params_of(tmp_path, trials[1]))


def test_class_weights(tmp_path):
    """Fold a trains on 8, 6, 6 and 4 of 24 utterances: 24/(4·8), 24/(4·6), 24/(4·4)."""

    def constants(folds: str, weights: str) -> Any:
        made = tiny.trainer(tmp_path, tiny.executor(2, 2), class_weights=weights)
        return made.sampler.constants(tiny.trials(folds))

    assert constants("a,b", "balanced").class_weights.tolist() == [[0.75, 1.0, 1.0, 1.5]] * 2
    equal = constants("a", "none")
    assert equal.class_weights.tolist() == [[1.0] * 4] * 2
    last = jax.tree.map(lambda leaf: leaf[1], equal)
    assert tiny.bits(last) == tiny.bits(tiny.constants(tiny.trials("a")[0])), "it is repeated"


def test_class_weights_of_joined_corpora(tmp_path):
    """Speakers a, c and b, d are two corpora; fold a trains on c and d, 12 utterances of each."""
    made = tiny.trainer(tmp_path, tiny.executor(2, 2), class_weights="balanced")
    ids = tuple(id_.replace("/", "-") for id_ in tiny.protocol().ids)
    ids = tuple(f"{'xy'[id_[0] in 'bd']}/{id_}" for id_ in ids)
    joined = dataclasses.replace(tiny.protocol(), ids=ids, corpus="x+y")
    made.sampler = loop.BatchSampler(joined, tiny.dataset(), made.executor, made.settings)
    weights = made.sampler.constants([tiny.trials("a")[0]._replace(fold=joined.folds[0])])
    sizes = np.bincount(joined.strata[joined.folds[0].train], minlength=8)
    used = sizes > 0
    found = weights.class_weights[0]
    np.testing.assert_allclose(found[used] * sizes[used], 24 / used.sum(), rtol=1e-6)


def test_a_trial_that_is_resumed_in_another_way_names_both(tmp_path):
    """The others name what they were trained with."""
    programs, three = tiny.executor(2, 2), tiny.trials("a,b,c")

    def resume(kernels: str) -> loop.Trainer:
        return tiny.trainer(tmp_path, programs, trained_with=kernels, epochs=2)

    interrupted(lambda: resume("native"), three, programs, after_step=STEPS + 1)
    resume("xla").train(three)
    found = [description_of(tmp_path, trial)["trained_with"] for trial in three]
    kernels = [[way["training.kernels"] for way in ways] for ways in found]
    assert kernels == [["native", "xla"]] * 2 + [["xla"]]


def test_trials_that_start_from_given_parameters(trained, tmp_path):
    """Every fold from its own; a group that is not full, and one that begins after resuming."""
    params = {trial.fold.name: params_of(trained, trial) for trial in tiny.trials()}
    given = {fold: {"crnn": own["crnn"]} for fold, own in params.items()}
    programs = tiny.new_executor(2, 2, front_rate=0.0)

    def make(folder: str) -> loop.Trainer:
        made = tiny.trainer(tmp_path / folder, programs, epochs=2)
        made.initial = given
        return made

    make("whole").train(THREE)
    interrupted(lambda: make("cut"), THREE, programs, after_step=STEPS + 1)
    make("cut").train(THREE)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    for trial in THREE:
        own = params_of(tmp_path / "whole", trial)
        assert tiny.bits(own["crnn"]) == tiny.bits(given[trial.fold.name]["crnn"])
        assert tiny.bits(own["softmax"]) != tiny.bits(params[trial.fold.name]["softmax"])


# --- Trials are independent


def test_run_alone_equals_run_in_a_group(short, tmp_path):
    for fold in ("b", "c"):
        (trial,) = tiny.trials(fold)
        tiny.trainer(tmp_path, tiny.executor(1, 1)).train([trial])
        tiny.assert_close(params_of(tmp_path, trial), params_of(short, trial), TOLERANCE)


def test_group_that_is_not_full(short, tmp_path, monkeypatch):
    tiny.trainer(tmp_path, tiny.executor(2, 2)).train(tiny.trials("c,d"))
    (trial,) = tiny.trials("c")
    assert tiny.bits(params_of(tmp_path, trial)) == tiny.bits(params_of(short, trial))
    assert {line["fold"] for line in history(short)} == {"a", "b", "c"}
    count = Calls(tiny.executor(2, 2), monkeypatch)
    tiny.trainer(tmp_path / "alone", tiny.executor(2, 2)).train(tiny.trials("c"))
    assert count.utterances.tolist() == [3 * 24, 0]
    assert tiny.bits(params_of(tmp_path / "alone", trial)) == tiny.bits(params_of(short, trial))


def test_patience(trained, tmp_path, monkeypatch):
    """Every trial stops after three epochs without a better one and disturbs no other."""
    programs = tiny.executor(2, 2, 0, PATIENCE)
    count = Calls(programs, monkeypatch)
    tiny.trainer(tmp_path, programs, epochs=EPOCHS).train(tiny.trials())
    stopped = []
    for trial in tiny.trials():
        best, epochs = (-1.0, 0.0, 0), 0
        for line in of_trial(trained, trial):
            epochs = line["epoch"]
            best = max(best, (round(line["validation_ua"], 9), -line["validation_loss"], epochs))
            if epochs - best[2] >= PATIENCE:
                break
        assert timeless(of_trial(tmp_path, trial)) == timeless(of_trial(trained, trial)[:epochs])
        description = description_of(tmp_path, trial)
        assert (description["best_epoch"], description["epochs"]) == (best[2], epochs)
        stopped.append(epochs)
    assert count.utterances.tolist() == [24 * (stopped[n] + stopped[n + 2]) for n in (0, 1)]
    assert len(set(stopped[:2])) + len(set(stopped[2:])) > 2, (
        "in some group one trial must stop before the other"
    )


class Poisoned(loop.BatchSampler):
    """The first trial of every group has statistics that make everything NaN."""

    @classmethod
    def trainer(cls, workdir: Path, programs: Any, **changes: Any) -> loop.Trainer:
        made = tiny.trainer(workdir, programs, **changes)
        made.sampler = cls(tiny.protocol(), tiny.dataset(), programs, made.settings)
        return made

    def constants(self, trials):
        found = super().constants(trials)
        poison = np.array([[np.nan], [1]], np.float32)
        statistics = jax.tree.map(lambda leaf: np.asarray(leaf) * poison, found.statistics)
        return found._replace(statistics=self._executor.put(statistics))


@pytest.mark.parametrize(("chunk", "beside_a_sound_one"), [(0, "short"), (CHUNK, "chunked")])
def test_diverged_run_disturbs_nobody(chunk, beside_a_sound_one, request, tmp_path, caplog):
    """R18: it has no arrays and no scores; the other has the same bits as beside a sound one."""
    short = request.getfixturevalue(beside_a_sound_one)
    trainer = Poisoned.trainer(tmp_path, tiny.executor(2, 2, chunk))
    diverged, sound = tiny.trials("a,b")
    trainer.train([diverged, sound])
    assert [path.name for path in (tmp_path / "models" / diverged.name).iterdir()] == ["model.json"]
    description = description_of(tmp_path, diverged)
    assert (description["status"], description["epochs"]) == ("diverged", 1)
    assert description["best_epoch"] is None
    assert "a-0 has diverged in epoch 1" in caplog.text
    assert tiny.bits(params_of(tmp_path, sound)) == tiny.bits(params_of(short, sound))
    assert of_trial(tmp_path, diverged) == []
    assert [line["epoch"] for line in of_trial(tmp_path, sound)] == [1, 2, 3]


@pytest.mark.parametrize(("chunk", "epochs"), [(0, 1), (CHUNK, 2)])
def test_group_in_which_every_run_diverges_ends_early(chunk, epochs, tmp_path, monkeypatch):
    """Where scores are read an epoch late, after one more epoch, in which nothing changes."""
    programs = tiny.executor(2, 2, chunk)
    count = Calls(programs, monkeypatch)
    Poisoned.trainer(tmp_path, programs).train(tiny.trials("a"))
    assert count.steps == epochs * STEPS and history(tmp_path) == []
    assert outcome(tmp_path)["models/a-0/model.json"]["epochs"] == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_that_explodes_is_never_saved_as_such(interrupted, short, tmp_path, monkeypatch):
    """R18: interrupted before its epoch ends, it diverges after resuming and disturbs no other."""
    programs = tiny.executor(2, 2)
    train, calls = programs.train, 0

    def exploding(state, *arguments):
        nonlocal calls
        state, calls = train(state, *arguments), calls + 1
        if calls == 2:
            params = jax.tree.map(np.array, jax.device_get(state.params))
            for leaf in jax.tree.leaves(params):
                leaf[0] = np.inf
            state = state._replace(params=programs.put(params))
            if interrupted:
                signal.raise_signal(signal.SIGTERM)
        return state

    monkeypatch.setattr(programs, "train", exploding)
    lost, sound = tiny.trials("a,b")
    if interrupted:
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path, programs).train([lost, sound])
    tiny.trainer(tmp_path, programs).train([lost, sound])
    description = description_of(tmp_path, lost)
    assert (description["status"], description["epochs"]) == ("diverged", 1)
    assert tiny.bits(params_of(tmp_path, sound)) == tiny.bits(params_of(short, sound))
    assert [line["epoch"] for line in of_trial(tmp_path, sound)] == [1, 2, 3]


# --- Interruptions


@pytest.mark.parametrize(
    "steps",
    [[1], [STEPS], [STEPS + 1], [3 * STEPS], [3 * STEPS + 1], [6 * STEPS], [3, 1, 2 * STEPS]],
    ids=lambda steps: "+".join(map(str, steps)),
)
def test_resumes_to_the_bit(short, tmp_path, monkeypatch, steps):
    """R2: SIGTERM in any step: no step is lost or repeated and nothing differs in the end."""
    executor = tiny.executor(2, 2)
    for step in steps:
        count = interrupted(
            lambda: tiny.trainer(tmp_path, executor), THREE, executor, after_train=[step]
        )
        assert count.steps == step, "it leaves at the next step boundary"
    count = Calls(executor, monkeypatch)
    tiny.trainer(tmp_path, executor).train(THREE)
    assert sum(steps) + count.steps == 2 * 3 * STEPS
    assert outcome(tmp_path) == outcome(short)


def score_batches(speakers: str = "abcd") -> int:
    """Batches that hold all utterances of any of these speakers, in both buckets."""
    parts = [np.flatnonzero(np.array(tiny.protocol().speakers) == speaker) for speaker in speakers]
    counts = [[len(rows) for rows in tiny.dataset().rows(part)] for part in parts]
    return sum(-(-max(bucket) // tiny.BATCH) for bucket in zip(*counts, strict=True))


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize(("chunk", "uninterrupted"), [(0, "short"), (CHUNK, "chunked")])
def test_resumes_when_interrupted_in_validation(
    chunk, uninterrupted, epoch, request, tmp_path, monkeypatch
):
    """The epoch's scores are kept, not made again; after the last only the models are missing."""
    whole, executor = request.getfixturevalue(uninterrupted), tiny.executor(2, 2, chunk)
    first = interrupted(
        lambda: tiny.trainer(tmp_path, executor), THREE, executor, after_score=[epoch]
    )
    assert (first.steps, first.scored) == (epoch * STEPS, epoch)
    assert timeless(history(tmp_path)) == timeless(history(whole))[: 2 * epoch]
    count = Calls(executor, monkeypatch)
    tiny.trainer(tmp_path, executor).train(THREE)
    assert first.steps + count.steps == 2 * 3 * STEPS
    assert first.scored + count.scored == 2 * (3 + 1), "once for the temperature"
    temperatures = score_batches("bc") + score_batches("d")  # whom a, b and c validate on
    assert first.batches + count.batches == 2 * 3 * score_batches() + temperatures
    assert outcome(tmp_path) == outcome(whole)


def test_a_signal_at_any_line_of_the_loop_leaves_by_a_checkpoint_of_the_last_step(
    tmp_path, monkeypatch
):
    """Also between the line that decides whether to save and the end of the epoch."""
    programs = tiny.executor(2, 2, CHUNK)
    hits: dict[int, int] = {}
    stop_at = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code is not loop.Trainer._train_group.__code__:
            return None
        if event == "line":
            hits[frame.f_lineno] = hits.get(frame.f_lineno, 0) + 1
            if frame.f_lineno == stop_at and hits[stop_at] == 2:
                signal.raise_signal(signal.SIGTERM)
        return trace

    def train(workdir: Path) -> None:
        hits.clear()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            tiny.trainer(workdir, programs).train(THREE[:2])
        finally:
            sys.settrace(before)

    train(tmp_path / "whole")
    repeated = [line for line, count in hits.items() if count > 1]
    assert len(repeated) > 10
    for stop_at in repeated:
        workdir = tmp_path / str(stop_at)
        with monkeypatch.context() as patch:
            calls = Calls(programs, patch)
            with pytest.raises(Interrupted):
                train(workdir)
        with checkpoint.open_checkpoints(workdir / "checkpoints") as checkpoints:
            position = checkpoints.position
        assert position, f"no checkpoint after a signal at line {stop_at}"
        assert (position["epoch"] - 1) * STEPS + position["step"] == calls.steps
        assert len(history(workdir)) == 2 * (position["epoch"] - 1)


def test_a_signal_waits_for_a_save_only_where_there_is_something_to_save(tmp_path, monkeypatch):
    """Before the first step of a group its programs are compiled, which may take long."""
    programs = tiny.executor(2, 2)
    train, saves = programs.train, []

    def watched(*arguments):
        saves.append([watch.saves for watch in signals._watching])
        return train(*arguments)

    monkeypatch.setattr(programs, "train", watched)
    tiny.trainer(tmp_path, programs).train(THREE)
    assert saves == [[step > 0] for step in range(3 * STEPS)] * 2, "two groups"


def test_signal_while_the_models_are_written_is_not_lost(short, tmp_path, monkeypatch):
    write = model_files.write_model

    def interrupted_write(*arguments):
        write(*arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(model_files, "write_model", interrupted_write)
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path, tiny.executor(2, 2)).train(THREE)
    assert len(model_files.list_models(tmp_path)) == 2
    tiny.trainer(tmp_path, tiny.executor(2, 2)).train(THREE)
    assert outcome(tmp_path) == outcome(short)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
@pytest.mark.parametrize("step", [2 * STEPS + 3, 3 * STEPS + 3])
def test_killed_without_warning(short, tmp_path, monkeypatch, step, checkpoint_seconds):
    """It goes on from the last checkpoint or from the start; later metrics are replaced."""
    executor = tiny.executor(2, 2)
    interrupted(
        lambda: tiny.trainer(tmp_path, executor, checkpoint_seconds=checkpoint_seconds),
        *(THREE, executor),
        after_train=[step],
        action=kill,
    )
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"fold": "a", "seed": 0, "epo')
    count = Calls(executor, monkeypatch)
    tiny.trainer(tmp_path, executor).train(THREE)
    repeated = 2 * STEPS + 3 if step < 3 * STEPS and checkpoint_seconds else 3
    assert step + count.steps == 2 * 3 * STEPS + repeated
    assert outcome(tmp_path) == outcome(short)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory) -> Path:
    """Runs a and b, left in the middle of epoch 2."""
    workdir = tmp_path_factory.mktemp("halfway")
    executor = tiny.executor(2, 2)
    interrupted(lambda: tiny.trainer(workdir, executor), THREE, executor, after_train=[STEPS + 3])
    return workdir


@pytest.fixture
def copy(halfway, tmp_path) -> Path:
    return Path(shutil.copytree(halfway, tmp_path / "copy"))


def test_killed_after_it_has_resumed(copy, short):
    """The checkpoint lies in epoch 2, which metrics.jsonl lists: it is repeated and listed once."""
    executor = tiny.executor(2, 2)
    interrupted(
        lambda: tiny.trainer(copy, executor), THREE, executor, after_train=[STEPS], action=kill
    )
    assert max(line["epoch"] for line in history(copy)) == 2
    tiny.trainer(copy, executor).train(THREE)
    assert outcome(copy) == outcome(short)


@pytest.mark.parametrize("folds", ["a,c", "b,a,c", "c", "a,b,c"])
def test_checkpoint_of_another_group(copy, short, monkeypatch, folds):
    """Whichever trials are trained next, they end as if nothing had been there."""
    count = Calls(tiny.executor(2, 2), monkeypatch)
    tiny.trainer(copy, tiny.executor(2, 2)).train(tiny.trials(folds))
    saved = STEPS + 3 if {"a", "b"} <= set(folds) else 0
    assert count.steps == -(-len(tiny.trials(folds)) // 2) * 3 * STEPS - saved
    for trial in tiny.trials(folds):
        assert tiny.bits(params_of(copy, trial)) == tiny.bits(params_of(short, trial))
        assert timeless(of_trial(copy, trial)) == timeless(of_trial(short, trial))


@pytest.mark.parametrize(
    ("size", "devices", "chunk", "steps"),
    [(1, 1, 0, 7 * STEPS - 6), (4, 4, 0, 5 * STEPS - 3), (2, 2, CHUNK, 5 * STEPS - 3)],
)
def test_resumes_on_other_devices(copy, short, monkeypatch, size, devices, chunk, steps):
    """R12: a larger group takes over the saved one, smaller ones share it."""
    programs = tiny.executor(size, devices, chunk)
    count = Calls(programs, monkeypatch)
    tiny.trainer(copy, programs).train(THREE)
    assert count.steps == steps
    for trial in THREE:
        tiny.assert_close(params_of(copy, trial), params_of(short, trial), TOLERANCE)
        assert [line["epoch"] for line in of_trial(copy, trial)] == [1, 2, 3]


# --- Many steps at once, scores an epoch late


def test_chunks_of_steps_train_as_steps_do(short, chunked):
    for trial in THREE:
        tiny.assert_close(params_of(chunked, trial), params_of(short, trial), TOLERANCE)
    keys = ("fold", "seed", "epoch")
    lines = ([[line[key] for key in keys] for line in history(w)] for w in (short, chunked))
    assert next(lines) == next(lines)


@pytest.mark.parametrize(
    "calls",
    [[CALLS], [CALLS + 1], [3 * CALLS], [6 * CALLS], [1, 1, 2 * CALLS]],
    ids=lambda calls: "+".join(map(str, calls)),
)
def test_chunks_resume_to_the_bit(chunked, tmp_path, monkeypatch, calls):
    """R2: between any two chunks, with the scores of all finished epochs on disk."""
    programs = tiny.executor(2, 2, CHUNK)
    steps = made = 0
    for call in calls:
        count = interrupted(
            lambda: tiny.trainer(tmp_path, programs), THREE, programs, after_train=[call]
        )
        assert count.calls == call, "it leaves at the next boundary of chunks"
        steps, made = steps + count.steps, made + call
        over = (made - 1) // CALLS  # epochs: three with lines of a and b, then those of c
        found = timeless(history(tmp_path))
        assert found == timeless(history(chunked))[: min(2 * over, 3 + over)]
    count = Calls(programs, monkeypatch)
    tiny.trainer(tmp_path, programs).train(THREE)
    assert (steps + count.steps, made + count.calls) == (2 * 3 * STEPS, 2 * 3 * CALLS)
    assert outcome(tmp_path) == outcome(chunked)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
def test_chunks_killed_without_warning(chunked, tmp_path, monkeypatch, checkpoint_seconds):
    """In epoch 3 of the first group; epoch 2 is not read yet unless there is a checkpoint."""
    programs = tiny.executor(2, 2, CHUNK)
    first = interrupted(
        lambda: tiny.trainer(tmp_path, programs, checkpoint_seconds=checkpoint_seconds),
        *(THREE, programs),
        after_train=[2 * CALLS + 1],
        action=kill,
    )
    assert max(line["epoch"] for line in history(tmp_path)) == (1 if checkpoint_seconds else 2)
    count = Calls(programs, monkeypatch)
    tiny.trainer(tmp_path, programs).train(THREE)
    repeated = CHUNK + (2 * STEPS if checkpoint_seconds else 0)
    assert first.steps + count.steps == 2 * 3 * STEPS + repeated
    assert outcome(tmp_path) == outcome(chunked)


def test_patience_when_scores_are_read_late(tmp_path, monkeypatch):
    """The same files; the epoch that a group trains too many changes nothing."""
    programs = tiny.executor(2, 2, CHUNK, PATIENCE)
    assert programs.plan.metrics_delay == 1
    trained = []
    for late in (0, 1):
        with monkeypatch.context() as patch:
            delayed = dataclasses.replace(programs.plan, metrics_delay=late)
            patch.setattr(programs, "plan", delayed)
            count = Calls(programs, patch)
            tiny.trainer(tmp_path / str(late), programs, epochs=EPOCHS).train(tiny.trials())
            trained.append(count.steps)
    assert outcome(tmp_path / "0") == outcome(tmp_path / "1")
    stopped = [len(of_trial(tmp_path / "0", trial)) for trial in tiny.trials()]
    ends = max(stopped[:2]), max(stopped[2:])
    assert min(ends) < EPOCHS, "otherwise patience has ended no group"
    assert trained == [sum(ends) * STEPS, sum(min(end + 1, EPOCHS) for end in ends) * STEPS]


def test_chunks_are_taken_over_by_steps(short, tmp_path, monkeypatch):
    """A checkpoint does not depend on how the steps were dispatched."""
    by_chunk, trials = tiny.executor(2, 2, CHUNK), tiny.trials("a,b")
    first = interrupted(
        lambda: tiny.trainer(tmp_path, by_chunk), trials, by_chunk, after_train=[CALLS + 1]
    )
    count = Calls(tiny.executor(2, 2), monkeypatch)
    tiny.trainer(tmp_path, tiny.executor(2, 2)).train(trials)
    assert (first.steps, first.steps + count.steps) == (STEPS + CHUNK, 3 * STEPS)
    for trial in trials:
        tiny.assert_close(params_of(tmp_path, trial), params_of(short, trial), TOLERANCE)
