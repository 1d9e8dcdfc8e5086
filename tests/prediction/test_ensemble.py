"""The models of a run directory that are read, and the decision from probabilities."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import untrained
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ser_jax.evaluation.results import DIVERGED
from ser_jax.prediction import ensemble
from ser_jax.prediction.ensemble import make_decision
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError
from ser_jax.training import model_files


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished run with the models 03-0, 03-1, final-0, final-1, and 08-0, which has diverged."""
    made = untrained.make("plain_crnn", 2)
    (tmp_path / "config.json").write_text(made.config.to_json())
    files.write_json(tmp_path / "results.json", {})
    for fold in ("03", "final"):
        for model in made.models:
            description = {**model.description, "fold": fold, "status": "done"}
            target = tmp_path / f"models/{fold}-{model.description['seed']}"
            model_files.write_model(target, description, model.params, model.statistics)
    diverged = {**made.models[0].description, "fold": "08", "status": DIVERGED}
    model_files.write_model(tmp_path / "models/08-0", diverged, None, None)
    return tmp_path


@pytest.mark.parametrize(
    ("run", "names", "words"),
    [
        ("", ("final-0", "final-1"), "the ensemble of 2 final models of"),
        (
            "ensemble",
            ("03-0", "03-1", "final-0", "final-1"),
            "the ensemble of 4 of 5 models (08-0 diverged) of",
        ),
        ("03-1", ("03-1",), "the model 03-1 of"),
        ("final-0", ("final-0",), "the model final-0 of"),
    ],
)
def test_which_are_read(folder, run, names, words):
    found = ensemble.read_ensemble(folder, run)
    assert found.names == names and found.description.startswith(words)
    described = [one.description for one in found.models]
    assert tuple(f"{one['fold']}-{one['seed']}" for one in described) == names


@pytest.mark.parametrize("run", ["08-0", "3-0", "03"])
def test_one_that_is_not_there_or_has_diverged_is_refused_with_those_that_are(folder, run):
    listed = "choose one of final, ensemble, 03-0, 03-1, final-0, final-1$"
    with pytest.raises(UserError, match=f"run={run}: .* holds no such model; {listed}"):
        ensemble.read_ensemble(folder, run)


def test_a_model_that_is_gone_is_missed_where_it_would_vote(folder):
    """The results name the trials, so that nobody goes on with fewer without a word."""
    trials = [{"fold": fold, "seed": 0} for fold in ("03", "08", "09", "final")]
    files.write_json(folder / "results.json", {"runs": trials})
    sentence = rf"{folder}: 1 of 6 models are missing \(09-0\); run the training command again"
    with pytest.raises(UserError, match=sentence):
        ensemble.read_ensemble(folder, "ensemble")
    assert ensemble.read_ensemble(folder).names == ("final-0", "final-1")
    assert ensemble.read_ensemble(folder, "03-1").names == ("03-1",)
    shutil.rmtree(folder / "models/final-0")
    with pytest.raises(UserError, match=r"1 of 2 models are missing \(final-0\)"):
        ensemble.read_ensemble(folder)


KNOWN = ("angry", "happy", "sad")
ROWS = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])


def test_the_most_probable_class_is_named():
    answers = make_decision(KNOWN, (), 0.0).answers(ROWS)
    assert [answer.label for answer in answers] == ["angry", "sad"]
    assert list(answers[0].probabilities.items()) == [("angry", 0.5), ("happy", 0.3), ("sad", 0.2)]


def test_shares_of_some_classes_are_divided_by_their_sum():
    first, second = make_decision(KNOWN, ("sad ", "happy", "happy"), 0.0).answers(ROWS)
    assert (first.label, second.label) == ("happy", "sad")
    assert first.probabilities == pytest.approx({"happy": 0.6, "sad": 0.4})
    assert second.probabilities == pytest.approx({"happy": 1 / 3, "sad": 2 / 3})
    assert list(first.probabilities) == ["happy", "sad"], "in the model's order"


def test_below_the_threshold_no_class_is_named():
    for threshold, labels in ((0.55, [None, "sad"]), (0.5, ["angry", "sad"])):
        answers = make_decision(KNOWN, (), threshold).answers(ROWS)
        assert [answer.label for answer in answers] == labels
    # The threshold is for the renormalised probability: 0.3 of 0.5.
    assert make_decision(KNOWN, ("happy", "sad"), 0.55).answers(ROWS)[0].label == "happy"


def test_classes_that_are_all_but_impossible_give_numbers():
    answer = make_decision(KNOWN, ("happy", "sad"), 0.5).answers(np.array([[1.0, 0.0, 0.0]]))[0]
    assert answer.label is None and list(answer.probabilities.values()) == [0.0, 0.0]


@given(
    arrays.arrays(np.float64, (4, 3), elements=st.floats(0.01, 1)),
    st.sets(st.sampled_from(KNOWN), min_size=2),
)
def test_shares_add_up_to_one_and_keep_their_ratios(values, chosen):
    probabilities = values / values.sum(axis=1, keepdims=True)
    answers = make_decision(KNOWN, sorted(chosen), 0.0).answers(probabilities)
    for answer, row in zip(answers, probabilities, strict=True):
        shares = np.array(list(answer.probabilities.values()))
        kept = row[[KNOWN.index(name) for name in answer.probabilities]]
        assert set(answer.probabilities) == chosen
        np.testing.assert_allclose(shares.sum(), 1)
        np.testing.assert_allclose(shares * kept[0], kept * shares[0], atol=1e-12)


@pytest.mark.parametrize(
    ("classes", "threshold", "sentence"),
    [
        (["angry", "bored"], 0, "classes=bored: the model knows angry, happy, sad"),
        (["sad"], 0, "classes=sad leaves no choice; name two or more of angry, happy, sad"),
        ([], 1.5, r"threshold=1.5 is no probability; choose one in \[0, 1\]"),
        ([], -0.1, "threshold=-0.1 is no probability"),
        ([], float("nan"), "threshold=nan is no probability"),
    ],
)
def test_impossible_decisions_are_refused(classes, threshold, sentence):
    with pytest.raises(UserError, match=sentence):
        make_decision(KNOWN, classes, threshold)


def test_where_there_is_no_speech_no_class_is_named():
    flags = [("odd rate",), ("near-silent",), ("odd rate", "no speech")]
    answers = make_decision(KNOWN, (), 0.0).answers(np.full((3, len(KNOWN)), 1 / 3), flags)
    assert [answer.label for answer in answers] == [KNOWN[0], KNOWN[0], "no speech"]
    assert answers[2].probabilities == {}
