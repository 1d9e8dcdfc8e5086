import collections
from pathlib import Path

import pytest
import releases

from ser_jax.corpora import emotass
from ser_jax.corpora.release_files import Unusable
from ser_jax.runtime.errors import UserError

LIST = "lab/ComParE2018_AtypicalAffect.tsv"


def read(root: Path, allow_missing: bool = False):
    return emotass.read(root, allow_missing=allow_missing)


@pytest.fixture
def release(tmp_path) -> Path:
    return releases.write_emotass(
        tmp_path, releases.emotass_rows(train=2, devel=1, test=2), seconds=0.01
    )


def append(release: Path, text: str) -> int:
    path = release / LIST
    path.write_text(path.read_text() + text + "\n")
    return path.read_text().count("\n")


def test_partitions_labels_and_unknown_speakers(release):
    corpus = read(release)
    found = collections.Counter((row.split, row.label) for row in corpus.utterances)
    classes = ("angry", "happy", "neutral", "sad")
    labelled = {("train", c): 2 for c in classes} | {("devel", c): 1 for c in classes}
    assert found == labelled | {("test", ""): 2}
    assert {(row.speaker, row.session) for row in corpus.utterances} == {("", "")}
    assert corpus.protocol == "emotass-official"
    assert corpus.label_mapping == {c: c for c in classes}
    assert (corpus.rejected, corpus.warnings, corpus.modified) == ((), (), False)
    ids = [row.id for row in corpus.utterances]
    assert ids == sorted(ids) and ids[0] == "wav/devel_0001"
    assert all(corpus.path(row).is_file() for row in corpus.utterances)


def test_every_way_to_name_the_release_is_the_same_corpus(release):
    corpus = read(release)
    assert corpus.root == release
    assert read(release / "wav") == corpus
    assert read(release.parent) == corpus


def test_another_folder_name(tmp_path):
    name = "ComParE2018_AtypicalAffect_v2"
    rows = releases.emotass_rows(1, 1, 0)
    release = releases.write_emotass(tmp_path, rows, seconds=0.01, name=name)
    assert read(tmp_path).root == release


@pytest.mark.parametrize("row", ["test_0001.wav", "test_0001.wav\t", "test_0001.wav\t?"])
def test_a_test_row_may_lack_its_label(release, row):
    before = read(release)
    append(release, row)
    assert read(release) == before


def test_test_labels_are_used_where_given(release):
    append(release, "test_0001.wav\tsad")
    assert [row.label for row in read(release).utterances if row.split == "test"] == ["sad", ""]


def test_no_test_part_at_all(tmp_path):
    corpus = read(releases.write_emotass(tmp_path, releases.emotass_rows(1, 1, 0), seconds=0.01))
    assert {row.split for row in corpus.utterances} == {"train", "devel"}
    assert corpus.protocol == "emotass-devel", "the official protocol tests on test"


def test_a_test_part_whose_recordings_are_missing_is_none(tmp_path):
    release = releases.write_emotass(tmp_path, releases.emotass_rows(1, 1, 0), seconds=0.01)
    append(release, "test_0001.wav\t?")
    assert read(release, allow_missing=True).protocol == "emotass-devel"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train_0001.wav\tbored", "unknown label"),
        ("train_0001.wav\tAngry", "unknown label"),
        ("train_0001.wav", "unknown label"),
        ("devel_0001.wav\t?", "unknown label"),
        ("test_0001.wav\tbored", "unknown label"),
        ("train_0001.wav\tsad", "duplicate"),
        ("train_0009.wav\tangry\tmore", "bad line"),
        ("../train_0009.wav\tangry", "bad line"),
        ("valid_0009.wav\tangry", "bad line"),
        ("train_0009.mp3\tangry", "bad line"),
        ("train_0009.wav angry", "bad line"),
    ],
)
def test_a_bad_line_is_rejected_with_its_number(release, line, reason):
    before = read(release).utterances
    number = append(release, line)
    corpus = read(release)
    [rejection] = corpus.rejected
    assert (rejection.file, rejection.line, rejection.reason) == (LIST, number, reason)
    assert line.split("\t")[0].removesuffix(".wav") in rejection.detail
    # A test recording whose row is bad is not used without its label instead.
    lost = {"wav/test_0001"} if line.startswith("test_0001") else set()
    assert corpus.utterances == tuple(row for row in before if row.id not in lost)


def test_columns_may_be_more_or_in_another_order(release):
    before = read(release)
    lines = [line.split("\t") for line in (release / LIST).read_text().splitlines()]
    (release / LIST).write_text("".join(f"{label}\tx\t{file}\r\n" for file, label in lines))
    assert read(release) == before


@pytest.mark.parametrize(
    "text", ["", "file_name,emotion\ntrain_0001.wav,angry\n", "train_0001.wav\tangry\n"]
)
def test_a_list_without_its_columns(release, text):
    (release / LIST).write_text(text)
    with pytest.raises(
        UserError, match=r"tsv: columns \[.*\]; expected \['file_name', 'emotion'\], tab-separated"
    ):
        read(release)


def test_a_folder_without_the_list(tmp_path):
    with pytest.raises(
        UserError, match=r"corpus.root=.* holds no lab/ComParE2018_AtypicalAffect.tsv; expected"
    ):
        read(tmp_path)


def test_labels_without_recordings(release):
    for path in (release / "wav").iterdir():
        path.unlink()
    (release / "wav").rmdir()
    with pytest.raises(Unusable, match="12 of 12 listed recordings are missing"):
        read(release)


def test_recordings_of_train_that_the_list_lacks_are_announced(release):
    (release / "wav/train_0777.wav").touch()
    corpus = read(release)
    (warning,) = corpus.warnings
    assert warning.startswith("emotass: 1 recording of train and devel in wav/, not in lab/")
    assert warning.endswith("left out (first: train_0777.wav)")
    assert "wav/train_0777" not in {row.id for row in corpus.utterances}
