"""Predictions counted per unit of resampling: whole speakers where enough are known, else single utterances."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ser_jax.evaluation.predictions import Prediction

SPEAKER, UTTERANCE = "speaker", "utterance"
FEWEST_SPEAKERS = 5  # with fewer, resampling speakers says nothing


class Units(NamedTuple):
    """What the predictions of some runs amount to, unit by unit.

    Attributes:
      kind: "speaker" or "utterance".
      counts: [U, S, K, K] int64 confusion matrices per unit (sorted by name) and seed.
    """

    kind: str
    counts: np.ndarray


def count_units(rows: Sequence[Prediction], *, seeds: Sequence[int], classes: Sequence[str]) -> Units:
    """Counts predictions per unit and seed.

    Args:
      rows: Rows with a label, of these seeds only.
      seeds: The S seeds.
      classes: The K classes of the protocol.

    Returns:
      The units: speakers, or utterances if a speaker is unknown or there are fewer than `FEWEST_SPEAKERS`.
    """
    speakers = {row.speaker for row in rows}
    kind = SPEAKER if "" not in speakers and len(speakers) >= FEWEST_SPEAKERS else UTTERANCE
    names = [row.speaker if kind == SPEAKER else row.id for row in rows]
    unit, seed = _places(sorted(set(names))), _places(seeds)
    shape = (len(unit), len(seeds), len(classes), len(classes))
    truth, predicted = class_numbers(rows, classes)
    cells = (
        np.fromiter((unit[name] for name in names), np.int64, len(rows)),
        np.fromiter((seed[row.seed] for row in rows), np.int64, len(rows)),
        truth,
        predicted,
    )
    flat = np.ravel_multi_index(cells, shape) if rows else np.zeros(0, np.int64)
    return Units(kind, np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape))


def class_numbers(rows: Sequence[Prediction], classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns [N] i64 labels and [N] i64 predictions of labelled rows, as numbers of the K classes."""
    number = _places(classes)
    return (
        np.fromiter((number[row.label] for row in rows), np.int64, len(rows)),
        np.fromiter((number[row.prediction] for row in rows), np.int64, len(rows)),
    )


def _places(names: Sequence) -> dict:
    return {name: place for place, name in enumerate(names)}
