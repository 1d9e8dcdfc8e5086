"""`compare.html`: groups of compared runs as one page without scripts or external files."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
from matplotlib import figure

from ser_jax import metrics
from ser_jax.evaluation import intervals
from ser_jax.evaluation.comparison import Group, count_run
from ser_jax.report import comparison_text, figures, formats, page
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError

MOST_PAIRS_DRAWN = 6
SHORTEST_REACH = 0.01  # of an axis, where all differences are 0


@dataclasses.dataclass(frozen=True)
class Section:
    """A group as the page shows it."""

    group: Group  # the group
    scores: markupsafe.Markup  # SVG of the UA of its runs
    # (first run, second run, SVG of their UA per speaker) of the pairs drawn; empty where speakers
    # are unknown or too few
    speakers: list[tuple[str, str, markupsafe.Markup]]


def write_comparison(path: Path, groups: Sequence[Group]) -> None:
    """Creates or replaces the page.

    Raises:
      UserError: If the file cannot be written.
    """
    text = page.render(
        "comparison.html",
        sections=[_section(group, number) for number, group in enumerate(groups)],
        runs=sum(len(group.runs) for group in groups),
        text=comparison_text,
        warning=comparison_text.not_comparable(groups),
        most_pairs_drawn=MOST_PAIRS_DRAWN,
    )
    try:
        files.write_text(path, text)
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written: {error.strerror}; name a file in a folder that"
            " exists"
        ) from None


def _section(group: Group, number: int) -> Section:
    names = [run.name for run in group.runs]
    scores = [run.results["ua"] for run in group.runs]
    svg = score_intervals(names, scores, label="UA in %", name=f"g{number}")
    return Section(group, svg, _speakers(group, number))


def _speakers(group: Group, number: int) -> list[tuple[str, str, markupsafe.Markup]]:
    counted = [count_run(run) for run in group.tested]
    if not group.test or counted[0].kind != intervals.SPEAKER:
        return []
    speakers = sorted({row.speaker for row in group.tested[0].rows})
    # UA of every speaker over the classes that occur, averaged over seeds
    scores = [metrics.scores(units.counts).ua.mean(axis=1) for units in counted]
    pairs = group.test.pairs[:MOST_PAIRS_DRAWN]
    gaps = [scores[pair.first] - scores[pair.second] for pair in pairs]
    reach = max(SHORTEST_REACH, 1.05 * np.abs(gaps).max())
    label = "difference of UA in points"
    drawn = []
    for index, (pair, gap) in enumerate(zip(pairs, gaps, strict=True)):
        svg = speaker_differences(
            speakers, gap, label=label, reach=reach, name=f"g{number}-{index}"
        )
        drawn.append((group.tested[pair.first].name, group.tested[pair.second].name, svg))
    return drawn


@figures.svg
def score_intervals(
    names: Sequence[str], scores: Sequence[Mapping[str, Any]], *, label: str
) -> figure.Figure:
    """Draws the mean of a score of `results.json`, its interval and its seeds, run by run."""
    drawing, axes = figures.new_panel(height=1.1 + 0.42 * len(names))
    for row, score in enumerate(scores):
        seeds = 100 * np.array([value for value in score["per_seed"] if value is not None])
        if len(seeds) > 1:
            axes.scatter(seeds, np.full(len(seeds), row + 0.16), zorder=2, **figures.CIRCLES)
        if score["ci95"]:
            axes.plot(100 * np.array(score["ci95"]), [row, row], color=figures.BLUE, linewidth=2.4)
        if score["mean"] is not None:
            axes.plot(100 * score["mean"], row, "D", color=figures.BLUE, markersize=6, zorder=3)
        figures.beside(axes, row, formats.points(score["mean"]))
    figures.name_rows(axes, range(len(names)), names, most=len(names))
    axes.set(xlabel=label)
    return drawing


@figures.svg
def speaker_differences(
    names: Sequence[str], differences: np.ndarray, *, label: str, reach: float
) -> figure.Figure:
    """Draws a bar to the left or right for every speaker; too many to be named are sorted.

    `differences` are those of the first run less the second, in [−1, 1]; the axis ends at ±`reach`.
    """
    colours = np.where(differences < 0, figures.ORANGE, figures.BLUE)
    drawing, axes, places = figures.horizontal_bars(100 * differences, colours, row_height=0.26)
    axes.axvline(0, color=figures.INK, linewidth=0.8)
    figures.name_rows(axes, places, names, [formats.signed(value) for value in differences])
    axes.set(xlabel=label, xlim=(-100 * reach, 100 * reach))
    return drawing
