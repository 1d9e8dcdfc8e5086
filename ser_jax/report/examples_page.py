"""The part of `report.html` about examples: links to recordings, representations and saliency."""

import collections
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
from matplotlib import colors, figure, ticker
from matplotlib.backends import backend_agg

from ser_jax.evaluation import examples, importance
from ser_jax.evaluation.examples import Explanation, Plane, Recording, Representations
from ser_jax.evaluation.predictions import Prediction
from ser_jax.report import figures

MOST_IMPORTANT = 15  # groups of functionals
MOST_FOLDS = 12  # that are drawn one by one
FEWEST_POINTS = 3  # of a plane
# Colour and marker together can be distinguished with any colour vision.
COLOURS = (
    *("#1d5fa8", "#c2570c", "#0b7a5e", "#a3348f", "#4ba3d9"),
    *("#8a6d00", "#6a3fd0", "#d0455f", "#3f6212", "#111827"),
)
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p")
OTHERS, OTHER_COLOUR, OTHER_MARKER = "others", "#9aa3af", "o"
MOST_VECTOR_POINTS = 500  # beyond, the points become an image inside the SVG
MOST_COLUMNS = 400  # of a spectrogram; longer ones are averaged over neighbouring frames
LEVELS = 24  # of colour in a spectrogram: more would double the page and show no more
TICKS = (300, 1000, 2000, 4000)  # Hz

INKS = colors.LinearSegmentedColormap.from_list("inks", ["#ffffff", "#8d99a8", "#101820"])
HEAT = colors.LinearSegmentedColormap.from_list(
    "heat", ["#ffffff", "#fbc58f", "#e0701a", "#7a1f02"]
)


def describe(
    explanation: Explanation | None,
    rows: Sequence[Prediction],
    classes: Sequence[str],
    workdir: Path,
) -> dict[str, Any]:
    """Returns the values of the template `examples.html`.

    `rows` are the predictions of the pooled folds, of all seeds; `workdir` is the page's folder.

    Returns:
      `available`: whether there is an explanation; `no_representations`, `no_examples`: why
      something is missing; `link`: id → address or None; `together`: figures of all folds by name;
      `folds`: figures of single folds; `more_folds`: number of those not drawn; `sampled`: whether
      test utterances are left out; `examples`: utterances with their saliency; `most_of_fold`: how
      many of them may be of one fold; `importance`: what the functionals are worth, or None;
      `repeats`: of every permutation; `most_important`: rows of its tables.
    """
    known = explanation or Explanation({})
    drawn = [one for one in known.representations if len(one.ids) >= FEWEST_POINTS]
    # The last layers of all models refer to the same classes: only there their axes are the same.
    logits = [_scaled(one.logits) for one in drawn]
    by_id = {row.id: row for row in rows}
    return {
        "available": explanation is not None,
        "no_representations": known.no_representations,
        "no_examples": known.no_examples,
        "link": lambda name: link(known.recordings.get(name), workdir),
        "together": _figures(logits, drawn, by_id, classes, "together") if drawn else {},
        "folds": [
            {
                "representations": one,
                "speakers": sorted({by_id[name].speaker for name in one.ids} - {""}),
                "figures": _figures([one.values], [one], by_id, classes, f"fold{number}"),
            }
            for number, one in enumerate(drawn[:MOST_FOLDS])
        ],
        "more_folds": max(0, len(drawn) - MOST_FOLDS),
        "sampled": any(len(one.ids) < one.test for one in drawn),
        "most_of_fold": examples.MOST_OF_FOLD,
        "importance": known.importance,
        "repeats": importance.REPEATS,
        "most_important": MOST_IMPORTANT,
        "examples": [
            {
                "row": one.row,
                "figure": spectrogram(
                    one.frames, one.saliency, known.hertz, known.hop, name=f"example{number}"
                ),
            }
            for number, one in enumerate(known.examples)
        ],
    }


def link(recording: Recording | None, folder: Path) -> str | None:
    """Returns the relative, percent-encoded address of a recording and its span; None if absent."""
    if recording is None or not recording.file.is_file():
        return None
    try:
        relative = Path(os.path.relpath(recording.file.absolute(), folder.absolute()))
    except ValueError:  # Windows: another drive.
        return None
    address = urllib.parse.quote(relative.as_posix())
    if recording.start is None and recording.end is None:
        return address
    end = "" if recording.end is None else f",{recording.end:g}"
    return f"{address}#t={recording.start or 0:g}{end}"


def _scaled(logits: np.ndarray) -> np.ndarray:
    """Returns logits [n, K] less their mean, which softmax ignores, in units of their spread."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    return centred / max(float(np.sqrt(np.mean(centred**2))), 1e-12)


def _figures(
    values: Sequence[np.ndarray],
    folds: Sequence[Representations],
    by_id: Mapping[str, Prediction],
    classes: Sequence[str],
    prefix: str,
) -> dict[str, markupsafe.Markup]:
    """Draws some folds on one plane, by class and, if several speakers are known, by speaker."""
    plane = examples.principal_plane(np.concatenate(values))
    shown = [by_id[name] for fold in folds for name in fold.ids]
    predicted = [classes[best] for fold in folds for best in fold.logits.argmax(axis=1).tolist()]
    right = np.array([row.label in (name, "") for row, name in zip(shown, predicted, strict=True)])
    names = {"class": [row.label or "no label" for row in shown]}
    if len({row.speaker for row in shown} - {""}) > 1:
        names["speaker"] = [row.speaker or "unknown" for row in shown]
    return {
        kind: scatter(plane, found, right, name=f"{prefix}-{kind}") for kind, found in names.items()
    }


@figures.svg
def scatter(plane: Plane, names: Sequence[str], right: np.ndarray) -> figure.Figure:
    """Draws points on their plane, a colour and marker per name; filled where `right` [N] is True.

    Of many names, the most frequent ones have colours of their own.
    """
    drawing, axes = figures.new_panel(height=3.8)
    counts = collections.Counter(sorted(names))
    shown = sorted(name for name, _ in counts.most_common(len(COLOURS)))
    label = np.array(names, dtype=object)
    rasterized = len(label) > MOST_VECTOR_POINTS
    style: dict[str, Any] = {"s": 22, "linewidths": 1.0, "rasterized": rasterized}
    rest = ~np.isin(label, shown)
    groups = [(OTHERS, rest, OTHER_COLOUR, OTHER_MARKER)] if rest.any() else []
    groups += [
        (figures.short(name), label == name, colour, marker)
        for name, colour, marker in zip(shown, COLOURS, MARKERS, strict=False)
    ]
    for text, members, colour, marker in groups:
        edges = {"edgecolors": colour, "marker": marker, **style}
        for filled in (True, False):
            x, y = plane.points[members & (right == filled)].T
            face = colour if filled else "white"
            axes.scatter(x, y, facecolors=face, alpha=0.85, **edges)
        axes.scatter([], [], facecolors=colour, label=text, **edges)
    axes.set(
        xlabel=f"first component, {100 * plane.variance[0]:.0f} % of the variance",
        ylabel=f"second component, {100 * plane.variance[1]:.0f} %",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(5))
    _add_legend(drawing, len(groups))
    return drawing


def _add_legend(drawing: figure.Figure, entries: int) -> None:
    """Places a legend above the axes, in as many columns as fit; more rows make a higher figure."""
    renderer = backend_agg.FigureCanvasAgg(drawing).get_renderer()
    for columns in range(min(5, entries), 0, -1):
        style: dict[str, Any] = {"handletextpad": 0.1, "columnspacing": 1.0, "ncols": columns}
        legend = drawing.legend(loc="outside upper left", **style)
        if columns == 1 or legend.get_window_extent(renderer).width < drawing.bbox.width:
            drawing.set_figheight(drawing.get_figheight() + 0.2 * (-(-entries // columns) - 1))
            return
        legend.remove()


@figures.svg
def spectrogram(
    frames: np.ndarray, saliency: np.ndarray, hertz: np.ndarray, hop: float
) -> figure.Figure:
    """Draws a spectrogram, and below it the same overlaid with the saliency.

    Args:
      frames: [F, M], log-mel, standardised.
      saliency: [F, M], not negative.
      hertz: [M], centre frequencies of the bands, rising.
      hop: From one frame to the next, in s.
    """
    seconds = len(frames) * hop
    frames, saliency = _narrow(frames), _narrow(saliency)
    # All labels have known sizes, so no layout is computed, which would take half of the time.
    drawing = figure.Figure(figsize=(figures.WIDTH, 3.6))
    upper, lower = drawing.subplots(2, 1, sharex=True)
    drawing.subplots_adjust(left=0.14, right=0.98, top=0.93, bottom=0.14, hspace=0.28)
    low, high = np.quantile(frames, (0.02, 0.995))
    grey = _levels((frames - low) / max(high - low, 1e-12))
    # A few values are far beyond all others; scaled by them, the rest would be invisible.
    heat = _levels(saliency / max(float(np.quantile(saliency, 0.995)), 1e-12))
    weight = heat[..., None] ** 0.7
    mixed = (1 - weight) * INKS(0.55 * grey)[..., :3] + weight * HEAT(0.35 + 0.65 * heat)[..., :3]
    bands = np.arange(len(hertz))
    ticks = [tick for tick in TICKS if hertz[0] <= tick <= hertz[-1]]
    for axes, picture, title in (
        (upper, INKS(grey)[..., :3], "log-mel spectrogram"),
        (lower, mixed, "with its saliency"),
    ):
        extent = (0, seconds, -0.5, len(hertz) - 0.5)
        style: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "none"}
        axes.imshow(np.swapaxes(picture, 0, 1), extent=extent, **style)
        axes.set_yticks(np.interp(ticks, hertz, bands), [f"{tick:,}" for tick in ticks])
        axes.set_title(title, loc="left", fontsize=9, color=figures.MUTED)
        axes.set_ylabel("Hz")
        axes.grid(False)
    lower.set_xlabel("time in s")
    return drawing


def _narrow(values: np.ndarray) -> np.ndarray:
    """Averages neighbouring frames until there are no more than `MOST_COLUMNS`."""
    step = -(-len(values) // MOST_COLUMNS)
    starts = range(0, len(values), step)
    return np.stack([values[start : start + step].mean(axis=0) for start in starts])


def _levels(fractions: np.ndarray) -> np.ndarray:
    return np.round(np.clip(fractions, 0, 1) * (LEVELS - 1)) / (LEVELS - 1)
