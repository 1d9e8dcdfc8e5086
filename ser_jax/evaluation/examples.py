"""Recordings, joint representations and saliency that explain a run in its report, as arrays."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ser_jax.evaluation.importance import Importances
from ser_jax.evaluation.predictions import Prediction

MOST_EXAMPLES = 8  # utterances whose saliency is drawn
MOST_OF_FOLD = 2  # of them: one model that is always confident would fill the page


class Plane(NamedTuple):
    """Points on the plane of their first two principal components."""

    points: np.ndarray  # [N, 2] f64, coordinates, in units of the values
    variance: np.ndarray  # [2] f64, fraction of the variance along either axis, in [0, 1]


def principal_plane(values: np.ndarray) -> Plane:
    """Projects points [N, D], N ≥ 1, onto their first two principal components.

    The sign of an axis is such that the largest of its weights is positive; an axis along which
    nothing varies is 0.
    """
    centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    points, variance = np.zeros((len(centred), 2)), np.zeros(2)
    axes = min(2, len(singular))
    points[:, :axes] = (left * singular * signs)[:, :axes]
    total = np.sum(singular**2)
    if total > 0:
        variance[:axes] = singular[:axes] ** 2 / total
    return Plane(points, variance)


class Recording(NamedTuple):
    """Where the recording of an utterance lies."""

    file: Path  # path on this machine
    seconds: float  # length of the utterance
    start: float | None = None  # start of the span in s, or None for the beginning of the file
    end: float | None = None  # its end in s, or None for the end of the file


class Representations(NamedTuple):
    """Test utterances of one fold as represented by the fold's model, which never saw them."""

    fold: str  # name of the fold
    seed: int  # seed of the model
    test: int  # number of utterances of the test part, of which a large one is only sampled
    ids: tuple[str, ...]  # ids of n of them
    values: np.ndarray  # [n, D] f64, joint representations
    logits: np.ndarray  # [n, K] f64


class Example(NamedTuple):
    """An utterance and the saliency of its predicted class."""

    row: Prediction  # its prediction
    frames: np.ndarray  # [F, M] f32, log-mel, standardised
    saliency: np.ndarray  # [F, M] f32, |d logit / d frames| of the fold's model


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the report shows only where recordings and models are at hand."""

    recordings: Mapping[str, Recording]  # id → recording, of every utterance of the protocol
    # one per fold; none if the system has no joint representation
    representations: tuple[Representations, ...] = ()
    # utterances with their saliency; none if the system reads no spectrogram
    examples: tuple[Example, ...] = ()
    # [M] centre frequencies of the bands
    hertz: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    hop: float = 0.0  # from one frame to the next, in s
    no_representations: str = ""  # why there are none, as a sentence; empty if there are
    no_examples: str = ""  # why there are none, as a sentence; empty if there are
    # what the functionals are worth; None if the system reads none, or nothing could be measured
    importance: Importances | None = None


def choose_examples(rows: Sequence[Prediction], classes: Sequence[str]) -> list[Prediction]:
    """Returns the most confident right and the most confident wrong prediction of each class.

    `rows` are those of one model per fold. The result goes class by class, right before wrong; of
    more than `MOST_EXAMPLES` it holds the most confident of both kinds. No more than `MOST_OF_FOLD`
    are of one fold, unless the others have none of the kind.
    """
    half = MOST_EXAMPLES // 2
    chosen: list[Prediction] = []
    for correct in (True, False):
        kind = [row for row in rows if row.label and (row.prediction == row.label) == correct]
        best = {row.label: row for row in sorted(kind, key=_order, reverse=True)}
        for name in sorted(best, key=lambda name: _order(best[name]))[:half]:
            found = sorted((row for row in kind if row.label == name), key=_order)
            folds = collections.Counter(row.fold for row in chosen)
            chosen.append(next((row for row in found if folds[row.fold] < MOST_OF_FOLD), found[0]))
    return sorted(chosen, key=lambda row: (classes.index(row.label), row.prediction != row.label))


def _order(row: Prediction) -> tuple[float, str]:
    """Orders the most confident prediction first, then by id."""
    return -max(row.probabilities), row.id
