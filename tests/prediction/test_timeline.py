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
from hypothesis import given, settings
from hypothesis import strategies as st

import ser_jax
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.prediction import timeline, timeline_files, timelines
from ser_jax.prediction.ensemble import Answer, make_decision
from ser_jax.prediction.timeline import Envelope, Plan, Timeline, make_plan
from ser_jax.runtime.errors import UserError

DECISION = make_decision(("angry", "sad"), (), 0.0)
PLAN = Plan(3.0, None)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run") / "plain", "plain_crnn")


@pytest.fixture(scope="module")
def predictor(run) -> Any:
    return ser_jax.load(run)


def by_hand(labels: tuple[str | None, ...], start: float = 0.0) -> Timeline:
    """Segments of 0.3 s every 0.2 s; the recording goes on for 0.1 s behind the last."""
    begins = start + 0.2 * np.arange(len(labels))
    rows = {"angry": (0.75, 0.25), "sad": (0.25, 0.75), None: (np.nan, np.nan)}
    rows["no speech"] = rows[None]
    shares = np.array([rows[label] for label in labels])
    envelope = Envelope()
    envelope.add(np.sin(np.arange(1000, dtype=np.float32)))
    seconds = 0.2 * len(labels) + 0.2
    return Timeline(
        *("a/b.wav", start, seconds, (), Answer("sad", {"angry": 0.4, "sad": 0.6})),
        *(np.stack([begins, begins + 0.3], axis=1), shares[:, ::-1], shares, labels, envelope),
        *(DECISION, PLAN, "a model"),
    )


def test_a_timeline_is_what_the_stream_says_of_the_file(predictor, tmp_path):
    """Longer than training accepts (120 s), at another rate, in stereo, flac, and as a span."""
    samples = np.stack([made_runs.speech(130, 8000)] * 2, axis=1)
    soundfile.write(tmp_path / "long.flac", samples, 8000)
    decision = predictor.decision(("angry", "sad"), 0.6)
    seen = []
    span = Utterance("x", str(tmp_path / "long.flac"), 4.0, 129.5)
    found = timeline.follow(predictor, span, PLAN, decision, lambda *s: seen.append(s))
    assert (found.start, found.seconds) == (4.0, 125.5)
    assert found.flags == ("odd rate", "several channels", "low rate")
    assert len(seen) > 10 and sum(done for done, _ in seen) == pytest.approx(125.5)
    np.testing.assert_allclose(found.times[:2], [(4.0, 4.315), (4.2, 4.515)])
    assert len(found.times) == len(found.answers) == (round(125.475 * 100) + 1 - 30) // 20 + 1
    np.testing.assert_allclose(found.window.sum(axis=1), 1)
    assert set(found.answers) <= {"angry", "sad", None}
    stored, _ = soundfile.read(tmp_path / "long.flac", dtype="float32")
    cut = predictor.predict(stored[32000 : 32000 + 8 * 700], 8000, classes=("angry", "sad"))
    at = int(np.searchsorted(found.times[:, 1], 4.7)) - 1  # the last segment of the first 0.7 s
    expected = list(cut.probabilities.values())
    np.testing.assert_allclose(found.so_far[at], expected, atol=2e-3)  # the resampler's end differs


def test_intervals_tile_the_recording_and_equal_neighbours_are_one():
    """Edges lie in the middle of what overlaps."""
    found = by_hand(("sad", "sad", None, "angry", "sad"), start=10.0)
    edges = [10.0, 10.25, 10.45, 10.65, 10.85, 11.2]
    np.testing.assert_allclose(found.edges(), edges)
    begins, ends, labels = zip(*found.intervals(), strict=True)
    assert labels == ("sad", None, "angry", "sad")
    np.testing.assert_allclose(begins, [edges[0], *edges[2:5]])
    np.testing.assert_allclose(ends, edges[2:])


def test_without_a_segment_there_is_one_interval_without_a_name(predictor, tmp_path):
    soundfile.write(tmp_path / "short.wav", made_runs.speech(0.2), 16000)
    decision, recording = predictor.decision(), Utterance("x", str(tmp_path / "short.wav"))
    found = timeline.follow(predictor, recording, PLAN, decision)
    assert list(found.intervals()) == [(0.0, pytest.approx(0.2), None)]
    assert found.answer.label is not None
    for form in timeline_files.SUFFIXES:
        timeline_files.write(tmp_path / f"x.{form}", form, found)


def test_plans(predictor, tmp_path):
    assert make_plan(predictor, None, None) == PLAN
    assert make_plan(predictor, 5.0, None) == Plan(5.0, None)
    assert make_plan(predictor, 5.0, 1.0) == Plan(5.0, 1.0)
    assert make_plan(predictor, None, 1.0) == Plan(3.0, 1.0)
    whole = ser_jax.load(made_runs.make_run(tmp_path / "end2you", "end2you", models=1))
    assert make_plan(whole, 4.0, None) == Plan(4.0, 2.0)
    assert make_plan(whole, None, None) == Plan(3.0, 1.5)


def written(folder: Path, form: str, found: Timeline) -> str:
    path = folder / f"x{timeline_files.SUFFIXES[form]}"
    timeline_files.write(path, form, found)
    return path.read_text()


def test_csv(tmp_path):
    rows = list(csv.reader(written(tmp_path, "csv", by_hand(("sad", None))).splitlines()))
    assert rows[0] == ["start", "end", "label", "p_angry", "p_sad", "so_far_angry", "so_far_sad"]
    assert rows[1] == ["0.0", "0.3", "sad", "0.25", "0.75", "0.75", "0.25"]
    assert rows[2][2:] == [""] * 5


def test_json(tmp_path):
    found = json.loads(written(tmp_path, "json", by_hand(("sad", None))))
    first, second = found["moments"]
    shares = {"window": {"angry": 0.25, "sad": 0.75}, "so_far": {"angry": 0.75, "sad": 0.25}}
    assert first == {"start": 0, "end": 0.3, "label": "sad", **shares}
    assert second["label"] is None and second["window"] is None
    expected = {"label": "sad", "window_seconds": 3, "hop_seconds": None, "model": "a model"}
    assert found.items() >= expected.items()


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
    expected = "0.000000\t0.250000\tsad ly\n0.450000\t0.800000\tangry\n"
    assert written(tmp_path, "audacity", found) == expected


def test_drawings():
    found = by_hand(("sad", None, "angry"))
    drawn = timeline_files.draw(found, "svg")
    assert drawn == timeline_files.draw(found, "svg")
    assert drawn != timeline_files.draw(by_hand(("sad",)), "svg")
    for text in (b">b.wav<", b">angry<", b">sad<", b"time in s"):
        assert text in drawn
    assert found._repr_png_().startswith(b"\x89PNG")


def test_a_long_timeline_is_averaged(monkeypatch):
    """By hand: five rows in columns of two; silence counts in no mean."""
    monkeypatch.setattr(timeline_files, "MOST_COLUMNS", 3)
    found = by_hand(("sad", "angry", None, "angry", None))
    edges, shares, step = timeline_files.columns(found)
    assert step == 2
    np.testing.assert_allclose(edges, [0.0, 0.45, 0.85, 1.2])
    np.testing.assert_allclose(shares, [(0.5, 0.5), (0.75, 0.25), (np.nan, np.nan)])


def test_an_hour_is_drawn_in_minutes_and_no_more_than_that():
    hour = timeline_files.draw(by_hand(("sad", "angry", "angry") * 6000), "svg")
    assert len(hour) < 300_000
    note = b">height: probability, full colour: the answer, means over 10 s<"
    for text in (b">time in h:min:s<", b">10:00<", b">1:00:00<", note):
        assert text in hour, text
    assert [timeline_files.clock(s) for s in (0, 65, 3599, 3605.2)] == [
        *("0:00", "1:05", "59:59", "1:00:05")
    ]


def test_silence_is_a_word_on_the_terminal():
    lines = timelines.text(by_hand(("sad", "no speech"))).splitlines()
    assert lines[0].split()[3:] == ["sad", "angry", "0.250", "sad", "0.750"]
    assert lines[1].split() == ["0.20", "0.50", "s", "no", "speech"]


def test_it_says_what_it_is():
    text = "<Timeline of b.wav, 0.8 s: 3 rows (sad 2, no answer 1)>"
    assert repr(by_hand(("sad", None, "sad"))) == text


def test_from_the_loaded_model(predictor, tmp_path):
    """Of a file, of its samples as an array and as a list; written as the name ends."""
    samples = np.round(made_runs.speech(2.0) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    of_file = predictor.timeline(tmp_path / "a.wav", start=0.5, hop=0.5, window=1)
    assert of_file.times.tolist() == [[0.5, 1.5], [1.0, 2.0]] and of_file.file.endswith("a.wav")
    for form in (samples, samples.tolist()):
        found = predictor.timeline(form, 16000, start=0.5, hop=0.5, window=1)
        np.testing.assert_array_equal(found.window, of_file.window)
        np.testing.assert_array_equal(found.times, of_file.times)
        assert repr(found).startswith("<Timeline of samples, 1.5 s: 2 rows (")
    of_file.write(tmp_path / "a.TextGrid")
    assert "IntervalTier" in (tmp_path / "a.TextGrid").read_text()
    with pytest.raises(UserError, match=r"a.doc: a timeline ends in .csv, .json"):
        of_file.write(tmp_path / "a.doc")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no.wav",), "no.wav cannot be used: missing"),
        (("no.wav", 16000), "rate=16000 is for samples"),
        ((np.ones(16000),), "samples need their rate"),
        ((np.ones((9, 9, 9)), 16000), "the samples cannot be used: unreadable"),
        ((["a.wav", "b.wav"],), "a timeline is of one recording: call timeline for each"),
    ],
)
def test_what_the_loaded_model_cannot_follow(predictor, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        predictor.timeline(*arguments)


def test_what_cannot_be_written_is_said(tmp_path):
    sentence = r"--output=.*x.csv cannot be written: No such file or directory; name another"
    with pytest.raises(UserError, match=sentence):
        written(tmp_path / "no", "csv", by_hand(("sad",)))


def test_places(tmp_path):
    one, other = Utterance("1", "/c/a/x.wav"), Utterance("2", "/c/b/x.wav", 1.0, None)
    bad = Rejection("list.csv", 3, "missing", "")
    assert timelines.output_places([one, other], None, "") == [None, None]
    for ending, form in (("JSON", "json"), ("textgrid", "textgrid"), ("txt", "audacity")):
        file = tmp_path / f"t.{ending}"
        assert timelines.output_places([one], file, "") == [(file, form)]
    out = tmp_path / "out"
    expected = [(out / "a/x.svg", "svg"), None, (out / "b/x#1.0-end.svg", "svg")]
    assert timelines.output_places([one, bad, other], out, "svg") == expected
    same = [Utterance("1", "/c/x.wav"), Utterance("2", "/c/x.mp3")]
    expected = [(tmp_path / f"x.{kind}.csv", "csv") for kind in ("wav", "mp3")]
    assert timelines.output_places(same, tmp_path, "") == expected
    expected[1][0].touch()  # Of another model, or of other recordings with these names.
    with pytest.raises(UserError, match=r"1 of the files to write are there .*such as x\.mp3\.csv"):
        timelines.output_places(same, tmp_path, "")


@pytest.mark.parametrize(
    ("count", "output", "form", "sentence"),
    [
        (1, None, "pdf", "--format=pdf is not known; choose one of csv, json, textgrid, audacity,"),
        (1, None, "csv", "--format=csv needs a place"),
        (1, "t.doc", "", r"t.doc: a timeline ends in .csv, .json, .TextGrid, .txt, .png, .svg"),
        (1, "t.csv", "json", "t.csv is no json file; leave --format out, or let it say csv"),
        (2, "t.csv", "", "t.csv is one file for 2 recordings; name a folder"),
        (1, "no/t.csv", "", "there is no folder .*no; make it"),
        (2, "no/out", "", "there is no folder .*no; make it"),
    ],
)
def test_places_that_are_none(tmp_path, count, output, form, sentence):
    place = tmp_path / output if output else None
    with pytest.raises(UserError, match=sentence):
        timelines.output_places([Utterance("", "x.wav")] * count, place, form)


def predict(*arguments: object):
    return command(*map(str, arguments), name="predict")


def test_bad_recordings_are_listed_and_the_rest_is_done(run, tmp_path):
    soundfile.write(tmp_path / "good.wav", made_runs.speech(1.0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    cancelling = np.stack([made_runs.speech(1.0), -made_runs.speech(1.0)], axis=1)
    soundfile.write(tmp_path / "silent.wav", cancelling, 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_bytes(b"nothing")
    output = (f"--output={tmp_path / 'out'}", "--format=textgrid")
    ended = predict(f"--model={run}", tmp_path, "--timeline", *output)
    assert ended.code == 0, ended.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.TextGrid"]
    for name, reason in (("nan", "non-finite"), ("silent", "silent"), ("text", "unreadable")):
        assert f"{name}.wav  cannot be used: {reason} (" in ended.out
    assert "1 of 4 recordings predicted, 3 cannot be used" in ended.out
    (tmp_path / "good.wav").unlink()
    ended = predict(f"--model={run}", tmp_path, "--timeline")
    assert "none of 3 recordings can be used" in ended.refusal


def test_on_the_terminal_it_is_a_line_per_segment(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", made_runs.speech(1.0), 16000)
    windows = ("--timeline", "--window=0.5", "--hop=0.25")
    ended = predict(f"--model={run}", tmp_path / "a.wav", *windows)
    assert ended.code == 0, ended.err
    first, *lines = ended.out.splitlines()
    assert first.startswith(f"{tmp_path / 'a.wav'}  ") and len(lines) == 3
    assert lines[1].split()[:3] == ["0.25", "0.75", "s"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--window=2"], "--window is for timelines; add --timeline"),
        (["--timeline", "--window=0"], "window_seconds=0 is no window; choose more than 0 and up"),
        (["--timeline", "--window=1", "--hop=2"], "hop=2 s is none for windows of 1 s"),
        (["--timeline", "--format=doc"], "--format=doc is not known"),
        (["--timeline", "--classes=angry,bored"], "classes=bored: the model knows angry"),
    ],
)
def test_what_it_cannot_do_it_says(run, tmp_path, arguments, sentence):
    soundfile.write(tmp_path / "a.wav", made_runs.speech(0.5), 16000)
    assert sentence in predict(f"--model={run}", tmp_path / "a.wav", *arguments).refusal


def test_five_samples_in_at_most_four_bins(monkeypatch):
    monkeypatch.setattr(timeline, "MOST_BINS", 4)
    found = Envelope()
    found.add(np.array([1, -1, 5, 2, 3], np.float32))
    np.testing.assert_array_equal(found.ranges(), [[-1, 1], [2, 5], [3, 3]])


@settings(deadline=None)
@given(st.integers(0, 500), st.lists(st.integers(0, 500), max_size=6), st.sampled_from([2, 8, 64]))
def test_it_is_the_range_of_each_stretch_however_it_is_cut(count, cuts, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "MOST_BINS", most)
        samples = np.random.default_rng(count).normal(size=count).astype(np.float32)
        found = Envelope()
        for part in np.split(samples, sorted(cuts)):
            found.add(part)
    parts = [samples[k : k + found._size] for k in range(0, count, found._size)]
    expected = [(part.min(), part.max()) for part in parts]
    np.testing.assert_array_equal(found.ranges(), np.array(expected, np.float32).reshape(-1, 2))
    assert len(expected) <= most + 1
