"""What the page shows of the inside of a run: links to recordings, representations and saliency as figures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np

from ser_jax.evaluation import inside_plots
from ser_jax.evaluation.inside import MOST_OF_FOLD, Inside, View, link
from ser_jax.evaluation.predictions import Prediction
from ser_jax.evaluation.projection import principal_plane

MOST_FOLDS = 12  # that are drawn one by one
FEWEST_POINTS = 3  # of a plane


def describe(
    inside: Inside | None, rows: Sequence[Prediction], classes: Sequence[str], workdir: Path
) -> dict[str, Any]:
    """Returns what `inside.html` shows.

    Args:
      inside: What is known; None: nothing.
      rows: Predictions of the folds that count, of all seeds.
      classes: The K classes of the protocol.
      workdir: Folder of the page.

    Returns:
      `here`: whether anything is known; `no_views`, `no_examples`: why something is missing; `link`: id → address or
      None; `together`: figures of all folds by name; `folds`: figures of single folds; `more_folds`: how many are not
      drawn; `sampled`: whether not all test utterances are drawn; `examples`: utterances with their saliency;
      `most_of_fold`: how many of them are of one fold.
    """
    known = inside or Inside({})
    views = [view for view in known.views if len(view.ids) >= FEWEST_POINTS]
    # The last layers of all models answer to the same classes: there, and only there, their axes are the same.
    logits = [_scaled(view.logits) for view in views]
    everyone = {row.id: row for row in rows}
    return {
        "here": inside is not None,
        "no_views": known.no_views,
        "no_examples": known.no_examples,
        "link": _links(known, workdir),
        "together": _figures(logits, views, everyone, classes, "together") if views else {},
        "folds": [
            {
                "view": view,
                "speakers": sorted({everyone[name].speaker for name in view.ids} - {""}),
                "figures": _figures([view.values], [view], everyone, classes, f"fold{number}"),
            }
            for number, view in enumerate(views[:MOST_FOLDS])
        ],
        "more_folds": max(0, len(views) - MOST_FOLDS),
        "sampled": any(len(view.ids) < view.test for view in views),
        "most_of_fold": MOST_OF_FOLD,
        "examples": [
            {
                "row": example.row,
                "figure": markupsafe.Markup(
                    inside_plots.spectrogram(
                        example.frames, example.saliency, known.hertz, known.hop, name=f"example{number}"
                    )
                ),
            }
            for number, example in enumerate(known.examples)
        ],
    }


def _links(known: Inside, workdir: Path) -> Callable[[str], str | None]:
    return lambda name: link(known.recordings.get(name), workdir)


def _scaled(logits: np.ndarray) -> np.ndarray:
    """Returns logits [n, K] less what softmax does not see, in units of their spread: models are not equally sure."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    return centred / max(float(np.sqrt(np.mean(centred**2))), 1e-12)


def _figures(
    values: Sequence[np.ndarray],
    views: Sequence[View],
    rows: Mapping[str, Prediction],
    classes: Sequence[str],
    prefix: str,
) -> dict[str, markupsafe.Markup]:
    """Returns the plane of some views, by class and, where several speakers are known, by speaker."""
    plane = principal_plane(np.concatenate(values))
    shown = [rows[name] for view in views for name in view.ids]
    answers = [classes[best] for view in views for best in view.logits.argmax(axis=1).tolist()]
    right = np.array([row.label in (answer, "") for row, answer in zip(shown, answers, strict=True)])
    names = {"class": [row.label or "no label" for row in shown]}
    if len({row.speaker for row in shown} - {""}) > 1:
        names["speaker"] = [row.speaker or "unknown" for row in shown]
    return {
        kind: markupsafe.Markup(inside_plots.scatter(plane, found, right, name=f"{prefix}-{kind}"))
        for kind, found in names.items()
    }
