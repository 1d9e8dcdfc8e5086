import collections
import shutil
from pathlib import Path

import pytest
import releases

from ser_jax.corpora import emodb
from ser_jax.corpora.listing import Unusable
from ser_jax.errors import UserError


def read(root: Path, allow_missing: bool = False):
    return emodb.read(root, allow_missing=allow_missing)


def test_all_seven_emotions_and_names_with_and_without_version(tmp_path):
    names = ["03a01Wa.wav", "03a01L.wav", "08b02Ef.wav", "08c10A.wav", "16b10Fb.wav", "16a07Tc.wav", "10a05Nd.wav"]
    release = releases.write_emodb(tmp_path, names, seconds=0.01)
    corpus = read(release)
    assert {row.id: (row.label, row.speaker) for row in corpus.utterances} == {
        "wav/03a01Wa": ("angry", "03"),
        "wav/03a01L": ("boredom", "03"),
        "wav/08b02Ef": ("disgust", "08"),
        "wav/08c10A": ("fear", "08"),
        "wav/16b10Fb": ("happy", "16"),
        "wav/16a07Tc": ("sad", "16"),
        "wav/10a05Nd": ("neutral", "10"),
    }
    ids = [row.id for row in corpus.utterances]
    assert ids == sorted(ids)
    assert {(row.session, row.split) for row in corpus.utterances} == {("", "")}
    assert corpus.protocol == "emodb4-speaker10"
    assert sorted(corpus.label_mapping) == sorted("WLEAFTN")
    assert (corpus.rejected, corpus.warnings, corpus.modified) == ((), (), False)


def test_the_wav_folder_is_the_same_corpus(tmp_path, monkeypatch):
    release = releases.write_emodb(tmp_path, releases.emodb_names(), seconds=0.01)
    corpus = read(release)
    assert corpus.root == release
    assert read(release / "wav") == corpus
    monkeypatch.chdir(release / "wav")
    assert read(Path(".")) == corpus


def test_a_wav_folder_that_is_a_link_keeps_the_root_of_the_release(tmp_path):
    release = releases.write_emodb(tmp_path, releases.emodb_names(), seconds=0.01)
    shutil.move(release / "wav", tmp_path / "elsewhere")
    (release / "wav").symlink_to(tmp_path / "elsewhere")
    assert read(release / "wav") == read(release)
    assert read(release).utterances[0].id == "wav/03a01Fa"


def test_a_flat_folder(tmp_path):
    release = releases.write_emodb(tmp_path, releases.emodb_names(), seconds=0.01, folder="")
    corpus = read(release)
    assert corpus.root == release
    assert corpus.utterances[0].id == "03a01Fa" and corpus.path(corpus.utterances[0]).is_file()


@pytest.mark.parametrize(
    "name", ["03a01Xa.wav", "3a01Wa.wav", "03d01Wa.wav", "03a01Wg.wav", "noise.wav", "03a01Wa.WAV"]
)
def test_a_bad_name_is_rejected(tmp_path, name):
    release = releases.write_emodb(tmp_path, ["03a01Wb.wav", name], seconds=0.01)
    corpus = read(release)
    [rejection] = corpus.rejected
    assert (rejection.file, rejection.line, rejection.reason) == (f"wav/{name}", None, "bad name")
    assert f"wav/{name}: bad name" in corpus.warnings[0]
    assert [row.id for row in corpus.utterances] == ["wav/03a01Wb"]


def test_no_recording_of_emodb(tmp_path):
    with pytest.raises(UserError, match=r"corpus.root=.*: 0 wav files in .*, none named as in EMO-DB \(03a01Fa.wav\)"):
        read(tmp_path)
    (tmp_path / "other.wav").touch()
    with pytest.raises(UserError, match=": 1 wav files in "):
        read(tmp_path)


def test_a_link_to_nothing_is_missing(tmp_path):
    release = releases.write_emodb(tmp_path, ["03a01Wb.wav"], seconds=0.01)
    (release / "wav/03a01Fa.wav").symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(Unusable, match="1 of 2 listed recordings are missing"):
        read(release)
    corpus = read(release, allow_missing=True)
    assert corpus.modified and [row.id for row in corpus.utterances] == ["wav/03a01Wb"]


@pytest.mark.parametrize("inside", ["", "wav"])
def test_the_real_recordings(emodb_root, inside):
    corpus = read(emodb_root / inside)
    found = collections.Counter(row.label for row in corpus.utterances)
    assert found == {"angry": 127, "happy": 71, "neutral": 79, "sad": 62}
    speakers = collections.defaultdict(set)
    for row in corpus.utterances:
        speakers[row.speaker].add(row.label)
    assert len(speakers) == 10 and all(len(labels) == 4 for labels in speakers.values())
    assert corpus.root == emodb_root and not corpus.rejected
