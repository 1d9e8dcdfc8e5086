"""The page of a comparison: complete, self-contained and safe, for full and for odd groups."""

import dataclasses

import numpy as np
import pytest
import scored
from pages import Page
from report_runs import HOSTILE

from ser_jax.evaluation import comparison
from ser_jax.evaluation.finished_run import FinishedRun
from ser_jax.report import comparison_page, figures, formats
from ser_jax.runtime.errors import UserError

SCORE = {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.6], "per_seed": [0.4, 0.6]}


def make(name: str, seed: int, *, speakers=6, known=True, seeds=(0, 1), **changes) -> FinishedRun:
    rows = scored.make_rows(seed, speakers=speakers, per_speaker=6, seeds=seeds)
    if not known:
        rows = [dataclasses.replace(row, speaker="") for row in rows]
    return scored.finished(name, rows=rows, **changes)


def written(path, *runs: FinishedRun) -> Page:
    comparison_page.write_comparison(path / "compare.html", comparison.group_runs(runs))
    return Page((path / "compare.html").read_text("utf-8"))


def test_page_of_three_runs(tmp_path):
    runs = [make("plain", 0), make("multi", 1, seeds=(0,)), make("hsf", 2)]
    page = written(tmp_path, *runs)
    assert page.tags.count("table") == 2 and page.tags.count("h2") == 2
    assert page.tags.count("svg") == 1 + 3, "UA of all runs, and the speakers of every pair"
    (group,) = comparison.group_runs(runs)
    assert group.test is not None
    for run in runs:
        assert f"{100 * run.results['ua']['mean']:.1f}" in page.text
    for pair in group.test.pairs:
        assert f"{group.tested[pair.first].name} − {group.tested[pair.second].name}" in page.text
        for score in (pair.ua, pair.wa):
            difference = formats.difference(score.effect, score.ci95)
            cells = f"<td>{difference}</td><td>{score.p:.3f}</td><td>{score.holm:.3f}</td>"
            assert cells in page.text
    assert "decade" * 10 in page.text and "not comparable" not in page.text


def test_what_is_not_there_is_not_explained(tmp_path):
    circles, correction = "Circles: single seeds.", "Holm p is corrected for the"
    page = written(tmp_path, make("a", 0), make("b", 1), make("c", 2))
    assert circles in page.text and f"{correction}\n3 pairs" in page.text
    page = written(tmp_path, make("a", 0, seeds=(0,)), make("b", 1, seeds=(0,)))
    assert circles not in page.text and correction not in page.text


def test_speakers_differ_as_their_rows_do(tmp_path):
    """In the order of the pair: to the right where the first run is better."""
    runs = make("a", 0), make("b", 1)
    page = written(tmp_path, *runs)
    for number in range(6):
        # Every speaker has as many examples of every class, so its UA is its accuracy.
        accuracy = [
            np.mean([r.label == r.prediction for r in run.rows if r.speaker == f"s{number}"])
            for run in runs
        ]
        assert f">{formats.signed(float(accuracy[0] - accuracy[1]))}</text>" in page.text
    assert "To the right a is better." in page.text


def test_page_needs_nothing_from_outside_and_has_all_headers(tmp_path):
    other = make("c", 2, protocol_sha256="facade" * 10)
    page = written(tmp_path, make("a", 0), make("b", 1), other)
    page.check_self_contained()
    assert str(tmp_path) not in page.text
    scopes = [value for name, value in page.attributes if name == "scope"]
    assert page.tags.count("th") == len(scopes) and scopes.count("row") == 3 + 1
    images = [value for name, value in page.attributes if name == "role" and value == "img"]
    assert len(images) == page.tags.count("svg")


def test_groups_are_apart_and_the_warning_is_on_top(tmp_path):
    other = make("b", 1, protocol="other", protocol_sha256="facade" * 10)
    page = written(tmp_path, make("a", 0), other)
    assert page.tags.count("table") == 2 and page.tags.count("svg") == 2
    warning = page.text.index("not comparable: different protocols")
    assert warning < page.text.index("<table") and "Differences" not in page.text


def test_names_cannot_become_markup(tmp_path):
    runs = (make(name, k, protocol=HOSTILE) for k, name in enumerate((HOSTILE, "<b>b</b>")))
    page = written(tmp_path, *runs)
    assert not {"script", "b"} & set(page.tags)
    assert "&lt;script&gt;" in page.text


def test_only_the_first_pairs_are_drawn(tmp_path):
    page = written(tmp_path, *(make(f"run {k}", k, speakers=5, seeds=(0,)) for k in range(5)))
    assert page.tags.count("svg") == 1 + comparison_page.MOST_PAIRS_DRAWN
    assert "Speakers are drawn for the first 6 of 10 pairs." in page.text


@pytest.mark.parametrize(
    "odd", [{"speakers": 3}, {"known": False}, {"speakers": 40}, {"seeds": (0,)}], ids=str
)
def test_odd_runs(tmp_path, odd):
    page = written(tmp_path, make("a", 0, **odd), make("b", 0, **odd))
    unknown = odd.get("speakers") == 3 or odd.get("known") is False
    assert ("by utterance, too optimistic" in page.text) == unknown
    assert page.tags.count("svg") == (1 if unknown else 2)


def test_a_page_that_cannot_be_written_is_refused_with_the_path(tmp_path):
    groups = comparison.group_runs([make("a", 0)])
    message = r"--output=.*nowhere/c\.html cannot be written: No such file or directory"
    with pytest.raises(UserError, match=message):
        comparison_page.write_comparison(tmp_path / "nowhere/c.html", groups)


def speakers(*differences: float) -> str:
    names, style = [f"s{n}" for n in range(len(differences))], {"label": "points", "name": "x"}
    return comparison_page.speaker_differences(names, np.array(differences), reach=0.5, **style)


@pytest.mark.parametrize(
    ("differences", "left", "right"),
    [((0.1, 0.2), 0, 2), ((-0.1, 0.2), 1, 1), ((-0.1, -0.2), 2, 0)],
)
def test_bars_to_the_left_have_another_colour(differences, left, right):
    svg = speakers(*differences)
    assert svg.count(f"fill: {figures.ORANGE}") == left
    assert svg.count(f"fill: {figures.BLUE}") == right


def test_few_speakers_are_named_and_many_are_not():
    few, many = speakers(*[0.1] * 30), speakers(*[0.1] * 31)
    assert ">s29</text>" in few and few.count(">+10.0</text>") == 30
    assert ">s29</text>" not in many and ">+10.0</text>" not in many


def test_runs_are_named_with_their_means():
    lost = {"mean": None, "std": None, "ci95": None, "per_seed": [None]}
    names, label = ["plain", "lost"], "UA in %"
    svg = comparison_page.score_intervals(names, [SCORE, lost], label=label, name="x")
    assert all(f">{text}</text>" in svg for text in ("plain", "lost", "50.0", "–", "UA in %"))


def test_a_single_seed_has_no_circle_of_its_own():
    one = {**SCORE, "per_seed": [0.5]}
    draw = comparison_page.score_intervals
    several, single = (draw(["a"], [score], label="", name="x") for score in (SCORE, one))
    assert "PathCollection" in several and "PathCollection" not in single
