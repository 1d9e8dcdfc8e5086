"""Which folder is the release: the same one however the user names it, and a sentence for what cannot be looked at."""

import os
from pathlib import Path

import pytest

from ser_jax.corpora.registry import read_corpus
from ser_jax.corpora.release_root import release_root
from ser_jax.errors import UserError


def is_release(folder: Path) -> bool:
    return (folder / "list.txt").is_file()


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "all" / "release-1"
    (folder / "wav").mkdir(parents=True)
    (folder / "list.txt").touch()
    return folder


def test_the_names_of_a_release(release, monkeypatch):
    for name in (release, release / "wav", release.parent, release / "wav" / "..", release.parent / "." / "release-1"):
        assert release_root(name, is_release, "release-*") == release
    monkeypatch.chdir(release)
    assert release_root(Path("wav"), is_release) == release_root(Path("."), is_release) == release


def test_what_is_no_release(release, tmp_path):
    (release / "audio").mkdir()
    for name in (release / "audio", release.parent, tmp_path / "none", release / "list.txt", tmp_path):
        assert release_root(name, is_release) is None


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
    with pytest.raises(UserError, match=r"holds 2 releases \(release-1, release-2\); name one of them"):
        release_root(release.parent, is_release, "release-*")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match=r"^corpus.root=.*: '.*xx/list.txt' cannot be looked up \(File name too long\)"):
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


@pytest.mark.parametrize("root", ["/nowhere", "~nobody-of-this-name/x", "a\0b", "x" * 300, "/" + "x/" * 3000])
@pytest.mark.parametrize("name", ["emodb", "manifest", "audformat"])
def test_a_root_that_is_no_folder_is_named(root, name):
    with pytest.raises(UserError, match="is not a folder; set it to the folder of the"):
        read_corpus(name, root, manifest="manifest.csv", allow_missing=False)
