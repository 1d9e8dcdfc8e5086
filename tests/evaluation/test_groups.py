"""Recall by attribute of the utterances: groups, the largest gap, warnings, by hand."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import scored

from ser_jax.evaluation import comparison, groups
from ser_jax.evaluation.predictions import Prediction
from ser_jax.report import comparison_text, console

RESULTS = {"classes": ["a", "b"], "seeds": [0]}


def row(name, speaker, label, prediction, **attributes) -> Prediction:
    known = tuple(sorted(attributes.items()))
    return Prediction(name, speaker, "f", 0, label, prediction, (0.5, 0.5), known)


def spoken(rights: dict[str, tuple[int, int]], gender: str) -> list[Prediction]:
    """Every speaker says ten of each class, of which so many of a and b are recognised."""
    return [
        row(
            f"{who}{label}{n}", who, label, label if n < right else "ab".strip(label), gender=gender
        )
        for who, both in rights.items()
        for label, right in zip("ab", both, strict=True)
        for n in range(10)
    ]


def test_the_gap_and_its_interval_by_hand():
    """Each speaker's share is 1/5 of a group: the jackknife gives Welch's error of two means."""
    men = dict(zip("pqrst", [(9, 9), (8, 8), (9, 7), (10, 8), (9, 10)], strict=True))
    women = dict(zip("uvwxy", [(5, 6), (6, 4), (5, 5), (4, 7), (6, 6)], strict=True))
    rows = spoken(men, "m") + spoken(women, "f")
    found = groups.by_attribute(rows, RESULTS)["gender"]
    assert [part.name for part in found.parts] == ["f", "m"] and found.speakers == [5, 5]
    ua = {
        name: np.array([sum(r) / 20 for r in rights.values()])
        for name, rights in (("m", men), ("f", women))
    }
    gap = found.gap
    assert gap is not None and (gap.better, gap.worse) == ("m", "f")
    assert gap.ua == pytest.approx((ua["m"].mean(), ua["f"].mean()))
    assert gap.difference == pytest.approx(ua["m"].mean() - ua["f"].mean())
    # Leaving one of n speakers out moves its mean by (mean - value) / (n - 1).
    moved = np.concatenate([(v.mean() - v) / 4 * s for v, s in ((ua["m"], 1), (ua["f"], -1))])
    error = np.sqrt(9 / 10 * ((moved - moved.mean()) ** 2).sum())
    reach = scipy.stats.t.ppf(0.975, 9) * error
    np.testing.assert_allclose(gap.interval, [gap.difference - reach, gap.difference + reach])
    (sentence,) = found.warnings("gender")
    assert sentence.startswith("gender f is recognised less well than m: UA 54.0 % instead of 87.0")


def test_only_classes_that_both_groups_have_are_compared():
    """Neutral speech has no strong form: UA over other classes is no gap between groups."""
    rows = [row(f"{n}", f"s{n % 6}", "a", "a", level="strong") for n in range(60)]
    rows += [row(f"x{n}", f"s{n % 6}", "ab"[n % 2], "a", level="normal") for n in range(60)]
    gap = groups.by_attribute(rows, RESULTS)["level"].gap
    assert gap is not None and gap.difference == 0
    assert groups.by_attribute(rows, RESULTS)["level"].warnings("l") == []
    rows = [row("1", "s", "a", "a", g="x"), row("2", "s", "b", "b", g="y")]
    assert groups.by_attribute(rows, RESULTS)["g"].gap is None


def test_small_groups():
    rows = spoken({"p": (9, 9), "q": (9, 9)}, "m") + spoken({"u": (9, 9)}, "f")
    found = groups.by_attribute(rows, RESULTS)["gender"]
    assert found.warnings("gender") == [
        "gender f: only 20 test utterances of 1 speaker, so that its figures are uncertain",
        "gender m: only 40 test utterances of 2 speakers, so that its figures are uncertain",
    ]
    unknown = [dataclasses.replace(one, speaker="") for one in rows]
    found = groups.by_attribute(unknown, RESULTS)["gender"].warnings("gender")
    assert found[0].startswith("gender f: only 20 test utterances, so") and len(found) == 2


def test_which_columns_make_groups():
    """One value makes none, many numbers make ranges, many texts none; an empty one is left out."""
    rows = [
        row(
            str(n),
            f"s{n % 6}",
            "ab"[n % 2],
            "a",
            one="x",
            age=str(20 + n),
            note=f"n{n}",
            half="yes" if n < 30 else "",
        )
        for n in range(60)
    ]
    found = groups.by_attribute(rows, RESULTS)
    names = [part.name for part in found["age"].parts]
    assert list(found) == ["age"]
    assert names == ["up to 34.8", "34.8 to 49.5", "49.5 to 64.2", "over 64.2"]
    assert [part.utterances for part in found["age"].parts] == [15] * 4


def test_runs_are_compared_by_group():
    def run(name, seed):
        rows = [
            dataclasses.replace(one, attributes=(("gender", "fm"[int(one.speaker[1:]) % 2]),))
            for one in scored.make_rows(seed)
        ]
        return scored.finished(name, rows=rows)

    (group,) = comparison.group_runs([run("first", 0), run("second", 1), scored.finished("old", 2)])
    ((attribute, header, rows),) = comparison_text.group_tables(group)
    assert attribute == "gender" and header == ["run", "f", "m", "largest gap of UA"]
    assert [cells[0] for cells in rows] == ["first", "second"]
    assert all(" [" in cell for cells in rows for cell in cells[1:])
    assert "UA in % by gender [95 %]" in console.comparison_lines([group])
