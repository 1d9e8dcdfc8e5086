"""The training loop: it learns, chooses the best epoch, resumes to the bit (R2) and keeps runs apart."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.special
import tiny

from ser_jax import metrics
from ser_jax.errors import UserError
from ser_jax.training import feed, fit, model_files, scoring
from ser_jax.training.interrupt import Interrupted

STEPS = len(tiny.steps_of_an_epoch())
EPOCHS, PATIENCE = 30, 3
CHUNK = 7  # an epoch is a whole chunk and part of another
CALLS = -(-STEPS // CHUNK)  # of the training program by chunk in an epoch
assert STEPS % CHUNK
NO_SECONDS = {"seconds": None, "seal": None}

pytestmark = pytest.mark.xdist_group("training")  # One process compiles the programs that these files share.


def history(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**line, **NO_SECONDS} for line in lines]


def of_run(workdir: Path, run) -> list[dict[str, Any]]:
    return [line for line in history(workdir) if (line["fold"], line["seed"]) == (run.fold.name, run.seed)]


def outcome(workdir: Path) -> dict[str, Any]:
    """Everything that a training leaves behind, except for times."""

    def strict(text: str) -> dict[str, Any]:
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    found: dict[str, Any] = {"metrics": timeless(history(workdir))}
    for path in sorted((workdir / "models").rglob("*.*")):
        name = str(path.relative_to(workdir))
        found[name] = path.read_bytes() if path.suffix == ".npz" else {**strict(path.read_text()), **NO_SECONDS}
    return found


def params_of(workdir: Path, run) -> Any:
    return model_files.read_model(workdir / "models" / run.name).params


def scores(run, numbers: np.ndarray, model) -> tuple[float, float, float]:
    """UA, WA and loss of a stored model."""
    logits = scoring.model_logits(tiny.programs(2, 2), tiny.dataset(), [model], [numbers], tiny.BATCH)[0]
    targets = tiny.protocol().targets[numbers]
    confusion = metrics.confusion_matrix(targets, logits.argmax(axis=1), len(tiny.CLASSES))
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -np.mean(log_probabilities[np.arange(len(targets)), targets])
    return metrics.unweighted_accuracy(confusion), metrics.weighted_accuracy(confusion), float(loss)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """All four folds, two at a time, until they have learnt."""
    workdir = tmp_path_factory.mktemp("trained")
    tiny.trainer(workdir, tiny.programs(2, 2), epochs=EPOCHS).train(tiny.runs())
    return workdir


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """Three runs, two at a time, for 3 epochs; the second group is not full."""
    workdir = tmp_path_factory.mktemp("short")
    tiny.trainer(workdir, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    return workdir


@pytest.fixture(scope="module")
def chunked(tmp_path_factory) -> Path:
    """The same three runs, many steps at once."""
    workdir = tmp_path_factory.mktemp("chunked")
    tiny.trainer(workdir, tiny.programs(2, 2, CHUNK)).train(tiny.runs("a,b,c"))
    return workdir


class Interruption:
    """Programs that do something after given calls.

    They count the calls, the steps and batches that these were about, and the utterances each place trains on.
    """

    def __init__(self, programs, monkeypatch, *, after_train=(), after_score=(), action=None):
        self.calls = self.trained = self.scored = self.batches = 0
        self.utterances = np.zeros(programs.size, int)
        train, score = programs.train, programs.score
        action = action or (lambda: signal.raise_signal(signal.SIGTERM))

        def counted_train(state, run, order, rows, mask):
            assert 1 <= len(order) <= programs.chunk
            result = train(state, run, order, rows, mask)
            self.calls += 1
            self.trained += len(order)
            self.utterances += mask.sum(axis=(0, 2))
            if self.calls in after_train:
                action()
            return result

        def counted_score(params, statistics, order, rows):
            result = score(params, statistics, order, rows)
            self.scored += 1
            self.batches += len(order)
            if self.scored in after_score:
                action()
            return result

        monkeypatch.setattr(programs, "train", counted_train)
        monkeypatch.setattr(programs, "score", counted_score)


# --- Learning ---------------------------------------------------------------------------------------------------------


def test_learns(trained):
    """Speakers that were never heard are classified: chance is ¼."""
    found = []
    for run in tiny.runs():
        found.append(scores(run, run.fold.test, model_files.read_model(trained / "models" / run.name))[0])
        lines = of_run(trained, run)
        assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert min(found) > 0.5 and np.mean(found) > 0.8


def test_damage_to_a_finished_run_is_found_before_others_are_trained(short, tmp_path, monkeypatch):
    """R7: not hours later, when everything is scored."""
    workdir = tmp_path / "copy"
    shutil.copytree(short, workdir)
    path = workdir / "models/a-0/model.npz"
    path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(workdir / "models/b-0")
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    with pytest.raises(UserError, match=rf"{path} is not the file that model.json describes"):
        tiny.trainer(workdir, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    assert count.calls == 0


def test_metrics_are_complete(trained):
    lines = history(trained)
    groups = [["a", "b"], ["c", "d"]]
    expected = [(fold, 0, epoch) for group in groups for epoch in range(1, EPOCHS + 1) for fold in group]
    assert [(line["fold"], line["seed"], line["epoch"]) for line in lines] == expected
    names = {"fold", "seed", "phase", "epoch", "loss", "skipped", "seconds"}
    names |= {"validation_loss", "validation_ua", "validation_wa"}
    assert {frozenset(line) for line in lines} == {frozenset(names)}
    for line in lines:
        assert 0 < line["loss"] < 3 and 0 < line["validation_loss"] < 5 and line["seconds"] > 0
        assert 0 <= line["validation_ua"] <= 1 and 0 <= line["validation_wa"] <= 1


def test_first_epoch_starts_at_chance(trained):
    """The recorded loss is the mean over utterances: about ln 4 before anything is learnt."""
    assert all(0.8 < line["loss"] < 1.6 for line in history(trained) if line["epoch"] == 1)


def test_best_epoch_is_stored(trained):
    """Highest validation UA, then lowest loss, from metrics.jsonl; and the stored parameters have those scores."""
    ties = 0
    for run in tiny.runs():
        lines = of_run(trained, run)
        best = max(lines, key=lambda line: (line["validation_ua"], -line["validation_loss"]))
        ties += sum(line["validation_ua"] == best["validation_ua"] for line in lines) - 1
        model = model_files.read_model(trained / "models" / run.name)
        description = model.description
        assert description["best_epoch"] == best["epoch"] and description["epochs"] == EPOCHS
        assert (description["fold"], description["seed"], description["status"]) == (run.fold.name, 0, "done")
        recorded = {name: best[f"validation_{name}"] for name in ("ua", "wa", "loss")}
        assert description["validation"] == recorded
        ua, wa, loss = scores(run, run.fold.validation, model)
        assert (ua, wa) == (recorded["ua"], recorded["wa"])
        assert loss == pytest.approx(recorded["loss"], rel=1e-6)
        statistics = tiny.dataset().statistics(run.fold.train)
        assert tiny.bits(model.statistics) == tiny.bits(statistics)
    assert ties, "otherwise this says nothing about ties"


def test_temperature_is_the_best_of_a_grid(trained):
    """It makes the validation logits of the stored parameters likeliest, to the width of the grid."""
    grid = np.geomspace(0.25, 20.0, 4001)
    found = []
    for run in tiny.runs():
        model = model_files.read_model(trained / "models" / run.name)
        numbers = run.fold.validation
        logits = scoring.model_logits(tiny.programs(2, 2), tiny.dataset(), [model], [numbers], tiny.BATCH)[0]
        truth = logits[np.arange(len(numbers)), tiny.protocol().targets[numbers]]
        losses = [np.mean(scipy.special.logsumexp(logits / t, axis=1) - truth / t) for t in grid]
        found.append(model.description["temperature"])
        assert found[-1] == pytest.approx(grid[np.argmin(losses)], rel=2e-3)
    assert len(set(found)) == 4 and any(0.3 < temperature < 10 for temperature in found)


def test_finished_runs_are_not_trained_again(trained, monkeypatch):
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    tiny.trainer(trained, tiny.programs(2, 2), epochs=EPOCHS).train(tiny.runs())
    assert count.calls == count.scored == 0
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_seeds_differ(tmp_path):
    runs = tiny.runs("a", seeds=2)
    tiny.trainer(tmp_path, tiny.programs(2, 2), epochs=1).train(runs)
    assert [run.name for run in runs] == ["a-0", "a-1"]
    assert tiny.bits(params_of(tmp_path, runs[0])) != tiny.bits(params_of(tmp_path, runs[1]))


def test_class_weights(tmp_path):
    """Fold a trains on c and d, with 8, 6, 6 and 4 of 24 utterances: 24/(4·8), 24/(4·6), 24/(4·4)."""
    programs = tiny.programs(2, 2)
    balanced = tiny.trainer(tmp_path, programs, class_weights="balanced").feed.constants(tiny.runs("a,b"))
    assert balanced.class_weights.tolist() == [[0.75, 1.0, 1.0, 1.5]] * 2
    equal = tiny.trainer(tmp_path, programs).feed.constants(tiny.runs("a"))
    assert equal.class_weights.tolist() == [[1.0] * 4] * 2
    expected = tiny.constants(tiny.runs("a")[0])
    assert tiny.bits(jax.tree.map(lambda leaf: leaf[1], equal)) == tiny.bits(expected), "the last run is repeated"


# --- Runs do not see each other ---------------------------------------------------------------------------------------


def test_run_alone_equals_run_in_a_group(short, tmp_path):
    for fold in ("b", "c"):
        tiny.trainer(tmp_path, tiny.programs(1, 1)).train(tiny.runs(fold))
        (run,) = tiny.runs(fold)
        tiny.assert_close(params_of(tmp_path, run), params_of(short, run), 0.01 * tiny.LEARNING_RATE)


def test_group_that_is_not_full(short, tmp_path, monkeypatch):
    tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("c,d"))
    (run,) = tiny.runs("c")
    assert tiny.bits(params_of(tmp_path, run)) == tiny.bits(params_of(short, run))
    assert {line["fold"] for line in history(short)} == {"a", "b", "c"}
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    tiny.trainer(tmp_path / "alone", tiny.programs(2, 2)).train(tiny.runs("c"))
    assert count.utterances.tolist() == [3 * 24, 0]
    assert tiny.bits(params_of(tmp_path / "alone", run)) == tiny.bits(params_of(short, run))


def test_patience(trained, tmp_path, monkeypatch):
    """Every run stops after three epochs without a better one, and keeps what it had; the others go on undisturbed."""
    programs = tiny.programs(2, 2, 0, PATIENCE)
    count = Interruption(programs, monkeypatch)
    tiny.trainer(tmp_path, programs, epochs=EPOCHS).train(tiny.runs())
    stopped = []
    for run in tiny.runs():
        best, epochs = (-1.0, 0.0, 0), 0
        for line in of_run(trained, run):
            epochs = line["epoch"]
            best = max(best, (line["validation_ua"], -line["validation_loss"], epochs))
            if epochs - best[2] >= PATIENCE:
                break
        assert timeless(of_run(tmp_path, run)) == timeless(of_run(trained, run)[:epochs])
        description = model_files.read_description(tmp_path / "models" / run.name)
        assert description is not None
        assert (description["best_epoch"], description["epochs"], description["status"]) == (best[2], epochs, "done")
        stopped.append(epochs)
    assert count.utterances.tolist() == [24 * (stopped[0] + stopped[2]), 24 * (stopped[1] + stopped[3])]
    assert len(set(stopped[:2])) + len(set(stopped[2:])) > 2, "in some group one run must stop before the other"


class Poisoned(feed.Feed):
    """The first run of every group has statistics that make everything NaN."""

    @classmethod
    def trainer(cls, workdir: Path, programs: Any, **changes: Any) -> fit.Trainer:
        made = tiny.trainer(workdir, programs, **changes)
        options = {name: getattr(made.settings, name) for name in ("batch_size", "class_weights", "refit")}
        made.feed = cls(tiny.protocol(), tiny.dataset(), programs, **options)
        return made

    def constants(self, runs):
        found = super().constants(runs)
        statistics = jax.tree.map(lambda leaf: self.programs.put(np.asarray(leaf) * [[np.nan], [1]]), found.statistics)
        return found._replace(statistics=jax.tree.map(lambda leaf: leaf.astype(np.float32), statistics))


@pytest.mark.parametrize(("chunk", "beside_a_sound_one"), [(0, "short"), (CHUNK, "chunked")])
def test_diverged_run_disturbs_nobody(chunk, beside_a_sound_one, request, tmp_path, caplog):
    """R18: it is marked, has no arrays and no scores, and the other run has the same bits as beside a sound one."""
    short = request.getfixturevalue(beside_a_sound_one)
    trainer = Poisoned.trainer(tmp_path, tiny.programs(2, 2, chunk))
    diverged, sound = tiny.runs("a,b")
    trainer.train([diverged, sound])
    assert [path.name for path in (tmp_path / "models" / diverged.name).iterdir()] == ["model.json"]
    description = outcome(tmp_path)[f"models/{diverged.name}/model.json"]
    assert description["status"] == "diverged" and description["epochs"] == 1 and description["best_epoch"] is None
    assert "a-0 has diverged in epoch 1" in caplog.text
    assert tiny.bits(params_of(tmp_path, sound)) == tiny.bits(params_of(short, sound))
    assert of_run(tmp_path, diverged) == []
    assert [line["epoch"] for line in of_run(tmp_path, sound)] == [1, 2, 3]


@pytest.mark.parametrize(("chunk", "epochs"), [(0, 1), (CHUNK, 2)])
def test_group_in_which_every_run_diverges_ends_early(chunk, epochs, tmp_path, monkeypatch):
    """Where scores are read an epoch late, after one more epoch, in which nothing changes."""
    programs = tiny.programs(2, 2, chunk)
    count = Interruption(programs, monkeypatch)
    Poisoned.trainer(tmp_path, programs).train(tiny.runs("a"))
    assert count.trained == epochs * STEPS and history(tmp_path) == []
    assert outcome(tmp_path)["models/a-0/model.json"]["epochs"] == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_that_explodes_is_never_saved_as_such(interrupted, short, tmp_path, monkeypatch):
    """R18: stopped before its epoch says so, it diverges all the same after resuming; its neighbour is undisturbed."""
    programs = tiny.programs(2, 2)
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
    lost, sound = tiny.runs("a,b")
    if interrupted:
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path, programs).train([lost, sound])
    tiny.trainer(tmp_path, programs).train([lost, sound])
    description = outcome(tmp_path)[f"models/{lost.name}/model.json"]
    assert (description["status"], description["epochs"]) == ("diverged", 1)
    assert tiny.bits(params_of(tmp_path, sound)) == tiny.bits(params_of(short, sound))
    assert [line["epoch"] for line in of_run(tmp_path, sound)] == [1, 2, 3]


# --- Interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [[1], [STEPS - 1], [STEPS], [STEPS + 1], [3 * STEPS], [3 * STEPS + 1], [6 * STEPS], [3, 1, 2 * STEPS]],
    ids=lambda steps: "+".join(map(str, steps)),
)
def test_resumes_to_the_bit(short, tmp_path, monkeypatch, steps):
    """R2: whatever step SIGTERM comes in, no step is lost or repeated and nothing differs in the end."""
    total = 0
    for step in steps:
        with monkeypatch.context() as patch:
            count = Interruption(tiny.programs(2, 2), patch, after_train=[step])
            with pytest.raises(Interrupted, match="SIGTERM"):
                tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
            assert count.trained == step, "it leaves at the next step boundary"
            total += step
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    assert total + count.trained == 2 * 3 * STEPS
    assert outcome(tmp_path) == outcome(short)


def score_batches(speakers: str = "abcd") -> int:
    """Batches that hold all utterances of any of these speakers, in both buckets."""
    parts = [np.flatnonzero(np.array(tiny.protocol().speakers) == speaker) for speaker in speakers]
    counts = [[len(rows) for rows in tiny.dataset().rows(part)] for part in parts]
    return sum(-(-max(bucket) // tiny.BATCH) for bucket in zip(*counts, strict=True))


@pytest.mark.parametrize("epoch", [1, 3])
def test_resumes_when_interrupted_in_validation(short, tmp_path, monkeypatch, epoch):
    """The epoch's scores are kept, not made again; after the last epoch only the models are missing."""
    with monkeypatch.context() as patch:
        count = Interruption(tiny.programs(2, 2), patch, after_score=[epoch])
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    trained, scored, batches = count.trained, count.scored, count.batches
    assert (trained, scored) == (epoch * STEPS, epoch)
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    assert (trained + count.trained, scored + count.scored) == (2 * 3 * STEPS, 2 * (3 + 1)), "once for the temperature"
    temperatures = score_batches("bc") + score_batches("d")  # whom runs a, b and c validate on
    assert batches + count.batches == 2 * 3 * score_batches() + temperatures
    assert outcome(tmp_path) == outcome(short)


def test_signal_while_the_models_are_written_is_not_lost(short, tmp_path, monkeypatch):
    write = model_files.write_model

    def interrupted_write(*arguments):
        write(*arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(model_files, "write_model", interrupted_write)
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    assert len(model_files.list_models(tmp_path)) == 2
    tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    assert outcome(tmp_path) == outcome(short)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
@pytest.mark.parametrize("step", [2 * STEPS + 3, 3 * STEPS + 3])
def test_killed_without_warning(short, tmp_path, monkeypatch, step, checkpoint_seconds):
    """It goes on from the last checkpoint, or from the start; what stands in metrics.jsonl by then is made again."""

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        count = Interruption(tiny.programs(2, 2), patch, after_train=[step], action=kill)
        with pytest.raises(Killed):
            trainer = tiny.trainer(tmp_path, tiny.programs(2, 2), checkpoint_seconds=checkpoint_seconds)
            trainer.train(tiny.runs("a,b,c"))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"fold": "a", "seed": 0, "epo')
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    repeated = 2 * STEPS + 3 if step < 3 * STEPS and checkpoint_seconds else 3
    assert step + count.trained == 2 * 3 * STEPS + repeated
    assert outcome(tmp_path) == outcome(short)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory) -> Path:
    """Runs a and b, left in the middle of epoch 2."""
    workdir = tmp_path_factory.mktemp("halfway")
    with pytest.MonkeyPatch.context() as patch:
        Interruption(tiny.programs(2, 2), patch, after_train=[STEPS + 3])
        with pytest.raises(Interrupted):
            tiny.trainer(workdir, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    return workdir


def test_killed_after_it_has_resumed(halfway, short, tmp_path, monkeypatch):
    """The checkpoint lies in epoch 2, metrics.jsonl goes further: epoch 2 is made again, and stands there once."""
    workdir = tmp_path / "copy"
    shutil.copytree(halfway, workdir)

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        Interruption(tiny.programs(2, 2), patch, after_train=[STEPS], action=kill)
        with pytest.raises(Killed):
            tiny.trainer(workdir, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    assert max(line["epoch"] for line in history(workdir)) == 2
    tiny.trainer(workdir, tiny.programs(2, 2)).train(tiny.runs("a,b,c"))
    assert outcome(workdir) == outcome(short)


@pytest.mark.parametrize("folds", ["a,c", "b,a,c", "c", "a,b,c"])
def test_checkpoint_of_another_group(halfway, short, tmp_path, monkeypatch, folds):
    """Whichever runs are asked for next, they end as if nothing had been there."""
    workdir = tmp_path / "copy"
    shutil.copytree(halfway, workdir)
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    tiny.trainer(workdir, tiny.programs(2, 2)).train(tiny.runs(folds))
    saved = STEPS + 3 if {"a", "b"} <= set(folds) else 0
    assert count.trained == -(-len(tiny.runs(folds)) // 2) * 3 * STEPS - saved
    for run in tiny.runs(folds):
        assert tiny.bits(params_of(workdir, run)) == tiny.bits(params_of(short, run))
        assert timeless(of_run(workdir, run)) == timeless(of_run(short, run))


@pytest.mark.parametrize(
    ("size", "devices", "chunk", "steps"),
    [(1, 1, 0, 7 * STEPS - 6), (4, 4, 0, 5 * STEPS - 3), (2, 2, CHUNK, 5 * STEPS - 3)],
)
def test_resumes_on_other_devices(halfway, short, tmp_path, monkeypatch, size, devices, chunk, steps):
    """A larger group takes over the saved one, smaller ones share it. R12 says how much may differ."""
    workdir = tmp_path / "copy"
    shutil.copytree(halfway, workdir)
    programs = tiny.programs(size, devices, chunk)
    count = Interruption(programs, monkeypatch)
    tiny.trainer(workdir, programs).train(tiny.runs("a,b,c"))
    assert count.trained == steps
    for run in tiny.runs("a,b,c"):
        tiny.assert_close(params_of(workdir, run), params_of(short, run), 0.01 * tiny.LEARNING_RATE)
        assert [line["epoch"] for line in of_run(workdir, run)] == [1, 2, 3]


# --- Many steps at once, scores an epoch late -------------------------------------------------------------------------


def test_chunks_of_steps_train_as_steps_do(short, chunked):
    for run in tiny.runs("a,b,c"):
        tiny.assert_close(params_of(chunked, run), params_of(short, run), 0.01 * tiny.LEARNING_RATE)
    keys = ("fold", "seed", "epoch")
    assert [[line[key] for key in keys] for line in history(chunked)] == [
        [line[key] for key in keys] for line in history(short)
    ]


@pytest.mark.parametrize(
    "calls",
    [[1], [CALLS], [CALLS + 1], [3 * CALLS], [3 * CALLS + 1], [6 * CALLS], [1, 1, 2 * CALLS]],
    ids=lambda calls: "+".join(map(str, calls)),
)
def test_chunks_resume_to_the_bit(chunked, tmp_path, monkeypatch, calls):
    """R2: between any two chunks; the scores of every epoch that is over are on disk, although they are read late."""
    programs = tiny.programs(2, 2, CHUNK)
    steps = made = 0
    for call in calls:
        with monkeypatch.context() as patch:
            count = Interruption(programs, patch, after_train=[call])
            with pytest.raises(Interrupted, match="SIGTERM"):
                tiny.trainer(tmp_path, programs).train(tiny.runs("a,b,c"))
        assert count.calls == call, "it leaves at the next boundary of chunks"
        steps, made = steps + count.trained, made + call
        over = (made - 1) // CALLS  # epochs: three with lines of runs a and b, then those of c
        found = timeless(history(tmp_path)) if (tmp_path / "metrics.jsonl").is_file() else []
        assert found == timeless(history(chunked))[: min(2 * over, 3 + over)]
    count = Interruption(programs, monkeypatch)
    tiny.trainer(tmp_path, programs).train(tiny.runs("a,b,c"))
    assert (steps + count.trained, made + count.calls) == (2 * 3 * STEPS, 2 * 3 * CALLS)
    assert outcome(tmp_path) == outcome(chunked)


@pytest.mark.parametrize("epoch", [1, 3])
def test_chunks_resume_when_interrupted_in_validation(chunked, tmp_path, monkeypatch, epoch):
    """The scores of that very epoch are read before it leaves."""
    programs = tiny.programs(2, 2, CHUNK)
    with monkeypatch.context() as patch:
        count = Interruption(programs, patch, after_score=[epoch])
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path, programs).train(tiny.runs("a,b,c"))
    trained, scored = count.trained, count.scored
    assert (trained, scored) == (epoch * STEPS, epoch)
    assert timeless(history(tmp_path)) == timeless(history(chunked))[: 2 * epoch]
    count = Interruption(programs, monkeypatch)
    tiny.trainer(tmp_path, programs).train(tiny.runs("a,b,c"))
    assert (trained + count.trained, scored + count.scored) == (2 * 3 * STEPS, 2 * (3 + 1))
    assert outcome(tmp_path) == outcome(chunked)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
def test_chunks_killed_without_warning(chunked, tmp_path, monkeypatch, checkpoint_seconds):
    """In epoch 3 of the first group, the scores of epoch 2 not read yet unless a checkpoint was made."""

    def kill():
        raise Killed

    programs = tiny.programs(2, 2, CHUNK)
    with monkeypatch.context() as patch:
        count = Interruption(programs, patch, after_train=[2 * CALLS + 1], action=kill)
        with pytest.raises(Killed):
            tiny.trainer(tmp_path, programs, checkpoint_seconds=checkpoint_seconds).train(tiny.runs("a,b,c"))
    before = count.trained
    assert max(line["epoch"] for line in history(tmp_path)) == (1 if checkpoint_seconds else 2)
    count = Interruption(programs, monkeypatch)
    tiny.trainer(tmp_path, programs).train(tiny.runs("a,b,c"))
    assert before + count.trained == 2 * 3 * STEPS + CHUNK + (2 * STEPS if checkpoint_seconds else 0)
    assert outcome(tmp_path) == outcome(chunked)


def test_patience_when_scores_are_read_late(tmp_path, monkeypatch):
    """The same files as when every epoch is read at once; the epoch that a group then does too many changes nothing."""
    programs = tiny.programs(2, 2, CHUNK, PATIENCE)
    assert programs.late == 1
    trained = []
    for late in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(programs, "late", late)
            count = Interruption(programs, patch)
            tiny.trainer(tmp_path / str(late), programs, epochs=EPOCHS).train(tiny.runs())
            trained.append(count.trained)
    assert outcome(tmp_path / "0") == outcome(tmp_path / "1")
    stopped = [len(of_run(tmp_path / "0", run)) for run in tiny.runs()]
    ends = max(stopped[:2]), max(stopped[2:])
    assert min(ends) < EPOCHS, "otherwise patience has ended no group"
    assert trained == [sum(ends) * STEPS, sum(min(end + 1, EPOCHS) for end in ends) * STEPS]


def test_chunks_are_taken_over_by_steps(short, tmp_path, monkeypatch):
    """A checkpoint says nothing of how the steps were dispatched."""
    with monkeypatch.context() as patch:
        count = Interruption(tiny.programs(2, 2, CHUNK), patch, after_train=[CALLS + 1])
        with pytest.raises(Interrupted):
            tiny.trainer(tmp_path, tiny.programs(2, 2, CHUNK)).train(tiny.runs("a,b"))
    before = count.trained
    count = Interruption(tiny.programs(2, 2), monkeypatch)
    tiny.trainer(tmp_path, tiny.programs(2, 2)).train(tiny.runs("a,b"))
    assert (before, before + count.trained) == (STEPS + CHUNK, 3 * STEPS)
    for run in tiny.runs("a,b"):
        tiny.assert_close(params_of(tmp_path, run), params_of(short, run), 0.01 * tiny.LEARNING_RATE)
