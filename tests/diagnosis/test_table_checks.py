"""Findings about rejected rows, unused utterances and unlisted recordings."""

import collections
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import releases

from ser_jax.config import get_config
from ser_jax.corpora import from_config
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.diagnosis.table_checks import rejection_findings, unlisted_findings, unused_findings


def rows(count: int, **fields: Any) -> list[Utterance]:
    mark = "-".join(fields.values())
    return [
        Utterance(f"{mark}{number}", f"{mark}{number}.wav", **fields) for number in range(count)
    ]


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
    corpus = Corpus(
        "test", Path("/nowhere"), (*rows(2, label="sad"), *rows(1, label="bored")), "none", {}
    )
    used = dataclasses.replace(corpus, utterances=corpus.utterances[:1])
    assert [(row.id, row.detail) for row in unused_findings(corpus, used)] == [
        ("sad1", "by the protocol's rule"),
        ("bored0", "label 'bored'"),
    ]
    assert unused_findings(corpus, corpus) == []


# --- Recordings that no row names


def unlisted(root: Path, *listed: str, rejected: tuple[str, ...] = ()) -> list[str]:
    made = tuple(Utterance(name, name) for name in listed)
    bad = tuple(Rejection(name, None, "bad name", "") for name in rejected)
    found = unlisted_findings(Corpus("test", root, made, "none", {}, rejected=bad))
    assert all(row.finding == "unlisted" and row.severity == "note" for row in found)
    return [row.file for row in found]


@pytest.fixture
def release(tmp_path) -> Path:
    recordings = "b.wav a.FLAC deep/er/c.mp3 d.opus e.ogg"
    for name in f"{recordings} ._b.wav .git/f.wav list.csv notes.txt".split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_recordings_that_no_row_names(release):
    assert unlisted(release) == ["a.FLAC", "b.wav", "d.opus", "deep/er/c.mp3", "e.ogg"]
    assert unlisted(release, "b.wav", "deep/er/c.mp3", rejected=("e.ogg",)) == ["a.FLAC", "d.opus"]


def read(name: str, root: Path, labels: str) -> Corpus:
    config = get_config()
    config.corpus.update({"name": name, "root": str(root), "labels": labels})
    return from_config.read_listed(config, lambda file: None, allow_missing=False)


def test_what_is_left_out_on_purpose_is_counted_as_what_it_is(tmp_path):
    release = releases.write_named(tmp_path, "ravdess")
    angry = [row.file for row in read("ravdess", release, "").utterances if row.label == "angry"]
    (release / "Actor_01/notes").mkdir(parents=True)
    (release / "Actor_01/notes/spoken.wav").touch()
    found = unlisted_findings(read("ravdess", release, "angry=-"))
    counts = collections.Counter(row.finding for row in found)
    assert angry and counts == {
        "read once": 2, "another task": 2, "left-out label": len(angry), "unlisted": 1
    }  # fmt: skip
    assert {row.file for row in found if row.detail == "label 'angry'"} == {*angry}
    assert all(row.severity == "note" and row.remedy.startswith("nothing") for row in found)


def test_links_to_folders_are_followed_once(release, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    (elsewhere / "far.wav").touch()
    os.symlink(elsewhere, release / "wav")
    os.symlink(release, release / "deep/loop")
    expected = ["a.FLAC", "d.opus", "deep/er/c.mp3", "e.ogg", "wav/far.wav"]
    assert unlisted(release, "b.wav") == expected


def test_names_that_are_no_unicode(tmp_path):
    name = os.fsdecode(b"\xff.wav")
    (tmp_path / name).touch()
    assert unlisted(tmp_path) == [name]
