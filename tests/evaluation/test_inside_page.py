"""The part of the page that looks inside: what it shows, what it says where something is missing, what it escapes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page
from test_report import HOSTILE, make_run

from ser_jax.evaluation import inside_page, inside_plots, predictions, report
from ser_jax.evaluation.inside import Example, Inside, Recording, View
from ser_jax.evaluation.projection import principal_plane

CLASSES = ["angry", "happy", "sad"]
BANDS = np.geomspace(100, 7500, 40)


def rows_of(folder: Path) -> list[predictions.Prediction]:
    return predictions.read_predictions(folder / "predictions.csv")[0]


def look(folder: Path, **changes: Any) -> Inside:
    """What might be found inside the run of `make_run`; its recordings are empty files."""
    rng = np.random.default_rng(0)
    first = [row for row in rows_of(folder) if row.seed == 0]
    recordings = {}
    for row in first:
        file = folder.parent / f"corpus/{row.id}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        recordings[row.id] = Recording(file, float(rng.uniform(1, 5)))
    folds: dict[str, list[str]] = {}
    for row in first:
        folds.setdefault(row.fold, []).append(row.id)
    views = tuple(
        View(fold, 0, len(ids), tuple(ids), rng.normal(size=(len(ids), 8)), rng.normal(size=(len(ids), 3)))
        for fold, ids in folds.items()
    )
    examples = tuple(Example(row, rng.normal(size=(150, 40)), rng.random((150, 40))) for row in first[:2])
    found = Inside(recordings, views, examples, BANDS, 0.01)
    return dataclasses.replace(found, **changes)


@pytest.fixture
def run(tmp_path) -> Path:
    make_run(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    (tmp_path / "runs").mkdir()


def page(run: Path, inside: Inside | None) -> str:
    return report.write_report(run, inside).read_text("utf-8")


def test_everything_that_is_known_is_shown(run):
    text = page(run, look(run))
    shown = Page(text)
    shown.check_self_contained()
    assert all(f"<h2>{title}</h2>" in text for title in ("Most confused", "Joint representation", "Saliency"))
    # Beside the seven: by length, all folds by class and speaker, six folds of one speaker, two utterances.
    assert shown.tags.count("svg") == 7 + 1 + 2 + 6 + 2
    assert shown.links and all(link.startswith("../corpus/") for link in shown.links)
    assert "Recall by length" in text and "Recall by speaker" in text
    assert "Fold spk0, seed 0: 9 test utterances of 1 speaker<" in " ".join(text.split()).replace(" <", "<")


def test_pictures_are_told_in_words(run):
    attributes = Page(page(run, look(run))).attributes
    told = [value or "" for name, value in attributes if name == "aria-label"]
    assert sum("Scatter plot" in value for value in told) == 2 + 6
    assert sum(value.startswith("Spectrogram of 0/") for value in told) == 2


def test_without_recordings_it_says_how_to_come_by_them(run):
    text = page(run, None)
    assert "python -m ser_jax.evaluate --model=RUN" in text
    assert "Most confused" in text and "<a href" not in text and "Recall by length" not in text


def test_without_a_network_only_tables_are_shown(run):
    text = page(run, look(run, views=(), examples=(), no_views="svm has no network to look into."))
    assert "svm has no network to look into." in text and "Joint representation" not in text
    assert "Recall by length" in text and "<a href" in text


def test_without_a_spectrogram_it_says_why(run):
    text = page(run, look(run, examples=(), no_examples="end2you reads the wave."))
    assert "end2you reads the wave." in text and "Joint representation" in text


def test_hostile_names_stay_text(run):
    known = look(run)
    _, frames, saliency = known.examples[0]
    row = predictions.Prediction(f"x/{HOSTILE}", HOSTILE, HOSTILE, 0, "sad", "angry", (0.5, 0.3, 0.2))
    evil = Example(row, frames, saliency)
    views = (known.views[0]._replace(fold=HOSTILE),)
    text = page(run, look(run, views=views, examples=(evil,)))
    assert "script" not in Page(text).tags and "&lt;script&gt;" in text


def test_the_same_look_gives_the_same_page(run):
    assert page(run, look(run)) == page(run, look(run))


def test_a_run_without_labels_or_speakers_is_shown(run):
    found = [
        predictions.Prediction(row.id, "", row.fold, row.seed, "", row.prediction, row.probabilities)
        for row in rows_of(run)
    ]
    shown = inside_page.describe(look(run), found, CLASSES, run)
    assert set(shown["together"]) == {"class"} and shown["folds"][0]["speakers"] == []


def test_folds_that_are_too_small_or_too_many(run):
    known = look(run)
    tiny = known.views[0]._replace(ids=known.views[0].ids[:2])
    many = (tiny, *(known.views[1]._replace(fold=f"f{number}") for number in range(14)))
    shown = inside_page.describe(look(run, views=many), rows_of(run), CLASSES, run)
    assert [fold["view"].fold for fold in shown["folds"]] == [f"f{number}" for number in range(12)]
    assert shown["more_folds"] == 2 and not shown["sampled"]
    sampled = known.views[0]._replace(test=100)
    assert inside_page.describe(look(run, views=(sampled,)), rows_of(run), CLASSES, run)["sampled"]


def test_models_that_are_surer_than_others_do_not_spread_the_plane(run):
    """The same logits, a hundred times as large in one fold, and moved by what softmax does not see."""
    known = look(run)
    surer = known.views[0]._replace(logits=100 * known.views[0].logits + 7)
    changed = look(run, views=(surer, *known.views[1:]))
    one, other = (inside_page.describe(kind, rows_of(run), CLASSES, run)["together"] for kind in (known, changed))
    assert one == other


def test_hollow_points_are_mistakes(run):
    plane = principal_plane(np.random.default_rng(0).normal(size=(5, 3)))
    svg = inside_plots.scatter(plane, ["a"] * 5, np.array([1, 1, 0, 1, 0], bool), name="x")
    all_right = inside_plots.scatter(plane, ["a"] * 5, np.ones(5, bool), name="x")
    assert svg.count("fill: #ffffff; ") - all_right.count("fill: #ffffff; ") == 2


def test_more_names_than_colours():
    names = [f"n{number:02d}" for number in range(15) for _ in range(15 - number)]
    plane = principal_plane(np.random.default_rng(0).normal(size=(len(names), 3)))
    svg = inside_plots.scatter(plane, names, np.ones(len(names), bool), name="x")
    assert ">n09</text>" in svg and ">n10</text>" not in svg and ">others</text>" in svg


def test_figures_stay_small():
    rng = np.random.default_rng(0)
    plane = principal_plane(rng.normal(size=(3000, 3)))
    assert len(inside_plots.scatter(plane, ["a", "b"] * 1500, np.ones(3000, bool), name="x")) < 200_000
    long = rng.normal(size=(12_000, 40))
    assert len(inside_plots.spectrogram(long, np.abs(long), BANDS, 0.01, name="x")) < 200_000


@pytest.mark.parametrize("saliency", [0.0, 1.0])
def test_a_picture_of_nothing(saliency):
    flat = np.zeros((5, 40))
    assert "<svg" in inside_plots.spectrogram(flat, flat + saliency, BANDS, 0.01, name="x")


def test_axes_have_units():
    frames = np.random.default_rng(0).normal(size=(300, 40))
    svg = inside_plots.spectrogram(frames, np.abs(frames), BANDS, 0.01, name="x")
    assert all(f">{text}</text>" in svg for text in ("time in s", "Hz", "1,000", "4,000", "3.0", "with its saliency"))
