"""CSV, JSON and terminal lines of an answer, an abstention and a bad recording."""

import csv
import json
import os

import pytest

from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.prediction import batch
from ser_jax.prediction import predictions_table as table
from ser_jax.prediction.batch import Row, check_usable
from ser_jax.prediction.ensemble import Answer, make_decision
from ser_jax.runtime.errors import UserError

DECISION = make_decision(("angry", "sad"), (), 0.6)
ROWS = [
    Row(
        "a, b.wav", None, None, seconds=1.5, answer=Answer("sad", {"angry": 0.1 + 0.2, "sad": 0.7})
    ),
    Row(
        "c.wav",
        0.5,
        None,
        seconds=2.0,
        flags=("odd rate", "clipped", "quiet"),
        answer=Answer(None, {"angry": 0.5, "sad": 0.5}),
    ),
    Row("list.csv", line=3, reason="bad line", detail="empty file"),
]


def test_csv(tmp_path):
    table.write(tmp_path / "t.csv", ROWS, DECISION, "the model")
    with (tmp_path / "t.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == "file start end line seconds label p_angry p_sad flags reason detail".split()
    assert lines == [
        ["a, b.wav", "", "", "", "1.5", "sad", "0.30000000000000004", "0.7", "", "", ""],
        ["c.wav", "0.5", "", "", "2.0", "", "0.5", "0.5", "odd rate; clipped; quiet", "", ""],
        ["list.csv", "", "", "3", "", "", "", "", "", "bad line", "empty file"],
    ]


def test_json(tmp_path):
    table.write(tmp_path / "t.JSON", ROWS, DECISION, "the model")
    found = json.loads((tmp_path / "t.JSON").read_text())
    predictions = found.pop("predictions")
    classes = ["angry", "sad"]
    assert found == {"schema": 1, "model": "the model", "classes": classes, "threshold": 0.6}
    assert [row.pop("flags") for row in predictions] == [[], ["odd rate", "clipped", "quiet"], []]
    keys = ("file", "start", "end", "line", "seconds", "label", "probabilities", "reason", "detail")
    assert [
        dict(zip(keys, row, strict=True))
        for row in (
            ("a, b.wav", None, None, None, 1.5, "sad", {"angry": 0.1 + 0.2, "sad": 0.7}, "", ""),
            ("c.wav", 0.5, None, None, 2.0, None, {"angry": 0.5, "sad": 0.5}, "", ""),
            ("list.csv", None, None, 3, None, None, None, "bad line", "empty file"),
        )
    ] == predictions


@pytest.mark.parametrize("name", ["t.csv", "t.json"])
def test_a_table_is_read_back_as_a_list_of_its_recordings(name, tmp_path, monkeypatch):
    """Files are those that were opened, wherever the table lies; bad rows of lists stay bad."""
    for file in ("rec/a, b.wav", "rec/c.wav", os.fsdecode(b"rec/\xff.wav"), "out/d.wav"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    names = ("rec/a, b.wav", str(tmp_path / "rec/c.wav"), "rec/\udcff.wav", "d.wav")
    answer = Answer("sad", {"angry": 0.3, "sad": 0.7})
    rows = [Row(file, None, 2.5, seconds=2.5, answer=answer) for file in names]
    rows += [Row("gone.wav", reason="missing", detail="no such file"), ROWS[2]]
    table.write(tmp_path / "out" / name, rows, DECISION, "the model")
    found = batch.find([f"out/{name}"])
    places = [(one.file, one.start, one.end) for one in found if isinstance(one, Utterance)]
    spans = [(file, None, 2.5) for file in (*names[:3], "out/d.wav")]
    assert places == [*spans, ("out/gone.wav", None, None)]
    assert found[-1] == Rejection("list.csv", 3, "bad line", "empty file")


def test_lines_for_a_person(tmp_path):
    assert table.text(ROWS).splitlines() == [
        "a, b.wav          sad     angry 0.300  sad 0.700",
        "c.wav 0.5-end s   (none)  angry 0.500  sad 0.500  (clipped; quiet)",
        "list.csv, line 3  cannot be used: bad line (empty file)",
    ]
    counts = "2 of 3 recordings predicted, 1 of them below the threshold, 1 cannot be used"
    assert table.summary(ROWS, tmp_path) == f"{counts}: {tmp_path}"
    assert table.summary(ROWS, None) == counts and table.summary(ROWS[:2], None) == ""
    silent = {"flags": ("near-silent", "no speech"), "answer": Answer("no speech", {})}
    noise = Row("n.wav", seconds=1.0, **silent)
    said = table.summary([noise], tmp_path)
    assert said.startswith("1 of 1 recording predicted, 1 of them without speech:")
    assert table.text([noise]) == "n.wav  no speech    (near-silent)"
    table.write(tmp_path / "n.csv", [noise], DECISION, "a model")
    line = "n.wav,,,,1.0,no speech,,,near-silent; no speech,,"
    assert (tmp_path / "n.csv").read_text().splitlines()[1] == line
    unshowable = Row("\udcff.wav", reason="missing", detail="no such file")  # no UTF-8
    assert table.text([unshowable]).startswith(r"\udcff.wav  cannot")


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
    sentence = r"none of 1 recording can be used, for example list.csv: bad line \(empty"
    with pytest.raises(UserError, match=sentence):
        check_usable(ROWS[2:])
    check_usable(ROWS[:2], strict=True)
    sentence = r"1 of 3 recordings cannot be used, for example list.csv: .*; mend them or leave out"
    with pytest.raises(UserError, match=sentence):
        check_usable(ROWS, strict=True)
