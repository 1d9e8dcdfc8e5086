"""The paired comparison: by hand, against loops over every swap and SciPy, and its properties."""

import dataclasses
import itertools
from collections.abc import Sequence

import hypothesis
import numpy as np
import pytest
import scored
from hypothesis import strategies
from scipy import stats

from ser_jax import metrics
from ser_jax.evaluation import comparison
from ser_jax.evaluation.intervals import Units, count_units
from ser_jax.evaluation.predictions import Prediction
from ser_jax.runtime.errors import UserError

WEAK = 0.2


def counted(rows: Sequence[Prediction]) -> Units:
    return count_units(rows, seeds=sorted({row.seed for row in rows}), classes=scored.CLASSES)


def from_hits(hits: Sequence[int], examples: int, seeds=1) -> Units:
    """Returns units with that many of two classes' examples right, in every seed."""
    counts = np.zeros((len(hits), seeds, 2, 2), np.int64)
    counts[:, :, 0, 0] = counts[:, :, 1, 1] = np.array(hits)[:, None]
    counts[:, :, 0, 1] = counts[:, :, 1, 0] = examples - np.array(hits)[:, None]
    return Units("speaker", counts)


def loop_means(rows: Sequence[Prediction]) -> np.ndarray:
    """Returns UA and WA, each averaged over seeds, of rows."""
    numbers = {name: k for k, name in enumerate(scored.CLASSES)}
    found = []
    for seed in sorted({row.seed for row in rows}):
        part = [row for row in rows if row.seed == seed]
        pairs = np.array([(numbers[row.label], numbers[row.prediction]) for row in part]).T
        confusion = metrics.confusion_matrix(pairs[0], pairs[1], len(numbers))
        found.append((metrics.unweighted_accuracy(confusion), metrics.weighted_accuracy(confusion)))
    return np.mean(found, axis=0)


def test_by_hand():
    # Of the 4 examples of each of 5 speakers.
    found = comparison.compare([from_hits([3, 3, 3, 3, 2], 4), from_hits([2, 2, 2, 2, 2], 4)])
    assert (found.kind, found.units, found.flips, found.exact) == ("speaker", 5, 32, True)
    (pair,) = found.pairs
    assert (pair.first, pair.second) == (0, 1)
    assert pair.ua.effect == pair.wa.effect == pytest.approx(0.2)
    # Only if the four speakers that differ are all swapped, or none: 2 of 16 swaps reach 0.2.
    assert pair.ua.p == pair.wa.p == pair.ua.holm == 2 / 16


def test_every_swap_against_a_loop_over_rows():
    """The definition itself: rows of whole speakers are swapped, pooled and scored again."""
    first, second = (scored.make_rows(k, speakers=5, skill=(0.7, 0.2)[k]) for k in range(2))
    (pair,) = comparison.compare([counted(first), counted(second)]).pairs
    found = loop_means(first) - loop_means(second)
    np.testing.assert_allclose([pair.ua.effect, pair.wa.effect], found, rtol=1e-9)
    reached = np.zeros(2)
    for swapped in itertools.product((False, True), repeat=5):
        swap = {f"s{speaker}" for speaker in range(5) if swapped[speaker]}
        ours = [b if a.speaker in swap else a for a, b in zip(first, second, strict=True)]
        theirs = [a if a.speaker in swap else b for a, b in zip(first, second, strict=True)]
        reached += np.abs(loop_means(ours) - loop_means(theirs)) >= np.abs(found) - 1e-12
    assert [pair.ua.p, pair.wa.p] == (reached / 32).tolist()
    assert 0 < pair.ua.p < 1


def test_different_numbers_of_seeds_are_averaged():
    first = scored.make_rows(2, seeds=(0, 1, 2))
    second = scored.make_rows(3, seeds=(5,), skill=WEAK)
    (pair,) = comparison.compare([counted(first), counted(second)]).pairs
    found = loop_means(first) - loop_means(second)
    np.testing.assert_allclose([pair.ua.effect, pair.wa.effect], found, rtol=1e-9)
    thrice = [dataclasses.replace(row, seed=seed) for seed in (5, 6, 7) for row in second]
    (again,) = comparison.compare([counted(first), counted(thrice)]).pairs
    assert again.ua.p == pair.ua.p and again.ua.effect == pytest.approx(pair.ua.effect)


@pytest.mark.parametrize("have_the_last_class", [6, 2])
def test_intervals_against_a_plain_loop(have_the_last_class):
    systems = [counted(scored.make_rows(4)), counted(scored.make_rows(5, seeds=(0,), skill=WEAK))]
    for system in systems:
        system.counts[have_the_last_class:, :, -1] = 0
    (pair,) = comparison.compare(systems).pairs
    left_out = []
    for system in systems:
        pooled = [np.delete(system.counts, unit, axis=0).sum(axis=0) for unit in range(6)]
        found = metrics.scores(np.stack(pooled))
        left_out.append([found.ua.mean(axis=1), found.wa.mean(axis=1)])
    error = np.sqrt(5 * np.var(np.subtract(*left_out), axis=1))
    effects = np.array([pair.ua.effect, pair.wa.effect])
    expected = effects[:, None] + np.outer(error, stats.t.ppf([0.025, 0.975], 5))
    np.testing.assert_allclose([pair.ua.ci95, pair.wa.ci95], expected, rtol=1e-9)


def test_runs_by_session_are_compared_by_session():
    """Also one that was made before sessions were stored, and the interval stays within ±1."""
    rows = [scored.make_rows(k, speakers=10, skill=(0.5, 0.1)[k]) for k in range(2)]
    sessions = {row.id: f"S{int(row.speaker[1:]) // 2}" for row in rows[0]}
    new = dataclasses.replace(scored.finished("new", rows=rows[0]), sessions=sessions)
    (group,) = comparison.group_runs([scored.finished("old", rows=rows[1]), new])
    assert group.test is not None
    assert (group.test.kind, group.test.units, group.test.flips) == ("session", 5, 32)
    (group,) = comparison.group_runs([scored.finished("a", 0), scored.finished("b", 1)])
    assert group.test is not None and group.test.kind == "speaker"
    one = [from_hits([3], 4), from_hits([1], 4)]
    assert comparison.compare(one).pairs[0].ua.ci95 == [-1, 1], "one unit tells nothing"


def test_permutations_against_scipy():
    gaps = np.random.default_rng(6).normal(0.3, 1, (3, 8))
    found, flips, exact = comparison.permutation_test(gaps)
    assert (flips, exact) == (256, True)
    for p, row in zip(found, gaps, strict=True):
        options = {"permutation_type": "samples", "n_resamples": 256}
        expected = stats.permutation_test((row,), np.sum, **options)
        assert p == pytest.approx(expected.pvalue)


def test_p_values_are_corrected_for_the_pairs_that_were_chosen():
    runs = [scored.finished(name, number) for number, name in enumerate(("a", "b", "c", "d ×3"))]
    (every,) = comparison.group_runs(runs)
    chosen = [("d", "a"), ("a", "b"), ("a", "not there")]
    (some,) = comparison.group_runs(runs, chosen)
    assert every.test and some.test and len(every.test.pairs) == 6
    first, second = some.test.pairs
    assert [(p.first, p.second) for p in some.test.pairs] == [(3, 0), (0, 1)]
    reverse = next(p for p in every.test.pairs if (p.first, p.second) == (0, 3))
    assert first.ua.effect == -reverse.ua.effect and first.ua.p == reverse.ua.p
    expected = comparison.holm(np.array([first.ua.p, second.ua.p]))
    assert [first.ua.holm, second.ua.holm] == expected.tolist()
    (none,) = comparison.group_runs(runs, [("a", "not there")])
    assert none.test is None


def test_equal_differences_are_equal_whatever_the_rounding():
    """49ths have no end in binary; whole numbers say how many swaps reach the difference."""
    generator = np.random.default_rng(12)
    numbers = generator.integers(-3, 4, (50, 7))
    signs = np.array(list(itertools.product((1, -1), repeat=7)))
    expected = (np.abs(signs @ numbers.T) >= np.abs(numbers.sum(axis=1))).mean(axis=0)
    np.testing.assert_array_equal(comparison.permutation_test(numbers / 49)[0], expected)


def test_many_units_are_swapped_at_random():
    gaps = np.random.default_rng(7).normal(0.35, 1, (2, 14))
    exact, flips, complete = comparison.permutation_test(gaps)
    assert (flips, complete) == (2**14, True)
    # One more unit, which changes nothing but makes too many swaps.
    more = np.hstack([gaps, np.zeros((2, 1))])
    drawn, flips, complete = comparison.permutation_test(more)
    assert (flips, complete) == (10_000, False)
    np.testing.assert_allclose(drawn, exact, atol=4 * np.sqrt(0.25 / 10_000))
    never, _, _ = comparison.permutation_test(np.ones((1, 40)))
    assert never[0] == 1 / 10_001, "the swap that was found counts, so p is never 0"


def test_swaps_in_batches_are_the_same(monkeypatch):
    gaps = np.random.default_rng(8).normal(0.3, 1, (2, 8))
    whole = comparison.permutation_test(gaps)[0]
    monkeypatch.setattr(comparison, "MOST_FLIPPED_AT_ONCE", 100)
    np.testing.assert_array_equal(comparison.permutation_test(gaps)[0], whole)


@pytest.mark.parametrize("units", [8, 20])
def test_p_is_uniform_where_nothing_differs(units):
    """No more than a fraction α of the comparisons of equals has p ≤ α, and not much less."""
    gaps = np.random.default_rng(9).normal(size=(800, units))
    p = comparison.permutation_test(gaps)[0]
    for level in (0.05, 0.2, 0.5, 0.8):
        slack = 4 * np.sqrt(level * (1 - level) / 800)
        assert level - slack - 2 / 2**8 <= (p <= level).mean() <= level + slack


def test_equals_are_seldom_found_to_differ():
    """The same from predictions on: two systems of the same skill."""
    p = []
    for number in range(100):
        systems = [
            counted(scored.make_rows(2 * number + k, per_speaker=30, seeds=(0,))) for k in range(2)
        ]
        p.append(comparison.compare(systems).pairs[0].wa.p)
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 100)
    assert 0.4 < np.mean(p) < 0.65, (
        "a little above a half, for differences of counts are often equal"
    )


@hypothesis.given(
    strategies.integers(0, 10**6), strategies.integers(2, 16), strategies.integers(1, 3)
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_changing_places_turns_the_sign_and_nothing_else(seed, speakers, seeds):
    same = {"speakers": speakers, "per_speaker": 5}
    first = counted(scored.make_rows(seed, seeds=range(seeds), **same))
    second = counted(scored.make_rows(seed + 1, seeds=(0,), skill=WEAK, **same))
    (there,) = comparison.compare([first, second]).pairs
    (back,) = comparison.compare([second, first]).pairs
    for ours, theirs in ((there.ua, back.ua), (there.wa, back.wa)):
        assert theirs.effect == -ours.effect and theirs.p == ours.p
        np.testing.assert_allclose(theirs.ci95, [-ours.ci95[1], -ours.ci95[0]], atol=1e-12)
        assert 0 < ours.p <= 1 and ours.p <= ours.holm <= 1


@pytest.mark.parametrize("speakers", [3, 6, 20])
def test_a_system_does_not_differ_from_itself(speakers):
    system = counted(scored.make_rows(10, speakers=speakers))
    (pair,) = comparison.compare([system, system]).pairs
    for difference in (pair.ua, pair.wa):
        assert (difference.effect, difference.ci95, difference.p) == (0, [0, 0], 1)


def test_every_pair_is_corrected():
    skills = enumerate((0.8, 0.5, 0.1))
    systems = [counted(scored.make_rows(11 + k, skill=skill)) for k, skill in skills]
    found = comparison.compare(systems)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    for score in ("ua", "wa"):
        differences = [getattr(pair, score) for pair in found.pairs]
        expected = comparison.holm(np.array([difference.p for difference in differences]))
        assert [difference.holm for difference in differences] == expected.tolist()
    (alone,) = comparison.compare(systems[:2]).pairs
    assert (alone.ua.effect, alone.ua.p) == (found.pairs[0].ua.effect, found.pairs[0].ua.p)
    assert alone.ua.holm == alone.ua.p


def test_holm_by_hand():
    found = comparison.holm(np.array([0.01, 0.04, 0.03])).tolist()
    assert found == pytest.approx([0.03, 0.06, 0.06])
    assert comparison.holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert comparison.holm(np.array([0.2])).tolist() == [0.2]


def test_other_examples_and_units_are_refused():
    kind, counts = counted(scored.make_rows(0))
    first, last = counts.copy(), counts.copy()
    first[0, 0, 0, 0] += 1
    last[5, 1, 2, 1] += 1
    for other in ((kind, first), (kind, last), (kind, counts[1:]), ("utterance", counts)):
        with pytest.raises(ValueError, match="not tested on the same utterances"):
            comparison.compare([Units(kind, counts), Units(*other)])


def test_runs_of_one_protocol_and_recordings_form_a_group():
    runs = [
        scored.finished("a", 0),
        scored.finished("b", 1, protocol_sha256="facade" * 10),
        scored.finished("lost", rows=[], runs=scored.DIVERGED),
        scored.finished("c", 2),
        scored.finished("d", 3, corpus_sha256="beaded" * 10),
    ]
    found = comparison.group_runs(runs)
    names = [[run.name for run in group.runs] for group in found]
    assert names == [["a", "lost", "c"], ["b"], ["d"]]
    assert [run.name for run in found[0].tested] == ["a", "c"], "a run without scores is left out"
    assert found[0].test is not None and len(found[0].test.pairs) == 1
    assert found[1].test is found[2].test is None


def test_other_utterances_under_the_same_hashes_are_refused_with_their_counts():
    fewer = [row for row in scored.make_rows(1) if row.fold != "f0"]
    with pytest.raises(UserError) as caught:
        comparison.group_runs([scored.finished("a", 0), scored.finished("b", rows=fewer)])
    message = str(caught.value)
    assert "54 utterances, b on 45 (9 only in the first, 0 only in the second)" in message
    assert "--config.protocol.folds" in message


@pytest.mark.parametrize(
    ("field", "value"), [("id", "x"), ("label", "happy"), ("speaker", "s1"), ("fold", "f1")]
)
def test_every_field_of_the_truth_must_agree(field, value):
    rows = scored.make_rows(1, seeds=(0,))
    rows[0] = dataclasses.replace(rows[0], **{field: value})
    message = r"54 utterances, b on 54 \(1 only in the first, 1 only in the second\)"
    with pytest.raises(UserError, match=message):
        comparison.group_runs([scored.finished("a", 0), scored.finished("b", rows=rows)])
