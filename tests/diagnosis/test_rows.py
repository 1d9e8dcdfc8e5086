"""The table of a corpus: labels, speakers and sessions that spoil it, and recordings that it does not name."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.diagnosis.rows import group_findings, rejection_findings, unlisted_findings, unused_findings


def rows(count: int, **fields: Any) -> list[Utterance]:
    mark = "-".join(fields.values())
    return [Utterance(f"{mark}{number}", f"{mark}{number}.wav", **fields) for number in range(count)]


def groups(*utterances: Utterance) -> list[tuple[str, str]]:
    found = group_findings(utterances)
    assert not any(row.file or row.id for row in found)
    return [(row.finding, row.detail) for row in found]


def test_a_table_without_fault():
    assert groups(*rows(5, label="sad", speaker="a"), *rows(5, label="sad", speaker="b")) == []
    assert groups(*rows(5, label="sad")) == []


@pytest.mark.parametrize(
    ("one", "other"), [("sad", "Sad"), ("sad", "sad."), ("not sad", "not-sad"), ("ÄRGER", "ärger")]
)
def test_labels_that_differ_in_spelling_only(one, other):
    first, second = sorted([(one, 6), (other, 7)])
    expected = f"'{first[0]}' ({first[1]} utterances), '{second[0]}' ({second[1]} utterances)"
    assert groups(*rows(6, label=one), *rows(7, label=other)) == [("similar labels", expected)]


@pytest.mark.parametrize(("one", "other"), [("sad", "mad"), ("1", "2"), ("+", "-"), ("", "sad")])
def test_labels_that_differ(one, other):
    assert groups(*rows(5, label=one), *rows(5, label=other)) == []


def test_a_class_of_one_speaker():
    table = [*rows(5, label="sad", speaker="a"), *rows(5, label="sad", speaker="b"), *rows(5, label="mad", speaker="b")]
    assert groups(*table) == [("one speaker", "label 'mad' is spoken by b only")]


def test_few_utterances_of_a_speaker_or_session():
    table = [
        *rows(5, label="sad", speaker="a", session="x"),
        *rows(4, label="sad", speaker="b", session="y"),
        *rows(3, label="", speaker="b", session="y"),  # without a label it is not scored
    ]
    assert groups(*table) == [
        ("few utterances", "speaker b: 4 utterances; fewer than 5"),
        ("few utterances", "session y: 4 utterances; fewer than 5"),
    ]


@pytest.mark.parametrize("column", ["speaker", "session", "split"])
def test_a_column_that_is_filled_in_some_rows(column):
    table = [*rows(5, label="sad", **{column: "a"}), *rows(5, label="sad", **{column: "b"}), *rows(2, label="sad")]
    assert groups(*table) == [("unfilled", f"{column} is empty in 2 of 12 rows, for example sad0")]


def test_rejected_rows():
    rejected = [
        Rejection("list.csv", 3, "bad line", "empty label"),
        Rejection("a.wav", None, "missing", "listed in list.csv line 4"),
    ]
    for allow, severities in ((False, ["error", "error"]), (True, ["error", "warning"])):
        found = rejection_findings(rejected, allow_missing=allow)
        assert [row.severity for row in found] == severities
        assert [(row.file, row.finding, row.detail) for row in found] == [
            ("list.csv", "bad line", "line 3: empty label"),
            ("a.wav", "missing", "listed in list.csv line 4"),
        ]


def test_utterances_that_the_protocol_leaves_out():
    corpus = Corpus("test", Path("/nowhere"), (*rows(2, label="sad"), *rows(1, label="bored")), "none", {})
    used = dataclasses.replace(corpus, utterances=corpus.utterances[:1])
    assert [(row.id, row.detail) for row in unused_findings(corpus, used)] == [
        ("sad1", "by the protocol's rule"),
        ("bored0", "label 'bored'"),
    ]
    assert unused_findings(corpus, corpus) == []


# --- Recordings that no row names -------------------------------------------------------------------------------------


def unlisted(root: Path, *listed: str, rejected: tuple[str, ...] = ()) -> list[str]:
    made = tuple(Utterance(name, name) for name in listed)
    bad = tuple(Rejection(name, None, "bad name", "") for name in rejected)
    found = unlisted_findings(Corpus("test", root, made, "none", {}, rejected=bad))
    assert all(row.finding == "unlisted" and row.severity == "note" for row in found)
    return [row.file for row in found]


@pytest.fixture
def release(tmp_path) -> Path:
    for name in (
        "b.wav",
        "a.FLAC",
        "deep/er/c.mp3",
        "d.opus",
        "e.ogg",
        "._b.wav",
        ".git/f.wav",
        "list.csv",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_recordings_that_no_row_names(release):
    assert unlisted(release) == ["a.FLAC", "b.wav", "d.opus", "e.ogg", "deep/er/c.mp3"]
    assert unlisted(release, "b.wav", "deep/er/c.mp3", rejected=("e.ogg",)) == ["a.FLAC", "d.opus"]


def test_links_to_folders_are_followed_once(release, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    (elsewhere / "far.wav").touch()
    os.symlink(elsewhere, release / "wav")
    os.symlink(release, release / "deep/loop")
    assert unlisted(release, "b.wav") == ["a.FLAC", "d.opus", "e.ogg", "deep/er/c.mp3", "wav/far.wav"]


def test_names_that_are_no_unicode(tmp_path):
    name = os.fsdecode(b"\xff.wav")
    (tmp_path / name).touch()
    assert unlisted(tmp_path) == [name]
