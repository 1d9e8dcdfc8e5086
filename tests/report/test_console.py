"""The tables on the terminal: their content and the alignment of their columns."""

from pathlib import Path

import report_runs
import scored

from ser_jax.evaluation import comparison
from ser_jax.evaluation.finished_run import FinishedRun
from ser_jax.report import console, run_page
from ser_jax.runtime import files


def make(name: str, seed: int, seeds=(0, 1), **changes) -> FinishedRun:
    return scored.finished(name, rows=scored.make_rows(seed, seeds=seeds), **changes)


def test_summary(tmp_path):
    found = scored.summarise(scored.make_rows(6, seeds=(0, 1, 2)))
    text = console.summary_lines(found, tmp_path / "report.html")
    assert text.startswith("plain_crnn on demo-speaker: 54 utterances, 6 folds x 3 seeds\n")
    assert text.endswith(f"report  {tmp_path / 'report.html'}")
    heading, ua, wa, f1 = text.splitlines()[2:6]
    assert [line.split()[0] for line in (ua, wa, f1)] == ["UA", "WA", "F1"]
    assert f"{100 * found['macro_f1']['mean']:.1f}" in f1
    assert f"ECE {found['calibration']['ece']:.3f}" in text and "too narrow" not in text
    assert "  intervals by jackknife over 6 speakers\n" in text
    assert ua.index(".") < heading.index("std"), "the columns are aligned with their headings"
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_warnings_of_the_summary():
    rows = scored.make_rows(0, speakers=3)
    withheld = scored.Prediction("x", "s0", "f0", 0, "", "sad", (0.0, 0.0, 1.0))
    runs = scored.summarise(rows)["runs"]
    runs[-1]["status"] = "diverged"
    text = console.summary_lines(scored.summarise([*rows, withheld], runs=runs))
    assert "intervals are by utterance, too narrow" in text
    assert "1 of 28 utterances have no label and no score" in text
    assert "1 of 6 trials diverged: f2-1" in text
    assert "seeds left out of the figures because a fold is missing: 1" in text
    assert "–" in console.summary_lines(scored.summarise([], runs=scored.DIVERGED))


def test_summary_without_a_test_part():
    runs = [{"fold": "final", "seed": 0, "status": "done", "best_epoch": 3}]
    lines = console.summary_lines(scored.summarise([], runs=runs), Path("r.html")).splitlines()
    start = "plain_crnn on demo-speaker: 1 model to use; nothing is left to test it"
    assert lines[0].startswith(start)
    assert lines[1].split() == ["best", "epoch", "3"] and "r.html" in lines[-1]


def test_comparison():
    multi = make("runs/elsewhere/balanced/multi", 1, seeds=(0,), parameters=7)
    (group,) = comparison.group_runs([make("plain", 0), multi])
    lines = console.comparison_lines([group]).splitlines()
    assert lines[0] == "demo-speaker decadedecade…: 54 test utterances of 6 speakers"
    heading, first, second = lines[2:5]
    ua, wa, f1 = (group.runs[0].results[score] for score in ("ua", "wa", "macro_f1"))
    low, high = (100 * limit for limit in ua["ci95"])
    assert first.split()[:3] == ["plain", "plain_crnn", "2"]
    assert f"{100 * ua['mean']:.1f} ± {100 * ua['std']:.1f} [{low:.1f}, {high:.1f}]" in first
    for score in (wa, f1):
        assert f" {100 * score['mean']:.1f} ± {100 * score['std']:.1f} " in first
    assert f" {group.runs[0].results['calibration']['ece']:.3f} " in first
    assert first.endswith("189,788  1 min 40 s")
    assert second.split()[0] == "…ere/balanced/multi"
    assert " 7 " in second
    assert len(heading) == len(first) == len(second)
    assert first.index("plain_crnn") == heading.index("system")
    assert "permutation test, all 64 swaps of 6 speakers" in lines[6]
    assert group.test is not None
    (pair,) = group.test.pairs
    low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in pair.ua.ci95)
    assert "plain − …ere/balanced/multi" in lines[9]
    assert f"[{low}, {high}]  {pair.ua.p:.3f}   {pair.ua.holm:.3f}" in lines[9]


def test_trials_that_were_not_trained_alike_are_named_everywhere(tmp_path):
    """On the terminal, on the page of the run and beside others; only what differs."""
    machine = {"processor": "AMD EPYC", "trials": 3}
    ways = [machine | {"training.kernels": kernels} for kernels in ("native", "xla")]
    run = make("half", 0, trained_with=ways)
    sentence = "not trained alike: 3 with training.kernels=native; 3 with training.kernels=xla"
    assert sentence in console.summary_lines(run.results)
    groups = comparison.group_runs([run, make("other", 1, trained_with=ways[:1])])
    assert console.comparison_lines(groups).count("not trained alike") == 1
    results = report_runs.make_run(tmp_path) | {"trained_with": ways}
    files.write_json(tmp_path / "results.json", results)
    page = run_page.write_report(tmp_path).read_text()
    assert sentence in page and "AMD" not in page


def test_every_pair_has_its_corrected_p():
    runs = [make(f"emodb-multi-balanced-{k}", k, parameters=7_320_548) for k in range(3)]
    (group,) = comparison.group_runs(runs)
    lines = console.comparison_lines([group]).splitlines()
    assert max(map(len, lines)) <= 120, "usual runs fit the terminal"
    assert group.test is not None and len(group.test.pairs) == 3
    assert any(pair.ua.p < pair.ua.holm < 1 for pair in group.test.pairs)
    for pair, line in zip(group.test.pairs, lines[-3:], strict=True):
        found = line.replace("[", " ").replace("]", " ").split()
        expected = [f"{p:.3f}" for score in (pair.ua, pair.wa) for p in (score.p, score.holm)]
        assert [found[place] for place in (6, 7, 11, 12)] == expected


def test_groups_are_printed_one_after_the_other_with_a_warning_at_the_end():
    other = make("b", 1, protocol="x", protocol_sha256="y" * 60)
    text = console.comparison_lines(comparison.group_runs([make("a", 0), other]))
    assert text.index("demo-speaker decade") < text.index("x yyyyyyyyyyyy…: 54")
    warning = "warning: not comparable: different protocols (demo-speaker"
    assert text.splitlines()[-1].startswith(warning)
    assert "permutation" not in text, "a single run is compared with none"


def test_a_run_without_scores_has_dashes():
    lost = scored.finished("lost", rows=[], runs=scored.DIVERGED, seconds={"total": 1.0})
    text = console.comparison_lines(comparison.group_runs([lost]))
    assert "\n  lost: seeds left out because a fold is missing: 0\n" in text
    line = text.splitlines()[3]
    assert line.split() == ["lost", "plain_crnn", "0", "–", "–", "–", "–", "189,788", "–"]
