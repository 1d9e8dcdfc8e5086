"""The figures of the pages, each one inline SVG, and their common size, colours and type.

Every figure is one panel as wide as a phone, so that its text stays readable there; the page puts
several side by side. Text stays text (small, sharp, searchable). The colours can be distinguished
with any colour vision.
"""

import contextlib
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import markupsafe
import matplotlib
import numpy as np
from matplotlib import axes, colors, figure, font_manager, ft2font, ticker

from ser_jax.evaluation.calibration import BINS, Bins, Coverage

log = logging.getLogger(__name__)

INK = "#1f2937"
MUTED = "#6b7280"
GRID = "#e5e7eb"
BLUE = "#1d5fa8"
ORANGE = "#c2570c"
BLUES = colors.LinearSegmentedColormap.from_list("blues", ["#ffffff", "#9cc3e6", BLUE, "#0f3460"])
WIDTH = 5.0  # inches
HEIGHT = 3.4  # inches
LONGEST_LABEL = 20  # characters
MOST_NAMED_BARS = 30
MOST_VECTOR_POINTS = 20_000  # of thin lines; more become an image inside the SVG, or megabytes
DASHED = {"color": ORANGE, "linewidth": 1.4, "linestyle": (0, (4, 3))}
CIRCLES: dict[str, Any] = {"s": 14, "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11.0,
    "axes.facecolor": "none",
    "figure.facecolor": "none",  # the page's own colour; in its dark form figures are inverted
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


@contextlib.contextmanager
def styled(*texts: str) -> Iterator[None]:
    """Draws in the style of the pages, with fonts that have the glyphs of these texts, if any has.

    Without such a font a note says so once; text in an SVG is drawn by its viewer all the same.
    """
    fonts = [*STYLE["font.sans-serif"], *_fonts_for("".join(sorted(set("".join(texts)))))]
    with matplotlib.rc_context({**STYLE, "font.sans-serif": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        yield


@functools.cache
def _fonts_for(characters: str) -> tuple[str, ...]:
    """Returns the families to ask for what DejaVu Sans, which matplotlib brings, has not."""
    missing = set(map(ord, characters)) - _glyphs(font_manager.findfont("DejaVu Sans")) - {10, 13}
    found: list[str] = []
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname)):
        if not missing:
            return tuple(found)
        if "Last Resort" not in font.name and missing & _glyphs(font.fname):
            missing -= _glyphs(font.fname)
            found.append(font.name)
    if missing:
        log.warning(
            "note: no installed font has %s, which figures show as boxes; install one, such as Noto"
            " Sans CJK, or write .svg, which its viewer draws",
            "".join(map(chr, sorted(missing)[:10])),
        )
    return tuple(found)


@functools.cache
def _glyphs(file: str) -> set[int]:
    return set(ft2font.FT2Font(file).get_charmap())


def svg(draw: Callable[..., figure.Figure]) -> Callable[..., markupsafe.Markup]:
    """Turns a function that returns a Figure into one that returns SVG.

    The new function takes one more argument, `name`: the prefix of all ids in the SVG, unique on
    the page.
    """

    @functools.wraps(draw)
    def wrapped(*args: Any, name: str, **kwargs: Any) -> markupsafe.Markup:
        with styled():
            text = io.StringIO()
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            draw(*args, **kwargs).savefig(text, format="svg", metadata=nothing)
        content = text.getvalue()
        content = content[content.index("<svg") :]
        return markupsafe.Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", content))

    return wrapped


def new_panel(height: float = HEIGHT) -> tuple[figure.Figure, axes.Axes]:
    """Returns an empty figure of one panel, `height` inches high."""
    drawing = figure.Figure(figsize=(WIDTH, height), layout="constrained")
    return drawing, drawing.add_subplot()


def short(name: str) -> str:
    """Returns a label that is not too long for an axis."""
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def beside(axes: axes.Axes, row: float, text: str) -> None:
    """Writes a text to the right of the axes, at the height of a row."""
    style: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(text, (1.0, row), xytext=(8, 0), va="center", color=INK, **style)


def name_rows(
    axes: axes.Axes,
    places: Sequence[int] | np.ndarray,
    names: Sequence[str],
    texts: Sequence[str] = (),
    most: int = MOST_NAMED_BARS,
) -> None:
    """Writes the names of rows to their left and texts to their right, if they are not too many."""
    if len(names) <= most:
        for row, text in enumerate(texts):
            beside(axes, row, text)
        axes.set_yticks(places, [short(name) for name in names], color=INK)
    else:
        axes.set_yticks([])
    axes.set(ylim=(len(names) - 0.4, -0.6))
    axes.grid(False, axis="y")
    axes.spines.left.set_visible(False)


def horizontal_bars(
    values: np.ndarray, colour: Any, row_height: float
) -> tuple[figure.Figure, axes.Axes, np.ndarray]:
    """Draws a bar per value, sorted if too many to name; returns figure, axes and bars' rows."""
    count = len(values)
    named = count <= MOST_NAMED_BARS
    drawing, axes = new_panel(height=1.1 + row_height * count if named else 1.5 * HEIGHT)
    places = np.arange(count) if named else np.argsort(np.argsort(-values))
    bar_height = 0.66 if named else 1.0
    axes.barh(places, np.nan_to_num(values), height=bar_height, color=colour, alpha=0.85)
    return drawing, axes, places


@svg
def learning_curves(
    history: Sequence[Mapping[str, Any]],
    series: Mapping[str, str],
    *,
    label: str,
    best: Mapping[tuple[str, int], int],
    percent: bool,
) -> figure.Figure:
    """Draws values over epochs: one thin line per trial, the mean in bold.

    The mean ends where fewer than half of the trials are still training; beyond, it would follow
    the survivors.

    Args:
      history: Records with `fold`, `seed`, `epoch` and the values to draw.
      series: Name in the legend → key in the records; at most two.
      label: Name of the vertical axis.
      best: (fold, seed) → the chosen epoch, marked on the last series.
      percent: True if the values are fractions, to be shown as percentages.
    """
    drawing, axes = new_panel()
    scale = 100.0 if percent else 1.0
    trials = sorted({(record["fold"], record["seed"]) for record in history})
    epochs = max(record["epoch"] for record in history)
    for (text, key), colour in zip(series.items(), (BLUE, ORANGE), strict=False):
        values = np.full((len(trials), epochs), np.nan)
        for record in history:
            value = record.get(key)
            row = trials.index((record["fold"], record["seed"]))
            values[row, record["epoch"] - 1] = np.nan if value is None else value
        values *= scale
        x = np.arange(1, epochs + 1)
        thin = {"color": colour, "linewidth": 0.6, "alpha": max(0.12, min(0.6, 4 / len(trials)))}
        axes.plot(x, values.T, rasterized=values.size > MOST_VECTOR_POINTS, **thin)
        alive = np.isfinite(values).sum(axis=0)
        mean = np.nansum(values, axis=0) / np.maximum(alive, 1)
        bold = {"color": colour, "linewidth": 2.4, "marker": "o" if epochs == 1 else ""}
        axes.plot(x, np.where(2 * alive >= len(trials), mean, np.nan), label=text, **bold)
    points = [
        (best[trial], values[row, best[trial] - 1])
        for row, trial in enumerate(trials)
        if 0 < best.get(trial, 0) <= epochs
    ]
    if points:
        style = {"s": 18, "facecolor": "white", "edgecolor": INK, "linewidth": 0.9, "zorder": 3}
        axes.scatter(*np.transpose(points), label="chosen epoch", **style)
    axes.set(xlabel="epoch", xlim=(0, epochs + 1))
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.legend(loc="best")
    return drawing


@svg
def confusion_matrix(confusion: np.ndarray, classes: Sequence[str]) -> figure.Figure:
    """Draws counts [K, K] (rows = truth, columns = prediction), coloured by fraction of the row."""
    count = len(classes)
    few = count <= 5
    drawing, axes = new_panel(height=3.9)
    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.pcolormesh(fractions, cmap=BLUES, vmin=0.0, vmax=1.0, edgecolor="white", linewidth=1.5)
    size = 12.0 if few else 8.0
    for row, column in np.ndindex(count, count):
        fraction = fractions[row, column]
        style: dict[str, Any] = {"ha": "center", "va": "center"}
        style["color"] = "white" if fraction > 0.5 else INK
        percent = f"{100 * fraction:.0f}" + (" %" if few else "")
        axes.text(column + 0.5, row + 0.46, percent, fontsize=size, weight="bold", **style)
        number = f"{confusion[row, column]:,}"
        axes.text(column + 0.5, row + 0.74, number, fontsize=0.7 * size, **style)
    middle = np.arange(count) + 0.5
    names = [short(name) for name in classes]
    axes.set_xticks(middle, names, rotation=0 if few else 45, color=INK)
    axes.set_yticks(middle, names, color=INK)
    axes.set(xlabel="predicted", ylabel="true", ylim=(count, 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return drawing


@svg
def accuracy_by_coverage(found: Coverage) -> figure.Figure:
    """Draws the accuracy of the most confident predictions over the fraction that they are."""
    drawing, axes = new_panel()
    x, y = 100 * found.fraction, 100 * found.accuracy
    axes.plot(x, y, color=BLUE, linewidth=2.4, marker="o" if len(x) == 1 else "")
    axes.axhline(y[-1], **DASHED)
    axes.set(xlabel="answered, in %", ylabel="accuracy in %", xlim=(0, 100))
    return drawing


@svg
def bars(
    names: Sequence[str],
    values: np.ndarray,
    *,
    label: str,
    points: np.ndarray | None = None,
    chance: float | None = None,
    percent: bool = True,
) -> figure.Figure:
    """Draws one horizontal bar per name; too many to be named are sorted, longest first.

    Args:
      names: G names, drawn from top to bottom.
      values: [G] lengths of the bars; NaN for none.
      label: Name of the horizontal axis.
      points: [G, S] values to scatter over each bar, one per seed; omitted for a single seed.
      chance: Where to draw a dashed line.
      percent: True if the values are fractions, to be shown as percentages; False for counts.
    """
    scale = 100.0 if percent else 1.0
    row_height = 0.34 if len(names) <= 8 else 0.26
    drawing, axes, places = horizontal_bars(scale * values, BLUE, row_height)
    if points is not None and points.shape[1] > 1:
        rows = np.broadcast_to(places[:, None], points.shape)
        axes.scatter(scale * points, rows, zorder=3, clip_on=False, **CIRCLES)
    if chance is not None:
        axes.axvline(scale * chance, **DASHED)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3)}
        style: dict[str, Any] = {"color": ORANGE, "fontsize": 9, "ha": "center"}
        xy = (scale * chance, 1.0)
        axes.annotate("chance", xy, textcoords="offset points", **place, **style)
    texts = [
        "–" if np.isnan(value) else f"{scale * value:.1f}" if percent else f"{value:,.0f}"
        for value in values
    ]
    name_rows(axes, places, names, texts)
    axes.set(xlabel=label, xlim=(0, 100 if percent else None))
    return drawing


@svg
def reliability_diagram(bins: Bins) -> figure.Figure:
    """Draws accuracy over confidence, and below it the number of predictions per bin."""
    drawing = figure.Figure(figsize=(WIDTH, 4.3), layout="constrained")
    upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middle, width = 100 * (np.arange(BINS) + 0.5) / BINS, 92 / BINS
    upper.bar(middle, 100 * np.nan_to_num(bins.accuracy), width, color=BLUE, alpha=0.85)
    upper.plot([0, 100], [0, 100], **DASHED)
    circles = {"markersize": 4, "markerfacecolor": "white", "markeredgewidth": 0.9}
    x, y = 100 * bins.confidence, 100 * bins.accuracy
    upper.plot(x, y, "o", markeredgecolor=INK, **circles)
    upper.set(ylabel="accuracy in %", xlim=(0, 100), ylim=(0, 100))
    lower.bar(middle, bins.count, width, color=MUTED)
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
    for place, count in zip(middle, bins.count, strict=True):
        if count:
            lower.annotate(f"{count:,}", (place, count), xytext=(0, 2), color=INK, **style)
    top = 1.3 * max(bins.count.max(), 1)
    lower.set(xlabel="confidence in %", ylabel="predictions", yticks=[], ylim=(0, top))
    for panel in (upper, lower):
        panel.grid(False, axis="x")
    return drawing
