"""SVM baseline: one fit by hand and against scikit-learn; the trials of a protocol together."""

import dataclasses
import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from sklearn.svm import LinearSVC

from ser_jax.baselines import svm, svm_system
from ser_jax.evaluation import calibration
from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.workers import WorkerDied
from ser_jax.training import model_files, scoring
from ser_jax.training.trials import Trial, list_trials

GRID = (1e-4, 1e-3, 1e-2, 1e-1)  # values of C
SETTINGS = svm.Settings(GRID, "balanced", tolerance=1e-4, iterations=10_000)
# Of 45 utterances, utterance n of class n % 3: the first 25 train, 10 validate, 10 are tested.
FOLD = Fold("a", 25 * "t" + 10 * "v" + 10 * "e")
TARGETS = (np.arange(45) % 3).astype(np.int32)
TARGETS.flags.writeable = False


def functionals(dimensions: int = 60, seed: int = 0) -> np.ndarray:
    """Returns [45, dimensions] f32 of very different sizes; four of them hint at the class."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(45, dimensions))
    values[:, :4] += rng.normal(size=(3, 4))[TARGETS]
    scale, shift = 10.0 ** rng.integers(-3, 6, dimensions), rng.normal(size=dimensions)
    return (values * scale + shift).astype(np.float32)


@pytest.fixture
def fit(tmp_path_factory) -> Callable[..., svm.Fitted]:
    """A function of functionals and targets that fits a trial in this process."""

    def fitted(hsf, targets, fold=FOLD, *, seed=0, **changes) -> svm.Fitted:
        folder = tmp_path_factory.mktemp("fit")
        np.save(folder / svm.FUNCTIONALS, hsf)
        settings = dataclasses.replace(SETTINGS, **changes)
        classes = int(targets.max()) + 1
        found = svm.fit(svm.Job(fold, seed, folder, targets, classes, settings))
        assert found is not None
        return found

    return fitted


def scores(machine: svm.Fitted, hsf: np.ndarray) -> np.ndarray:
    return svm.decision_values(hsf, machine.coefficients, machine.intercept, machine.statistics)


def test_two_points(fit):
    """Standardised, they are −1 and 1: w minimises w²/2 + 2 C (1 − w)², so w = 4 C / (1 + 4 C).

    The intercept is 0; the third point, 0.5, becomes −0.5."""
    hsf, exact = np.array([[0], [2], [0.5]], np.float32), {"tolerance": 1e-12}
    for c in (0.1, 1.0):
        machine = fit(hsf, np.array([0, 1, 0], np.int32), Fold("a", "ttv"), c=(c,), **exact)
        w = 4 * c / (1 + 4 * c)
        np.testing.assert_allclose(machine.coefficients, [[-w], [w]], rtol=1e-9)
        np.testing.assert_allclose(machine.intercept, 0, atol=1e-9)
        np.testing.assert_allclose(scores(machine, hsf[2:]), [[w / 2, -w / 2]], rtol=1e-9)
        assert machine.tried.validation_ua == machine.tried.validation_wa == (1.0,)


def test_two_points_in_three_dimensions(fit):
    """Two functionals have w = 4 C / (1 + 8 C) each; one that never varies has 0."""
    hsf = np.array([[0, 10, 7], [2, 30, 7]], np.float32)
    machine = fit(hsf, np.array([0, 1], np.int32), Fold("a", "tt"), c=(1.0,), tolerance=1e-12)
    np.testing.assert_allclose(machine.coefficients[1], [4 / 9, 4 / 9, 0], atol=1e-9)
    assert machine.tried.validation_ua == (None,), "no validation part, nothing to choose by"


def test_a_functional_far_off_or_missing_is_no_more_than_ten_deviations(fit):
    hsf = np.array([[0], [2]], np.float32)
    machine = fit(hsf, np.array([0, 1], np.int32), Fold("a", "tt"), c=(1.0,), tolerance=1e-12)
    odd = np.array([[1e30], [-np.inf], [np.nan]], np.float32)
    np.testing.assert_allclose(scores(machine, odd)[:, 1], [8, -8, 0], atol=1e-8)


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dimensions", [60, 8], ids=["few utterances", "many utterances"])
def test_a_plain_script_finds_the_same(dimensions, classes, weights, fit):
    hsf, targets = functionals(dimensions), TARGETS % classes
    train, validation, test = slice(0, 25), slice(25, 35), slice(35, 45)
    part = hsf[train].astype(np.float64)
    z = np.clip((hsf - part.mean(axis=0)) / part.std(axis=0), -10, 10)
    weight = None if weights == "none" else weights
    for seed in (0, 3):
        machines = [
            LinearSVC(C=c, class_weight=weight, random_state=seed, max_iter=10_000)
            .set_params(dual=True)
            .fit(z[train], targets[train])
            for c in GRID
        ]
        guesses = [machine.predict(z[validation]) for machine in machines]
        truth = targets[validation]
        ua = [np.mean([np.mean(g[truth == k] == k) for k in np.unique(truth)]) for g in guesses]
        best = machines[int(np.argmax(ua))]

        found = fit(hsf, targets, seed=seed, class_weights=weights)
        assert found.c == best.C and found.tried.c == GRID
        np.testing.assert_allclose(found.tried.validation_ua, ua)
        wa = [np.mean(guess == truth) for guess in guesses]
        np.testing.assert_allclose(found.tried.validation_wa, wa)
        assert found.tried.passes == tuple(machine.n_iter_ for machine in machines)
        own, expected = scores(found, hsf[test]), best.decision_function(z[test])
        np.testing.assert_array_equal(own.argmax(axis=1), best.predict(z[test]))
        values = own[:, 1] if classes == 2 else own
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9)
        if classes == 2:
            np.testing.assert_array_equal(own[:, 0], -own[:, 1])


def test_another_seed_visits_the_utterances_in_another_order(fit):
    hsf, targets = functionals(), TARGETS
    first, again, other, negative = (
        fit(hsf, targets, seed=seed, c=(1.0,)) for seed in (0, 0, 1, -1)
    )
    np.testing.assert_array_equal(first.coefficients, again.coefficients)
    for machine in (other, negative):
        assert np.any(machine.coefficients != first.coefficients)
        np.testing.assert_allclose(machine.coefficients, first.coefficients, atol=1e-3)


def test_the_test_part_moves_nothing(fit):
    hsf, targets = functionals(), TARGETS
    before = fit(hsf, targets)
    changed, labels = hsf.copy(), targets.copy()
    changed[FOLD.test] = np.random.default_rng(1).normal(size=(10, 60)) * 1e6
    labels[FOLD.test] = 2 - labels[FOLD.test]
    after = fit(changed, labels)
    assert (after.c, after.tried) == (before.c, before.tried)
    for name in ("coefficients", "intercept"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.statistics.hsf_mean, before.statistics.hsf_mean)


def test_the_validation_part_moves_c_and_nothing_else(fit):
    hsf, targets = functionals(8), TARGETS
    alone = {c: fit(hsf, targets, c=(c,)) for c in GRID}
    chosen = set()
    part = FOLD.validation
    guesses = {c: scores(alone[c], hsf[part]).argmax(axis=1) for c in GRID}
    for c in GRID:
        labels = targets.copy()
        labels[part] = guesses[c]  # so that this C, and each with the same guesses, is always right
        machine = fit(hsf, labels)
        right = [other for other in GRID if np.array_equal(guesses[other], guesses[c])]
        assert machine.c == right[0], "of equals the smallest"
        assert [ua == 1 for ua in machine.tried.validation_ua] == [other in right for other in GRID]
        np.testing.assert_array_equal(machine.coefficients, alone[machine.c].coefficients)
        chosen.add(machine.c)
    assert len(chosen) > 2


def test_refit_is_a_machine_of_both_parts_with_the_chosen_c(fit):
    hsf, targets = functionals(), TARGETS
    chosen = fit(hsf, targets)
    again = fit(hsf, targets, refit=True)
    assert (again.c, again.tried) == (chosen.c, chosen.tried)
    both = fit(hsf, targets, Fold("a", 35 * "t" + 10 * "e"), c=(chosen.c,))  # no validation part
    np.testing.assert_array_equal(again.statistics.hsf_mean, both.statistics.hsf_mean)
    np.testing.assert_array_equal(again.coefficients, both.coefficients)
    np.testing.assert_array_equal(again.intercept, both.intercept)
    assert not np.array_equal(again.coefficients, chosen.coefficients)


def test_ua_chooses_not_wa(fit):
    """Two values of C with equal WA: the second is right about the only example of its class.

    The first is right about one more of the nine examples of the other class.
    """
    hsf, grid, part = functionals(8), (1e-4, 1.0), FOLD.validation
    first, second = (scores(fit(hsf, TARGETS, c=(c,)), hsf[part]).argmax(axis=1) for c in grid)
    # They differ about these two of the ten utterances.
    assert (first[3], second[3], first[8], second[8]) == (1, 0, 2, 0)
    labels = TARGETS.copy()
    labels[part] = 1
    labels[part[8]] = 0
    found = fit(hsf, labels, c=grid)
    assert found.tried.validation_wa[0] == found.tried.validation_wa[1] and found.c == grid[1]


# Every fit has a folder of its own, so that examples may share the fixture.
SHARED = hypothesis.HealthCheck.function_scoped_fixture


@hypothesis.settings(max_examples=20, deadline=None, suppress_health_check=[SHARED])
@hypothesis.given(strategies.integers(0, 2**32 - 1))
def test_units_of_the_functionals_do_not_matter(fit, seed):
    hsf, targets = functionals(), TARGETS
    rng = np.random.default_rng(seed)
    rescaled = hsf.astype(np.float64) * 2.0 ** rng.integers(-8, 9, 60)
    machine, other = (fit(values, targets, c=(1e-3,)) for values in (hsf, rescaled))
    np.testing.assert_allclose(scores(other, rescaled), scores(machine, hsf), rtol=1e-9, atol=1e-12)


def test_without_scikit_learn_it_says_how_to_get_it(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn", None)
        with pytest.raises(UserError, match=r'pip install "ser_jax\[svm,hsf\]"'):
            svm.fit(svm.Job(FOLD, 0, tmp_path, np.zeros(45, np.int32), 3, SETTINGS))
    svm.require_scikit_learn()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="fitted by scikit-learn, which is not installed"):
        svm.require_scikit_learn()


# --- The trials of a protocol: N utterances with D functionals, sorted by class

N, D, CLASSES = 36, 50, ("angry", "happy", "sad")
RNG = np.random.default_rng(2)  # with this seed trials choose different values of C
NOISE, MEANS = 3 * RNG.normal(size=(N, D)), RNG.normal(size=(3, D))
HSF = (NOISE + np.repeat(MEANS, N // 3, axis=0)).astype(np.float32)
TWO_C = svm.Settings((1e-3, 1e-1), "balanced", tolerance=1e-4, iterations=10_000)
DESCRIPTION = {"system": "svm", "classes": list(CLASSES)}


def protocol(*folds: Fold) -> Protocol:
    return Protocol(
        name="tiny",
        corpus="test",
        classes=CLASSES,
        label_mapping={},
        ids=tuple(f"{n:02d}" for n in range(N)),
        labels=tuple(CLASSES[3 * n // N] for n in range(N)),
        speakers=("",) * N,
        folds=folds,
        validation_rule="none",
    )


# The second fold has the parts of the first, each utterance those of the one behind it.
TWO_FOLDS = protocol(*(Fold(name, ("tvett" * N)[n : n + N]) for n, name in enumerate("Äb")))
TRIALS = list_trials(TWO_FOLDS, seeds=2, first_seed=3, folds="")
DEVEL, TEST = Fold("devel", ("ttve" * N)[:N]), Fold("test", ("ttt-" * N)[:N], epochs_from="devel")
OFFICIAL = protocol(DEVEL, TEST)


def system(which: Protocol = TWO_FOLDS, cores: int = 2, **changes: object) -> svm_system.SVM:
    settings = dataclasses.replace(TWO_C, **changes)
    return svm_system.SVM(which, HSF, settings, cores, calibration.fit_temperature)


def contents(workdir: Path) -> dict[str, object]:
    """Returns all model files, without the time they took."""

    def content(path: Path) -> object:
        if path.suffix != ".json":
            return path.read_bytes()
        return json.loads(path.read_text()) | {"seconds": None, "seal": None}

    paths = workdir.glob("models/*/*")
    return {str(path.relative_to(workdir)): content(path) for path in paths}


def metrics(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [strict_json.parse_line(line) for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished")
    system().train(TRIALS, workdir, DESCRIPTION)
    return workdir


@pytest.fixture
def in_this_process(monkeypatch) -> list[str]:
    """Fits without worker processes; returns the names of the trials that were fitted."""
    names = []

    def run(function, jobs, workers, *, processes):
        assert processes and workers > 0
        for job in jobs:
            names.append(Trial(job.fold, job.seed).name)
            yield job, function(job)

    monkeypatch.setattr(svm_system.workers, "run", run)
    return names


def test_every_trial_has_its_model(finished):
    names = [path.name for path in model_files.list_models(finished)]
    assert names == ["%C3%84-3", "%C3%84-4", "b-3", "b-4"]
    for trial in TRIALS:
        description, params, statistics = model_files.read_model(finished / "models" / trial.name)
        assert description.items() >= DESCRIPTION.items()
        expected = {"fold": trial.fold.name, "seed": trial.seed, "status": "done"}
        assert description.items() >= expected.items()
        assert description["c"] in description["tried"]["c"] == [1e-3, 1e-1]
        assert params["coefficients"].shape == (3, D) and params["intercept"].shape == (3,)
        assert sum(value.size for value in params.values()) == system().parameters == 3 * D + 3
        assert statistics.hsf_mean is not None and statistics.mean is None
        expected = HSF[trial.fold.train].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(statistics.hsf_mean, expected)


def test_the_temperature_is_fitted_to_decision_values_of_the_validation_part(finished, tmp_path):
    """Of the SVM that has not seen that part: a refit keeps the temperature."""
    part = TRIALS[0].fold.validation
    folder = Path("models") / TRIALS[0].name
    (values,) = system().scores([finished / folder], [part])
    expected = calibration.fit_temperature(values, TWO_FOLDS.targets[part], values.std())
    system(refit=True).train(TRIALS[:1], tmp_path, DESCRIPTION)
    for workdir in (finished, tmp_path):
        found = model_files.read_description(workdir / folder)
        assert found and found["temperature"] == pytest.approx(expected, rel=1e-6)
    nats = calibration.negative_log_likelihood
    at_first, made = (scoring.softmax(values, t) for t in (values.std(), expected))
    assert nats(made, TWO_FOLDS.targets[part]) < nats(at_first, TWO_FOLDS.targets[part])


def test_metrics_has_a_line_per_trial(finished):
    names = ("fold", "seed", "c", "tried", "seconds")
    for line, trial in zip(metrics(finished), TRIALS, strict=True):
        assert (line["fold"], line["seed"]) == (trial.fold.name, trial.seed)
        description = model_files.read_description(finished / "models" / trial.name)
        assert description is not None
        assert line == {name: description[name] for name in names}
        assert len(line["tried"]["validation_ua"]) == 2


def test_scores_are_products_and_need_no_scikit_learn(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    folders = [finished / "models" / trial.name for trial in TRIALS]
    rows = [trial.fold.test for trial in TRIALS[:-1]] + [np.arange(0)]
    for folder, numbers, found in zip(folders, rows, system().scores(folders, rows), strict=True):
        model = model_files.read_model(folder)
        _, _, mean, std = model.statistics
        z = (HSF[numbers] - np.asarray(mean)) / np.asarray(std)
        products = np.einsum("nd,kd->nk", z, model.params["coefficients"])
        expected = products + model.params["intercept"]
        assert found.shape == (len(numbers), 3)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_number_of_processes_changes_nothing(finished, tmp_path):
    system(cores=1).train(TRIALS, tmp_path, DESCRIPTION)
    assert contents(tmp_path) == contents(finished)


def test_a_fold_without_validation_part_takes_c_from_the_one_it_names(tmp_path, in_this_process):
    trials = list_trials(OFFICIAL, seeds=2, first_seed=0, folds="")[::-1]
    system(OFFICIAL).train(trials, tmp_path, DESCRIPTION)
    assert in_this_process == ["devel-0", "devel-1", "test-0", "test-1"]
    for seed in (0, 1):
        folders = [tmp_path / f"models/{name}-{seed}" for name in ("devel", "test")]
        devel, test = map(model_files.read_description, folders)
        assert devel and test and test["c"] == devel["c"] == 1e-1, "and not the smallest"
        assert test["temperature"] == devel["temperature"] > 0
        assert test["tried"]["c"] == [devel["c"]] and test["tried"]["validation_ua"] == [None]


def test_the_fold_that_gives_c_may_have_been_fitted_before(tmp_path, in_this_process):
    devel, test = (Trial(fold, 0) for fold in OFFICIAL.folds)
    message = "fold test takes C from fold devel, which is not fitted: .* protocol.folds"
    with pytest.raises(UserError, match=message):
        system(OFFICIAL).train([test], tmp_path, DESCRIPTION)
    assert not (tmp_path / "models").exists()
    system(OFFICIAL).train([devel], tmp_path, DESCRIPTION)
    system(OFFICIAL).train([test], tmp_path, DESCRIPTION)
    assert [path.name for path in model_files.list_models(tmp_path)] == ["devel-0", "test-0"]


def test_only_what_is_missing_is_fitted(finished, tmp_path, in_this_process):
    system().train(TRIALS[:3], tmp_path, DESCRIPTION)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("models/*/*")}
    system().train(TRIALS, tmp_path, DESCRIPTION)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert contents(tmp_path) == contents(finished) and len(metrics(tmp_path)) == 4
    (tmp_path / "metrics.jsonl").unlink()  # as if killed between the last model and the list of all
    fitted = len(in_this_process)
    system().train(TRIALS, tmp_path, DESCRIPTION)
    assert len(metrics(tmp_path)) == 4 and len(in_this_process) == fitted


def test_a_dead_process_is_a_sentence_and_finished_trials_stay(tmp_path, monkeypatch):
    def run(function, jobs, workers, *, processes):
        yield jobs[0], function(jobs[0])
        raise WorkerDied(tuple(jobs[1:3]))

    monkeypatch.setattr(svm_system.workers, "run", run)
    message = r"one of b-4, %C3%84-3 has died, .* memory: .* svm\.workers=1"
    with pytest.raises(UserError, match=message):
        system().train(TRIALS, tmp_path, DESCRIPTION)
    assert len(model_files.list_models(tmp_path)) == len(metrics(tmp_path)) == 1


def test_a_full_disk_is_named_with_the_remedy(tmp_path, monkeypatch):
    def full(path, values, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    message = r"No space left on device\): fitting needs 0 MB there; .* TMPDIR"
    with pytest.raises(UserError, match=message):
        system().train(TRIALS, tmp_path, DESCRIPTION)


def test_only_unconverged_fits_are_mentioned_with_their_number(tmp_path, in_this_process, caplog):
    with caplog.at_level(logging.WARNING, "ser_jax"):
        system().train(TRIALS, tmp_path / "converged", DESCRIPTION)
        assert not caplog.records
        system(iterations=1).train(TRIALS, tmp_path / "unconverged", DESCRIPTION)
    (record,) = caplog.records
    sentence = "note: 8 of 8 fits ended unconverged after svm.iterations=1;"
    assert record.getMessage().startswith(sentence)
