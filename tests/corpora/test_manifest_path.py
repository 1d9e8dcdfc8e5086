"""R25 as properties: no path of a list leads out of the corpus, ends the program, or counts a recording twice."""

import os
import unicodedata
from pathlib import Path

import pytest
import releases
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax.corpora import manifest
from ser_jax.corpora.listing import Unusable
from ser_jax.corpora.manifest_path import identity, refusal

# Parts of paths: harmless, traps of the file system below, and what other systems mean by a path.
PARTS = st.sampled_from(
    ["a.wav", "sub", "in", "in.wav", "out", "out.wav", "loop", "pipe", "..", ".", "", "...", "~", "C:", "nul", "gone"]
) | st.text(st.characters(blacklist_characters="/"), max_size=8)
PATHS = st.one_of(
    st.lists(PARTS, max_size=6).map("/".join),
    st.lists(PARTS, max_size=4).map("\\".join),
    st.lists(PARTS, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    st.text(st.characters(categories=None), max_size=30),  # surrogates as well
    st.integers(200, 6000).map(lambda length: "x" * length),
    st.integers(200, 6000).map(lambda length: "/".join("x" * (length // 2)) + ".wav"),
)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory) -> Path:
    """A corpus root with links inside and out, beside a file that nothing may reach."""
    base = tmp_path_factory.mktemp("trapped")
    root = base / "root"
    (root / "sub").mkdir(parents=True)
    for path in (base / "secret.wav", root / "a.wav", root / "sub/a.wav"):
        path.touch()
    (root / "in").symlink_to("sub")
    (root / "in.wav").symlink_to("sub/a.wav")
    (root / "out").symlink_to(base)
    (root / "out.wav").symlink_to("../secret.wav")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    return root


@settings(max_examples=500, deadline=None)
@given(file=PATHS)
@example("out/secret.wav")
@example("in/../../secret.wav")
@example("sub/../out.wav")
@example("..")
@example("\ud800.wav")
@example("a.wav\0.flac")
@example("C:a.wav")
@example("\\\\server\\share\\a.wav")
@example("//server/share/a.wav")
def test_what_is_not_refused_lies_inside_and_is_a_file_or_nothing(trapped, file):
    if refusal(trapped, file):
        return
    real = os.path.realpath(trapped / file)
    assert os.path.commonpath((real, os.path.realpath(trapped))) == os.path.realpath(trapped)
    assert os.path.isfile(real) or not os.path.exists(real)
    assert ".." not in file.split("/") and "\\" not in file and "\0" not in file and not os.path.isabs(file)


@pytest.mark.parametrize(
    "file", ["a.wav", "./a.wav", "sub//a.wav", "in/a.wav", "in.wav", "gone.wav", "a.wav/x", "é.wav"]
)
def test_what_is_not_refused(trapped, file):
    assert refusal(trapped, file) == ""


def test_what_is_no_text_is_refused(trapped):
    assert refusal(trapped, "a\ud800.wav") == "not Unicode text"


@given(case=st.tuples(*[st.booleans()] * 5))
@settings(deadline=None)
def test_case_is_kept(trapped, case):
    """A list is read as it is written: on a system that tells "A.wav" from "a.wav" they are two recordings."""
    name = "".join(letter.upper() if up else letter for letter, up in zip("a.wav", case, strict=True))
    assert refusal(trapped, name) == ""
    assert (identity(trapped / name) == identity(trapped / "a.wav")) == os.path.exists(trapped / name)


# --- Several names of one file ----------------------------------------------------------------------------------------


def test_the_identity_of_a_file(trapped, tmp_path):
    assert identity(trapped / "in.wav") == identity(trapped / "sub/a.wav") != identity(trapped / "a.wav")
    os.link(trapped / "a.wav", tmp_path / "hard.wav")
    assert identity(tmp_path / "hard.wav") == identity(trapped / "a.wav")
    for nothing in ("gone", "loop", "a\0b", "x" * 300, "\ud800"):
        assert identity(trapped / nothing) is None


def read(root: Path, allow_missing: bool = False):
    return manifest.read(root, manifest="manifest.csv", allow_missing=allow_missing)


def write_rows(root: Path, *files: str, **cells: str) -> None:
    columns = ("file", "label", "start", "end", "speaker")
    rows = [{"file": file, "label": "sad", "speaker": "s", **cells} for file in files]
    releases.write_manifest(root, rows, columns=columns, seconds=None)


def test_a_file_under_another_name_is_a_duplicate_with_its_line(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.wav").touch()
    (tmp_path / "link.wav").symlink_to("a.wav")
    (tmp_path / "other").symlink_to("sub")
    (tmp_path / "sub/b.wav").touch()
    os.link(tmp_path / "a.wav", tmp_path / "sub/hard.wav")
    write_rows(tmp_path, "a.wav", "sub/b.wav", "link.wav", "other/b.wav", "sub/hard.wav")
    corpus = read(tmp_path)
    assert [row.id for row in corpus.utterances] == ["a", "sub/b"]
    assert [(row.line, row.reason, row.detail) for row in corpus.rejected] == [
        (4, "duplicate", "'link' (sad) is the file of 'a' in manifest.csv line 2 (sad) under another name"),
        (5, "duplicate", "'other/b' (sad) is the file of 'sub/b' in manifest.csv line 3 (sad) under another name"),
        (6, "duplicate", "'sub/hard' (sad) is the file of 'a' in manifest.csv line 2 (sad) under another name"),
    ]


def test_other_spans_of_a_file_under_another_name_are_others(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "link.wav").symlink_to("a.wav")
    write_rows(tmp_path, "a.wav", end="1.5")
    with (tmp_path / "manifest.csv").open("a") as file:
        file.write("link.wav,sad,1.5,,s\nlink.wav,sad,0.0001,1.5,s\nlink.wav,sad,,,s\n")
    corpus = read(tmp_path)
    assert [row.id for row in corpus.utterances] == ["a#0.000-1.500", "link", "link#1.500-end"]
    assert [(row.line, row.reason) for row in corpus.rejected] == [(4, "duplicate")]


@settings(max_examples=60, deadline=None)
@given(links=st.lists(st.integers(0, 3), max_size=8), missing=st.lists(st.integers(0, 3), max_size=3))
def test_every_file_is_used_once(tmp_path_factory, links, missing):
    root = tmp_path_factory.mktemp("links")
    for number in range(4):
        (root / f"{number}.wav").touch()
    for place, number in enumerate(links):
        (root / f"link{place}.wav").symlink_to(f"{number}.wav")
    files = [f"link{place}.wav" for place in range(len(links))] + [f"{number}.wav" for number in range(4)]
    files += [f"gone{place}-{number}.wav" for place, number in enumerate(missing)]
    write_rows(root, *files)
    corpus = read(root, allow_missing=True)
    real = [os.path.realpath(corpus.path(row)) for row in corpus.utterances]
    assert sorted(real) == sorted({os.path.realpath(root / f"{number}.wav") for number in range(4)})
    assert [row.reason for row in corpus.rejected].count("duplicate") == len(links)
    assert len(corpus.utterances) + len(corpus.rejected) == len(files)


# --- Names under another spelling -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(name=st.text("aéüßñ한ǅİſ", min_size=1, max_size=6), form=st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_a_unicode_form_is_never_guessed(tmp_path_factory, name, form):
    """The file is found exactly under the name that the file system has; else it is missing, and told of."""
    root = tmp_path_factory.mktemp("forms")
    (root / "good.wav").touch()
    there, listed = f"{name}.wav", f"{unicodedata.normalize(form, name)}.wav"
    (root / there).touch()
    write_rows(root, "good.wav", listed)
    corpus = read(root, allow_missing=True)
    if os.path.exists(root / listed):
        assert len(corpus.utterances) == 2 and not corpus.rejected
        return
    [row] = corpus.rejected
    assert (row.file, row.reason, corpus.modified) == (listed, "missing", True)
    if form in ("NFC", "NFD"):
        assert row.detail == f"listed in manifest.csv line 3; the folder has {ascii(there)}, which is spelt otherwise"


def test_the_sentence_names_what_is_there_instead(tmp_path):
    (tmp_path / "Audio").mkdir()
    (tmp_path / "Audio/MU\u0308LLER.WAV").touch()
    write_rows(tmp_path, "audio/müller.wav", "gone.wav")
    with pytest.raises(Unusable) as error:
        read(tmp_path)
    assert (
        r"(audio/müller.wav; the folder has 'Audio/MU\u0308LLER.WAV', which is spelt otherwise; gone.wav); complete"
        in str(error.value)
    )
