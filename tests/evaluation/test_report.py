"""The page: complete, self-contained and safe, for full and for odd run directories."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page

from ser_jax import atomic, errors
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.evaluation import history, plots, predictions, rejected, report, results

HOSTILE = "<script>alert('x & y')</script>"


def make_run(
    folder: Path,
    *,
    classes=("angry", "happy", "sad"),
    speakers=6,
    seeds=2,
    diverged: tuple[tuple[int, int], ...] = (),
    epochs=5,
    known_speakers=True,
) -> dict[str, Any]:
    """Fills a run directory, one fold per speaker, and returns its results."""
    generator = np.random.default_rng(0)
    rows, runs, lines = [], [], []
    for seed in range(seeds):
        for number in range(speakers):
            fold, bad = f"spk{number}", (number, seed) in diverged
            status = results.DIVERGED if bad else "done"
            runs.append({"fold": fold, "seed": seed, "status": status, "best_epoch": None if bad else epochs or None})
            for epoch in range(1, epochs + 1):
                values = {"loss": None if bad else 1 / epoch, "validation_loss": 1.0, "validation_ua": 0.5}
                lines.append(json.dumps({"fold": fold, "seed": seed, "epoch": epoch, **values}))
            part = [
                Utterance(f"{number}/{i}", f"{number}/{i}.wav", label=c, speaker=f"s{number}" if known_speakers else "")
                for i, c in enumerate(classes * 3)
            ]
            if not bad:
                shares = generator.dirichlet(np.ones(len(classes)), len(part))
                rows += predictions.from_probabilities(part, shares, classes=classes, fold=fold, seed=seed)
    found = results.summarise(
        rows,
        system="plain_crnn",
        parameters=189_788,
        corpus="demo",
        corpus_sha256="c0ffee",
        protocol="demo-speaker",
        protocol_sha256="decade",
        classes=classes,
        runs=runs,
        seconds={"features": 1.0, "compile": 2.0, "train": 100.0, "evaluate": 4.0, "total": 4000.0},
    )
    atomic.write_json(folder / "results.json", found)
    atomic.write_json(folder / "config.json", {"system": "plain_crnn", "corpus": {"root": HOSTILE}})
    atomic.write_json(folder / "versions.json", {"python": "3.11.7", "device": "cpu × 2"})
    folds = [{"name": f"spk{number}", "train": 9, "validation": 9, "test": 9} for number in range(speakers)]
    protocol = {"label_mapping": {"W": classes[0]}, "validation": "the next speaker", "refit": "none", "folds": folds}
    atomic.write_json(folder / "protocol.json", protocol)
    predictions.write_predictions(folder / "predictions.csv", rows, classes)
    rejected.write_rejected(folder / "rejected.csv", [Rejection(f"{HOSTILE}.wav", 3, "too short", "31 ms")])
    if epochs:
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"fold": "spk']))
    return found


def test_page_of_a_full_run(tmp_path):
    found = make_run(tmp_path)
    path = report.write_report(tmp_path)
    assert path == tmp_path / "report.html"
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.tags.count("svg") == 7
    low, high = found["class_recall"]["happy"]["ci95"]
    for expected in (
        f"{100 * found['ua']['mean']:.1f}",
        f"{100 * found['macro_f1']['mean']:.1f}",
        f"[{100 * low:.1f}, {100 * high:.1f}]",
        f"{found['calibration']['brier']:.3f}",
        "plain_crnn on demo-speaker",
        "decade",
        "189,788",
        "1 h 06 min",
        "too short: 1",
        "3.11.7",
    ):
        assert expected in text
    assert "diverged:" not in text and "too narrow" not in text and "temperatures" not in text


def test_page_needs_nothing_from_outside(tmp_path):
    make_run(tmp_path)
    text = report.write_report(tmp_path).read_text("utf-8")
    Page(text).check_self_contained()
    assert str(tmp_path) not in text


def test_names_cannot_become_markup(tmp_path):
    make_run(tmp_path, classes=(HOSTILE, "<b>happy</b>", 'a$b$ & "c"'))
    text = report.write_report(tmp_path).read_text("utf-8")
    page = Page(text)
    assert not {"script", "b"} & set(page.tags)
    assert "&lt;script&gt;" in text


def test_the_same_run_gives_the_same_page(tmp_path):
    make_run(tmp_path)
    first = report.write_report(tmp_path).read_bytes()
    assert report.write_report(tmp_path).read_bytes() == first


def test_an_interval_by_utterance_is_called_too_narrow(tmp_path):
    make_run(tmp_path, speakers=4)
    text = report.write_report(tmp_path).read_text("utf-8")
    assert text.count("by utterance, too narrow") == 4, "in three cards and in the text"


def test_temperatures_are_shown(tmp_path):
    found = make_run(tmp_path)
    found["calibration"]["temperature"] = [1.25, None, 2.5]
    atomic.write_json(tmp_path / "results.json", found)
    assert "temperatures from 1.250 to 2.500" in report.write_report(tmp_path).read_text("utf-8")


def test_rows_of_folds_that_are_not_pooled_are_not_shown(tmp_path):
    """Oracle: the page is the same whether their rows are in the table or not."""
    found = make_run(tmp_path, seeds=1) | {"pooled_folds": [f"spk{number}" for number in range(1, 6)]}
    atomic.write_json(tmp_path / "results.json", found)
    text = report.write_report(tmp_path).read_text("utf-8")
    assert "45 test utterances of 5 speakers" in " ".join(text.split())
    rows, classes = predictions.read_predictions(tmp_path / "predictions.csv")
    predictions.write_predictions(tmp_path / "predictions.csv", [row for row in rows if row.fold != "spk0"], classes)
    assert report.write_report(tmp_path).read_text("utf-8") == text


def test_diverged_runs_are_named(tmp_path):
    make_run(tmp_path, diverged=((2, 1),))
    text = report.write_report(tmp_path).read_text("utf-8")
    assert "1 of 12 runs diverged:" in text
    assert "spk2, seed 1." in text
    assert "left out: a fold is missing" in text


@pytest.mark.parametrize(
    "odd",
    [
        {"speakers": 1, "seeds": 1, "epochs": 1},
        {"speakers": 2, "seeds": 1, "known_speakers": False},
        {"speakers": 2, "seeds": 1, "epochs": 0},
        {"speakers": 1, "seeds": 1, "diverged": ((0, 0),)},
        {"speakers": 40, "seeds": 1, "epochs": 1},
        {"speakers": 5, "seeds": 1, "classes": tuple(f"a rather long emotion {number}" for number in range(11))},
    ],
    ids=["single run", "unknown speakers", "no epochs", "all diverged", "many speakers", "many classes"],
)
def test_odd_runs(tmp_path, odd):
    make_run(tmp_path, **odd)
    Page(report.write_report(tmp_path).read_text("utf-8"))


def test_optional_files_may_be_absent(tmp_path):
    make_run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "rejected.csv").unlink()
    atomic.write_json(tmp_path / "protocol.json", {})
    Page(report.write_report(tmp_path).read_text("utf-8"))


@pytest.mark.parametrize("name", ["results.json", "protocol.json", "versions.json", "config.json", "predictions.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    make_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(errors.UserError, match=f"{name} is missing"):
        report.write_report(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    make_run(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": ')
    with pytest.raises(errors.UserError, match=r"results\.json is damaged"):
        report.write_report(tmp_path)


def test_history_of_an_interrupted_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"fold": "a", "seed": 0, "epoch": 1, "loss": 2.0}',
        '{"fold": "a", "seed": 0, "epo{"fold": "a", "seed": 0, "epoch": 2, "loss": 1.0}',
        '{"fold": "a", "seed": 0, "epoch": 1, "loss": 3.0}',
        '{"fold": "a"',
    ]
    path.write_text("\n".join(lines))
    records, unreadable = history.read_history(path)
    assert [record["loss"] for record in records] == [3.0]
    assert unreadable == 1
    path.write_text(lines[0])
    assert history.read_history(path) == ([json.loads(lines[0])], 0)
    assert history.read_history(tmp_path / "absent") == ([], 0)


def test_history_of_two_phases(tmp_path):
    """An epoch of the second phase does not replace that of the first; only the first is drawn."""
    path = tmp_path / "metrics.jsonl"
    lines = [{"fold": "a", "seed": 0, "phase": phase, "epoch": 1, "loss": float(phase)} for phase in (1, 2)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert history.read_history(path) == (lines, 0)
    make_run(tmp_path)
    once = report.write_report(tmp_path).read_text()
    second = {"fold": "spk0", "seed": 0, "phase": 2, "epoch": 50, "loss": 9.0}
    path.write_text(json.dumps(second) + "\n" + path.read_text())
    assert report.write_report(tmp_path).read_text() == once


def test_many_curves_stay_small():
    records = [
        {"fold": "a", "seed": seed, "epoch": epoch, "loss": (seed * epoch) % 7}
        for seed in range(250)
        for epoch in range(1, 101)
    ]
    svg = plots.learning_curves(records, {"training": "loss"}, label="loss", best={}, percent=False, name="loss")
    assert len(svg) < 1_000_000
