"""What changes of a recording do to the answers of a model: UA, labels that stay, and drift."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ser_jax import metrics
from ser_jax.evaluation import intervals
from ser_jax.evaluation.predictions import Prediction

NO_ANSWER = "no answer"  # in the place of a class: no speech was found, or no features


class Row(NamedTuple):
    """The answers to all recordings after one change."""

    change: str  # name of the change
    recordings: int  # how many there are
    ua: float | None  # unweighted average recall of the labelled ones; no answer is wrong
    ua_ci95: list[float] | None  # [low, high] of it
    stays: float  # fraction with the answer of the unchanged recording, in [0, 1]
    # the class (or no answer) whose share of the answers has grown most; None if all answers stay
    drift: str | None
    drift_share: float | None  # its share of the answers, in [0, 1]
    drift_before: float | None  # the same of the unchanged recordings


class Recording(NamedTuple):
    """A recording, as far as scores depend on it."""

    id: str
    speaker: str  # empty if unknown
    label: str  # the true class; empty if unknown


def table(
    recordings: Sequence[Recording], answers: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> tuple[list[Row], dict[str, Any]]:
    """Compares the answers after each change with those to the unchanged recordings.

    Args:
      recordings: The N recordings.
      answers: Change → N answers, each a class or `NO_ANSWER`; the first are of the unchanged
        recordings.
      classes: The K classes.

    Returns:
      A row per change; and `labelled`, the number of recordings with a label, and `ci95_unit` and
      `ci95_units` of the intervals (as in `results.json`).
    """
    before, *_ = answers.values()
    rows, units = [], (None, None)
    for change, after in answers.items():
        ua, limits, units = _ua(recordings, after, classes)
        grown = Counter(after)
        grown.subtract(before)
        drift = None
        if list(after) != list(before):
            drift = max((*classes, NO_ANSWER), key=lambda name: grown[name])
        count = len(recordings)
        shares = [None if drift is None else list(a).count(drift) / count for a in (after, before)]
        stays = sum(one == two for one, two in zip(before, after, strict=True)) / count
        rows.append(Row(change, count, ua, limits, stays, drift, *shares))
    labelled = sum(bool(one.label) for one in recordings)
    return rows, {"labelled": labelled, "ci95_unit": units[0], "ci95_units": units[1]}


def _ua(
    recordings: Sequence[Recording], answers: Sequence[str], classes: Sequence[str]
) -> tuple[float | None, list[float] | None, tuple[str | None, int | None]]:
    """Returns UA, its interval, and what the interval is over, as far as they are known."""
    labelled = [
        Prediction(one.id, one.speaker, "", 0, one.label, answer, ())
        for one, answer in zip(recordings, answers, strict=True)
        if one.label
    ]
    if not labelled:
        return None, None, (None, None)
    # No recording has the label of the last column, so it has no recall of its own.
    kind, counts = intervals.count_units(labelled, seeds=[0], classes=[*classes, NO_ANSWER])
    ua = float(metrics.scores(counts.sum(axis=(0, 1))).ua)
    if len(counts) < 2:
        return ua, None, (None, None)
    limits = intervals.score_intervals(counts).ua
    return ua, None if np.isnan(limits).any() else limits.tolist(), (kind, len(counts))


def models_sha256(descriptions: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns a digest of models, given their descriptions; None if these lack digests."""
    digests = [found.get("sha256") or "" for found in descriptions]
    return hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest() if all(digests) else None
