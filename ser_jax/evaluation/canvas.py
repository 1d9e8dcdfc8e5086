"""The look of every figure: size, colours, type; each becomes one inline SVG.

Every figure holds one panel of the size of a phone's width, so that its text stays readable there; the page puts
several side by side. Text stays text (small, sharp, searchable). The colours are told apart with any colour vision.
"""

import functools
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib import axes, figure

INK = "#1f2937"
MUTED = "#6b7280"
GRID = "#e5e7eb"
BLUE = "#1d5fa8"
ORANGE = "#c2570c"
WIDTH = 5.0  # inches
HEIGHT = 3.4  # inches
LONGEST_LABEL = 20  # characters
MOST_NAMED_BARS = 30

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11.0,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "ser_jax",  # the same run gives the same file
    "text.color": INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.color": MUTED,
    "ytick.major.size": 0.0,
}


def svg(draw: Callable[..., figure.Figure]) -> Callable[..., str]:
    """Turns a function that returns a Figure into one that returns SVG.

    The new function takes one more argument, `name`: the prefix of all ids in the SVG, unique on the page.
    """

    @functools.wraps(draw)
    def wrapped(*args: Any, name: str, **kwargs: Any) -> str:
        with matplotlib.rc_context(STYLE):
            text = io.StringIO()
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            draw(*args, **kwargs).savefig(text, format="svg", metadata=nothing)
        content = text.getvalue()
        content = content[content.index("<svg") :]
        # Several drawings share one page, so their ids must differ.
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", content)

    return wrapped


def panel(height: float = HEIGHT) -> tuple[figure.Figure, axes.Axes]:
    """Returns an empty figure of one panel, `height` inches high."""
    drawing = figure.Figure(figsize=(WIDTH, height), layout="constrained")
    return drawing, drawing.add_subplot()


def beside(axes: axes.Axes, row: float, text: str) -> None:
    """Writes a text to the right of the axes, at the height of a row."""
    style: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(text, (1.0, row), xytext=(8, 0), va="center", color=INK, **style)


def short(name: str) -> str:
    """Returns a label that is not too long for an axis."""
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"
