"""Recall by group: gender, age, language, or any other attribute of the utterances.

`rows` are labelled predictions of the seeds and folds that count, `results` is `results.json`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ser_jax.evaluation import intervals, slices
from ser_jax.evaluation.intervals import FEWEST_SPEAKERS
from ser_jax.evaluation.predictions import Prediction
from ser_jax.evaluation.slices import Slice

MOST_GROUPS = 12  # of more values, numbers are in four ranges, and others make no groups
FEWEST_UTTERANCES = 50  # of a group of unknown speakers


class Gap(NamedTuple):
    """The largest difference between two groups, over the classes that both have."""

    better: str  # name of the group that is recognised better
    worse: str  # name of the other one
    ua: tuple[float, float]  # their UA, means over seeds
    difference: float  # of these, at least 0
    # [2], 95 %, by jackknife over speakers, or utterances where these are unknown or fewer than
    # five; NaN where leaving one out leaves a group without a class
    interval: np.ndarray


class Groups(NamedTuple):
    """The groups that an attribute makes."""

    parts: list[Slice]  # sorted by name, at least two
    speakers: list[int]  # how many speakers each has; 0 if one is unknown
    gap: Gap | None  # None if no two groups share a class

    def warnings(self, attribute: str) -> list[str]:
        """Returns sentences about groups that are small or recognised less well."""
        found = []
        for part, speakers in zip(self.parts, self.speakers, strict=True):
            if speakers < FEWEST_SPEAKERS if speakers else part.utterances < FEWEST_UTTERANCES:
                of = f" of {speakers} speaker{'s' * (speakers > 1)}" if speakers else ""
                found.append(
                    f"{attribute} {part.name}: only {part.utterances} test utterances{of}, so that"
                    " its figures are uncertain"
                )
        if self.gap and self.gap.interval[0] > 0:
            better, worse = (f"{100 * value:.1f} %" for value in self.gap.ua)
            low, high = 100 * self.gap.interval
            found.append(
                f"{attribute} {self.gap.worse} is recognised less well than {self.gap.better}: UA"
                f" {worse} instead of {better} over the classes that both have (difference"
                f" {100 * self.gap.difference:.1f} points, 95 % interval {low:.1f} to {high:.1f})"
            )
        return found


def by_attribute(rows: Sequence[Prediction], results: Mapping[str, Any]) -> dict[str, Groups]:
    """Returns attribute → its groups, for the attributes with two values or more."""
    names = sorted({name for row in rows for name, _ in row.attributes})
    found = ((name, _groups(rows, results, name)) for name in names)
    return {name: groups for name, groups in found if groups is not None}


def _groups(rows: Sequence[Prediction], results: Mapping[str, Any], name: str) -> Groups | None:
    values = {row.id: dict(row.attributes).get(name, "") for row in rows}
    part = {key: value for key, value in values.items() if value}
    names = sorted(set(part.values()))
    if len(names) > MOST_GROUPS:
        try:
            names, part = slices.quarters({key: float(value) for key, value in part.items()})
        except ValueError:  # not numbers
            return None
    parts = slices.of_parts(rows, results, names, part)
    if len(parts) < 2:
        return None
    spoken = {
        group.name: {r.speaker for r in rows if part.get(r.id) == group.name} for group in parts
    }
    speakers = [0 if "" in spoken[group.name] else len(spoken[group.name]) for group in parts]
    return Groups(parts, speakers, _largest_gap(rows, results, parts, part))


def _largest_gap(
    rows: Sequence[Prediction],
    results: Mapping[str, Any],
    parts: Sequence[Slice],
    part: Mapping[str, str],
) -> Gap | None:
    gaps = []
    for pair in itertools.combinations(parts, 2):
        common = (pair[0].count > 0) & (pair[1].count > 0)
        if common.any():
            ua = [float(group.recall[common].mean()) for group in pair]
            worse, better = np.argsort(ua, kind="stable")
            gaps.append((ua[better] - ua[worse], pair[better], pair[worse], common))
    if not gaps:
        return None
    difference, better, worse, common = max(gaps, key=lambda gap: gap[0])
    ua = tuple(float(group.recall[common].mean()) for group in (better, worse))
    names = better.name, worse.name
    kept = [row for row in rows if part.get(row.id) in names]
    interval = _interval(kept, results, [names.index(part[row.id]) for row in kept], common)
    return Gap(*names, (ua[0], ua[1]), float(difference), interval)


def _interval(
    rows: Sequence[Prediction], results: Mapping[str, Any], group: Sequence[int], common: np.ndarray
) -> np.ndarray:
    """Returns the interval [2] of the UA of group 0 less that of group 1 over some classes [K]."""
    classes, seeds = results["classes"], results["seeds"]
    kind = intervals.count_units(rows, seeds=seeds, classes=classes).kind
    unit = [row.speaker if kind == intervals.SPEAKER else row.id for row in rows]
    units, unit_of = np.unique(unit, return_inverse=True)
    truth, predicted = intervals.class_numbers(rows, classes)
    cells = unit_of, np.asarray(group, np.int64), truth
    examples, hits = np.zeros((2, len(units), 2, len(classes)))
    np.add.at(examples, cells, 1)
    np.add.at(hits, cells, truth == predicted)

    def statistic(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            ua = (sums[:, 1] / sums[:, 0])[..., common].mean(axis=-1)  # [n, 2]
        return ua[:, :1] - ua[:, 1:]

    counts = np.stack([examples, hits], axis=1)  # [U, 2, groups, K]
    (difference,), (reach,) = intervals.jackknife(counts, statistic)
    if not np.isfinite(reach):
        return np.full(2, np.nan)
    return np.clip([difference - reach, difference + reach], -1, 1)
