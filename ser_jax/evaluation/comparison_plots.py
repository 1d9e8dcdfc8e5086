"""The figures of the comparison page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure

from ser_jax.evaluation import canvas, formats


@canvas.svg
def score_intervals(names: Sequence[str], scores: Sequence[Mapping[str, Any]], *, label: str) -> figure.Figure:
    """Draws the mean of a score with its interval, and the single seeds.

    Args:
      names: The runs, drawn from top to bottom.
      scores: `{mean, std, ci95, per_seed}` of each, as `results.json` has them.
      label: Name of the horizontal axis.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    drawing, axes = canvas.panel(height=1.1 + 0.42 * len(names))
    for row, score in enumerate(scores):
        seeds = 100 * np.array([value for value in score["per_seed"] if value is not None])
        style = {"s": 14, "facecolor": "white", "edgecolor": canvas.INK, "linewidth": 0.8}
        if len(seeds) > 1:
            axes.scatter(seeds, np.full(len(seeds), row + 0.16), zorder=2, **style)
        if score["ci95"]:
            axes.plot(100 * np.array(score["ci95"]), [row, row], color=canvas.BLUE, linewidth=2.4)
        if score["mean"] is not None:
            axes.plot(100 * score["mean"], row, "D", color=canvas.BLUE, markersize=6, zorder=3)
        text = "–" if score["mean"] is None else f"{100 * score['mean']:.1f}"
        canvas.beside(axes, row, text)
    axes.set_yticks(range(len(names)), [canvas.short(name) for name in names], color=canvas.INK)
    axes.set(xlabel=label, ylim=(len(names) - 0.4, -0.6))
    axes.grid(False, axis="y")
    axes.spines.left.set_visible(False)
    return drawing


@canvas.svg
def speaker_differences(names: Sequence[str], differences: np.ndarray, *, label: str, reach: float) -> figure.Figure:
    """Draws a bar to the left or right for every speaker; too many to be named are sorted.

    Args:
      names: G speakers, drawn from top to bottom.
      differences: [G] shares, the first run less the second.
      label: Name of the horizontal axis.
      reach: Where the axis ends, left and right: figures side by side share it.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    count = len(names)
    named = count <= canvas.MOST_NAMED_BARS
    drawing, axes = canvas.panel(height=1.1 + 0.26 * count if named else 1.5 * canvas.HEIGHT)
    place = np.arange(count) if named else np.argsort(np.argsort(-differences))
    shades = np.where(differences < 0, canvas.ORANGE, canvas.BLUE)
    axes.barh(place, 100 * differences, height=0.66 if named else 1.0, color=shades, alpha=0.85)
    axes.axvline(0, color=canvas.INK, linewidth=0.8)
    for row, value in enumerate(differences if named else ()):
        canvas.beside(axes, row, formats.signed(value))
    axes.set_yticks(place if named else [], [canvas.short(name) for name in names] if named else [], color=canvas.INK)
    axes.set(xlabel=label, xlim=(-100 * reach, 100 * reach), ylim=(count - 0.4, -0.6))
    axes.grid(False, axis="y")
    axes.spines.left.set_visible(False)
    return drawing
