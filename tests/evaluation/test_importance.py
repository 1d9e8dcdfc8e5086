"""Permutation importance: a case by hand, and a model that reads one functional."""

import numpy as np

from ser_jax.evaluation import importance

NAMES = ("pitch_sma3nz_amean", "pitch_sma3nz_stddevNorm", "loudness_sma_de_range", "rate")


def test_contours_and_single_values():
    found = importance.contours(NAMES)
    expected = [("pitch", (0, 1)), ("loudness", (2,)), ("rate", (3,))]
    assert [tuple(group) for group in found] == expected
    assert [group.columns for group in importance.singles(NAMES)] == [(0,), (1,), (2,), (3,)]
    assert importance.singles(["x"] * 101) == []


def test_what_the_model_reads_is_what_matters():
    """The class is the sign of the sum of both pitches; loudness and rate are not read."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 4))
    targets = (values[:, 0] + values[:, 1] > 0).astype(np.int64)
    seen = []

    def logits(shuffled, rows):
        seen.append((shuffled, rows))
        score = shuffled[:, 0] + shuffled[:, 1]
        return np.stack([-score, score], axis=1)

    groups = [*importance.contours(NAMES), *importance.singles(NAMES)]
    counts = importance.confusions(values, targets, 2, groups, logits, np.random.default_rng(1))
    assert counts.shape == (8, importance.REPEATS, 2, 2)
    assert (counts.sum(axis=(2, 3)) == 60).all()
    unchanged, pitch = seen[0][0], seen[1][0]
    np.testing.assert_array_equal(unchanged, values[seen[0][1]])
    np.testing.assert_array_equal(pitch[:, 2:], unchanged[:, 2:])
    of_one = pitch[:60]  # Both pitches of an utterance are those of one other utterance.
    assert sorted(map(tuple, of_one[:, :2])) == sorted(map(tuple, values[:, :2]))

    found = importance.summarise("set", NAMES, 2 * counts)
    assert (found.feature_set, found.utterances, found.ua) == ("set", 120, 1.0)
    assert [row.name for row in found.contours] == ["pitch", "loudness", "rate"]
    first, *rest = found.contours
    assert first.count == 2 and 0.3 < first.lowest <= first.drop <= first.highest < 0.7
    assert all((row.drop, row.lowest, row.highest) == (0, 0, 0) for row in rest)
    assert {row.name for row in found.values[:2]} == set(NAMES[:2])


def test_drops_by_hand():
    """UA 3/4 with nothing shuffled; 1/2 and 1 in two repeats: 1/4 is lost, and 1/4 is won."""
    counts = np.zeros((2, 2, 2, 2), np.int64)
    counts[0] = [[1, 1], [0, 2]]
    counts[1, 0], counts[1, 1] = [[1, 1], [1, 1]], [[2, 0], [0, 2]]
    names = [f"a_sma_{number}" for number in range(101)]
    (row,) = importance.summarise("set", names, counts).contours
    assert row == ("a", 101, 0.0, -0.25, 0.25)
