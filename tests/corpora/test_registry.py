import ast
from pathlib import Path

import emobox_release
import pytest
import releases

import ser_jax.corpora
from ser_jax.corpora import demo, registry
from ser_jax.corpora.table import Corpus
from ser_jax.errors import UserError


def read(name: str, root: Path | str, manifest: str = "manifest.csv", allow_missing: bool = False):
    return registry.read_corpus(name, str(root), manifest=manifest, allow_missing=allow_missing)


def write(name: str, root: Path) -> Path:
    """Writes a small release and returns a root that its reader accepts."""
    if name == "iemocap":
        return releases.write_iemocap(root, releases.iemocap_turns([1, 2], 1), audio=None)
    if name == "emotass":
        return releases.write_emotass(root, releases.emotass_rows(1, 1, 1), seconds=0.01)
    if name == "emodb":
        return releases.write_emodb(root, releases.emodb_names(), seconds=0.01)
    if name == "emobox":
        spoken = emobox_release.utterances()
        emobox_release.write_lists(root / "manifest.csv", {1: {"train": spoken[:16], "test": spoken[16:]}})
        return emobox_release.write_recordings(root, spoken)
    return releases.write_manifest(root, releases.manifest_rows(2, 1), seconds=0.01).parent


@pytest.mark.parametrize("name", ["iemocap", "emotass", "emobox", "emodb", "manifest"])
def test_the_name_chooses_the_reader(tmp_path, name):
    corpus = read(name, write(name, tmp_path))
    assert corpus.name == name and corpus.utterances


@pytest.mark.parametrize("name", ["iemocap", "emotass", "emobox", "emodb", "manifest"])
def test_missing_recordings_are_allowed_on_request(tmp_path, name):
    root = write(name, tmp_path)
    corpus = read(name, root)
    path = corpus.path(corpus.utterances[0])
    path.unlink()
    path.symlink_to(path.with_name("nothing"))
    with pytest.raises(UserError, match="corpus.allow_missing=true"):
        read(name, root)
    assert read(name, root, allow_missing=True).modified


def test_the_name_of_the_manifest_is_passed_on(tmp_path):
    releases.write_manifest(tmp_path, releases.manifest_rows(1, 1), name="mine.csv", seconds=0.01)
    assert len(read("manifest", tmp_path, manifest="mine.csv").utterances) == 4


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    release = write("emodb", tmp_path)
    assert read("emodb", "~/emodb").root == release


@pytest.mark.parametrize("root", ["", "given"])
def test_the_demo_corpus_needs_no_root(monkeypatch, root):
    asked = []
    corpus = Corpus("demo", Path(), (), "demo-speaker", {})
    monkeypatch.setattr(demo, "read", lambda folder: asked.append(folder) or corpus)
    assert read("demo", root) is corpus
    assert asked == [Path(root) if root else None]


@pytest.mark.parametrize("name", ["emodb", "emobox", "manifest"])
def test_a_published_database_is_read_by_its_own_reader_only(name):
    with pytest.raises(UserError) as error:
        read(name, "audb:emodb==1.4.1")
    assert str(error.value) == "corpus.root=audb:emodb==1.4.1 is an audformat database; set corpus.name=audformat"


def test_an_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(UserError) as error:
        read("ravdess", tmp_path)
    assert str(error.value) == (
        "corpus.name='ravdess' is unknown; known: audformat, demo, emobox, emodb, emotass, iemocap, manifest"
    )


@pytest.mark.parametrize("name", ["iemocap", "emotass", "emobox", "emodb", "manifest"])
def test_an_empty_root(name):
    with pytest.raises(UserError, match=f"corpus.root is empty; set it to the folder of the {name} release"):
        read(name, "")


@pytest.mark.parametrize("root", ["nowhere", "file", "nul\0"])
def test_a_root_that_is_no_folder(tmp_path, root):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder; set it to the folder of the emodb release"):
        read("emodb", tmp_path / root)


def test_the_readers_import_neither_jax_nor_pandas():
    for path in Path(ser_jax.corpora.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"jax", "flax", "pandas"}, path.name
