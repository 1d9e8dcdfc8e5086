"""predictions.csv and rejected.csv: what is written is what is read."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from ser_jax import errors
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.evaluation import predictions, rejected

CLASSES = ("angry", "happy", "sad")
UTTERANCES = (
    Utterance("wav/a", "wav/a.wav", label="sad", speaker="03"),
    Utterance('wav/b, "c"#0.000-1.500', "wav/b.wav", label="", speaker=""),
)


def test_rows_of_a_run():
    rows = predictions.from_probabilities(
        UTTERANCES, np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), classes=CLASSES, fold="spk03", seed=7
    )
    assert rows[0] == predictions.Prediction("wav/a", "03", "spk03", 7, "sad", "happy", (0.2, 0.5, 0.3))
    assert rows[1].prediction == "angry", "the first of equal maxima wins"
    assert rows[1].label == ""


@pytest.mark.parametrize("values", [np.ones((2, 2)), np.ones((3, 3)), np.full((2, 3), np.nan)])
def test_wrong_probabilities_are_refused(values):
    with pytest.raises(ValueError, match="shape|non-finite"):
        predictions.from_probabilities(UTTERANCES, values, classes=CLASSES, fold="a", seed=0)


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.text(strategies.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=9),
            strategies.sampled_from([*CLASSES, ""]),
            strategies.tuples(*[strategies.floats(0, 1)] * len(CLASSES)),
        ),
        max_size=5,
    )
)
def test_round_trip_is_exact(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("run") / "predictions.csv"
    rows = [
        predictions.Prediction(name, name[:2], "spk,03", seed, label, CLASSES[int(np.argmax(values))], values)
        for seed, (name, label, values) in enumerate(cells)
    ]
    predictions.write_predictions(path, rows, CLASSES)
    assert predictions.read_predictions(path) == (rows, CLASSES)


def test_columns(tmp_path):
    path = tmp_path / "predictions.csv"
    rows = predictions.from_probabilities(
        UTTERANCES[:1], np.array([[0.25, 0.5, 0.25]], np.float32), classes=CLASSES, fold="spk03", seed=0
    )
    predictions.write_predictions(path, rows, CLASSES)
    assert path.read_text() == (
        "id,speaker,fold,seed,label,prediction,p_angry,p_happy,p_sad\nwav/a,03,spk03,0,sad,happy,0.25,0.5,0.25\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with the columns"),
        ("id,label\n", "does not begin with the columns"),
        ("id,speaker,fold,seed,label,prediction,angry\n", "does not begin with the columns"),
        ("id,speaker,fold,seed,label,prediction,p_a\nx,s,f,0,a,a\n", "line 2: 6 columns, not 7"),
        ("id,speaker,fold,seed,label,prediction,p_a\nx,s,f,0,a,b,1.0\n", "line 2: .*none of the classes a"),
        ("id,speaker,fold,seed,label,prediction,p_a\nx,s,f,zero,a,a,1.0\n", "line 2: invalid literal"),
    ],
)
def test_a_broken_table_names_the_line(tmp_path, text, message):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(errors.UserError, match=message):
        predictions.read_predictions(path)


def test_rejections(tmp_path):
    path = tmp_path / "rejected.csv"
    rows = [Rejection("a,b.wav", None, "too short", "31 ms"), Rejection("manifest.csv", 3, "missing file", "x.wav")]
    rejected.write_rejected(path, rows)
    assert path.read_text().splitlines() == [
        "file,line,reason,detail",
        '"a,b.wav",,too short,31 ms',
        "manifest.csv,3,missing file,x.wav",
    ]
    assert rejected.read_rejected(path) == rows


def test_no_rejections(tmp_path):
    rejected.write_rejected(tmp_path / "rejected.csv", [])
    assert (tmp_path / "rejected.csv").read_text() == "file,line,reason,detail\n"
    assert rejected.read_rejected(tmp_path / "rejected.csv") == []
