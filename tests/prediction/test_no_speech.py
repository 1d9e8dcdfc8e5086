"""No speech, no answer: in every mode, for every kind of silence, whatever the preparation."""

import csv
import json
from pathlib import Path
from typing import Any

import made_runs
import numpy as np
import pytest
import soundfile

import ser_jax
from ser_jax.features import audio
from ser_jax.prediction import batch, blocks, live, timeline, timeline_files
from ser_jax.prediction.streaming import Stream
from ser_jax.prediction.windows import Windows

RATE = 16000
NOISE = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
ZEROS = np.zeros(2 * RATE, np.float32)


def with_click(samples: np.ndarray) -> np.ndarray:
    """Two clicks of 20 ms at full scale: too little for speech."""
    changed = samples.copy()
    changed[8000:8320] = changed[20000:20320] = 0.9 * np.sign(NOISE[:320])
    return changed


SILENCES = {
    "zeros": ZEROS,
    "noise of -70 dBFS": 10**-3.5 * NOISE,
    "an offset": ZEROS + np.float32(0.05),
    "clicks": with_click(10**-3.7 * NOISE),
}
FEATURES: dict[str, dict[str, Any]] = {
    "raw": {},
    "prepared": {"remove_dc": True, "trim": "ends", "level": "recording"},
    "utterance": {"normalisation": "utterance"},
    "rms": {"level": "rms"},
}


@pytest.fixture(scope="module", params=FEATURES)
def predictor(request, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("run") / "run"
    run = made_runs.make_run(folder, "plain_crnn", features=FEATURES[request.param])
    return ser_jax.load(run)


def in_every_mode(predictor: Any, samples: np.ndarray, path: Path) -> dict[str, Any]:
    """Mode → answer for all of the samples, and for timelines also the rows' labels."""
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    decision, listed = predictor.decision(), batch.find([str(path)])
    found = {"samples": predictor.predict(samples, RATE), "file": predictor.predict(path)}
    found["table"] = batch.predict(predictor, listed, decision)[0].answer
    found["blocks"] = blocks.predict(predictor, listed, decision)[0].answer
    for name, hop in (("timeline", None), ("windows", 0.5)):
        if name == "timeline" and predictor.mix.level == "rms":
            continue
        plan = timeline.make_plan(predictor, 1.0, hop)
        rows = timeline.follow(predictor, audio.Samples(samples, RATE), plan, decision)
        found[name], found[f"rows: {name}"] = rows.answer, rows
    return found


@pytest.mark.parametrize("silence", SILENCES)
def test_silence_is_no_emotion(predictor, silence, tmp_path):
    found = in_every_mode(predictor, SILENCES[silence], tmp_path / "a.wav")
    for mode, answer in found.items():
        if mode.startswith("rows"):
            assert len(answer.answers) and set(answer.answers) == {"no speech"}, mode
            assert np.isnan(answer.window).all() and np.isnan(answer.so_far).all(), mode
        else:
            assert (answer.label, answer.probabilities) == ("no speech", {}), mode


def test_quiet_speech_is_an_emotion(predictor, tmp_path):
    """40 dB below speech as it is recorded."""
    speech = 0.01 * made_runs.speech(2.0)
    for mode, answer in in_every_mode(predictor, speech, tmp_path / "a.wav").items():
        if mode.startswith("rows"):
            assert set(answer.answers[2:-2]) <= set(made_runs.CLASSES), mode
        else:
            assert answer.label in made_runs.CLASSES and len(answer.probabilities) == 4, mode


def test_silence_within_a_recording(predictor, tmp_path):
    """Between words of a second each lie 3 s of silence: windows of 1 s in it have no answer."""
    word, pause = made_runs.speech(1.0, seed=3), 10**-3.7 * np.tile(NOISE, 2)[: 3 * RATE]
    samples = np.concatenate([word, pause, word])
    for mode, rows in in_every_mode(predictor, samples, tmp_path / "a.wav").items():
        if not mode.startswith("rows"):
            continue
        assert rows.answer.label in made_runs.CLASSES
        inside = [start >= 1.0 and end <= 4.0 for start, end in rows.times]
        late = [end >= 2.6 for _, end in rows.times]  # whose window holds nothing of the word
        for label, silent in zip(rows.answers, np.array(inside) & late, strict=True):
            assert label == "no speech" or not silent, mode
        assert rows.answers[1] != "no speech" != rows.answers[-2], mode


def test_tables_labels_and_lines_say_it(predictor, tmp_path, capsys):
    plan = timeline.make_plan(predictor, 1.0, 0.5)
    rows = timeline.follow(predictor, audio.Samples(ZEROS, RATE), plan, predictor.decision())
    lines = list(csv.DictReader(timeline_files.text("csv", rows).splitlines()))
    assert {line["label"] for line in lines} == {"no speech"} and lines[0]["p_sad"] == ""
    assert 'text = "no speech"' in timeline_files.text("textgrid", rows)
    assert timeline_files.text("audacity", rows).endswith("no speech\n")
    rows.write(tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["label"], record["probabilities"]) == ("no speech", {})
    assert timeline_files.draw(rows, "svg")
    follower = Windows(predictor, RATE, window_seconds=1.0, hop_seconds=0.5)
    if predictor.mix.level != "rms":
        follower = Stream(predictor, RATE)
    for as_json in (False, True):
        show = live.printer(as_json)
        for moment in follower.push(ZEROS):
            show(moment)
    show(follower.finish())
    said = capsys.readouterr().out.splitlines()
    assert (
        all("no speech" in line for line in said) and json.loads(said[-1])["label"] == "no speech"
    )
