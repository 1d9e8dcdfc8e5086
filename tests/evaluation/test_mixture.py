"""Fusion of tables: means by hand, weights against a grid, and that test labels move nothing."""

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
import scored
from hypothesis import strategies

from ser_jax.evaluation import calibration, mixture
from ser_jax.evaluation.predictions import Prediction
from ser_jax.evaluation.results import diverged

PARTS = {"skill": 0.5, "speakers": 3, "seeds": (0,)}


def member(name: str, seed: int, *, skill=0.5, validation=True, **changes) -> mixture.Member:
    """Returns a member with random predictions; its validation part has other utterances."""
    rows = scored.make_rows(seed, **{**PARTS, "skill": skill})
    held_out = scored.make_rows(seed + 100, **{**PARTS, "skill": skill, "per_speaker": 30})
    found = scored.summarise(rows, **changes)
    return mixture.Member(
        name, found, mixture.by_trial(rows), mixture.by_trial(held_out if validation else [])
    )


def table(rows: list[Prediction]) -> np.ndarray:
    return np.array([row.probabilities for row in rows])


def test_the_mean_by_hand():
    """At temperature 2 the mean 0.8 : 0.2 becomes 2 : 1."""
    shares = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
    np.testing.assert_allclose(mixture.average(shares, np.array([0.75, 0.25])), [[0.8, 0.2]])
    found = mixture.average(shares, np.array([0.75, 0.25]), 2.0)
    np.testing.assert_allclose(found, [[2 / 3, 1 / 3]])
    certain = np.array([[[1.0, 0.0]]])
    np.testing.assert_allclose(mixture.average(certain, np.ones(1), 0.25), [[1, 0]])


@hypothesis.given(strategies.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=20, deadline=None)
def test_weights_are_the_best_of_a_grid(seed):
    rng = np.random.default_rng(seed)
    shares, labels = rng.dirichlet(np.ones(3), (2, 40)), rng.integers(0, 3, 40)
    found = mixture.fit_weights(shares, labels)
    assert found.min() >= 0 and found.sum() == pytest.approx(1)

    def nats(weight: float) -> float:
        weights = np.array([weight, 1 - weight])
        mean = mixture.average(shares, weights)
        prior = mixture.PRIOR * np.log(weights).sum()
        return 40 * calibration.negative_log_likelihood(mean, labels) - prior

    assert nats(found[0]) <= min(map(nats, np.linspace(0, 1, 1001)[1:-1])) + 1e-4


def test_a_bad_member_loses_its_weight():
    """One is right with 0.9; the other is as sure of another class."""
    labels = np.arange(30) % 3
    right, wrong = (np.full((30, 3), 0.05) + 0.85 * np.eye(3)[(labels + k) % 3] for k in (0, 1))
    assert 0.9 < mixture.fit_weights(np.stack([wrong, right]), labels)[1] < 0.97
    many = np.tile(np.stack([wrong, right]), (1, 100, 1)), np.tile(labels, 100)
    assert mixture.fit_weights(*many)[1] > 0.999
    np.testing.assert_allclose(mixture.fit_weights(np.stack([right, right]), labels), 0.5)
    none = mixture.fit_weights(np.zeros((3, 0, 4)), np.zeros(0, int))
    np.testing.assert_allclose(none, 1 / 3)
    zeros = mixture.fit_weights(np.stack([right * 0, right * 0]), labels)
    np.testing.assert_allclose(zeros, 0.5)  # also where no member gives the truth a chance


@pytest.mark.parametrize("fit", [False, True])
def test_every_trial_has_its_own_mean(fit):
    """Oracle: weights and temperature from the rows of its validation part, then its test part."""
    members = [member("a", 0), member("b", 1, skill=0.1)]
    fused = mixture.fuse(members, fit=fit)
    trials = mixture.by_trial(fused.test)
    assert [row.id for row in fused.test] == [row.id for row in scored.make_rows(0, **PARTS)]
    for trial in fused.trials:
        key = trial["fold"], trial["seed"]
        held_out = [one.validation[key] for one in members]
        labels = np.array([scored.CLASSES.index(row.label) for row in held_out[0]])
        shares = np.stack([table(rows) for rows in held_out])
        weights = mixture.fit_weights(shares, labels) if fit else np.full(2, 0.5)
        assert list(trial["weights"].values()) == pytest.approx(weights.tolist())
        mean = np.tensordot(weights, shares, 1)
        temperature = calibration.fit_temperature(np.log(mean), labels)
        assert trial["temperature"] == pytest.approx(temperature)
        mean = np.tensordot(weights, np.stack([table(one.test[key]) for one in members]), 1)
        expected = mean ** (1 / temperature)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(table(trials[key]), expected)
        best = [scored.CLASSES[k] for k in expected.argmax(axis=1)]
        assert [row.prediction for row in trials[key]] == best


def test_labels_of_test_parts_move_nothing():
    def without_labels(one: mixture.Member) -> mixture.Member:
        hidden = {
            key: [dataclasses.replace(row, label="") for row in rows]
            for key, rows in one.test.items()
        }
        return dataclasses.replace(one, test=hidden)

    members = [member("a", 0), member("b", 1)]
    before, after = (
        mixture.fuse(each, fit=True) for each in (members, list(map(without_labels, members)))
    )
    np.testing.assert_array_equal(table(before.test), table(after.test))
    assert before.trials == after.trials


def test_who_has_diverged_does_not_vote():
    runs = [{"fold": f"f{k}", "seed": 0, "status": "done", "best_epoch": 1} for k in range(3)]
    lost = [{**runs[0], "status": "diverged"}, *runs[1:]]
    bad = member("b", 1, runs=lost)
    good = member("a", 0, runs=runs)
    fused = mixture.fuse([bad, good], fit=False)
    assert [trial["weights"] for trial in fused.trials] == [{"a": 1.0}, *[{"b": 0.5, "a": 0.5}] * 2]
    statuses = {one["member"]: one["status"] for one in fused.trials[0]["members"]}
    assert (fused.trials[0]["status"], statuses) == ("done", {"b": "diverged", "a": "done"})
    assert diverged({"runs": fused.trials}) == (["b/f0-0"], 6)
    alone = mixture.fuse([bad], fit=False)
    assert (alone.trials[0]["status"], alone.trials[0]["weights"]) == ("diverged", {})
    assert ("f0", 0) not in mixture.by_trial(alone.test)


def test_without_validation_part_nothing_is_fitted():
    """As in older runs, after a refit, and in folds that take their epochs from another one."""
    members = [member("a", 0), member("b", 1, validation=False)]
    fused = mixture.fuse(members, fit=True)
    assert fused.validation == [] and fused.trials[0]["validation"] is None
    assert all(trial["temperature"] is None for trial in fused.trials)
    mean = np.mean([table(one.test["f0", 0]) for one in members], axis=0)
    np.testing.assert_allclose(table(mixture.by_trial(fused.test)["f0", 0]), mean)


def test_scores_of_the_validation_part():
    fused = mixture.fuse([member("a", 0), member("b", 1)], fit=False)
    rows = mixture.by_trial(fused.validation)["f0", 0]
    found = fused.trials[0]["validation"]
    assert found["wa"] == pytest.approx(np.mean([row.label == row.prediction for row in rows]))
    truth = [row.probabilities[scored.CLASSES.index(row.label)] for row in rows]
    assert found["loss"] == pytest.approx(-np.mean(np.log(truth)))
    unlabelled = [dataclasses.replace(row, label="") for row in rows]
    one = dataclasses.replace(member("a", 0), validation={("f0", 0): unlabelled})
    trial = mixture.fuse([one], fit=True).trials[0]
    assert trial["validation"] is None and trial["temperature"] == 1.0
    assert math.isclose(sum(trial["weights"].values()), 1)
