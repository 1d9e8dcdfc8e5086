"""The figures of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colors, figure, ticker

from ser_jax.evaluation import canvas
from ser_jax.evaluation.calibration import BINS, Bins

MOST_VECTOR_POINTS = 20_000  # beyond, the thin lines become an image inside the SVG: megabytes otherwise


@canvas.svg
def learning_curves(
    history: Sequence[Mapping[str, Any]],
    series: Mapping[str, str],
    *,
    label: str,
    best: Mapping[tuple[str, int], int],
    percent: bool,
) -> figure.Figure:
    """Draws values over epochs: one thin line per run, the mean in bold.

    The mean ends where fewer than half of the runs are still training; beyond, it would follow the survivors.

    Args:
      history: Records with `fold`, `seed`, `epoch` and the values to draw.
      series: Name in the legend → key in the records; at most two.
      label: Name of the vertical axis.
      best: (fold, seed) → the chosen epoch, marked on the last series.
      percent: True if the values are shares, to be shown as percentages.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    drawing, axes = canvas.panel()
    scale = 100.0 if percent else 1.0
    runs = sorted({(record["fold"], record["seed"]) for record in history})
    epochs = max(record["epoch"] for record in history)
    for (text, key), colour in zip(series.items(), (canvas.BLUE, canvas.ORANGE), strict=False):
        values = np.full((len(runs), epochs), np.nan)
        for record in history:
            value = record.get(key)
            values[runs.index((record["fold"], record["seed"])), record["epoch"] - 1] = (
                np.nan if value is None else value
            )
        values *= scale
        x = np.arange(1, epochs + 1)
        thin = {"color": colour, "linewidth": 0.6, "alpha": max(0.12, min(0.6, 4 / len(runs)))}
        axes.plot(x, values.T, rasterized=values.size > MOST_VECTOR_POINTS, **thin)
        alive = np.isfinite(values).sum(axis=0)
        mean = np.nansum(values, axis=0) / np.maximum(alive, 1)
        axes.plot(
            x,
            np.where(2 * alive >= len(runs), mean, np.nan),
            color=colour,
            linewidth=2.4,
            marker="o" if epochs == 1 else "",
            label=text,
        )
    points = [(best[run], values[row, best[run] - 1]) for row, run in enumerate(runs) if 0 < best.get(run, 0) <= epochs]
    if points:
        style = {"s": 18, "facecolor": "white", "edgecolor": canvas.INK, "linewidth": 0.9, "zorder": 3}
        axes.scatter(*np.transpose(points), label="chosen epoch", **style)
    axes.set(xlabel="epoch", xlim=(0, epochs + 1))
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.legend(loc="best")
    return drawing


@canvas.svg
def confusion_matrix(confusion: np.ndarray, classes: Sequence[str]) -> figure.Figure:
    """Draws the confusion matrix, coloured by share of the row.

    Args:
      confusion: [K, K] counts, rows = truth, columns = prediction.
      classes: K names.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    count = len(classes)
    drawing, axes = canvas.panel(height=3.9)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    blues = colors.LinearSegmentedColormap.from_list("blues", ["#ffffff", "#9cc3e6", canvas.BLUE, "#0f3460"])
    axes.pcolormesh(shares, cmap=blues, vmin=0.0, vmax=1.0, edgecolor="white", linewidth=1.5)
    for row, column in np.ndindex(count, count):
        shade = "white" if shares[row, column] > 0.5 else canvas.INK
        place: dict[str, Any] = {"ha": "center", "color": shade}
        size = 12.0 if count <= 5 else 8.0
        share = f"{100 * shares[row, column]:.0f}" + (" %" if count <= 5 else "")
        axes.text(column + 0.5, row + 0.46, share, va="center", fontsize=size, weight="bold", **place)
        axes.text(column + 0.5, row + 0.74, f"{confusion[row, column]:,}", va="center", fontsize=0.7 * size, **place)
    middle = np.arange(count) + 0.5
    names = [canvas.short(name) for name in classes]
    axes.set_xticks(middle, names, rotation=0 if count <= 5 else 45, color=canvas.INK)
    axes.set_yticks(middle, names, color=canvas.INK)
    axes.set(xlabel="predicted", ylabel="true", ylim=(count, 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return drawing


@canvas.svg
def bars(
    names: Sequence[str],
    values: np.ndarray,
    *,
    label: str,
    points: np.ndarray | None = None,
    chance: float | None = None,
    percent: bool = True,
) -> figure.Figure:
    """Draws one horizontal bar per name; too many to be named are drawn from the longest to the shortest.

    Args:
      names: G names, drawn from top to bottom.
      values: [G] lengths of the bars; NaN for none.
      label: Name of the horizontal axis.
      points: [G, S] values to scatter over each bar, one per seed; a single seed has nothing to add.
      chance: Where to draw a dashed line.
      percent: True if the values are shares, to be shown as percentages; False for counts.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    count = len(names)
    named = count <= canvas.MOST_NAMED_BARS
    drawing, axes = canvas.panel(height=1.1 + (0.34 if count <= 8 else 0.26) * count if named else 1.5 * canvas.HEIGHT)
    scale = 100.0 if percent else 1.0
    place = np.arange(count) if named else np.argsort(np.argsort(-values))
    axes.barh(place, scale * np.nan_to_num(values), height=0.66 if named else 1.0, color=canvas.BLUE, alpha=0.85)
    if points is not None and points.shape[1] > 1:
        style = {"s": 14, "facecolor": "white", "edgecolor": canvas.INK, "linewidth": 0.8}
        axes.scatter(scale * points, np.broadcast_to(place[:, None], points.shape), zorder=3, clip_on=False, **style)
    if chance is not None:
        axes.axvline(scale * chance, color=canvas.ORANGE, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.annotate(
            "chance",
            (scale * chance, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=canvas.ORANGE,
            fontsize=9,
        )
    for row, value in enumerate(values if named else ()):
        text = "–" if np.isnan(value) else f"{scale * value:.1f}" if percent else f"{value:,.0f}"
        canvas.beside(axes, row, text)
    axes.set_yticks(place if named else [], [canvas.short(name) for name in names] if named else [], color=canvas.INK)
    axes.set(xlabel=label, ylim=(count - 0.4, -0.6), xlim=(0, 100 if percent else None))
    axes.grid(False, axis="y")
    axes.spines.left.set_visible(False)
    return drawing


@canvas.svg
def reliability_diagram(bins: Bins) -> figure.Figure:
    """Draws accuracy over confidence, and below it how many predictions each bin of confidence holds.

    Args:
      bins: The bins of confidence.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    drawing = figure.Figure(figsize=(canvas.WIDTH, 4.3), layout="constrained")
    upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middle, width = 100 * (np.arange(BINS) + 0.5) / BINS, 92 / BINS
    upper.bar(middle, 100 * np.nan_to_num(bins.accuracy), width, color=canvas.BLUE, alpha=0.85)
    upper.plot([0, 100], [0, 100], color=canvas.ORANGE, linewidth=1.4, linestyle=(0, (4, 3)))
    upper.plot(
        100 * bins.confidence,
        100 * bins.accuracy,
        "o",
        markersize=4,
        markerfacecolor="white",
        markeredgecolor=canvas.INK,
        markeredgewidth=0.9,
    )
    upper.set(ylabel="accuracy in %", xlim=(0, 100), ylim=(0, 100))
    lower.bar(middle, bins.count, width, color=canvas.MUTED)
    for place, count in zip(middle, bins.count, strict=True):
        if count:
            lower.annotate(
                f"{count:,}",
                (place, count),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=canvas.INK,
            )
    lower.set(xlabel="confidence in %", ylabel="predictions", yticks=[], ylim=(0, 1.3 * max(bins.count.max(), 1)))
    for panel in (upper, lower):
        panel.grid(False, axis="x")
    return drawing
