"""The page of a comparison: complete, self-contained and safe, for full and for odd groups."""

import dataclasses
import errno

import numpy as np
import pytest
import scored
from pages import Page

from ser_jax import atomic
from ser_jax.errors import UserError
from ser_jax.evaluation import comparison_page, formats, groups
from ser_jax.evaluation.finished import FinishedRun

HOSTILE = "<script>alert('x & y')</script>"


def make(name: str, seed: int, *, speakers=6, known=True, seeds=(0, 1), **changes) -> FinishedRun:
    rows = scored.make_rows(seed, speakers=speakers, per_speaker=6, seeds=seeds)
    if not known:
        rows = [dataclasses.replace(row, speaker="") for row in rows]
    return FinishedRun(name, scored.summarise(rows, **changes), tuple(rows))


def written(path, *runs: FinishedRun) -> Page:
    comparison_page.write_comparison(path / "compare.html", groups.group_runs(runs))
    return Page((path / "compare.html").read_text("utf-8"))


def test_page_of_three_runs(tmp_path):
    runs = [make("plain", 0), make("multi", 1, seeds=(0,)), make("hsf", 2)]
    page = written(tmp_path, *runs)
    assert page.tags.count("table") == 2 and page.tags.count("h2") == 2
    assert page.tags.count("svg") == 1 + 3, "UA of all runs, and the speakers of every pair"
    (group,) = groups.group_runs(runs)
    assert group.test is not None
    for run in runs:
        assert f"{100 * run.results['ua']['mean']:.1f}" in page.text
    for pair in group.test.pairs:
        assert f"{group.tested[pair.first].name} − {group.tested[pair.second].name}" in page.text
        for score in (pair.ua, pair.wa):
            cells = (formats.difference(score.effect, score.ci95), f"{score.p:.3f}", f"{score.holm:.3f}")
            assert "".join(f"<td>{cell}</td>" for cell in cells) in page.text
    assert "decade" * 10 in page.text and "not comparable" not in page.text


def test_speakers_differ_as_their_rows_do(tmp_path):
    """In the order of the pair: to the right where the first run is better."""
    runs = make("a", 0), make("b", 1)
    page = written(tmp_path, *runs)
    for number in range(6):
        right = [
            np.mean([row.label == row.prediction for row in run.rows if row.speaker == f"s{number}"]) for run in runs
        ]
        # Every speaker has as many examples of every class, so its UA is the share that is right.
        assert f">{formats.signed(float(right[0] - right[1]))}</text>" in page.text
    assert "To the right a is better." in page.text


def test_page_needs_nothing_from_outside(tmp_path):
    page = written(tmp_path, make("a", 0), make("b", 1), make("c", 2, protocol_sha256="facade" * 10))
    page.check_self_contained()
    assert str(tmp_path) not in page.text


def test_every_column_and_row_has_a_header(tmp_path):
    page = written(tmp_path, make("a", 0), make("b", 1))
    scopes = [value for name, value in page.attributes if name == "scope"]
    assert page.tags.count("th") == len(scopes)
    assert scopes.count("row") == 2 + 1, "two runs and one pair"
    images = [value for name, value in page.attributes if name == "role" and value == "img"]
    assert len(images) == page.tags.count("svg")


def test_groups_are_apart_and_the_warning_is_on_top(tmp_path):
    page = written(tmp_path, make("a", 0), make("b", 1, protocol="other", protocol_sha256="facade" * 10))
    assert page.tags.count("table") == 2 and page.tags.count("svg") == 2
    warning, first = page.text.index("not comparable: different protocols"), page.text.index("<table")
    assert warning < first and "Differences" not in page.text


def test_names_cannot_become_markup(tmp_path):
    page = written(tmp_path, make(HOSTILE, 0, protocol=HOSTILE), make("<b>b</b>", 1, protocol=HOSTILE))
    assert not {"script", "b"} & set(page.tags)
    assert "&lt;script&gt;" in page.text


def test_the_same_runs_give_the_same_page(tmp_path):
    first = written(tmp_path, make("a", 0), make("b", 1)).text
    assert written(tmp_path, make("a", 0), make("b", 1)).text == first


def test_only_the_first_pairs_are_drawn(tmp_path):
    page = written(tmp_path, *(make(f"run {k}", k, speakers=5, seeds=(0,)) for k in range(5)))
    assert page.tags.count("svg") == 1 + comparison_page.MOST_PAIRS_DRAWN
    assert "Speakers are drawn for the first 6 of 10 pairs." in page.text


@pytest.mark.parametrize(
    "odd",
    [{"speakers": 3}, {"known": False}, {"speakers": 40}, {"seeds": (0,)}],
    ids=["few speakers", "unknown speakers", "many speakers", "one seed"],
)
def test_odd_runs(tmp_path, odd):
    page = written(tmp_path, make("a", 0, **odd), make("b", 0, **odd))
    unknown = odd.get("speakers") == 3 or odd.get("known") is False
    assert ("by utterance, too optimistic" in page.text) == unknown
    assert page.tags.count("svg") == (1 if unknown else 2)


def test_a_run_without_scores(tmp_path):
    runs = [{"fold": "f0", "seed": 0, "status": "diverged", "best_epoch": None}]
    lost = FinishedRun("lost", scored.summarise([], runs=runs, seconds={}), ())
    page = written(tmp_path, make("a", 0), lost)
    assert "lost has no scored seed, so it is not compared." in page.text


def test_a_page_that_cannot_be_written_is_refused_with_the_path(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--output=.*nowhere/c\.html cannot be written: No such file or directory"):
        comparison_page.write_comparison(tmp_path / "nowhere/c.html", groups.group_runs([make("a", 0)]))

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        comparison_page.write_comparison(tmp_path / "c.html", groups.group_runs([make("a", 0)]))
