"""The functionals against openSMILE's own reading of the file."""

import sys

import numpy as np
import pytest
import soundfile

from ser_jax.features import functionals
from ser_jax.runtime.errors import UserError


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


def test_the_sets_are_those_of_opensmile(opensmile):
    assert set(functionals.WIDTHS) == {found.name for found in opensmile.FeatureSet}
    for name, width in functionals.WIDTHS.items():
        assert len(set(functionals.feature_names(name))) == width


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("recording", "ComParE_2016"),
        ("speech", "ComParE_2016"),
        ("recording", "eGeMAPSv02"),
        ("recording", "IS09"),
    ],
)
def test_equals_process_file(opensmile, request, source, name):
    path = request.getfixturevalue(source)
    smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.Functionals)
    samples, _ = soundfile.read(path, dtype="float32")
    values = functionals.functionals(samples, name)
    assert values.shape == (functionals.WIDTHS[name],) and values.dtype == np.float32
    np.testing.assert_array_equal(values, smile.process_file(path).to_numpy()[0])


def test_values_are_finite(opensmile):
    for samples in (16000, 960):  # the second is the shortest recording used
        for name in ("ComParE_2016", "eGeMAPSv02"):
            assert np.isfinite(functionals.functionals(noise(samples), name)).all()


def test_full_scale_does_not_wrap(opensmile):
    """Without clipping +1.0 would become -32768 and flatten a square wave to a constant."""
    square = np.where(np.arange(16000) // 40 % 2 == 0, 1.0, -1.0).astype(np.float32)
    softer = square * np.float32(0.999)
    names = functionals.feature_names()
    assert len(set(names)) == 6373
    index = names.index("pcm_RMSenergy_sma_amean")
    loud, soft = (functionals.functionals(samples)[index] for samples in (square, softer))
    assert loud == pytest.approx(soft, rel=0.01)


@pytest.mark.parametrize("error", [OSError("libSMILEapi.so: wrong ELF class"), ImportError("x")])
def test_an_opensmile_that_does_not_load(opensmile, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(opensmile, "Smile", fail)
    functionals._smile.cache_clear()
    with pytest.raises(UserError, match=f"installed but does not load .*{error}.*plain_crnn"):
        functionals.functionals(noise())
    functionals._smile.cache_clear()


def test_without_opensmile(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    functionals._smile.cache_clear()
    message = r'pip install "ser_jax\[hsf\]".*non-commercial.*plain_crnn and multi_crnn'
    names, values = functionals.feature_names, lambda: functionals.functionals(noise())
    for call in (functionals.require_opensmile, names, values):
        with pytest.raises(UserError, match=message):
            call()
