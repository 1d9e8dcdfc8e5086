"""Features of changed recordings: those of a file that sounds so."""

from typing import Any

import numpy as np
import soundfile

from ser_jax.features import changes, stressed
from ser_jax.features.audio import USUAL, Mix
from ser_jax.features.logmel import LogMelSettings, log_mel

RATE = 16000
VOICES = tuple(np.random.default_rng(n).normal(0, 0.1, 8000).astype(np.float32) for n in (5, 6))
FRONT_END = LogMelSettings(16000, 0.025, 0.010, 1024, 40, 0.0, 8000.0, 1e-10)


def speech() -> np.ndarray:
    """Half a second of noise, 0.2 s of almost nothing a little behind the middle, noise again."""
    level = np.repeat([0.1, 1e-4, 0.1], [9600, 3200, 4800])
    return (level * np.random.default_rng(0).standard_normal(17600)).astype(np.float32)


def computed(path, mix=USUAL) -> Any:
    job = stressed.Job("a", path, None, None, VOICES)
    settings = {"kinds": ("logmel",), "settings": FRONT_END, "max_seconds": 10.0, "seed": 0}
    return stressed.compute(job, mix=mix, feature_set="ComParE_2016", **settings)


def test_features_are_those_of_a_file_that_sounds_so(tmp_path):
    """With the level of the model's own front end, and clipped at full scale."""
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(), RATE, subtype="FLOAT")
    found = computed(path)
    assert list(found) == list(changes.changes(VOICES))
    louder = np.clip(speech() * 10, -1, 1)
    np.testing.assert_allclose(
        found["20 dB louder"].features["logmel"], log_mel(louder, FRONT_END), atol=1e-4
    )
    levelled = computed(path, Mix(level="rms"))
    same = [levelled[name].features["logmel"] for name in (changes.UNCHANGED, "20 dB quieter")]
    np.testing.assert_allclose(same[0], same[1], atol=1e-3)


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert computed(tmp_path / "a.wav").reason == "unreadable"
