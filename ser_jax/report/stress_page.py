"""`stress.html`, `.json` and `.csv`: what changes of a recording do to the answers of a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import figure

from ser_jax.report import figures, formats, page, stress_text
from ser_jax.runtime import files, strict_json


def write(folder: Path, found: Mapping[str, Any]) -> Path:
    """Writes the content of `stress.json` in three forms; returns the path of the page."""
    rows = found["changes"]
    strict_json.write(folder / "stress.json", dict(found))
    table = [
        [*(value for key, value in row.items() if key != "ua_ci95"), *_limits(row)] for row in rows
    ]
    header = [key for key in rows[0] if key != "ua_ci95"]
    files.write_csv(folder / "stress.csv", [*header, "ua_low", "ua_high"], table)
    path = folder / "stress.html"
    text = page.render(
        "stress.html",
        found=found,
        text=stress_text,
        drawing=stays(rows, label="percent", name="stays"),
    )
    files.write_text(path, text)
    return path


def _limits(row: Mapping[str, Any]) -> Sequence[float | None]:
    return row["ua_ci95"] or (None, None)


@figures.svg
def stays(rows: Sequence[Mapping[str, Any]], *, label: str) -> figure.Figure:
    """Draws a bar per row of `stress.json`, the share of labels that stay; and UA beside it."""
    drawing, axes = figures.new_panel(height=1.1 + 0.26 * len(rows))
    places = np.arange(len(rows))
    shares = 100 * np.array([row["stays"] for row in rows])
    axes.barh(places, shares, height=0.66, color=figures.BLUE, alpha=0.45, label="labels that stay")
    for place, row in enumerate(rows):
        if row["ua_ci95"]:
            limits = 100 * np.array(row["ua_ci95"])
            axes.plot(limits, [place, place], color=figures.ORANGE, linewidth=1.4)
    known = [(100 * row["ua"], place) for place, row in enumerate(rows) if row["ua"] is not None]
    if known:
        style: dict[str, Any] = {"color": figures.ORANGE, "markersize": 4, "linestyle": "none"}
        axes.plot(*np.transpose(known), marker="D", label="UA, 95 % interval", **style)
    names = [row["change"] for row in rows]
    texts = [formats.points(row["stays"]) for row in rows]
    figures.name_rows(axes, places, names, texts, most=len(names))
    axes.set(xlabel=label, xlim=(0, 100))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    return drawing
