"""The figures of the comparison page: what they say in words and colours."""

import numpy as np
import pytest

from ser_jax.evaluation import canvas, comparison_plots

SCORE = {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.6], "per_seed": [0.4, 0.6]}


def speakers(*differences: float) -> str:
    names = [f"s{number}" for number in range(len(differences))]
    return comparison_plots.speaker_differences(names, np.array(differences), label="points", reach=0.5, name="x")


@pytest.mark.parametrize(
    ("differences", "left", "right"), [((0.1, 0.2), 0, 2), ((-0.1, 0.2), 1, 1), ((-0.1, -0.2), 2, 0)]
)
def test_bars_to_the_left_have_another_colour(differences, left, right):
    svg = speakers(*differences)
    assert (svg.count(f"fill: {canvas.ORANGE}"), svg.count(f"fill: {canvas.BLUE}")) == (left, right)


def test_few_speakers_are_named_and_many_are_not():
    few, many = speakers(*[0.1] * 30), speakers(*[0.1] * 31)
    assert ">s29</text>" in few and few.count(">+10.0</text>") == 30
    assert ">s29</text>" not in many and ">+10.0</text>" not in many


def test_runs_are_named_with_their_means():
    lost = {"mean": None, "std": None, "ci95": None, "per_seed": [None]}
    svg = comparison_plots.score_intervals(["plain", "lost"], [SCORE, lost], label="UA in %", name="x")
    assert all(f">{text}</text>" in svg for text in ("plain", "lost", "50.0", "–", "UA in %"))


def test_a_single_seed_has_no_circle_of_its_own():
    one = {**SCORE, "per_seed": [0.5]}
    several, single = (comparison_plots.score_intervals(["a"], [score], label="", name="x") for score in (SCORE, one))
    assert "PathCollection" in several and "PathCollection" not in single
