"""Runs: their order, the wanted folds, their folder names and their groups."""

import dataclasses
import urllib.parse

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.errors import UserError
from ser_jax.protocols.protocol import Fold
from ser_jax.training import runs as runs_
from ser_jax.training.runs import CHOICE, GIVEN, Run


def names(*, seeds=1, first_seed=0, folds=""):
    return [run.name for run in runs_.list_runs(tiny.protocol(), seeds=seeds, first_seed=first_seed, folds=folds)]


def test_all_folds_of_a_seed_before_the_next_seed():
    assert names() == ["a-0", "b-0", "c-0", "d-0"]
    assert names(seeds=2, first_seed=7, folds="c,a") == ["c-7", "a-7", "c-8", "a-8"]
    run = runs_.list_runs(tiny.protocol(), seeds=1, first_seed=5, folds="b")[0]
    assert run == Run(tiny.protocol().folds[1], 5)


@pytest.mark.parametrize("folds", ["b, d", " b,d,", "b,,d", "b,d,b", "b,b,d,d"])
def test_wanted_folds(folds):
    """Spaces and empty names do not matter; a fold named twice is trained once."""
    assert names(folds=folds) == ["b-0", "d-0"]


@pytest.mark.parametrize("folds", ["", " ", ","])
def test_no_fold_named_means_all(folds):
    assert len(names(folds=folds)) == 4


def test_unknown_folds_are_named_with_those_there_are():
    with pytest.raises(UserError, match="protocol.folds: x, Y is not a fold of tiny-loso; it has a, b, c, d"):
        names(folds="a,x,Y")


@pytest.mark.parametrize("seeds", [0, -1])
def test_at_least_one_seed(seeds):
    with pytest.raises(UserError, match=f"protocol.seeds={seeds}; at least one"):
        names(seeds=seeds)


def with_last():
    """A protocol whose fold "last" takes its epochs from a."""
    last = Fold("last", tiny.protocol().folds[0].parts.replace("v", "t"), epochs_from="a")
    return dataclasses.replace(tiny.protocol(), folds=(*tiny.protocol().folds, last))


@pytest.mark.parametrize(("folds", "remedy"), [("last", "a,last"), ("b, last", "a,b,last")])
def test_a_fold_without_the_one_that_chooses_its_epochs(folds, remedy):
    sentence = f"protocol.folds={folds}: fold last takes its number of epochs from fold a, .* protocol.folds={remedy}$"
    with pytest.raises(UserError, match=sentence):
        runs_.list_runs(with_last(), seeds=1, first_seed=0, folds=folds)
    found = runs_.list_runs(with_last(), seeds=1, first_seed=0, folds=remedy)
    assert [run.fold.name for run in found] == remedy.split(",")


@pytest.mark.parametrize(("refit", "second"), [("none", ["last"]), ("train+validation", ["a", "b", "c", "d", "last"])])
def test_folds_of_both_phases(refit, second):
    protocol = with_last()
    phases = runs_.folds_of_phases(protocol, refit)
    assert list(phases[CHOICE].values()) == list(protocol.folds[:4])
    assert list(phases[GIVEN]) == second
    for fold in phases[GIVEN].values():
        assert not len(fold.validation)
        of_protocol = next(each for each in protocol.folds if each.name == fold.name)
        assert sorted(fold.train) == sorted([*of_protocol.train, *of_protocol.validation])
        assert fold.test.tolist() == of_protocol.test.tolist()


def test_phase():
    assert Run(Fold("a", ""), 0).phase == CHOICE and Run(Fold("a", ""), 0, 1).phase == GIVEN


def name_of(fold, seed):
    return Run(Fold(fold, ""), seed).name


def test_folder_names():
    assert name_of("Ses01", 3) == "Ses01-3"
    assert name_of("../a b/ü%", 0) == "..%2Fa%20b%2F%C3%BC%25-0"


folds_and_seeds = st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 1000))


@given(one=folds_and_seeds, other=folds_and_seeds)
def test_folder_names_are_safe_and_unique(one, other):
    name = name_of(*one)
    assert not set(name) & set('/\\:*?"<>| \0') and name.isascii() and name not in (".", "..")
    assert (name == name_of(*other)) == (one == other)
    fold, seed = name.rsplit("-", 1)
    assert (urllib.parse.unquote(fold), int(seed)) == one


@given(count=st.integers(0, 30), size=st.integers(1, 8))
def test_groups_hold_every_run_once_in_order(count, size):
    runs = [Run(Fold(str(number), ""), 0) for number in range(count)]
    groups = runs_.groups(runs, size)
    assert [run for group in groups for run in group] == runs
    assert all(len(group) == size for group in groups[:-1])
    assert all(0 < len(group) <= size for group in groups)
