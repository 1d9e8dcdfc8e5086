import collections
import shutil
from pathlib import Path

import pytest
import releases

from ser_jax.corpora import registry
from ser_jax.runtime.errors import UserError


def read(root: Path):
    return registry.read_corpus("emodb", str(root), manifest="", allow_missing=False)


def test_all_seven_emotions_and_names_with_and_without_version(tmp_path):
    expected = {
        "wav/03a01Wa": ("angry", "03"),
        "wav/03a01L": ("boredom", "03"),
        "wav/08b02Ef": ("disgust", "08"),
        "wav/08c10A": ("fear", "08"),
        "wav/16b10Fb": ("happy", "16"),
        "wav/16a07Tc": ("sad", "16"),
        "wav/10a05Nd": ("neutral", "10"),
    }
    names = [f"{name.removeprefix('wav/')}.wav" for name in expected]
    corpus = read(releases.write_emodb(tmp_path, names, seconds=0.01))
    assert {row.id: (row.label, row.speaker) for row in corpus.utterances} == expected
    ids = [row.id for row in corpus.utterances]
    assert ids == sorted(ids)
    assert {(row.session, row.split) for row in corpus.utterances} == {("", "")}
    assert corpus.protocol == "emodb4-speaker10"
    assert sorted(corpus.label_mapping) == sorted("WLEAFTN")
    assert (corpus.rejected, corpus.warnings, corpus.modified) == ((), (), False)


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


def test_bad_names_are_rejected(tmp_path):
    bad = ("03a01Xa.wav", "3a01Wa.wav", "03d01Wa.wav", "03a01Wg.wav", "noise.wav")
    corpus = read(releases.write_emodb(tmp_path, ["03a01Wb.wav", *bad], seconds=0.01))
    assert [(row.file, row.line, row.reason) for row in corpus.rejected] == [
        (f"wav/{name}", None, "bad name") for name in sorted(bad)
    ]
    assert "5 rows rejected (5 bad name): wav/03a01Wg.wav: bad name" in corpus.warnings[0]
    assert [row.id for row in corpus.utterances] == ["wav/03a01Wb"]


def test_no_recording_of_emodb(tmp_path):
    with pytest.raises(
        UserError,
        match=r"corpus.root=.*: 0 recordings in .*, none named as in EMO-DB \(wav/03a01Fa.wav\)",
    ):
        read(tmp_path)
    (tmp_path / "other.wav").touch()
    with pytest.raises(UserError, match=": 1 recording in "):
        read(tmp_path)


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
