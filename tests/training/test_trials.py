"""Trials: their order, phases, folder names and groups, checkpoint content, files and registry.

Whole trainings are in test_fit.py and test_fit_given.py."""

import dataclasses
import functools
import urllib.parse
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from ser_jax.protocols.protocol import Fold, Protocol
from ser_jax.runtime.errors import UserError
from ser_jax.training import early_stopping, model_files
from ser_jax.training.step import MOST_BAD_STEPS, init_state
from ser_jax.training.trials import (
    CHOOSE_EPOCH,
    FIXED_EPOCHS,
    Trial,
    TrialGroup,
    TrialRecord,
    TrialRegistry,
    folds_of_phases,
    list_trials,
    trial_groups,
)

# --- Trials of a protocol


def names(*, seeds: int = 1, first_seed: int = 0, folds: str = "") -> list[str]:
    trials = list_trials(tiny.protocol(), seeds=seeds, first_seed=first_seed, folds=folds)
    return [trial.name for trial in trials]


def test_all_folds_of_a_seed_before_the_next_seed():
    assert names() == ["a-0", "b-0", "c-0", "d-0"]
    assert names(seeds=2, first_seed=7, folds="c,a") == ["c-7", "a-7", "c-8", "a-8"]
    (trial,) = list_trials(tiny.protocol(), seeds=1, first_seed=5, folds="b")
    assert trial == Trial(tiny.protocol().folds[1], 5)


@pytest.mark.parametrize(
    ("folds", "expected"),
    [(folds, ["b-0", "d-0"]) for folds in ("b, d", " b,d,", "b,,d", "b,d,b")]
    + [(folds, ["a-0", "b-0", "c-0", "d-0"]) for folds in (" ", ",")],
)
def test_wanted_folds(folds, expected):
    """Spaces and empty names do not matter; a fold named twice is trained once; none means all."""
    assert names(folds=folds) == expected


def test_what_cannot_be_trained_is_refused():
    sentence = "protocol.folds: x, Y is not a fold of tiny-loso; it has a, b, c, d"
    with pytest.raises(UserError, match=sentence):
        names(folds="a,x,Y")
    with pytest.raises(UserError, match="protocol.seeds=0; at least one"):
        names(seeds=0)


def with_last() -> Protocol:
    """A protocol whose fold "last" takes its epochs from a."""
    last = Fold("last", tiny.protocol().folds[0].parts.replace("v", "t"), epochs_from="a")
    return dataclasses.replace(tiny.protocol(), folds=(*tiny.protocol().folds, last))


@pytest.mark.parametrize(("folds", "remedy"), [("last", "a,last"), ("b, last", "a,b,last")])
def test_a_fold_without_the_one_that_chooses_its_epochs(folds, remedy):
    sentence = f"protocol.folds={folds}: fold last .* from fold a, .* protocol.folds={remedy}$"
    with pytest.raises(UserError, match=sentence):
        list_trials(with_last(), seeds=1, first_seed=0, folds=folds)
    found = list_trials(with_last(), seeds=1, first_seed=0, folds=remedy)
    assert [trial.fold.name for trial in found] == remedy.split(",")


@pytest.mark.parametrize(
    ("refit", "second"), [("none", ["last"]), ("train+validation", ["a", "b", "c", "d", "last"])]
)
def test_folds_of_both_phases(refit, second):
    protocol = with_last()
    phases = folds_of_phases(protocol, refit)
    assert list(phases[CHOOSE_EPOCH].values()) == list(protocol.folds[:4])
    assert list(phases[FIXED_EPOCHS]) == second
    for fold in phases[FIXED_EPOCHS].values():
        assert not len(fold.validation)
        of_protocol = next(each for each in protocol.folds if each.name == fold.name)
        assert sorted(fold.train) == sorted([*of_protocol.train, *of_protocol.validation])
        assert fold.test.tolist() == of_protocol.test.tolist()


def name_of(fold: str, seed: int) -> str:
    return Trial(Fold(fold, ""), seed).name


folds_and_seeds = st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 1000))


@example(one=("../a b/ü%", 0), other=("Ses01", 3))
@example(one=(29 * "李", 0), other=(28 * "李" + "王", 0))
@given(one=folds_and_seeds, other=folds_and_seeds)
def test_folder_names_are_safe_and_unique(one, other):
    name = name_of(*one)
    assert not set(name) & set('/\\:*?"<>| \0') and name.isascii() and name not in (".", "..")
    assert (name == name_of(*other)) == (one == other) and len(name) <= 255
    fold, seed = name.rsplit("-", 1)
    if "+" not in name:  # Shortened: 28 Chinese characters are whole, 29 are too long.
        assert (urllib.parse.unquote(fold), int(seed)) == one


@given(count=st.integers(0, 30), size=st.integers(1, 8))
def test_groups_hold_every_trial_once_in_order(count, size):
    trials = [Trial(Fold(str(number), ""), 0) for number in range(count)]
    groups = trial_groups(trials, size)
    assert [trial for group in groups for trial in group] == trials
    assert all(len(group) == size for group in groups[:-1])
    assert all(0 < len(group) <= size for group in groups)


# --- Arrays of a checkpoint


def group(best: bool = True) -> TrialGroup:
    params = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((2, 1), np.float32)}
    state = jax.device_get(jax.vmap(init_state)(params))
    no_best = functools.partial(early_stopping.no_best_epoch, classes=3)
    found = jax.device_get(jax.vmap(no_best)(params)) if best else None
    records = [TrialRecord(), TrialRecord()]
    return TrialGroup(tiny.trials("a,b"), records, None, None, state, found)


@pytest.mark.parametrize("best", [True, False])
def test_finite_arrays_are_saved_to_the_bit(best):
    made = group(best)
    expected = {"state": made.state} | ({"best": made.best} if best else {})
    assert tiny.bits(made.arrays()) == tiny.bits(expected)


@pytest.mark.parametrize(
    ("where", "value"),
    [("params", np.nan), ("params", -np.inf), ("moment", np.inf), ("best", np.nan)],
)
def test_a_lost_trial_is_saved_as_diverged_zeros_and_the_other_to_the_bit(where, value):
    """R18"""
    made, sound = group(), group().arrays()
    assert made.best is not None

    def spoil(tree: Any) -> Any:
        leaf = tree["w"].copy()
        leaf[1, 2] = value
        return {**tree, "w": leaf}

    if where == "params":
        made.state = made.state._replace(params=spoil(made.state.params))
    elif where == "moment":
        adam: Any = made.state.adam
        made.state = made.state._replace(adam=adam._replace(moment2=spoil(adam.moment2)))
    else:
        made.best = made.best._replace(params=spoil(made.best.params))
    found = made.arrays()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    first, second = (tiny.member(found, n) for n in (0, 1))
    assert tiny.bits(first) == tiny.bits(tiny.member(sound, 0))
    counters = second["state"].counters
    assert (int(counters.bad_steps), bool(counters.active)) == (MOST_BAD_STEPS, True)
    cleared = (second["state"].params, second["state"].adam, second["best"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(cleared))
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(tree)] for tree in (found, sound)]
    assert dtypes[0] == dtypes[1]


# --- Registry

PARAMS = {"w": np.ones(2, np.float32)}
WAYS = [{"training.kernels": "native"}, {"training.kernels": "xla"}]


@pytest.fixture
def registry(tmp_path, request) -> TrialRegistry:
    """The registry of a run directory; refit is the indirect parameter."""
    folds = folds_of_phases(tiny.protocol(), getattr(request, "param", "train+validation"))
    return TrialRegistry(
        tmp_path, folds, {"system": "x"}, lambda fold: tiny.dataset().statistics(fold.train)
    )


def record(**changes: Any) -> TrialRecord:
    chosen = TrialRecord(best_epoch=2, best_ua=0.5, best_wa=0.5, best_loss=1.0, epochs=3)
    return dataclasses.replace(chosen, **changes)


def test_a_trial_that_is_refitted(registry, tmp_path):
    (trial,) = tiny.trials("a")
    assert trial.phase == CHOOSE_EPOCH and registry.phases(trial) == [CHOOSE_EPOCH, FIXED_EPOCHS]
    assert registry.to_choose_epoch([trial]) == [trial] and not registry.finished(trial)
    assert registry.to_train_fixed([trial]) == []
    registry.finish(trial, record(seconds=2.0, trained_with=WAYS[:1]), PARAMS, 1.25)
    assert registry.to_choose_epoch([trial]) == [] and not registry.finished(trial)
    (again,) = registry.to_train_fixed([trial])
    assert (again.name, again.epochs, again.phase) == (trial.name, 2, FIXED_EPOCHS)
    assert again.fold.parts == trial.fold.parts.replace("v", "t")
    done = record(best_epoch=None, epochs=2, seconds=1.0, trained_with=WAYS)
    registry.finish(again, done, PARAMS, None)
    assert registry.finished(trial) and registry.to_train_fixed([trial]) == []
    found = model_files.read_model(tmp_path / "models/a-0").description
    assert found["first_pass"] == {"epochs": 3, "seconds": 2.0}
    keys = ("best_epoch", "epochs", "temperature", "seconds")
    assert tuple(found[key] for key in keys) == (2, 2, 1.25, 3.0)
    assert found["system"] == "x" and found["validation"] == {"ua": 0.5, "wa": 0.5, "loss": 1.0}
    assert found["trained_with"] == WAYS, "of both phases, each once"


@pytest.mark.parametrize("registry", ["none"], indirect=True)
def test_a_trial_that_is_trained_once(registry, tmp_path):
    (trial,) = tiny.trials("a")
    assert registry.phases(trial) == [CHOOSE_EPOCH]
    registry.finish(trial, record(), PARAMS, 1.25)
    assert registry.finished(trial) and registry.to_train_fixed([trial]) == []
    assert not (tmp_path / "models/a-0" / model_files.CHOICE).exists()


def test_a_trial_that_diverges_in_the_first_phase_is_finished(registry, tmp_path):
    (trial,) = tiny.trials("a")
    registry.finish(trial, record(status="diverged"), PARAMS, None)
    assert registry.finished(trial) and registry.to_train_fixed([trial]) == []
    assert [path.name for path in (tmp_path / "models/a-0").iterdir()] == ["model.json"]
    found = model_files.read_description(tmp_path / "models/a-0")
    assert found is not None and (found["status"], found["temperature"]) == ("diverged", None)


def test_a_damaged_choice_is_named(registry, tmp_path):
    (trial,) = tiny.trials("a")
    registry.finish(trial, record(), PARAMS, 1.25)
    (tmp_path / "models/a-0/choice.json").write_text('{"schema": 1, "fo')
    sentence = r"choice\.json is damaged .* delete .*models/a-0 and run the training"
    with pytest.raises(UserError, match=sentence):
        registry.to_choose_epoch([trial])
