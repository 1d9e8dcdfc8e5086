"""Finding a release and checking its rows: names of its folder, paths, duplicates, spellings."""

import csv
import io
import os
import re
import unicodedata
from pathlib import Path

import pytest
import releases
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax.corpora import manifest
from ser_jax.corpora.registry import read_corpus
from ser_jax.corpora.release_files import NearNames, Unusable, identity, refusal, release_root
from ser_jax.runtime.errors import UserError


def is_release(folder: Path) -> bool:
    return (folder / "list.txt").is_file()


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "all" / "release-1"
    (folder / "wav").mkdir(parents=True)
    (folder / "list.txt").touch()
    return folder


def test_the_names_of_a_release(release, monkeypatch):
    for name in (
        release,
        release / "wav",
        release.parent,
        release / "wav" / "..",
        release.parent / "." / "release-1",
    ):
        assert release_root(name, is_release, "release-*") == release
    monkeypatch.chdir(release)
    assert release_root(Path("wav"), is_release) == release_root(Path("."), is_release) == release


def test_what_is_no_release(release, tmp_path):
    (release / "audio").mkdir()
    for name in ("all/release-1/audio", "all", "none", "all/release-1/list.txt", "."):
        assert release_root(tmp_path / name, is_release) is None


def test_a_link_keeps_its_own_name(release, tmp_path):
    (tmp_path / "here").symlink_to(release)
    assert release_root(tmp_path / "here", is_release) == tmp_path / "here"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/list.txt").touch()
    (tmp_path / "mine/wav").symlink_to(release / "wav")
    assert release_root(tmp_path / "mine/wav", is_release) == tmp_path / "mine"


def test_several_releases(release):
    other = release.with_name("release-2")
    other.mkdir()
    (other / "list.txt").touch()
    with pytest.raises(
        UserError, match=r"holds 2 releases \(release-1, release-2\); name one of them"
    ):
        release_root(release.parent, is_release, "release-*")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(
        UserError,
        match=r"^corpus.root=.*: '.*xx/list.txt' cannot be looked up \(File name too long\)",
    ):
        release_root(tmp_path / ("x" * 300), is_release)
    with pytest.raises(UserError, match=r"cannot be looked up \(File name too long\); "):
        read_corpus("manifest", str(tmp_path), manifest="x" * 300, allow_missing=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may look into every folder")
def test_a_folder_without_permission(release):
    release.chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot be looked up \(Permission denied\)"):
            release_root(release, is_release)
    finally:
        release.chmod(0o700)


# Parts of paths: harmless, traps of the file system below, and what other systems mean by a path.
PARTS = st.sampled_from(
    "a.wav sub in in.wav out out.wav loop pipe .. . ... ~ C: nul gone".split() + [""]
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
    assert ".." not in file.split("/") and not os.path.isabs(file)
    assert "\\" not in file and "\0" not in file


@settings(max_examples=200, deadline=None)
@given(files=st.lists(PATHS, max_size=6))
@example(files="out/secret.wav out/root/a.wav sub/../a.wav in.wav loop/a.wav a.wav/b.wav".split())
def test_every_row_is_accounted_for_with_its_line(trapped, files):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", "label", "speaker"])
    lines = []
    for file in ["a.wav", *files]:
        lines.append(len(re.findall("\r\n|\r|\n", text.getvalue())) + 1)
        writer.writerow([file, f"label {len(lines)}", "s"])
    (trapped / "manifest.csv").write_bytes(text.getvalue().encode(errors="replace"))
    corpus = read(trapped, allow_missing=True)
    for row in corpus.utterances:
        real = corpus.path(row).resolve(strict=True)
        assert real.is_relative_to(trapped.resolve()) and real.is_file()
    assert len({row.id for row in corpus.utterances}) == len(corpus.utterances)
    listed = [row for row in corpus.rejected if row.reason != "missing"]
    assert len(corpus.utterances) + len(corpus.rejected) == len(lines)
    assert {row.line for row in listed} <= set(lines[1:])
    assert {row.reason for row in listed} <= {"bad line", "refused path", "duplicate"}
    assert corpus.modified == (len(listed) < len(corpus.rejected))


def test_what_is_not_refused(trapped):
    files = "a.wav ./a.wav sub//a.wav in/a.wav in.wav gone.wav a.wav/x é.wav".split()
    assert [file for file in files if refusal(trapped, file)] == []
    assert refusal(trapped, "a\ud800.wav") == "not Unicode text"


@given(case=st.tuples(*[st.booleans()] * 5))
@settings(deadline=None)
def test_case_is_kept(trapped, case):
    """A list is read as it is written: on a system that tells "A.wav" from "a.wav" they are two
    recordings."""
    name = "".join(
        letter.upper() if up else letter for letter, up in zip("a.wav", case, strict=True)
    )
    assert refusal(trapped, name) == ""
    assert (identity(trapped / name) == identity(trapped / "a.wav")) == os.path.exists(
        trapped / name
    )


# --- Several names of one file


def test_the_identity_of_a_file(trapped, tmp_path):
    real = identity(trapped / "sub/a.wav")
    assert identity(trapped / "in.wav") == real != identity(trapped / "a.wav")
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
    same = "{!r} (sad) is the file of {!r} in manifest.csv line {} (sad) under another name"
    assert [(row.line, row.reason, row.detail) for row in corpus.rejected] == [
        (4, "duplicate", same.format("link", "a", 2)),
        (5, "duplicate", same.format("other/b", "sub/b", 3)),
        (6, "duplicate", same.format("sub/hard", "a", 2)),
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
@given(
    links=st.lists(st.integers(0, 3), max_size=8), missing=st.lists(st.integers(0, 3), max_size=3)
)
def test_every_file_is_used_once(tmp_path_factory, links, missing):
    root = tmp_path_factory.mktemp("links")
    for number in range(4):
        (root / f"{number}.wav").touch()
    for place, number in enumerate(links):
        (root / f"link{place}.wav").symlink_to(f"{number}.wav")
    files = [f"link{place}.wav" for place in range(len(links))] + [
        f"{number}.wav" for number in range(4)
    ]
    files += [f"gone{place}-{number}.wav" for place, number in enumerate(missing)]
    write_rows(root, *files)
    corpus = read(root, allow_missing=True)
    real = [os.path.realpath(corpus.path(row)) for row in corpus.utterances]
    assert sorted(real) == sorted({os.path.realpath(root / f"{number}.wav") for number in range(4)})
    assert [row.reason for row in corpus.rejected].count("duplicate") == len(links)
    assert len(corpus.utterances) + len(corpus.rejected) == len(files)


# --- Names under another spelling


@settings(max_examples=60, deadline=None)
@given(
    name=st.text("aéüßñ한ǅİſ", min_size=1, max_size=6),
    form=st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]),
)
def test_a_unicode_form_is_never_guessed(tmp_path_factory, name, form):
    """A file is found under its exact name only; else it is missing, with a hint."""
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
        assert (
            row.detail
            == f"listed in manifest.csv line 3; the folder has {ascii(there)}, which is spelt"
            " otherwise"
        )


def test_the_sentence_names_what_is_there_instead(tmp_path):
    (tmp_path / "Audio").mkdir()
    (tmp_path / "Audio/MU\u0308LLER.WAV").touch()
    write_rows(tmp_path, "audio/müller.wav", "gone.wav")
    with pytest.raises(Unusable) as error:
        read(tmp_path)
    assert (
        r"(audio/müller.wav; the folder has 'Audio/MU\u0308LLER.WAV', which is spelt otherwise;"
        r" gone.wav); complete" in str(error.value)
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Wav/S1").mkdir(parents=True)
    for name in ("Wav/S1/A.WAV", "Wav/S1/u\u0308.wav", "Wav/b.wav", "Wav/B.wav"):
        (tmp_path / name).touch()
    (tmp_path / "Wav/broken.wav").symlink_to("nothing")
    return tmp_path


def test_names(root):
    expected = {
        "wav/s1/a.wav": "Wav/S1/A.WAV",
        "./Wav//S1/a.wav": "Wav/S1/A.WAV",
        "Wav/S1/\u00fc.wav": "Wav/S1/u\u0308.wav",
        "WAV/S1/\u00dc.wav": "Wav/S1/u\u0308.wav",
        "wav/b.wav": "Wav/B.wav",  # of two the first in order
        "Wav/S1/c.wav": "",
        "Wav/S2/A.WAV": "",
        "Wav/b.wav/A.WAV": "",
        "Wav/broken.wav": "",  # it is there, but leads nowhere: the spelling is not what is wrong
        "Wav/S1": "",
        "a\0b/c.wav": "",
    }
    assert {file: NearNames(root).find(file) for file in expected} == expected


def test_a_folder_is_listed_once(root, monkeypatch):
    listed, original = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or original(folder))
    near = NearNames(root)
    found = [near.find(f"wav/s1/{name}.wav") for name in "abab"]
    assert found == ["Wav/S1/A.WAV", "", "Wav/S1/A.WAV", ""]
    assert listed == [root / "", root / "Wav", root / "Wav/S1"]
