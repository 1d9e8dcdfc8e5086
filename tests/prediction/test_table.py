"""The tables: what stands in CSV, JSON and on the terminal for an answer, an abstention and a bad recording."""

import csv
import json

import pytest

from ser_jax.errors import UserError
from ser_jax.prediction import table
from ser_jax.prediction.batch import Row, check_usable
from ser_jax.prediction.rule import Answer, make_rule

RULE = make_rule(("angry", "sad"), (), 0.6)
ROWS = [
    Row("a, b.wav", None, None, seconds=1.5, answer=Answer("sad", {"angry": 0.1 + 0.2, "sad": 0.7})),
    Row("c.wav", 0.5, None, seconds=2.0, answer=Answer(None, {"angry": 0.5, "sad": 0.5})),
    Row("list.csv", line=3, reason="bad line", detail="empty file"),
]


def test_csv(tmp_path):
    table.write(tmp_path / "t.csv", ROWS, RULE, "the model")
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["file", "start", "end", "line", "seconds", "label", "p_angry", "p_sad", "reason", "detail"],
        ["a, b.wav", "", "", "", "1.5", "sad", "0.30000000000000004", "0.7", "", ""],
        ["c.wav", "0.5", "", "", "2.0", "", "0.5", "0.5", "", ""],
        ["list.csv", "", "", "3", "", "", "", "", "bad line", "empty file"],
    ]


def test_json(tmp_path):
    table.write(tmp_path / "t.JSON", ROWS, RULE, "the model")
    found = json.loads((tmp_path / "t.JSON").read_text())
    predictions = found.pop("predictions")
    assert found == {"schema": 1, "model": "the model", "classes": ["angry", "sad"], "threshold": 0.6}
    assert predictions[0] == {
        **{"file": "a, b.wav", "start": None, "end": None, "line": None, "seconds": 1.5, "label": "sad"},
        **{"probabilities": {"angry": 0.1 + 0.2, "sad": 0.7}, "reason": "", "detail": ""},
    }
    assert predictions[1]["label"] is None and predictions[1]["probabilities"] == {"angry": 0.5, "sad": 0.5}
    assert predictions[2]["probabilities"] is None and predictions[2]["reason"] == "bad line"


def test_lines_for_a_person(tmp_path):
    assert table.text(ROWS).splitlines() == [
        "a, b.wav          sad     angry 0.300  sad 0.700",
        "c.wav 0.5-end s   (none)  angry 0.500  sad 0.500",
        "list.csv, line 3  cannot be used: bad line (empty file)",
    ]
    expected = "2 of 3 recordings predicted, 1 of them below the threshold, 1 cannot be used: t.csv"
    assert table.summary(ROWS, tmp_path / "t.csv") == expected.replace("t.csv", str(tmp_path / "t.csv"))


def test_a_name_that_is_not_unicode_can_be_shown():
    assert table.text([Row("\udcff.wav", reason="missing", detail="no such file")]).startswith(r"\udcff.wav  cannot")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("t.txt", "write .csv or .json at its end"),
        ("nowhere/t.csv", "there is no folder .*nowhere; make it"),
        ("folder.csv", "cannot be written; name another file"),
    ],
)
def test_places_for_no_table_are_refused(tmp_path, name, sentence):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=sentence):
        table.check_output(tmp_path / name)


def test_only_bad_recordings_are_an_error():
    check_usable(ROWS)
    with pytest.raises(UserError, match=r"none of 1 recordings can be used, for example list.csv: bad line \(empty"):
        check_usable(ROWS[2:])
