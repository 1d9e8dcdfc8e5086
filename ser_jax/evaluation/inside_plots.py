"""Figures of what goes on in a system: points on a plane, and spectrograms with their saliency."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colors, figure, ticker

from ser_jax.evaluation import canvas
from ser_jax.evaluation.projection import Plane

# Colour and marker together are told apart with any colour vision.
COLOURS = ("#1d5fa8", "#c2570c", "#0b7a5e", "#a3348f", "#4ba3d9", "#8a6d00", "#6a3fd0", "#d0455f", "#3f6212", "#111827")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p")
OTHERS, OTHER_COLOUR, OTHER_MARKER = "others", "#9aa3af", "o"
MOST_VECTOR_POINTS = 500  # beyond, the points become an image inside the SVG
MOST_COLUMNS = 400  # of a spectrogram; longer ones are averaged over neighbouring frames
LEVELS = 24  # of colour in a spectrogram: more would double the page and show no more
TICKS = (300, 1000, 2000, 4000)  # Hz

INKS = colors.LinearSegmentedColormap.from_list("inks", ["#ffffff", "#8d99a8", "#101820"])
HEAT = colors.LinearSegmentedColormap.from_list("heat", ["#ffffff", "#fbc58f", "#e0701a", "#7a1f02"])


@canvas.svg
def scatter(plane: Plane, names: Sequence[str], right: np.ndarray) -> figure.Figure:
    """Draws points on their plane, one colour and marker per name.

    Args:
      plane: N points.
      names: N names; the most frequent ones have colours of their own.
      right: [N] bool; a point is filled where it is True.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    drawing, axes = canvas.panel(height=4.0)
    counts = collections.Counter(sorted(names))
    shown = sorted(name for name, _ in counts.most_common(len(COLOURS)))
    label = np.array(names, dtype=object)
    rasterized = len(label) > MOST_VECTOR_POINTS
    style: dict[str, Any] = {"s": 22, "linewidths": 1.0, "rasterized": rasterized}
    rest = ~np.isin(label, shown)
    groups = [(OTHERS, rest, OTHER_COLOUR, OTHER_MARKER)] if rest.any() else []
    groups += [
        (canvas.short(name), label == name, colour, marker)
        for name, colour, marker in zip(shown, COLOURS, MARKERS, strict=False)
    ]
    for text, members, colour, marker in groups:
        for filled in (True, False):
            x, y = plane.points[members & (right == filled)].T
            face = colour if filled else "white"
            axes.scatter(x, y, facecolors=face, edgecolors=colour, marker=marker, alpha=0.85, **style)
        axes.scatter([], [], facecolors=colour, edgecolors=colour, marker=marker, label=text, **style)
    axes.set(
        xlabel=f"first component, {100 * plane.shares[0]:.0f} % of the variance",
        ylabel=f"second component, {100 * plane.shares[1]:.0f} %",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(5))
    drawing.legend(loc="outside upper left", ncols=min(5, len(groups)), handletextpad=0.1, columnspacing=1.0)
    return drawing


@canvas.svg
def spectrogram(frames: np.ndarray, saliency: np.ndarray, hertz: np.ndarray, hop: float) -> figure.Figure:
    """Draws a spectrogram, and below it the same with the saliency laid over it.

    Args:
      frames: [F, M], log-mel, standardised.
      saliency: [F, M], not negative.
      hertz: [M], centre frequencies of the bands, rising.
      hop: From one frame to the next, in s.
      name: Prefix of the ids, unique on the page.

    Returns:
      SVG.
    """
    seconds = len(frames) * hop
    frames, saliency = _narrow(frames), _narrow(saliency)
    # All labels have known sizes, so nothing need be laid out, which would take half of the time.
    drawing = figure.Figure(figsize=(canvas.WIDTH, 3.6))
    upper, lower = drawing.subplots(2, 1, sharex=True)
    drawing.subplots_adjust(left=0.14, right=0.98, top=0.93, bottom=0.14, hspace=0.28)
    low, high = np.quantile(frames, (0.02, 0.995))
    grey = _levels((frames - low) / max(high - low, 1e-12))
    # A few values are far beyond all others; scaled by them, the rest would not be seen.
    heat = _levels(saliency / max(float(np.quantile(saliency, 0.995)), 1e-12))
    weight = heat[..., None] ** 0.7
    mixed = (1 - weight) * INKS(0.55 * grey)[..., :3] + weight * HEAT(0.35 + 0.65 * heat)[..., :3]
    bands = np.arange(len(hertz))
    ticks = [tick for tick in TICKS if hertz[0] <= tick <= hertz[-1]]
    for axes, picture, title in (
        (upper, INKS(grey)[..., :3], "log-mel spectrogram"),
        (lower, mixed, "with its saliency"),
    ):
        axes.imshow(
            np.swapaxes(picture, 0, 1),
            aspect="auto",
            origin="lower",
            interpolation="none",
            extent=(0, seconds, -0.5, len(hertz) - 0.5),
        )
        axes.set_yticks(np.interp(ticks, hertz, bands), [f"{tick:,}" for tick in ticks])
        axes.set_title(title, loc="left", fontsize=9, color=canvas.MUTED)
        axes.set_ylabel("Hz")
        axes.grid(False)
    lower.set_xlabel("time in s")
    return drawing


def _narrow(values: np.ndarray) -> np.ndarray:
    """Averages neighbouring frames until there are no more than `MOST_COLUMNS`."""
    step = -(-len(values) // MOST_COLUMNS)
    return np.stack([values[start : start + step].mean(axis=0) for start in range(0, len(values), step)])


def _levels(shares: np.ndarray) -> np.ndarray:
    return np.round(np.clip(shares, 0, 1) * (LEVELS - 1)) / (LEVELS - 1)
