"""The examples of the report: content, remarks where something is missing, escaping, links."""

import dataclasses
import os
import urllib.parse
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pages import Page
from report_runs import BANDS, HOSTILE, make_explanation, make_run, rows_of

from ser_jax.evaluation import predictions
from ser_jax.evaluation.examples import Example, Explanation, Recording, principal_plane
from ser_jax.report import examples_page, run_page
from ser_jax.report.examples_page import link

CLASSES = ["angry", "happy", "sad"]


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    make_run(folder)
    return folder


def page(run: Path, explanation: Explanation | None) -> str:
    return run_page.write_report(run, explanation).read_text("utf-8")


def describe(run: Path, **changes: Any) -> dict[str, Any]:
    explanation = make_explanation(run, **changes)
    return examples_page.describe(explanation, rows_of(run), CLASSES, run)


def test_the_whole_explanation_is_shown(run):
    text = page(run, make_explanation(run))
    shown = Page(text)
    shown.check_self_contained()
    for title in ("Most confused", "Joint representation", "Saliency"):
        assert f"<h2>{title}</h2>" in text
    # Besides: accuracy by coverage, UA by length, all folds by class and speaker, six folds of one
    # speaker, two utterances.
    assert shown.tags.count("svg") == 7 + 1 + 1 + 2 + 6 + 2
    assert shown.links and all(link.startswith("../corpus/") for link in shown.links)
    assert "Recall by length" in text and "Recall by speaker" in text
    assert shown.tags.count("audio") == shown.tags.count("a") > 2, "every recording can be played"
    assert text.count('<audio controls preload="none"') == shown.tags.count("audio")
    words = " ".join(text.split()).replace(" <", "<")
    assert "Fold spk0, seed 0: 9 test utterances of 1 speaker<" in words
    labels = [value or "" for name, value in shown.attributes if name == "aria-label"]
    assert sum("Scatter plot" in value for value in labels) == 2 + 6
    assert sum(value.startswith("Spectrogram of 0/") for value in labels) == 2


def test_without_recordings_it_says_how_to_add_them(run):
    text = page(run, None)
    assert "ser-jax evaluate --model=RUN" in text
    assert "Most confused" in text and "<a href" not in text and "Recall by length" not in text


def test_what_a_system_lacks_is_explained(run):
    text = page(run, make_explanation(run, examples=(), no_examples="end2you reads the wave."))
    assert "end2you reads the wave." in text and "Joint representation" in text
    missing = {"representations": (), "examples": (), "no_representations": "svm is no network."}
    text = page(run, make_explanation(run, **missing))
    assert "svm is no network." in text and "Joint representation" not in text
    assert "Recall by length" in text and "<a href" in text


def test_hostile_names_stay_text(run):
    known = make_explanation(run)
    _, frames, saliency = known.examples[0]
    names = (f"x/{HOSTILE}", HOSTILE, HOSTILE)
    row = predictions.Prediction(*names, 0, "sad", "angry", (0.5, 0.3, 0.2))
    evil = Example(row, frames, saliency)
    representations = (known.representations[0]._replace(fold=HOSTILE),)
    text = page(run, make_explanation(run, representations=representations, examples=(evil,)))
    assert "script" not in Page(text).tags and "&lt;script&gt;" in text


def test_a_run_without_labels_or_speakers_is_shown(run):
    found = [dataclasses.replace(row, speaker="", label="") for row in rows_of(run)]
    shown = examples_page.describe(make_explanation(run), found, CLASSES, run)
    assert set(shown["together"]) == {"class"} and shown["folds"][0]["speakers"] == []


def test_folds_that_are_too_small_or_too_many(run):
    known = make_explanation(run)
    tiny = known.representations[0]._replace(ids=known.representations[0].ids[:2])
    many = (tiny, *(known.representations[1]._replace(fold=f"f{number}") for number in range(14)))
    shown = describe(run, representations=many)
    names = [fold["representations"].fold for fold in shown["folds"]]
    assert names == [f"f{number}" for number in range(12)]
    assert shown["more_folds"] == 2 and not shown["sampled"]
    sampled = known.representations[0]._replace(test=100)
    assert describe(run, representations=(sampled,))["sampled"]


def test_the_scale_of_logits_does_not_spread_the_plane(run):
    """The same logits, scaled and shifted by a constant in one fold."""
    known = make_explanation(run)
    scaled = known.representations[0]._replace(logits=100 * known.representations[0].logits + 7)
    changed = describe(run, representations=(scaled, *known.representations[1:]))
    assert changed["together"] == describe(run)["together"]


def test_hollow_points_are_mistakes(run):
    plane = principal_plane(np.random.default_rng(0).normal(size=(5, 3)))
    svg = examples_page.scatter(plane, ["a"] * 5, np.array([1, 1, 0, 1, 0], bool), name="x")
    all_right = examples_page.scatter(plane, ["a"] * 5, np.ones(5, bool), name="x")
    assert svg.count("fill: #ffffff; ") - all_right.count("fill: #ffffff; ") == 2


@pytest.mark.parametrize("length", [1, 8, 20])
def test_legends_fit_into_their_figure(length, monkeypatch):
    """As matplotlib measures them, with the widest of the fonts; the axes keep their height."""
    drawn: list[Any] = []
    add = examples_page._add_legend

    def keep(drawing: Any, entries: int) -> None:
        add(drawing, entries)
        drawn.append(drawing)

    monkeypatch.setattr(examples_page, "_add_legend", keep)
    names = [f"{number:0{length}d}" if length > 1 else "abcdefghij"[number] for number in range(10)]
    names += names[:5]
    plane = principal_plane(np.random.default_rng(0).normal(size=(15, 3)))
    examples_page.scatter(plane, names, np.ones(15, bool), name="x")
    (drawing,) = drawn
    (legend,), (axes,) = drawing.legends, drawing.axes
    place = legend.get_window_extent()
    assert 0 <= place.x0 and place.x1 <= drawing.bbox.x1 and place.y1 <= drawing.bbox.y1
    assert axes.get_window_extent().height > 2.4 * drawing.dpi
    assert place.y0 > axes.get_window_extent().y1 - 3, "a figure above the other, but for rounding"


def test_more_names_than_colours():
    names = [f"n{number:02d}" for number in range(15) for _ in range(15 - number)]
    plane = principal_plane(np.random.default_rng(0).normal(size=(len(names), 3)))
    svg = examples_page.scatter(plane, names, np.ones(len(names), bool), name="x")
    assert ">n09</text>" in svg and ">n10</text>" not in svg and ">others</text>" in svg


def test_figures_stay_small():
    rng = np.random.default_rng(0)
    plane = principal_plane(rng.normal(size=(3000, 3)))
    names, right = ["a", "b"] * 1500, np.ones(3000, bool)
    assert len(examples_page.scatter(plane, names, right, name="x")) < 200_000
    long = rng.normal(size=(12_000, 40))
    assert len(examples_page.spectrogram(long, np.abs(long), BANDS, 0.01, name="x")) < 200_000


def test_a_picture_of_nothing():
    flat = np.zeros((5, 40))
    for saliency in (flat, flat + 1):
        assert "<svg" in examples_page.spectrogram(flat, saliency, BANDS, 0.01, name="x")


def test_axes_have_units():
    frames = np.random.default_rng(0).normal(size=(300, 40))
    svg = examples_page.spectrogram(frames, np.abs(frames), BANDS, 0.01, name="x")
    for text in ("time in s", "Hz", "1,000", "4,000", "3.0", "with its saliency"):
        assert f">{text}</text>" in svg


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


LETTERS = st.characters(codec="utf-8", exclude_characters="/\0")


@hypothesis.given(name=st.text(LETTERS, min_size=1, max_size=40))
def test_an_address_holds_nothing_that_could_be_markup_or_another_scheme(any_folder, name):
    hypothesis.assume(name not in (".", ".."))
    file = any_folder / name
    file.touch()
    address = link(Recording(file, 1.0), any_folder)
    file.unlink()
    assert address is not None and urllib.parse.unquote(address) == name
    assert not set(address) & set("<>\"'&:?# ")
