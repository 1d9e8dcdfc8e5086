"""Names that differ in spelling only: found in every folder on the way, and never the name itself."""

import os

import pytest

from ser_jax.corpora.near_names import NearNames


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Wav/S1").mkdir(parents=True)
    for name in ("Wav/S1/A.WAV", "Wav/S1/u\u0308.wav", "Wav/b.wav", "Wav/B.wav"):
        (tmp_path / name).touch()
    (tmp_path / "Wav/broken.wav").symlink_to("nothing")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "there"),
    [
        ("wav/s1/a.wav", "Wav/S1/A.WAV"),
        ("./Wav//S1/a.wav", "Wav/S1/A.WAV"),
        ("Wav/S1/\u00fc.wav", "Wav/S1/u\u0308.wav"),
        ("WAV/S1/\u00dc.wav", "Wav/S1/u\u0308.wav"),
        ("wav/b.wav", "Wav/B.wav"),  # of two the first in order
        ("Wav/S1/c.wav", ""),
        ("Wav/S2/A.WAV", ""),
        ("Wav/b.wav/A.WAV", ""),
        ("Wav/broken.wav", ""),  # it is there, but leads nowhere: the spelling is not what is wrong
        ("Wav/S1", ""),
        ("a\0b/c.wav", ""),
    ],
)
def test_names(root, file, there):
    assert NearNames(root).find(file) == there


def test_a_folder_is_listed_once(root, monkeypatch):
    listed, original = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or original(folder))
    near = NearNames(root)
    assert [near.find(f"wav/s1/{name}.wav") for name in "abcabc"] == ["Wav/S1/A.WAV", "", "", "Wav/S1/A.WAV", "", ""]
    assert listed == [root / "", root / "Wav", root / "Wav/S1"]
