"""predictions.csv and rejected.csv: the same rows after writing and reading."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ser_jax.corpora import from_config
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.evaluation import predictions
from ser_jax.runtime import errors

CLASSES = ("angry", "happy", "sad")
COLUMNS = "id,speaker,fold,seed,label,prediction"
UTTERANCES = (
    Utterance("wav/a", "wav/a.wav", label="sad", speaker="03"),
    Utterance('wav/b, "c"#0.000-1.500', "wav/b.wav", label="", speaker=""),
)


def test_rows_of_a_trial(tmp_path):
    values, trial = np.array([[0.25, 0.5, 0.25], [0.4, 0.4, 0.2]]), {"fold": "spk03", "seed": 7}
    rows = predictions.from_probabilities(UTTERANCES, values, classes=CLASSES, **trial)
    known = ("wav/a", "03", "spk03", 7, "sad", "happy")
    assert rows[0] == predictions.Prediction(*known, (0.25, 0.5, 0.25))
    assert rows[1].prediction == "angry", "the first of equal maxima wins"
    assert rows[1].label == ""
    predictions.write_predictions(tmp_path / "predictions.csv", rows[:1], CLASSES)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "id,speaker,fold,seed,label,prediction,p_angry,p_happy,p_sad",
        "wav/a,03,spk03,7,sad,happy,0.25,0.5,0.25",
    ]


def test_attributes_have_columns_behind_the_classes(tmp_path):
    """What is empty is not there; a column of the table keeps its meaning."""
    path, values = tmp_path / "predictions.csv", np.full((2, 3), 0.5)
    named = [
        dataclasses.replace(UTTERANCES[0], attributes=(("age", "31"), ("gender", "=f"))),
        dataclasses.replace(UTTERANCES[1], attributes=(("age", "8"), ("p_x", "1"), ("seed", "9"))),
    ]
    rows = predictions.from_probabilities(named, values, classes=CLASSES, fold="a", seed=0)
    predictions.write_predictions(path, rows, CLASSES)
    assert path.read_text().splitlines()[0] == f"{COLUMNS},p_angry,p_happy,p_sad,age,gender"
    read, classes = predictions.read_predictions(path)
    assert [one.attributes for one in read] == [(("age", "31"), ("gender", "=f")), (("age", "8"),)]
    assert classes == CLASSES
    path.write_text(path.read_text().replace(",31,", ","))
    with pytest.raises(errors.UserError, match="line 2: 10 columns, not 11"):
        predictions.read_predictions(path)


@pytest.mark.parametrize("values", [np.ones((2, 2)), np.ones((3, 3)), np.full((2, 3), np.nan)])
def test_wrong_probabilities_are_refused(values):
    with pytest.raises(ValueError, match="shape|non-finite"):
        predictions.from_probabilities(UTTERANCES, values, classes=CLASSES, fold="a", seed=0)


LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")
LABELS, VALUES = st.sampled_from([*CLASSES, ""]), st.tuples(*[st.floats(0, 1)] * len(CLASSES))


@hypothesis.given(st.lists(st.tuples(st.text(LETTERS, max_size=9), LABELS, VALUES), max_size=5))
def test_round_trip_is_exact(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("run") / "predictions.csv"
    rows = []
    for seed, (name, label, values) in enumerate(cells):
        known = (name, f"={name[:2]}", "-spk,03", seed, label, CLASSES[int(np.argmax(values))])
        rows.append(predictions.Prediction(*known, values))
    predictions.write_predictions(path, rows, CLASSES)
    assert predictions.read_predictions(path) == (rows, CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with the columns"),
        ("id,label\n", "does not begin with the columns"),
        (f"{COLUMNS},angry\n", "does not begin with the columns"),
        (f"{COLUMNS},p_a\nx,s,f,0,a,a\n", "line 2: 6 columns, not 7"),
        (f"{COLUMNS},p_a\nx,s,f,0,a,b,1.0\n", "line 2: .*none of the classes a"),
        (f"{COLUMNS},p_a\nx,s,f,zero,a,a,1.0\n", "line 2: invalid literal"),
    ],
)
def test_a_broken_table_names_the_line(tmp_path, text, message):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(errors.UserError, match=message):
        predictions.read_predictions(path)


def test_rejections(tmp_path):
    path = tmp_path / "rejected.csv"
    rows = [
        Rejection("a,b.wav", None, "too short", "31 ms"),
        Rejection("manifest.csv", 3, "missing file", "x.wav"),
    ]
    from_config.write_rejected(path, rows)
    assert path.read_text().splitlines() == [
        "file,line,reason,detail",
        '"a,b.wav",,too short,31 ms',
        "manifest.csv,3,missing file,x.wav",
    ]
    assert from_config.read_rejected(path) == rows
    from_config.write_rejected(path, [])
    assert from_config.read_rejected(path) == []
