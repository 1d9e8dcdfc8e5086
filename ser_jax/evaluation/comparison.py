"""Paired comparison of systems that were tested on the same utterances.

The mean over seeds of a pooled UA equals the UA of the counts averaged over seeds, since every seed
tests the same utterances; so systems with different numbers of seeds can be compared and swapped,
unit by unit. A unit is a session where folds are made of sessions, else a speaker, or an utterance
where these are unknown or too few.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ser_jax.evaluation import intervals
from ser_jax.evaluation.finished_run import FinishedRun
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

MOST_ENUMERATED = 2**14  # sign flips; of more, `RANDOM_FLIPS` are drawn
RANDOM_FLIPS = 10_000
GENERATOR_SEED = 20180906
MOST_FLIPPED_AT_ONCE = 4_000_000  # bounds the memory of comparisons by utterance
TIE = 1e-12  # differences closer than this are equal but for rounding


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first system's score less the second's, in [−1, 1]."""

    effect: float  # difference of the means over seeds
    ci95: list[float]  # its interval [low, high]
    p: float  # two-sided p-value of the permutation test
    holm: float  # the p-value corrected for the number of pairs of the comparison


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two systems, as indices into the systems of the comparison, and how their scores differ."""

    first: int
    second: int
    ua: Difference
    wa: Difference


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Pairs of some systems: all, or those that were chosen."""

    kind: str  # what is swapped and left out: "session", "speaker" or "utterance"
    units: int  # how many of them there are
    flips: int  # number of swaps that were tried
    exact: bool  # true if these are all possible ones
    pairs: tuple[Pair, ...]  # all pairs in the order of the systems, or the chosen ones in theirs


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with the same protocol and the same recordings: only these may be compared."""

    runs: tuple[FinishedRun, ...]  # at least one run
    # those with a complete seed and a labelled utterance, to which the indices of `test` refer
    tested: tuple[FinishedRun, ...]
    test: Comparison | None  # their pairs; None if there are none


def group_runs(runs: Sequence[FinishedRun], chosen: Sequence[tuple[str, str]] = ()) -> list[Group]:
    """Groups runs by protocol and recordings, in order of first appearance, and compares in groups.

    Args:
      runs: The runs.
      chosen: Names of the pairs to compare, without the `×N` of ensembles; empty: all pairs. A pair
        that is not in one group is passed over.

    Raises:
      UserError: If two runs of a group were tested on different utterances.
    """
    groups: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        key = run.results["protocol_sha256"], run.results["corpus_sha256"]
        groups.setdefault(key, []).append(run)
    return [_group(members, chosen) for members in groups.values()]


def _group(runs: list[FinishedRun], chosen: Sequence[tuple[str, str]]) -> Group:
    tested = [run for run in runs if run.rows]
    for run in tested[1:]:
        _check_same_utterances(tested[0], run)
    # Runs of before sessions were stored have those of the same utterances.
    sessions = next((run.sessions for run in tested if run.sessions), None)
    counted = [count_run(run, sessions) for run in tested]
    pairs = list(itertools.combinations(range(len(tested)), 2))
    if chosen:
        place = {run.name.partition(" ×")[0]: number for number, run in enumerate(tested)}
        pairs = [(place[a], place[b]) for a, b in chosen if a in place and b in place]
    return Group(tuple(runs), tuple(tested), compare(counted, pairs) if pairs else None)


def count_run(run: FinishedRun, sessions: Mapping[str, str] | None = None) -> intervals.Units:
    """Counts the predictions of a run per unit, as `intervals.count_units` does."""
    results = run.results
    return intervals.count_units(
        run.rows, seeds=results["seeds"], classes=results["classes"], sessions=sessions
    )


def _check_same_utterances(first: FinishedRun, second: FinishedRun) -> None:
    ours, theirs = (
        {(row.fold, row.id, row.label, row.speaker) for row in run.rows} for run in (first, second)
    )
    if ours != theirs:
        raise UserError(
            f"{first.name} was tested on {counted(len(ours), 'utterance')}, {second.name} on"
            f" {len(theirs)}"
            f" ({len(ours - theirs)} only in the first, {len(theirs - ours)} only in the second),"
            " although protocol and recordings are the same: train both with the same"
            " --config.protocol.folds"
        )


def compare(
    systems: Sequence[intervals.Units], pairs: Sequence[tuple[int, int]] | None = None
) -> Comparison:
    """Tests pairs of systems by permutation.

    The null hypothesis: it does not matter which of two systems predicted the utterances of a unit.
    So the predictions of whole units are swapped between them, and p is the fraction of swaps whose
    absolute difference is at least as large as the one observed: of all swaps where there are no
    more than `MOST_ENUMERATED`, else of `RANDOM_FLIPS` random ones and the one observed. The
    interval leaves out the same unit of both (`intervals.jackknife`). Sources: Fisher, "The Design
    of Experiments" (1935); Phipson and Smyth, "Permutation P-values Should Never Be Zero" (2010);
    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).

    `systems` are at least two, over the same utterances; each has its own number of seeds, one at
    least. `pairs` are indices of systems (None: every pair). The p-values are corrected over the
    pairs, those of UA and of WA each by themselves.

    Raises:
      ValueError: If the systems were not tested on the same units and labels.
    """
    examples = systems[0].counts[:, 0].sum(axis=-1).astype(np.float64)  # [U, K]
    for system in systems:
        counts = system.counts.sum(axis=-1)
        same = system.kind == systems[0].kind and len(counts) == len(examples)
        if not same or (counts != examples[:, None]).any():
            raise ValueError("the systems were not tested on the same utterances")
    # [systems, U, K], correct predictions, averaged over seeds
    hits = np.stack([np.diagonal(s.counts, axis1=-2, axis2=-1).mean(axis=1) for s in systems])
    if pairs is None:
        pairs = list(itertools.combinations(range(len(systems)), 2))
    first, second = np.transpose(pairs)
    parts = _contributions(hits, examples)
    gaps = parts[:, first] - parts[:, second]  # [(UA, WA), pairs, U]
    effects = gaps.sum(axis=-1)
    p, flips, exact = permutation_test(gaps.reshape(-1, gaps.shape[-1]))
    p = p.reshape(effects.shape)
    corrected = np.stack([holm(row) for row in p])
    limits = _difference_intervals(hits, examples, first, second)
    ua, wa = (
        list(map(Difference, *(column.tolist() for column in columns)))
        for columns in zip(effects, limits, p, corrected, strict=True)
    )
    compared = tuple(map(Pair, first.tolist(), second.tolist(), ua, wa))
    return Comparison(systems[0].kind, len(examples), flips, exact, compared)


def permutation_test(gaps: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """Tests whether sums of differences are larger than random signs would make them.

    The same p-values as `scipy.stats.permutation_test` where all flips are tried. That one takes 7
    to 24 times as long (4000 utterances, 6 differences: 3.4 s, here 0.23 s; import: 0.55 s).

    Args:
      gaps: [J, U] what each of U units contributes to each of J differences; swapping the systems
        flips its sign.

    Returns:
      [J] two-sided p-values, the number of flips, and whether these are all possible ones.
    """
    observed = np.abs(gaps.sum(axis=1)) - TIE
    units = gaps.shape[1]
    exact = 2**units <= MOST_ENUMERATED
    flips = 2**units if exact else RANDOM_FLIPS
    generator = np.random.default_rng(GENERATOR_SEED)
    batch = max(1, MOST_FLIPPED_AT_ONCE // units)
    reached = np.zeros(len(gaps), np.int64)
    for start in range(0, flips, batch):
        size = min(batch, flips - start)
        if exact:
            flipped = np.arange(start, start + size)[:, None] >> np.arange(units) & 1
        else:
            flipped = generator.integers(0, 2, (size, units), np.int8)
        reached += (np.abs((1.0 - 2.0 * flipped) @ gaps.T) >= observed).sum(axis=0)
    return (reached / flips if exact else (1 + reached) / (1 + flips)), flips, exact


def holm(p: np.ndarray) -> np.ndarray:
    """Returns p-values corrected for their number (Holm, 1979), in the order given."""
    order = np.argsort(p)
    corrected = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected[np.argsort(order)]


def _contributions(hits: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Returns [(UA, WA), systems, U]: what every unit adds to the scores of every system."""
    total = examples.sum(axis=0)
    present = total > 0
    return np.stack(
        [(hits[..., present] / total[present]).mean(axis=-1), hits.sum(axis=-1) / total.sum()]
    )


def _difference_intervals(
    hits: np.ndarray, examples: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Returns [(UA, WA), pairs, (low, high)]."""
    systems = len(hits)

    def statistic(sums: np.ndarray) -> np.ndarray:
        total = sums[:, systems]  # [n, K]
        recall = sums[:, :systems] / np.maximum(total, 1)[:, None]
        ua = recall.sum(axis=-1) / (total > 0).sum(axis=-1)[:, None]
        wa = sums[:, :systems].sum(axis=-1) / total.sum(axis=-1)[:, None]
        return np.column_stack([score[:, first] - score[:, second] for score in (ua, wa)])

    per_unit = np.concatenate([hits, examples[None]]).swapaxes(0, 1)  # [U, systems + 1, K]
    difference, reach = intervals.jackknife(per_unit, statistic)
    limits = np.clip(np.stack([difference - reach, difference + reach], axis=1), -1, 1)
    return limits.reshape(2, len(first), 2)
