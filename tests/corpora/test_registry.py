import ast
from pathlib import Path

import emobox_release
import pytest
import releases

import ser_jax.corpora
from ser_jax.corpora import demo, registry
from ser_jax.corpora.table import Corpus
from ser_jax.runtime.errors import UserError


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
        emobox_release.write_lists(
            root / "manifest.csv", {1: {"train": spoken[:16], "test": spoken[16:]}}
        )
        return emobox_release.write_recordings(root, spoken)
    return releases.write_manifest(root, releases.manifest_rows(2, 1), seconds=0.01).parent


@pytest.mark.parametrize("name", ["iemocap", "emotass", "emobox", "emodb", "manifest"])
def test_the_name_chooses_the_reader_and_missing_recordings_are_allowed(tmp_path, name):
    root = write(name, tmp_path)
    corpus = read(name, root)
    assert corpus.name == name and corpus.utterances
    path = corpus.path(corpus.utterances[0])
    path.unlink()
    path.symlink_to(path.with_name("nothing"))
    with pytest.raises(UserError, match="corpus.allow_missing=true"):
        read(name, root)
    assert read(name, root, allow_missing=True).modified


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    release = write("emodb", tmp_path)
    assert read("emodb", "~/emodb").root == release


def test_the_demo_corpus_needs_no_root(monkeypatch):
    roots = []
    corpus = Corpus("demo", Path(), (), "demo-speaker", {})
    monkeypatch.setattr(demo, "read", lambda folder: roots.append(folder) or corpus)
    assert read("demo", "") is read("demo", "given") is corpus
    assert roots == [None, Path("given")]


def test_refusals(tmp_path):
    """An unknown name, a database for another reader, an empty root, roots that are no folder."""
    (tmp_path / "file").touch()
    audb = "corpus.root=audb:emodb==1.4.1 is an audformat database; set corpus.name=audformat"
    known = f"known: {', '.join(sorted(registry.READERS))}"
    cases = [("timit", "", f"corpus.name='timit' is unknown; {known}")]
    near = "did you mean ravdess?"
    cases += [("RAVDES", "", f"corpus.name='RAVDES' is unknown; {near} {known}")]
    for name in set(registry.READERS) - {"demo"}:
        remedy = f"set it to the folder of the {name} release"
        cases.append((name, "", f"corpus.root is empty; {remedy}"))
        for root in ("nowhere", "file", "nul\0", "x" * 300, "~nobody-of-this-name/x", "x/" * 3000):
            path = root if root.startswith("~") else f"{tmp_path}/{root}"
            cases.append((name, path, f"corpus.root={path} is not a folder; {remedy}"))
        if name != "audformat":
            cases.append((name, "audb:emodb==1.4.1", audb))
    for name, root, sentence in cases:
        with pytest.raises(UserError) as error:
            read(name, root)
        assert str(error.value) == sentence


def test_the_readers_import_neither_jax_nor_pandas():
    for path in Path(ser_jax.corpora.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"jax", "flax", "pandas"}, path.name
