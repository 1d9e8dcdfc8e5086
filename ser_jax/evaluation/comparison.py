"""Paired comparison of systems that were tested on the same utterances.

The mean over seeds of a pooled UA equals the UA of the counts averaged over seeds, since every seed tests the same
utterances; so systems with different numbers of seeds can be compared and swapped, unit by unit.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ser_jax.evaluation import intervals, units

MOST_ENUMERATED = 2**14  # flips; with more, they are drawn at random
RANDOM_FLIPS = 10_000
GENERATOR_SEED = 20180906
TIE = 1e-12  # differences closer than this are equal but for rounding
TOO_OPTIMISTIC = "by utterance, too optimistic"  # what a test is called whose speakers are unknown or too few


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first system's score less the second's, as a share.

    Attributes:
      effect: Difference of the means over seeds.
      ci95: Its bootstrap interval [low, high].
      p: Two-sided p-value of the permutation test.
      holm: The p-value corrected for all pairs of the comparison.
    """

    effect: float
    ci95: list[float]
    p: float
    holm: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two systems, by their place in the comparison.

    Attributes:
      first: Place of the first system.
      second: Place of the second.
      ua: Difference of UA.
      wa: Difference of WA.
    """

    first: int
    second: int
    ua: Difference
    wa: Difference


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All pairs of some systems.

    Attributes:
      kind: What is swapped and resampled: "speaker" or "utterance".
      units: How many of them.
      flips: How many swaps were tried.
      exact: True if these are all there are.
      pairs: Every pair, in the order of the systems.
    """

    kind: str
    units: int
    flips: int
    exact: bool
    pairs: tuple[Pair, ...]

    @property
    def note(self) -> str | None:
        """What a reader of the p-values must know."""
        return TOO_OPTIMISTIC if self.kind == units.UTTERANCE else None


def compare(systems: Sequence[units.Units]) -> Comparison:
    """Tests every pair of systems.

    The null hypothesis says that it does not matter which of two systems spoke for a speaker. So the predictions of
    whole speakers are swapped between them, and p is the share of swaps whose difference is at least as large, either
    way, as the one found: of all swaps where there are no more than `MOST_ENUMERATED`, else of `RANDOM_FLIPS` random
    ones, the one found counted among them. The interval is a bootstrap that draws the same speakers for both. Sources:
    Fisher, "The Design of Experiments" (1935); Phipson and Smyth, "Permutation P-values Should Never Be Zero" (2010);
    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).

    Args:
      systems: At least two, counted over the same utterances; each may have its own number of seeds, at least one.

    Returns:
      The differences, corrected over all pairs.

    Raises:
      ValueError: If the systems were not tested on the same units and labels.
    """
    examples = systems[0].counts[:, 0].sum(axis=-1).astype(np.float64)
    for system in systems:
        found = system.counts.sum(axis=-1)
        if system.kind != systems[0].kind or len(found) != len(examples) or (found != examples[:, None]).any():
            raise ValueError("the systems were not tested on the same utterances")
    hits = np.stack([np.diagonal(s.counts, axis1=-2, axis2=-1).mean(axis=1) for s in systems])
    first, second = np.transpose(list(itertools.combinations(range(len(systems)), 2)))
    shares = _shares(hits, examples)
    gaps = shares[:, first] - shares[:, second]
    effects = gaps.sum(axis=-1)
    p, flips, exact = permutation_test(gaps.reshape(-1, gaps.shape[-1]))
    p = p.reshape(effects.shape)
    corrected = np.stack([holm(row) for row in p])
    limits = _difference_intervals(hits, examples, first, second)
    ua, wa = (
        [Difference(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
        for columns in zip(effects, limits, p, corrected, strict=True)
    )
    pairs = tuple(itertools.starmap(Pair, zip(first.tolist(), second.tolist(), ua, wa, strict=True)))
    return Comparison(systems[0].kind, len(examples), flips, exact, pairs)


def permutation_test(gaps: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """Tests whether sums of differences could be so large by the flip of coins.

    Args:
      gaps: [J, U] what each of U units contributes to each of J differences; swapping the systems turns its sign.

    Returns:
      [J] two-sided p-values, the number of flips, and whether these are all there are.
    """
    found = np.abs(gaps.sum(axis=1)) - TIE
    number = gaps.shape[1]
    exact = 2**number <= MOST_ENUMERATED
    flips = 2**number if exact else RANDOM_FLIPS
    generator = np.random.default_rng(GENERATOR_SEED)
    batch = max(1, intervals.MOST_DRAWN_AT_ONCE // number)
    reached = np.zeros(len(gaps), np.int64)
    for begin in range(0, flips, batch):
        here = min(batch, flips - begin)
        if exact:
            heads = np.arange(begin, begin + here)[:, None] >> np.arange(number) & 1
        else:
            heads = generator.integers(0, 2, (here, number), np.int8)
        reached += (np.abs((1.0 - 2.0 * heads) @ gaps.T) >= found).sum(axis=0)
    return (reached / flips if exact else (1 + reached) / (1 + flips)), flips, exact


def holm(p: np.ndarray) -> np.ndarray:
    """Returns [P] p-values corrected for P tests, in the order given."""
    order = np.argsort(p)
    corrected = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected[np.argsort(order)]


def _shares(hits: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Returns [2, R, U] what every unit adds to the UA and WA of every system; swapping units swaps their shares.

    `hits` are [R, U, K] correct predictions, averaged over seeds, `examples` [U, K].
    """
    total = examples.sum(axis=0)
    present = total > 0
    return np.stack([(hits[..., present] / total[present]).mean(axis=-1), hits.sum(axis=-1) / total.sum()])


def _difference_intervals(hits: np.ndarray, examples: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns [2, P, 2]: (UA, WA) x pairs x (low, high)."""
    systems, number, classes = hits.shape
    per_unit = hits.transpose(1, 0, 2).reshape(number, -1)

    def statistic(times: np.ndarray) -> np.ndarray:
        drawn, total = (times @ per_unit).reshape(-1, systems, classes), times @ examples
        recall = drawn / np.maximum(total, 1)[:, None]
        ua = recall.sum(axis=-1) / (total > 0).sum(axis=-1)[:, None]
        wa = drawn.sum(axis=-1) / total.sum(axis=-1)[:, None]
        return np.column_stack([score[:, first] - score[:, second] for score in (ua, wa)])

    return intervals.bootstrap(number, statistic).reshape(2, len(first), 2)
