"""`matrix.html`: the UA of every pair of corpora, as a heat map and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import figure

from ser_jax.report import figures, formats, page
from ser_jax.runtime import files

PAGE = "matrix.html"


def write_matrix(workdir: Path, matrix: Mapping[str, Any]) -> Path:
    """Creates or replaces the page of `matrix.json` beside it; returns its path."""
    corpora, cells = matrix["corpora"], matrix["cells"]
    means = np.array(
        [
            [cells[trained].get(tested, {"mean": np.nan})["mean"] for tested in corpora]
            for trained in corpora
        ]
    )
    text = page.render(
        "matrix.html",
        matrix=matrix,
        heat_map=heat_map(means, corpora, chance=1 / len(matrix["classes"]), name="matrix"),
    )
    path = workdir / PAGE
    files.write_text(path, text)
    return path


@figures.svg
def heat_map(means: np.ndarray, names: Sequence[str], *, chance: float) -> figure.Figure:
    """Draws UA [A, A] in [0, 1], rows = trained on, columns = tested on, coloured from chance."""
    count = len(names)
    drawing, axes = figures.new_panel(height=1.2 + max(2.4, 0.6 * count))
    shown = np.ma.masked_invalid(means)
    axes.pcolormesh(
        shown, cmap=figures.BLUES, vmin=chance, vmax=1.0, edgecolor="white", linewidth=1.5
    )
    for row, column in np.ndindex(count, count):
        value = None if np.isnan(means[row, column]) else float(means[row, column])
        dark = value is not None and value > (1 + chance) / 2
        style: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold"}
        style["color"] = "white" if dark else figures.INK
        axes.text(column + 0.5, row + 0.5, formats.points(value), **style)
    middle = np.arange(count) + 0.5
    labels = [figures.short(name) for name in names]
    axes.set_xticks(middle, labels, rotation=0 if count <= 5 else 45, color=figures.INK)
    axes.set_yticks(middle, labels, color=figures.INK)
    axes.set(xlabel="tested on", ylabel="trained on", ylim=(count, 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return drawing
