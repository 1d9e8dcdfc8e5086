"""The ComParE functionals against openSMILE's own reading of the file."""

import sys

import numpy as np
import pytest
import soundfile

from ser_jax.errors import UserError
from ser_jax.features import hsf


@pytest.fixture
def opensmile():
    return pytest.importorskip("opensmile")


def noise(samples=16000):
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


@pytest.fixture
def recording(tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise(), 16000)
    return tmp_path / "noise.wav"


@pytest.fixture
def speech(emodb_root):
    return sorted((emodb_root / "wav").glob("*.wav"))[0]


@pytest.mark.parametrize("source", ["recording", "speech"])
def test_equals_process_file(opensmile, request, source):
    path = request.getfixturevalue(source)
    smile = opensmile.Smile(opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel.Functionals)
    samples, _ = soundfile.read(path, dtype="float32")
    values = hsf.functionals(samples)
    assert values.shape == (hsf.DIMENSION,) and values.dtype == np.float32
    np.testing.assert_array_equal(values, smile.process_file(path).to_numpy()[0])


def test_deterministic_and_finite(opensmile):
    first, second = hsf.functionals(noise()), hsf.functionals(noise())
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(hsf.functionals(noise(960))).all()  # the shortest recording used


def test_full_scale_does_not_wrap(opensmile):
    """Without clipping +1.0 would become -32768 and flatten a square wave to a constant."""
    square = np.where(np.arange(16000) // 40 % 2 == 0, 1.0, -1.0).astype(np.float32)
    softer = square * np.float32(0.999)
    index = hsf.feature_names().index("pcm_RMSenergy_sma_amean")
    assert hsf.functionals(square)[index] == pytest.approx(hsf.functionals(softer)[index], rel=0.01)


def test_names(opensmile):
    names = hsf.feature_names()
    assert len(names) == len(set(names)) == hsf.DIMENSION
    assert names[0] == "audspec_lengthL1norm_sma_range"


def test_without_opensmile(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    hsf._smile.cache_clear()
    for call in (hsf.require_opensmile, hsf.feature_names, lambda: hsf.functionals(noise())):
        with pytest.raises(UserError, match=r'pip install "ser_jax\[hsf\]".*non-commercial.*plain_crnn and multi_crnn'):
            call()
