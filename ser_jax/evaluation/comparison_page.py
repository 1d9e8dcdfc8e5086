"""Groups of runs → one page without scripts or outside files, for screen, phone and paper."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import markupsafe
import numpy as np

from ser_jax import atomic, metrics
from ser_jax.errors import UserError
from ser_jax.evaluation import comparison_plots, page, units
from ser_jax.evaluation.finished import FinishedRun
from ser_jax.evaluation.groups import Group, not_comparable

MOST_PAIRS_DRAWN = 6
SHORTEST_REACH = 0.01  # of an axis, where all differences are 0


@dataclasses.dataclass(frozen=True)
class Section:
    """A group as the page shows it.

    Attributes:
      group: The group.
      scores: SVG of the UA of its runs.
      speakers: (first run, second run, SVG of their UA per speaker) of the pairs drawn; empty where speakers are
        unknown or too few.
    """

    group: Group
    scores: markupsafe.Markup
    speakers: list[tuple[str, str, markupsafe.Markup]]


def write_comparison(path: Path, groups: Sequence[Group]) -> None:
    """Writes the page.

    Args:
      path: The file to create or replace.
      groups: The groups of runs.

    Raises:
      UserError: If the file cannot be written.
    """
    text = page.render(
        "comparison.html",
        sections=[_section(group, number) for number, group in enumerate(groups)],
        runs=sum(len(group.runs) for group in groups),
        warning=not_comparable(groups),
        most_pairs_drawn=MOST_PAIRS_DRAWN,
    )
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written: {error.strerror}; name a file in a folder that exists"
        ) from None


def _section(group: Group, number: int) -> Section:
    names = [run.name for run in group.runs]
    scores = [run.results["ua"] for run in group.runs]
    svg = comparison_plots.score_intervals(names, scores, label="UA in %", name=f"g{number}")
    return Section(group, markupsafe.Markup(svg), _speakers(group, number))


def _speakers(group: Group, number: int) -> list[tuple[str, str, markupsafe.Markup]]:
    if not group.test or group.test.kind != units.SPEAKER:
        return []
    speakers = sorted({row.speaker for row in group.tested[0].rows})
    scores = [_speaker_scores(run) for run in group.tested]
    pairs = group.test.pairs[:MOST_PAIRS_DRAWN]
    gaps = [scores[pair.first] - scores[pair.second] for pair in pairs]
    reach = max(SHORTEST_REACH, 1.05 * np.abs(gaps).max())
    drawn = []
    for place, (pair, gap) in enumerate(zip(pairs, gaps, strict=True)):
        svg = comparison_plots.speaker_differences(
            speakers, gap, label="difference of UA in points", reach=reach, name=f"g{number}-{place}"
        )
        names = (group.tested[place].name for place in (pair.first, pair.second))
        drawn.append((*names, markupsafe.Markup(svg)))
    return drawn


def _speaker_scores(run: FinishedRun) -> np.ndarray:
    """Returns [speakers] UA over the classes that a speaker has, averaged over seeds."""
    found = units.count_units(run.rows, seeds=run.results["seeds"], classes=run.results["classes"])
    return metrics.scores(found.counts).ua.mean(axis=1)
