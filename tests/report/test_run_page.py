"""The report of a run: complete, self-contained and safe, for full and for odd run directories."""

import dataclasses
import json
import re
import shlex
from typing import Any

import numpy as np
import pytest
import report_runs
import scored
from pages import Page
from report_runs import HOSTILE, make_run, rows_of

from ser_jax.commands import command_line
from ser_jax.config import get_config
from ser_jax.evaluation import predictions
from ser_jax.report import figures, formats, run_page
from ser_jax.report.train_command import train_command
from ser_jax.runtime import errors, files


def page(folder) -> str:
    return run_page.write_report(folder).read_text("utf-8")


def test_page_of_a_full_run(tmp_path):
    found = make_run(tmp_path)
    path = run_page.write_report(tmp_path)
    assert path == tmp_path / "report.html"
    text = path.read_text("utf-8")
    shown = Page(text)
    shown.check_self_contained()
    assert shown.tags.count("svg") == 8 and str(tmp_path) not in text
    low, high = found["class_recall"]["happy"]["ci95"]
    figures = [f"{100 * found[score]['mean']:.1f}" for score in ("ua", "macro_f1")]
    figures += [f"[{100 * low:.1f}, {100 * high:.1f}]", f"{found['calibration']['brier']:.3f}"]
    words = ("plain_crnn on demo-speaker", "decade", "189,788", "1 h 06 min", "too short: 1")
    for expected in (*figures, *words, "3.11.7"):
        assert expected in text
    assert "diverged:" not in text and "too narrow" not in text and "temperatures" not in text


def test_the_accuracy_of_the_most_confident_predictions_is_shown(tmp_path):
    make_run(tmp_path, seeds=1)
    text = page(tmp_path)
    rows = sorted(rows_of(tmp_path), key=lambda row: -max(row.probabilities))
    for count in (len(rows), len(rows) // 2):
        right = sum(row.label == row.prediction for row in rows[:count])
        cells = [formats.percent(part) for part in (count / len(rows), right / count)]
        cells.append(formats.decimals(max(rows[count - 1].probabilities)))
        assert "".join(f"<td>{cell}</td>" for cell in cells) in text


def make_final(folder, validation=(0.8, 0.9)):
    """Fills a run directory of a final model with two seeds, which has no test part."""
    folder.mkdir()
    found = make_run(folder, speakers=1)
    runs = [{"fold": "final", "seed": k, "best_epoch": 4, "status": "done"} for k in (0, 1)]
    found = scored.summarise([], runs=runs, protocol="demo-final")
    files.write_json(folder / "results.json", found)
    predictions.write_predictions(folder / "predictions.csv", [], found["classes"])
    for seed, ua in enumerate(validation):
        place = folder / f"models/final-{seed}"
        place.mkdir(parents=True)
        scores = {"ua": ua, "wa": 0.7, "loss": 0.5}
        files.write_json(place / "model.json", {"validation": None if seed else scores})
        if seed:  # It was trained again.
            files.write_json(place / "choice.json", {"validation": scores})
    return found


@pytest.mark.parametrize(
    "change", ["", "recordings", "recipe", "damaged", "closed"], ids=lambda change: change or "same"
)
def test_page_of_a_final_model(tmp_path, monkeypatch, change):
    """Validation scores, and those of the cross-validation beside it, if there is one."""
    make_final(tmp_path / "final")
    other = tmp_path / "crossed"
    other.mkdir()
    found = make_run(other)
    if change == "recordings":
        files.write_json(other / "results.json", found | {"corpus_sha256": "0"})
    if change == "recipe":
        config = {"system": "plain_crnn", "training": {"epochs": 7}}
        files.write_json(other / "config.json", config)
    if change == "damaged":
        (other / "results.json").write_text("{")
    if change == "closed":
        monkeypatch.setattr("pathlib.Path.iterdir", lambda _: open("/no/folder"))
    text = page(tmp_path / "final")
    Page(text).check_self_contained()
    words = " ".join(text.split())
    assert "0 test utterances" not in words and "a model to use" in words
    assert '<h3>UA, validation part</h3> <p class="figure">85.0 %</p>' in words
    score = f'<h3>UA to expect</h3> <p class="figure">{100 * found["ua"]["mean"]:.1f} %</p>'
    assert (score in words) == (not change) and ("unknown" in words) == bool(change)
    assert ("cross-validation <code>crossed</code>" in words) == (not change)
    assert ("--config.protocol.name=auto" in words) == bool(change)


def test_slices_have_counts_and_intervals(tmp_path):
    make_run(tmp_path)
    words = " ".join(page(tmp_path).split())
    assert re.search(r"<small>n 9, <span[^>]*>\[\d+\.\d, \d+\.\d\]</span></small>", words)
    assert words.count("<small>n 3,") == 6 * 3, "three utterances of each class and speaker"


def test_groups_have_a_table_and_the_largest_gap(tmp_path):
    make_run(tmp_path)
    found = [
        dataclasses.replace(row, attributes=(("<gender>", "fm"[int(row.speaker[1:]) % 2]),))
        for row in report_runs.rows_of(tmp_path)
    ]
    path = tmp_path / "predictions.csv"
    predictions.write_predictions(path, found, ("angry", "happy", "sad"))
    words = " ".join(page(tmp_path).split())
    assert "<summary>Recall by &lt;gender&gt;</summary>" in words and "Largest gap: " in words
    assert "&lt;gender&gt; f: only 27 test utterances of 3 speakers" in words


def test_figures_are_drawn_on_the_page_and_not_on_white():
    svg = figures.bars(["a"], np.array([0.5]), label="x", name="x")
    assert "fill: #ffffff" not in svg and "fill: none" in svg


CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"corpus.root": "/data/my corpus"},
    {"system": "hsf_crnn", "model.hsf_dense": (8, 4), "training.learning_rate": 1e-5},
    {"corpus.allow_missing": True, "protocol.folds": "a,b", "corpus.manifest": "it's.csv"},
)


@pytest.mark.parametrize("changes", CONFIGURATIONS)
@pytest.mark.parametrize("preset", [None, "tuned/plain_crnn", "svm"])
def test_the_command_gives_the_configuration_again(preset, changes):
    config = command_line.load_preset(preset) if preset else get_config()
    config.update_from_flattened_dict(changes | {"training.devices": 3})
    words = shlex.split(train_command(config).replace("\\\n", ""))
    assert words[:2] == ["ser-jax", "train"] and "devices" not in " ".join(words)
    found = command_line.parse(command_line.commands()["train"], words[2:]).config
    config.training.devices = 0
    assert found.to_json() == config.to_json()
    assert len(words) <= 4 + len(changes), "the nearest preset is found"


def test_names_cannot_become_markup(tmp_path):
    make_run(tmp_path, classes=(HOSTILE, "<b>happy</b>", 'a$b$ & "c"'))
    text = page(tmp_path)
    assert not {"script", "b"} & set(Page(text).tags)
    assert "&lt;script&gt;" in text


def test_rows_of_folds_that_are_not_pooled_are_not_shown(tmp_path):
    """Oracle: the page is the same whether their rows are in the table or not."""
    found = make_run(tmp_path, seeds=1)
    found["pooled_folds"] = [f"spk{number}" for number in range(1, 6)]
    files.write_json(tmp_path / "results.json", found)
    text = page(tmp_path)
    assert "45 test utterances of 5 speakers" in " ".join(text.split())
    path = tmp_path / "predictions.csv"
    rows, classes = predictions.read_predictions(path)
    predictions.write_predictions(path, [row for row in rows if row.fold != "spk0"], classes)
    assert page(tmp_path) == text


def test_what_a_reader_must_know_is_shown(tmp_path):
    found = make_run(tmp_path, diverged=((2, 1),), speakers=4)
    found["calibration"]["temperature"] = [1.25, None, 2.5]
    files.write_json(tmp_path / "results.json", found)
    files.write_json(tmp_path / "protocol.json", {"notes": ["fold a: 2 speakers are in both"]})
    text = page(tmp_path)
    assert "<p>Fold a: 2 speakers are in both.</p>" in text
    assert "by jackknife over 36 utterances" in text
    assert "temperatures from 1.250 to 2.500" in text
    assert text.count("by utterance, too narrow") == 4, "in three cards and in the text"
    assert "1 of 8 trials diverged:" in text
    assert "spk2-1." in text
    assert "left out: a fold is missing" in text


@pytest.mark.parametrize(
    "odd",
    [
        {"speakers": 1, "seeds": 1, "epochs": 1},
        {"speakers": 2, "seeds": 1, "epochs": 0, "known_speakers": False},
        {"speakers": 1, "seeds": 1, "diverged": ((0, 0),)},
        {"speakers": 40, "seeds": 1, "epochs": 1},
        {"speakers": 5, "classes": tuple(f"a rather long emotion {k}" for k in range(11))},
    ],
    ids=["single trial", "unknown speakers, no epochs", "diverged", "speakers", "classes"],
)
def test_odd_runs(tmp_path, odd):
    make_run(tmp_path, **odd)
    Page(page(tmp_path))


def test_optional_files_may_be_absent(tmp_path):
    make_run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "rejected.csv").unlink()
    files.write_json(tmp_path / "protocol.json", {})
    Page(page(tmp_path))


@pytest.mark.parametrize("name", ["results", "protocol", "versions", "config", "predictions"])
def test_a_missing_file_is_named(tmp_path, name):
    make_run(tmp_path)
    next(tmp_path.glob(f"{name}.*")).unlink()
    with pytest.raises(errors.UserError, match=rf"{name}\.(json|csv) is missing"):
        run_page.write_report(tmp_path)


def test_the_second_phase_is_not_drawn_and_pages_are_reproducible(tmp_path):
    make_run(tmp_path)
    once = page(tmp_path)
    assert page(tmp_path) == once
    path = tmp_path / "metrics.jsonl"
    second = {"fold": "spk0", "seed": 0, "phase": 2, "epoch": 50, "loss": 9.0}
    path.write_text(json.dumps(second) + "\n" + path.read_text())
    assert page(tmp_path) == once


def test_many_curves_stay_small():
    records = [
        {"fold": "a", "seed": seed, "epoch": epoch, "loss": (seed * epoch) % 7}
        for seed in range(250)
        for epoch in range(1, 101)
    ]
    style = {"label": "loss", "best": {}, "percent": False, "name": "loss"}
    svg = figures.learning_curves(records, {"training": "loss"}, **style)
    assert len(svg) < 1_000_000
