"""What is chosen to be shown, and links to recordings."""

import os
import urllib.parse
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from ser_jax.evaluation.inside import MOST_EXAMPLES, MOST_OF_FOLD, Recording, choose_examples, link
from ser_jax.evaluation.predictions import Prediction

CLASSES = ("a", "b")


def row(name: str, fold: str, label: str, prediction: str, sure: float, classes=CLASSES) -> Prediction:
    rest = (1 - sure) / (len(classes) - 1)
    return Prediction(name, "", fold, 0, label, prediction, tuple(sure if c == prediction else rest for c in classes))


def test_the_surest_right_and_wrong_of_each_class():
    rows = [
        row("1", "f", "a", "a", 0.8),
        row("2", "g", "a", "a", 0.9),
        row("3", "f", "a", "b", 0.7),
        row("4", "f", "b", "b", 0.6),
        row("5", "h", "b", "b", 0.6),
        row("6", "h", "", "b", 1.0),
    ]
    assert [one.id for one in choose_examples(rows, CLASSES)] == ["2", "3", "4"]
    assert choose_examples([], CLASSES) == []


def test_a_fold_that_is_always_sure_does_not_fill_the_page():
    rows = [row(f"{f}{label}{p}", f, label, p, 1.0 if f == "f" else 0.7) for f in "fg" for label in "ab" for p in "ab"]
    chosen = choose_examples(rows, CLASSES)
    assert [(one.label, one.prediction) for one in chosen] == [("a", "a"), ("a", "b"), ("b", "b"), ("b", "a")]
    assert [sum(one.fold == fold for one in chosen) for fold in "fg"] == [MOST_OF_FOLD, 2]
    assert [one.fold for one in choose_examples(rows[:4], CLASSES)] == ["f"] * 4, "there is no other"


def test_of_many_classes_the_surest():
    classes = tuple("abcdefg")
    rows = [
        row(f"{label}{kind}", f"{label}{kind}", label, label if kind else "a", 0.3 + number / 10, classes)
        for number, label in enumerate(classes)
        for kind in (0, 1)
        if kind or label != "a"
    ]
    chosen = choose_examples(rows, classes)
    assert len(chosen) == MOST_EXAMPLES and [one.id for one in chosen] == [
        f"{c}{kind}" for c in "defg" for kind in (1, 0)
    ]


def test_links_lead_to_the_recording(tmp_path):
    folder = tmp_path / "runs/x"
    folder.mkdir(parents=True)
    file = tmp_path / "my corpus/ä 1%#?.wav"
    file.parent.mkdir()
    file.touch()
    address = link(Recording(file, 1.0), folder)
    assert address == "../../my%20corpus/%C3%A4%201%25%23%3F.wav"
    assert os.path.samefile(folder / urllib.parse.unquote(address), file)
    assert link(Recording(file, 1.0, 0.5, 1.25), folder) == f"{address}#t=0.5,1.25"
    assert link(Recording(file, 1.0, None, 1.25), folder) == f"{address}#t=0,1.25"
    assert link(Recording(file, 1.0, 0.5), folder) == f"{address}#t=0.5"


def test_what_is_not_there_has_no_link(tmp_path):
    assert link(None, tmp_path) is None
    assert link(Recording(tmp_path / "absent.wav", 1.0), tmp_path) is None
    assert link(Recording(tmp_path, 1.0), tmp_path) is None, "a folder is no recording"


def test_relative_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    Path("corpus/a.wav").touch()
    assert link(Recording(Path("corpus/a.wav"), 1.0), Path("runs/x")) == "../../corpus/a.wav"


@pytest.fixture(scope="module")
def any_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("names")


@hypothesis.given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40))
def test_an_address_holds_nothing_that_could_be_markup_or_another_scheme(any_folder, name):
    hypothesis.assume(name not in (".", ".."))
    file = any_folder / name
    file.touch()
    address = link(Recording(file, 1.0), any_folder)
    file.unlink()
    assert address is not None and urllib.parse.unquote(address) == name
    assert not set(address) & set("<>\"'&:?# ")
