"""Databases by name and version, from a repository on this machine's file system."""

import sys
from pathlib import Path
from typing import Any

import audb
import pytest
import releases
from audformat_release import emodb_like, filewise_rows, save

from ser_jax.corpora import audb_root, audformat_database, registry
from ser_jax.errors import UserError

# The library uses arguments of pandas that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:aud(b|format)")

library: Any = audb  # Its functions have the names of its modules, which type checkers take them for.

ROWS = filewise_rows((3, 8, 9), 1)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """Publishes version 1.0.0 of a tiny database; returns the folder it was made of."""
    made = save(emodb_like(ROWS), tmp_path / "made", audio=False)
    for number, (file, label, who) in enumerate(ROWS):
        releases.write_wav(made / file, releases.tone_like_speech(0.1, label, str(who), number))
    (tmp_path / "host/published").mkdir(parents=True)
    published = library.Repository("published", str(tmp_path / "host"), "file-system")
    monkeypatch.setattr(audb.config, "REPOSITORIES", [published])
    monkeypatch.setattr(audb.config, "CACHE_ROOT", str(tmp_path / "cache"))
    monkeypatch.setattr(audb.config, "SHARED_CACHE_ROOT", str(tmp_path / "shared"))
    library.publish(str(made), "1.0.0", published, cache_root=str(tmp_path / "cache"), verbose=False)
    return made


def test_a_published_database_is_the_corpus_that_was_published(repository, tmp_path):
    folder = audb_root.fetch("audb:tiny==1.0.0")
    assert folder.is_relative_to(tmp_path / "cache")
    assert not list(folder.rglob("*.pkl")), "no table is kept pickled"
    corpus = audformat_database.read(folder, labels="", allow_missing=False)
    original = audformat_database.read(repository, labels="", allow_missing=False)
    assert corpus.utterances == original.utterances and len(corpus.utterances) == len(ROWS)
    assert [corpus.path(row).read_bytes() for row in corpus.utterances] == [
        original.path(row).read_bytes() for row in original.utterances
    ]


def test_the_registry_fetches_it(repository):
    corpus = registry.read_corpus("audformat", "audb:tiny==1.0.0", manifest="manifest.csv", allow_missing=False)
    assert corpus.name == "audformat" and corpus.protocol == "audformat-split"


@pytest.mark.parametrize("root", ["audb:tiny==2.0.0", "audb:other==1.0.0"])
def test_what_the_repository_does_not_have(repository, root):
    with pytest.raises(UserError) as error:
        audb_root.fetch(root)
    name, _, version = root.removeprefix("audb:").partition("==")
    assert str(error.value).startswith(f"corpus.root={root} cannot be loaded (RuntimeError: ")
    assert version in str(error.value) and name in str(error.value)
    assert str(error.value).endswith("the repositories in ~/.config/audb.yaml")


@pytest.mark.parametrize(
    "root", ["audb:", "audb:emodb", "audb:emodb=1.4.1", "audb:emodb==", "audb:a/b==1", "audb:x==1 "]
)
def test_name_and_version_are_both_needed(root):
    with pytest.raises(
        UserError, match=f"corpus.root={root}: write it as audb:NAME==VERSION, for example audb:emodb=="
    ):
        audb_root.fetch(root)


def test_without_audb(monkeypatch):
    monkeypatch.setitem(sys.modules, "audb", None)
    with pytest.raises(UserError, match=r"corpus.root=audb:tiny==1.0.0 needs audb: pip install 'ser_jax\[data\]'"):
        audb_root.fetch("audb:tiny==1.0.0")


def test_a_cache_that_another_process_holds(monkeypatch):
    monkeypatch.setattr(audb, "load", lambda *arguments, **options: None)
    with pytest.raises(UserError, match="another process holds audb's cache; try again"):
        audb_root.fetch("audb:tiny==1.0.0")
