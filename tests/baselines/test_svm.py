"""The baseline's fit: by hand, beside a plain scikit-learn script, and what may and may not move it."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from sklearn.svm import LinearSVC

from ser_jax.baselines import svm
from ser_jax.errors import UserError
from ser_jax.protocols.protocol import Fold
from ser_jax.training.runs import Run

GRID = (1e-4, 1e-3, 1e-2, 1e-1)
SETTINGS = svm.Settings(GRID, "balanced", tolerance=1e-4, iterations=10_000)
FOLD = Fold("a", 25 * "t" + 10 * "v" + 10 * "e")


def functionals(dimensions: int = 60, seed: int = 0) -> np.ndarray:
    """Returns [45, dimensions] f32 of very different sizes, classes n % 3 far from certain."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(45, dimensions))
    values[:, :4] += rng.normal(size=(3, 4))[np.arange(45) % 3]
    return (values * 10.0 ** rng.integers(-3, 6, dimensions) + rng.normal(size=dimensions)).astype(np.float32)


@pytest.fixture
def fit(tmp_path_factory) -> Callable[..., svm.Fitted]:
    """A function of functionals and targets that fits a run in this process."""

    def fitted(
        hsf: np.ndarray, targets: np.ndarray, fold: Fold = FOLD, *, seed: int = 0, **changes: object
    ) -> svm.Fitted:
        folder = tmp_path_factory.mktemp("fit")
        np.save(folder / svm.FUNCTIONALS, hsf)
        settings = dataclasses.replace(SETTINGS, **changes)
        found = svm.fit(svm.Job(Run(fold, seed), folder, targets, int(targets.max()) + 1, settings))
        assert found is not None
        return found

    return fitted


def scores(machine: svm.Fitted, hsf: np.ndarray) -> np.ndarray:
    return svm.decision_values(hsf, machine.coefficients, machine.intercept, machine.statistics)


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_two_points(fit):
    """Standardised they lie at −1 and 1, so w minimises w²/2 + 2 C (1 − w)²: w = 4 C / (1 + 4 C); the intercept is 0.

    0.5 lies at −0.5: what speaks for one class speaks against the other.
    """
    hsf, exact = np.array([[0], [2], [0.5]], np.float32), {"tolerance": 1e-12}
    for c in (0.1, 1.0):
        machine = fit(hsf, np.array([0, 1, 0], np.int32), Fold("a", "ttv"), c=(c,), **exact)
        w = 4 * c / (1 + 4 * c)
        np.testing.assert_allclose(machine.coefficients, [[-w], [w]], rtol=1e-9)
        np.testing.assert_allclose(machine.intercept, 0, atol=1e-9)
        np.testing.assert_allclose(scores(machine, hsf[2:]), [[w / 2, -w / 2]], rtol=1e-9)
        assert machine.tried.validation_ua == machine.tried.validation_wa == (1.0,)


def test_two_points_in_three_dimensions(fit):
    """Two functionals share the work, w = 4 C / (1 + 8 C) each; one that never varies has no say."""
    hsf = np.array([[0, 10, 7], [2, 30, 7]], np.float32)
    machine = fit(hsf, np.array([0, 1], np.int32), Fold("a", "tt"), c=(1.0,), tolerance=1e-12)
    np.testing.assert_allclose(machine.coefficients[1], [4 / 9, 4 / 9, 0], atol=1e-9)
    assert machine.tried.validation_ua == (None,), "no validation part, nothing to choose by"


def test_a_functional_far_off_or_missing_is_no_more_than_ten_deviations(fit):
    hsf = np.array([[0], [2]], np.float32)
    machine = fit(hsf, np.array([0, 1], np.int32), Fold("a", "tt"), c=(1.0,), tolerance=1e-12)
    odd = np.array([[1e30], [-np.inf], [np.nan]], np.float32)
    np.testing.assert_allclose(scores(machine, odd)[:, 1], [8, -8, 0], atol=1e-8)


# --- Beside scikit-learn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dimensions", [60, 8], ids=["few utterances", "many utterances"])
def test_a_plain_script_finds_the_same(dimensions, classes, weights, fit):
    hsf, targets = functionals(dimensions), (np.arange(45) % 3 % classes).astype(np.int32)
    train, validation, test = slice(0, 25), slice(25, 35), slice(35, 45)
    part = hsf[train].astype(np.float64)
    z = np.clip((hsf - part.mean(axis=0)) / part.std(axis=0), -10, 10)
    for seed in (0, 3):
        machines = [
            LinearSVC(C=c, class_weight=None if weights == "none" else weights, random_state=seed, max_iter=10_000)
            .set_params(dual=True)
            .fit(z[train], targets[train])
            for c in GRID
        ]
        guesses = [machine.predict(z[validation]) for machine in machines]
        recalls = [
            [np.mean(guess[targets[validation] == k] == k) for k in np.unique(targets[validation])] for guess in guesses
        ]
        ua = [np.mean(recall) for recall in recalls]
        best = machines[int(np.argmax(ua))]

        found = fit(hsf, targets, seed=seed, class_weights=weights)
        assert found.c == best.C and found.tried.c == GRID
        np.testing.assert_allclose(found.tried.validation_ua, ua)
        np.testing.assert_allclose(
            found.tried.validation_wa, [np.mean(guess == targets[validation]) for guess in guesses]
        )
        assert found.tried.passes == tuple(machine.n_iter_ for machine in machines)
        np.testing.assert_array_equal(scores(found, hsf[test]).argmax(axis=1), best.predict(z[test]))
        own, expected = scores(found, hsf[test]), best.decision_function(z[test])
        np.testing.assert_allclose(own[:, 1] if classes == 2 else own, expected, rtol=1e-6, atol=1e-9)
        if classes == 2:
            np.testing.assert_array_equal(own[:, 0], -own[:, 1])


def test_another_seed_visits_the_utterances_in_another_order(fit):
    hsf, targets = functionals(), (np.arange(45) % 3).astype(np.int32)
    first, again, other, negative = (fit(hsf, targets, seed=seed, c=(1.0,)) for seed in (0, 0, 1, -1))
    np.testing.assert_array_equal(first.coefficients, again.coefficients)
    for machine in (other, negative):
        assert np.any(machine.coefficients != first.coefficients)
        np.testing.assert_allclose(machine.coefficients, first.coefficients, atol=1e-3)


# --- What may move it -------------------------------------------------------------------------------------------------


def test_the_test_part_moves_nothing(fit):
    hsf, targets = functionals(), (np.arange(45) % 3).astype(np.int32)
    before = fit(hsf, targets)
    changed, labels = hsf.copy(), targets.copy()
    changed[35:] = np.random.default_rng(1).normal(size=(10, 60)) * 1e6
    labels[35:] = 2 - labels[35:]
    after = fit(changed, labels)
    assert (after.c, after.tried) == (before.c, before.tried)
    for name in ("coefficients", "intercept"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.statistics.hsf_mean, before.statistics.hsf_mean)


def test_the_validation_part_moves_c_and_nothing_else(fit):
    hsf, targets = functionals(8), (np.arange(45) % 3).astype(np.int32)
    alone = {c: fit(hsf, targets, c=(c,)) for c in GRID}
    chosen = set()
    for c in GRID:  # Labels of which the machine with this C is always right, as is each that predicts the same.
        labels = targets.copy()
        labels[25:35] = scores(alone[c], hsf[25:35]).argmax(axis=1)
        machine = fit(hsf, labels)
        right = [
            other for other in GRID if np.array_equal(scores(alone[other], hsf[25:35]).argmax(axis=1), labels[25:35])
        ]
        assert machine.c == right[0], "of equals the smallest"
        assert [ua == 1 for ua in machine.tried.validation_ua] == [other in right for other in GRID]
        np.testing.assert_array_equal(machine.coefficients, alone[machine.c].coefficients)
        chosen.add(machine.c)
    assert len(chosen) > 2


def test_refit_is_a_machine_of_both_parts_with_the_chosen_c(fit):
    hsf, targets = functionals(), (np.arange(45) % 3).astype(np.int32)
    chosen = fit(hsf, targets)
    again = fit(hsf, targets, refit=True)
    assert (again.c, again.tried) == (chosen.c, chosen.tried)
    both = fit(hsf, targets, Fold("a", 35 * "t" + 10 * "e"), c=(chosen.c,))
    np.testing.assert_array_equal(again.statistics.hsf_mean, both.statistics.hsf_mean)
    np.testing.assert_array_equal(again.coefficients, both.coefficients)
    np.testing.assert_array_equal(again.intercept, both.intercept)
    assert not np.array_equal(again.coefficients, chosen.coefficients)
    np.testing.assert_array_equal(
        fit(hsf, targets, Fold("a", 35 * "t" + 10 * "e"), c=(chosen.c,), refit=True).coefficients, both.coefficients
    )


def test_ua_chooses_not_wa(fit):
    """One is right about the only example of a class, the other about one of nine: WA is the same, UA is not."""
    hsf, targets, grid = functionals(8), (np.arange(45) % 3).astype(np.int32), (1e-4, 1.0)
    first, second = (scores(fit(hsf, targets, c=(c,)), hsf[25:35]).argmax(axis=1) for c in grid)
    assert (first[3], second[3], first[8], second[8]) == (1, 0, 2, 0)
    targets[25:35] = 1
    targets[25 + 8] = 0
    tried, c = fit(hsf, targets, c=grid).tried, fit(hsf, targets, c=grid).c
    assert tried.validation_wa[0] == tried.validation_wa[1] and c == grid[1]


@hypothesis.settings(
    max_examples=20, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(strategies.integers(0, 2**32 - 1))
def test_units_of_the_functionals_do_not_matter(fit, seed):
    hsf, targets = functionals(), (np.arange(45) % 3).astype(np.int32)
    rng = np.random.default_rng(seed)
    rescaled = hsf.astype(np.float64) * 2.0 ** rng.integers(-8, 9, 60)
    machine, other = (fit(values, targets, c=(1e-3,)) for values in (hsf, rescaled))
    np.testing.assert_allclose(scores(other, rescaled), scores(machine, hsf), rtol=1e-9, atol=1e-12)


# --- How it ends ------------------------------------------------------------------------------------------------------


def test_a_fit_that_has_not_converged_says_so_by_its_passes(fit):
    """And not by a warning, which would fail this test."""
    hsf, targets = functionals(), (np.arange(45) % 3).astype(np.int32)
    assert fit(hsf, targets, iterations=1).tried.passes == (1, 1, 1, 1)
    assert max(fit(hsf, targets).tried.passes) < 10_000


def test_a_job_that_was_called_back_fits_nothing(tmp_path):
    np.save(tmp_path / svm.FUNCTIONALS, functionals())
    job = svm.Job(Run(FOLD, 0), tmp_path, (np.arange(45) % 3).astype(np.int32), 3, SETTINGS)
    assert svm.fit(job) is not None
    (tmp_path / svm.STOP).touch()
    assert svm.fit(job) is None


def test_without_scikit_learn_it_says_how_to_get_it(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn", None)
        with pytest.raises(UserError, match=r'pip install "ser_jax\[svm,hsf\]"'):
            svm.fit(svm.Job(Run(FOLD, 0), tmp_path, np.zeros(45, np.int32), 3, SETTINGS))
    svm.require_scikit_learn()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="fitted by scikit-learn, which is not installed"):
        svm.require_scikit_learn()
