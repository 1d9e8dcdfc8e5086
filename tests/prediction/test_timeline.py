"""Timelines: of recordings of any length, in every format, from the command."""

import csv
import json
from pathlib import Path
from typing import Any

import made_runs
import numpy as np
import pytest
import soundfile
from commands import command

import ser_jax
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.errors import UserError
from ser_jax.prediction import timeline, timeline_files, timeline_plot, timeline_run
from ser_jax.prediction.envelope import Envelope
from ser_jax.prediction.rule import Answer, make_rule
from ser_jax.prediction.timeline import Plan, Timeline, make_plan

RULE = make_rule(("angry", "sad"), (), 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run") / "plain", "plain_crnn")


@pytest.fixture(scope="module")
def predictor(run) -> Any:
    return ser_jax.load(run)


def by_hand(labels: tuple[str | None, ...], start: float = 0.0) -> Timeline:
    """Segments of 0.3 s every 0.2 s; the recording goes on for 0.1 s behind the last."""
    begins = start + 0.2 * np.arange(len(labels))
    shares = np.array(
        [{"angry": (0.75, 0.25), "sad": (0.25, 0.75)}.get(label or "", (np.nan,) * 2) for label in labels]
    )
    envelope = Envelope()
    envelope.add(np.sin(np.arange(1000, dtype=np.float32)))
    seconds = 0.2 * len(labels) + 0.2
    return Timeline(
        *("a/b.wav", start, seconds, (), Answer("sad", {"angry": 0.4, "sad": 0.6})),
        *(np.stack([begins, begins + 0.3], axis=1), shares[:, ::-1], shares, labels, envelope),
    )


# --- Values -----------------------------------------------------------------------------------------------------------


def test_a_timeline_is_what_the_stream_says_of_the_file(predictor, tmp_path):
    """Longer than training accepts (120 s), at another rate, in stereo, flac, and as a span."""
    samples = np.stack([made_runs.speech(130, 8000)] * 2, axis=1)
    soundfile.write(tmp_path / "long.flac", samples, 8000)
    rule = predictor.rule(("angry", "sad"), 0.6)
    seen = []
    found = timeline.follow(
        predictor,
        Utterance("x", str(tmp_path / "long.flac"), 4.0, 129.5),
        Plan(3.0, None),
        rule,
        lambda *s: seen.append(s),
    )
    assert (found.start, found.seconds, found.flags) == (4.0, 125.5, ("odd rate", "several channels"))
    assert len(seen) > 10 and sum(done for done, _ in seen) == pytest.approx(125.5)
    np.testing.assert_allclose(found.times[:2], [(4.0, 4.315), (4.2, 4.515)])
    assert len(found.times) == len(found.answers) == (round(125.475 * 100) + 1 - 30) // 20 + 1
    np.testing.assert_allclose(found.window.sum(axis=1), 1)
    assert set(found.answers) <= {"angry", "sad", None}
    stored, _ = soundfile.read(tmp_path / "long.flac", dtype="float32")
    cut = predictor.predict(stored[32000 : 32000 + 8 * 700], 8000, classes=("angry", "sad")).probabilities
    at = int(np.searchsorted(found.times[:, 1], 4.7)) - 1  # the last segment of the first 0.7 s
    np.testing.assert_allclose(found.so_far[at], list(cut.values()), atol=2e-3)  # the resampler's last samples differ


def test_edges_lie_in_the_middle_of_what_overlaps():
    found = by_hand(("sad", "sad", None, "angry", "sad"), start=10.0)
    np.testing.assert_allclose(found.edges(), [10.0, 10.25, 10.45, 10.65, 10.85, 11.2])


def test_intervals_tile_the_recording_and_equal_neighbours_are_one():
    found = list(by_hand(("sad", "sad", None, "angry", "sad"), start=10.0).intervals())
    expected = [(10.0, 10.45, "sad"), (10.45, 10.65, None), (10.65, 10.85, "angry"), (10.85, 11.2, "sad")]
    assert [label for *_, label in found] == [label for *_, label in expected]
    np.testing.assert_allclose([times for *times, _ in found], [times for *times, _ in expected])


def test_without_a_segment_there_is_one_interval_without_a_name(predictor, tmp_path):
    soundfile.write(tmp_path / "short.wav", made_runs.speech(0.2), 16000)
    found = timeline.follow(predictor, Utterance("x", str(tmp_path / "short.wav")), Plan(3.0, None), predictor.rule())
    assert list(found.intervals()) == [(0.0, pytest.approx(0.2), None)] and found.answer.label is not None
    for form in timeline_files.SUFFIXES:
        timeline_files.write(tmp_path / f"x.{form}", form, found, predictor.rule(), Plan(3.0, None), "x")


def test_plans(predictor, tmp_path):
    assert make_plan(predictor, None, None) == Plan(3.0, None)
    assert make_plan(predictor, 5.0, None) == Plan(5.0, None)
    assert make_plan(predictor, 5.0, 1.0) == Plan(5.0, 1.0)
    with pytest.raises(UserError, match="--hop=1 is the distance of windows; name their length, too"):
        make_plan(predictor, None, 1.0)
    whole = ser_jax.load(made_runs.make_run(tmp_path / "end2you", "end2you", models=1))
    assert make_plan(whole, 4.0, None) == Plan(4.0, 2.0)
    with pytest.raises(UserError, match="end2you needs the whole utterance .* --timeline --window=3"):
        make_plan(whole, None, None)


# --- Files ------------------------------------------------------------------------------------------------------------


def written(folder: Path, form: str, found: Timeline) -> str:
    path = folder / f"x{timeline_files.SUFFIXES[form]}"
    timeline_files.write(path, form, found, RULE, Plan(3.0, None), "a model")
    return path.read_text()


def test_csv(tmp_path):
    rows = list(csv.reader(written(tmp_path, "csv", by_hand(("sad", None))).splitlines()))
    assert rows[0] == ["start", "end", "label", "p_angry", "p_sad", "so_far_angry", "so_far_sad"]
    assert rows[1] == ["0.0", "0.3", "sad", "0.25", "0.75", "0.75", "0.25"] and rows[2][2:] == [""] * 5


def test_json(tmp_path):
    found = json.loads(written(tmp_path, "json", by_hand(("sad", None))))
    first, second = found["moments"]
    assert (first["start"], first["end"], first["label"]) == (0, 0.3, "sad")
    assert first["window"] == {"angry": 0.25, "sad": 0.75} and first["so_far"] == {"angry": 0.75, "sad": 0.25}
    assert second["label"] is None and second["window"] is None
    assert (found["label"], found["window_seconds"], found["hop_seconds"], found["model"]) == (
        "sad",
        3,
        None,
        "a model",
    )


def test_text_grid(tmp_path):
    found = by_hand(("sad", "angry"))
    object.__setattr__(found, "answers", ('sa"d', None))
    lines = [line.strip() for line in written(tmp_path, "textgrid", found).splitlines()]
    assert lines[:2] == ['File type = "ooTextFile"', 'Object class = "TextGrid"']
    assert lines[lines.index("intervals: size = 2") :] == [
        *("intervals: size = 2", "intervals [1]:", "xmin = 0.0", "xmax = 0.25", 'text = "sa""d"'),
        *("intervals [2]:", "xmin = 0.25", "xmax = 0.6000000000000001", 'text = ""'),
    ]


def test_audacity(tmp_path):
    found = by_hand(("sad", "angry", "angry"))
    object.__setattr__(found, "answers", ("sad\tly", None, "angry"))
    assert written(tmp_path, "audacity", found) == "0.000000\t0.250000\tsad ly\n0.450000\t0.800000\tangry\n"


def test_drawings(tmp_path):
    found = by_hand(("sad", None, "angry"))
    drawn = timeline_plot.draw(found, RULE, "svg")
    assert drawn == timeline_plot.draw(found, RULE, "svg") and drawn != timeline_plot.draw(
        by_hand(("sad",)), RULE, "svg"
    )
    for text in (b">b.wav<", b">angry<", b">sad<", b"time in s"):
        assert text in drawn
    assert timeline_plot.draw(found, RULE, "png").startswith(b"\x89PNG")


def test_a_long_timeline_is_a_small_drawing(monkeypatch):
    found = by_hand(("sad", "angry") * 300)
    vector = timeline_plot.draw(found, RULE, "svg")
    monkeypatch.setattr(timeline_plot, "MOST_VECTOR_POINTS", 100)
    assert b"<image" in timeline_plot.draw(found, RULE, "svg") and b"<image" not in vector


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(UserError, match=r"--output=.*x.csv cannot be written: No such file or directory; name another"):
        timeline_files.write(tmp_path / "no/x.csv", "csv", by_hand(("sad",)), RULE, Plan(3.0, None), "")


# --- Places -----------------------------------------------------------------------------------------------------------


def test_places(tmp_path):
    one, other = Utterance("1", "/c/a/x.wav"), Utterance("2", "/c/b/x.wav", 1.0, None)
    bad = Rejection("list.csv", 3, "missing", "")
    assert timeline_run.places([one, other], None, "") == [None, None]
    for ending, form in ((".csv", "csv"), (".JSON", "json"), (".textgrid", "textgrid"), (".txt", "audacity")):
        assert timeline_run.places([one], tmp_path / f"t{ending}", "") == [(tmp_path / f"t{ending}", form)]
    out = tmp_path / "out"
    expected = [(out / "a/x.svg", "svg"), None, (out / "b/x#1.0-end.svg", "svg")]
    assert timeline_run.places([one, bad, other], out, "svg") == expected
    same = [Utterance("1", "/c/x.wav"), Utterance("2", "/c/x.mp3")]
    assert timeline_run.places(same, tmp_path, "") == [(tmp_path / f"x.{kind}.csv", "csv") for kind in ("wav", "mp3")]


@pytest.mark.parametrize(
    ("count", "output", "form", "sentence"),
    [
        (1, None, "pdf", "--format=pdf is not known; choose one of csv, json, textgrid, audacity, png, svg"),
        (1, None, "csv", "--format=csv needs a place"),
        (1, "t.doc", "", r"t.doc: a timeline ends in .csv, .json, .TextGrid, .txt, .png, .svg"),
        (1, "t.csv", "json", "t.csv is no json file; leave --format out, or let it say csv"),
        (2, "t.csv", "", "t.csv is one file for 2 recordings; name a folder"),
        (1, "no/t.csv", "", "there is no folder .*no; make it"),
        (2, "no/out", "", "there is no folder .*no; make it"),
    ],
)
def test_places_that_are_none(tmp_path, count, output, form, sentence):
    with pytest.raises(UserError, match=sentence):
        timeline_run.places([Utterance("", "x.wav")] * count, tmp_path / output if output else None, form)


# --- The command ------------------------------------------------------------------------------------------------------


def predict(*arguments: object):
    return command(*map(str, arguments), module="ser_jax.predict")


def test_bad_recordings_are_listed_and_the_rest_is_done(run, tmp_path):
    soundfile.write(tmp_path / "good.wav", made_runs.speech(1.0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    (tmp_path / "text.wav").write_bytes(b"nothing")
    ended = predict(f"--model={run}", tmp_path, "--timeline", f"--output={tmp_path / 'out'}", "--format=textgrid")
    assert ended.code == 0, ended.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.TextGrid"]
    for name, reason in (("nan", "non-finite"), ("silent", "silent"), ("text", "unreadable")):
        assert f"{name}.wav  cannot be used: {reason} (" in ended.out
    assert "1 of 4 recordings predicted, 3 cannot be used" in ended.out
    (tmp_path / "good.wav").unlink()
    assert "none of 3 recordings can be used" in predict(f"--model={run}", tmp_path, "--timeline").refusal


def test_on_the_terminal_it_is_a_line_per_segment(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", made_runs.speech(1.0), 16000)
    ended = predict(f"--model={run}", tmp_path / "a.wav", "--timeline", "--window=0.5", "--hop=0.25")
    assert ended.code == 0, ended.err
    first, *lines = ended.out.splitlines()
    assert first.startswith(f"{tmp_path / 'a.wav'}  ") and len(lines) == 3
    assert lines[1].split()[:3] == ["0.25", "0.75", "s"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--window=2"], "--window is for timelines; add --timeline"),
        (["--timeline", "--window=0"], "window_seconds=0 is no window; choose more than 0 and up to 600 s"),
        (["--timeline", "--window=1", "--hop=2"], "hop=2 s is none for windows of 1 s"),
        (["--timeline", "--format=doc"], "--format=doc is not known"),
        (["--timeline", "--classes=angry,bored"], "classes=bored: the model knows angry"),
    ],
)
def test_what_it_cannot_do_it_says(run, tmp_path, arguments, sentence):
    soundfile.write(tmp_path / "a.wav", made_runs.speech(0.5), 16000)
    assert sentence in predict(f"--model={run}", tmp_path / "a.wav", *arguments).refusal
