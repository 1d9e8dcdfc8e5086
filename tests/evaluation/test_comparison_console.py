"""The tables on the terminal: what they hold, and that their columns stand below one another."""

import scored

from ser_jax.evaluation import comparison_console, groups
from ser_jax.evaluation.finished import FinishedRun


def make(name: str, seed: int, **changes) -> FinishedRun:
    rows = scored.make_rows(seed, seeds=changes.pop("seeds", (0, 1)))
    return FinishedRun(name, scored.summarise(rows, **changes), tuple(rows))


def test_tables():
    (group,) = groups.group_runs([make("plain", 0), make("runs/elsewhere/balanced/multi", 1, seeds=(0,), parameters=7)])
    lines = comparison_console.comparison_lines([group]).splitlines()
    assert lines[0] == "demo-speaker decadedecade…: 54 test utterances of 6 speakers"
    heading, first, second = lines[2:5]
    ua, wa, f1 = (group.runs[0].results[score] for score in ("ua", "wa", "macro_f1"))
    low, high = ua["ci95"]
    assert first.split()[:3] == ["plain", "plain_crnn", "2"]
    assert f"{100 * ua['mean']:.1f} ± {100 * ua['std']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in first
    for score in (wa, f1):
        assert f" {100 * score['mean']:.1f} ± {100 * score['std']:.1f} " in first
    assert f" {group.runs[0].results['calibration']['ece']:.3f} " in first
    assert first.endswith("189,788  1 min 40 s")
    assert second.split()[0] == "…ere/balanced/multi"
    assert " 7 " in second
    assert len(heading) == len(first) == len(second) and first.index("plain_crnn") == heading.index("system")
    assert "permutation test, all 64 swaps of 6 speakers" in lines[6]
    assert group.test is not None
    (pair,) = group.test.pairs
    low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in pair.ua.ci95)
    assert "plain − …ere/balanced/multi" in lines[9]
    assert f"[{low}, {high}]  {pair.ua.p:.3f}   {pair.ua.holm:.3f}" in lines[9]


def test_every_pair_has_its_corrected_p():
    (group,) = groups.group_runs([make(name, seed) for seed, name in enumerate("abc")])
    lines = comparison_console.comparison_lines([group]).splitlines()
    assert group.test is not None and len(group.test.pairs) == 3
    assert any(pair.ua.p < pair.ua.holm < 1 for pair in group.test.pairs)
    for pair, line in zip(group.test.pairs, lines[-3:], strict=True):
        found = line.replace("[", " ").replace("]", " ").split()
        expected = [f"{p:.3f}" for score in (pair.ua, pair.wa) for p in (score.p, score.holm)]
        assert [found[place] for place in (6, 7, 11, 12)] == expected


def test_groups_are_printed_one_after_the_other_with_a_warning_at_the_end():
    found = groups.group_runs([make("a", 0), make("b", 1, protocol="x", protocol_sha256="y" * 60)])
    text = comparison_console.comparison_lines(found)
    assert text.index("demo-speaker decade") < text.index("x yyyyyyyyyyyy…: 54")
    assert text.splitlines()[-1].startswith("warning: not comparable: different protocols (demo-speaker")
    assert "permutation" not in text, "a single run is compared with none"


def test_remarks_are_printed():
    rows = scored.make_rows(0, speakers=3)
    runs = [FinishedRun(name, scored.summarise(rows), tuple(rows)) for name in "ab"]
    text = comparison_console.comparison_lines(groups.group_runs(runs))
    assert "  intervals of runs: by utterance, too narrow\n  differences: by utterance, too optimistic" in text
    assert "+0.0 [+0.0, +0.0]  1.000   1.000" in text


def test_a_run_without_scores_has_dashes():
    runs = [{"fold": "f0", "seed": 0, "status": "diverged", "best_epoch": None}]
    lost = FinishedRun("lost", scored.summarise([], runs=runs, seconds={"total": 1.0}), ())
    line = comparison_console.comparison_lines(groups.group_runs([lost])).splitlines()[3]
    assert line.split() == ["lost", "plain_crnn", "0", "–", "–", "–", "–", "189,788", "–"]


def test_usual_runs_fit_the_terminal():
    runs = [make(f"emodb-multi-balanced-{k}", k, parameters=7_320_548) for k in range(4)]
    text = comparison_console.comparison_lines(groups.group_runs(runs))
    assert max(map(len, text.splitlines())) <= 120
