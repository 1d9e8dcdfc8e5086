"""audformat databases: published ones, tables read without running code, and the corpus."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import audb
import audformat
import pandas
import pytest
import releases
from audformat_release import add_table, emodb_like, filewise_rows, new_database, save

from ser_jax.corpora import audformat_database, registry
from ser_jax.corpora.audformat_database import Database
from ser_jax.corpora.release_files import Unusable
from ser_jax.runtime.errors import UserError

# The library uses arguments of pandas that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:aud(b|format)")

ROWS = filewise_rows()


def read(root: Path, labels: str = "", allow_missing: bool = False):
    return audformat_database.read(root, manifest=labels, allow_missing=allow_missing)


@pytest.mark.parametrize("storage", ["csv", "parquet"])
def test_a_database_like_emodb(tmp_path, storage):
    """The table of no split holds all labels; speakers and splits stand in other tables."""
    corpus = read(save(emodb_like(ROWS), tmp_path, storage=storage))
    assert corpus.name == "audformat" and corpus.root == tmp_path
    canonical = {"anger": "angry", "happiness": "happy", "neutral": "neutral", "sadness": "sad"}
    assert {(row.file, row.label, row.speaker, row.split) for row in corpus.utterances} == {
        (file, canonical[label], str(who), "test" if who == 10 else "train")
        for file, label, who in ROWS
    }
    assert corpus.utterances[0].id == "wav/03a0"
    assert {row.start for row in corpus.utterances} == {None}
    assert corpus.label_mapping == canonical
    assert corpus.protocol == "audformat-split"
    assert (corpus.rejected, corpus.warnings, corpus.modified) == ((), (), False)


def segmented(*rows: tuple[str, float, float | None, str], column: str = "emotion", **more):
    """Returns a database with one table of segments; `more` are its other columns."""
    database = new_database()
    files, starts, ends, labels = zip(*rows, strict=True)
    stops: Any = [f"{e}s" if e else None for e in ends]
    index = audformat.segmented_index(files, [f"{s}s" for s in starts], stops)
    add_table(database, "segments", index, {column: labels, **more})
    return database


def test_segments_become_spans(tmp_path):
    rows = [
        ("a.wav", 0.0, None, "anger"),
        ("b.wav", 1.5, None, "neutral"),
        ("b.wav", 0.0, 1.25, "sadness"),
    ]
    corpus = read(save(segmented(*rows, speaker=["x", "y", "y"]), tmp_path))
    assert [(row.id, row.start, row.end, row.label, row.speaker) for row in corpus.utterances] == [
        ("a", None, None, "angry", "x"),
        ("b#0.000-1.250", 0.0, 1.25, "sad", "y"),
        ("b#1.500-end", 1.5, None, "neutral", "y"),
    ]
    assert corpus.protocol == "audformat-speaker"


def test_segments_have_the_speaker_and_split_of_their_file(tmp_path):
    database = segmented(
        ("a.wav", 0.0, 1.0, "anger"), ("a.wav", 1.0, 2.0, "neutral"), ("b.wav", 0.0, 1.0, "anger")
    )
    add_table(
        database, "files", audformat.filewise_index(["a.wav", "b.wav"]), {"speaker": ["x", "y"]}
    )
    add_table(database, "training", audformat.filewise_index(["a.wav"]), {}, split="train")
    add_table(
        database, "testing", audformat.segmented_index(["b.wav"], ["0s"], ["1s"]), {}, split="test"
    )
    corpus = read(save(database, tmp_path))
    found = [(row.speaker, row.split) for row in corpus.utterances]
    assert found == [("x", "train"), ("x", "train"), ("y", "test")]


def test_a_segment_has_its_own_speaker_rather_than_that_of_the_file(tmp_path):
    database = segmented(
        ("a.wav", 0.0, 1.0, "anger"), ("a.wav", 1.0, 2.0, "neutral"), speaker=["x", None]
    )
    add_table(database, "files", audformat.filewise_index(["a.wav"]), {"speaker": ["whole file"]})
    assert [row.speaker for row in read(save(database, tmp_path)).utterances] == ["x", "whole file"]


def test_sessions_are_read_as_speakers_are(tmp_path):
    database = segmented(
        ("a.wav", 0.0, 1.0, "anger"), ("b.wav", 1.0, 2.0, "neutral"), session=["S1", "S2"]
    )
    corpus = read(save(database, tmp_path))
    assert [row.session for row in corpus.utterances] == ["S1", "S2"]
    assert corpus.protocol == "audformat-session"


def test_a_column_of_the_scheme_speaker_need_not_be_called_so(tmp_path):
    database = new_database()
    database.schemes["speaker"] = audformat.Scheme("str")
    index = audformat.filewise_index(["a.wav", "b.wav"])
    columns = {"emotion": ["anger", "neutral"], "who": ["x", "y"]}
    add_table(database, "all", index, columns, schemes={"who": "speaker"})
    assert [row.speaker for row in read(save(database, tmp_path)).utterances] == ["x", "y"]


def per_split(**labels: str):
    """Returns a database with a table per split, whose recordings have the labels given."""
    database = new_database()
    for split, label in labels.items():
        index = audformat.filewise_index([f"{split}{n}.wav" for n in range(2)])
        add_table(database, f"emotion.{split}", index, {"emotion": [label, label]}, split=split)
    return database


def test_one_table_per_split(tmp_path):
    corpus = read(save(per_split(train="anger", dev="sadness", test="neutral"), tmp_path))
    assert {(row.id[:-1], row.split, row.label) for row in corpus.utterances} == {
        ("train", "train", "angry"),
        ("dev", "devel", "sad"),
        ("test", "test", "neutral"),
    }
    assert corpus.protocol == "audformat-split"


def test_a_table_of_another_kind_of_split_is_in_none(tmp_path):
    database = per_split(train="anger", test="neutral", other="sadness")
    index = audformat.filewise_index(["other0.wav", "other1.wav"])
    add_table(database, "files", index, {"speaker": ["x", "y"]})
    corpus = read(save(database, tmp_path), "emotion.other/emotion")
    assert {row.split for row in corpus.utterances} == {""}
    assert corpus.protocol == "audformat-speaker"


def test_the_column_can_be_named(tmp_path):
    database = emodb_like(ROWS)
    database.schemes["mood"] = audformat.Scheme(labels=["low", "high"])
    index = audformat.filewise_index([file for file, _, _ in ROWS])
    add_table(database, "moods.v1", index, {"mood": ["low", "high"] * (len(ROWS) // 2)})
    corpus = read(save(database, tmp_path), "moods.v1/mood")
    assert {row.label for row in corpus.utterances} == {"low", "high"}
    assert len(corpus.utterances) == len(ROWS)


def test_labels_in_a_table_of_their_own(tmp_path):
    """A scheme's labels may be the index of a misc table, which is then loaded first."""
    database = audformat.Database("tiny", source="made up", usage="unrestricted")
    database["kinds"] = audformat.MiscTable(pandas.Index(["calm", "loud"], name="kind"))
    database.schemes["emotion"] = audformat.Scheme("str", labels="kinds")
    index = audformat.filewise_index(["a.wav", "b.wav"])
    add_table(database, "all", index, {"emotion": ["calm", "loud"], "speaker": ["x", "y"]})
    assert [row.label for row in read(save(database, tmp_path)).utterances] == ["calm", "loud"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("emotion", "=emotion: the database has no such table/column; it has emotion/emotion, "),
        ("files/emotion", "corpus.manifest=files/emotion: the database has no such table/column"),
        ("nothing/x", "it has emotion/emotion, .*files/speaker, files/duration"),
        ("files/duration", "/duration holds values of type time, not classes; set corpus.manifest"),
    ],
)
def test_a_column_that_holds_no_classes(tmp_path, labels, sentence):
    database = emodb_like(ROWS)
    database.schemes["duration"] = audformat.Scheme("time")
    database["files"]["duration"] = audformat.Column(scheme_id="duration")
    database["files"]["duration"].set(["1s"] * len(ROWS))
    with pytest.raises(UserError, match=sentence):
        read(save(database, tmp_path), labels)


@pytest.mark.parametrize("tables", [[], ["rater1", "rater2"]])
def test_the_default_column_must_be_plain(tmp_path, tables):
    database = new_database()
    for table in tables:
        add_table(database, table, audformat.filewise_index(["a.wav"]), {"emotion": ["anger"]})
    add_table(database, "files", audformat.filewise_index(["a.wav"]), {"speaker": ["x"]})
    found = "rater1/emotion, rater2/emotion" if tables else "none"
    with pytest.raises(
        UserError,
        match=f"which column holds the labels. of scheme 'emotion': {found}; set corpus.manif",
    ):
        read(save(database, tmp_path))


# --- Rows that cannot be used


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (("../secret.wav", 0.0, None, "anger"), "refused path", '".." leads out'),
        (("/etc/passwd", 0.0, None, "anger"), "refused path", "absolute"),
        (("b.wav", 2.0, 1.0, "anger"), "bad line", "b.wav: start 2.0 is not before end 1.0"),
        (("b.wav", 0.0, None, None), "bad line", "b.wav has no label"),
    ],
)
def test_a_bad_row_is_rejected_with_its_number(tmp_path, row, reason, detail):
    database = segmented(("a.wav", 0.0, None, "anger"), row, speaker=["x", "y"])
    save(database, tmp_path, audio=False)
    (tmp_path / "a.wav").touch()
    corpus = read(tmp_path)
    (bad,) = corpus.rejected
    assert (bad.file, bad.line, bad.reason) == ("db.segments.parquet", 2, reason)
    assert detail in bad.detail
    assert [utterance.id for utterance in corpus.utterances] == ["a"]


def test_withheld_labels_of_the_test_split_are_used_unlabelled(tmp_path):
    database = per_split(train="anger", test="neutral")
    index = audformat.filewise_index(["t.wav"])
    add_table(database, "emotion.test", index, {"emotion": [None]}, split="test")
    corpus = read(save(database, tmp_path))
    found = {row.id: row.label for row in corpus.utterances}
    assert found == {"train0": "angry", "train1": "angry", "t": ""}
    assert "" not in corpus.label_mapping


def test_a_recording_in_two_splits_is_rejected(tmp_path):
    database = emodb_like(ROWS)
    add_table(database, "late", audformat.filewise_index([ROWS[0][0]]), {}, split="test")
    corpus = read(save(database, tmp_path))
    (bad,) = corpus.rejected
    assert bad.detail == f"{ROWS[0][0]} is in several splits: train, test" and bad.line == 1
    assert len(corpus.utterances) == len(ROWS) - 1


def test_nothing_says_which_rows_belong_together(tmp_path):
    """It is read all the same: only folds need speakers."""
    database = segmented(("a.wav", 0.0, None, "anger"))
    assert read(save(database, tmp_path)).protocol == "audformat-speaker"


def test_missing_recordings(tmp_path):
    save(emodb_like(ROWS), tmp_path)
    os.unlink(tmp_path / ROWS[3][0])
    with pytest.raises(Unusable, match="1 of 32 listed recordings are missing"):
        read(tmp_path)
    assert read(tmp_path, allow_missing=True).modified


# --- Without the library


def test_without_audformat(tmp_path, monkeypatch):
    save(emodb_like(ROWS), tmp_path)
    monkeypatch.setitem(sys.modules, "audformat", None)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert str(error.value) == "corpus.name=audformat needs audformat: pip install 'ser_jax[data]'"


def test_a_folder_that_is_no_database(tmp_path):
    with pytest.raises(
        UserError, match=r"corpus.root=.* holds no db.yaml, the header of an audformat database"
    ):
        read(tmp_path)


FEW = filewise_rows((3, 8, 9), 1)


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(emodb_like(FEW), tmp_path / "database", audio=False)


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_table_is_never_loaded(folder, tmp_path):
    """The library itself prefers it, and so runs it."""
    (folder / "db.emotion.pkl").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    assert [value for _, value in Database(folder).rows("emotion", "emotion")] == [
        label for _, label, _ in FEW
    ]
    assert not (tmp_path / "canary").exists()
    pickle.loads((folder / "db.emotion.pkl").read_bytes())
    assert (tmp_path / "canary").exists(), "the canary is alive"


def test_a_table_that_is_only_pickled_is_refused(folder, tmp_path):
    (folder / "db.emotion.parquet").unlink()
    (folder / "db.emotion.pkl").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(
        UserError,
        match="no db.emotion.csv or .parquet; a pickled table is not read, because it could",
    ):
        Database(folder).source("emotion")
    (folder / "db.emotion.pkl").unlink()
    with pytest.raises(UserError, match="no db.emotion.csv or .parquet; complete the database$"):
        Database(folder).source("emotion")
    assert not (tmp_path / "canary").exists()


def test_a_header_builds_no_objects(folder, tmp_path):
    """The library itself would build them."""
    header = folder / "db.yaml"
    evil = f"!!python/object/apply:os.mkdir [{tmp_path / 'canary'}]"
    header.write_text(header.read_text() + f"meta: {evil}\n")
    with pytest.raises(
        UserError, match="db.yaml: not the header of an audformat database .ConstructorError"
    ):
        Database(folder)
    assert not (tmp_path / "canary").exists()
    audformat.Database.load(str(folder))
    assert (tmp_path / "canary").exists(), "the canary is alive"


@pytest.mark.parametrize(
    "text", ["", "[", "just text", "name: x\n", "name: 3\nsource: x\nusage: y\ntables: 5\n"]
)
def test_a_damaged_header(folder, text):
    (folder / "db.yaml").write_text(text)
    with pytest.raises(UserError, match="db.yaml: not the header of an audformat database"):
        Database(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more", None])
def test_a_damaged_table(folder, content):
    path = folder / "db.emotion.parquet"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(UserError, match="db.emotion.parquet: not a table of the database"):
        list(Database(folder).rows("emotion", "emotion"))


library: Any = (
    audb  # Its functions have the names of its modules, which type checkers take them for.
)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """Publishes version 1.0.0 of a tiny database; returns the folder it was made of."""
    made = save(emodb_like(FEW), tmp_path / "made", audio=False)
    for number, (file, label, who) in enumerate(FEW):
        releases.write_wav(made / file, releases.tone_like_speech(0.1, label, str(who), number))
    (tmp_path / "host/published").mkdir(parents=True)
    published = library.Repository("published", str(tmp_path / "host"), "file-system")
    monkeypatch.setattr(audb.config, "REPOSITORIES", [published])
    monkeypatch.setattr(audb.config, "CACHE_ROOT", str(tmp_path / "cache"))
    monkeypatch.setattr(audb.config, "SHARED_CACHE_ROOT", str(tmp_path / "shared"))
    library.publish(
        str(made), "1.0.0", published, cache_root=str(tmp_path / "cache"), verbose=False
    )
    return made


def test_a_published_database_is_the_corpus_that_was_published(repository, tmp_path):
    folder = audformat_database.fetch("audb:tiny==1.0.0")
    assert folder.is_relative_to(tmp_path / "cache")
    assert not list(folder.rglob("*.pkl")), "no table is kept pickled"
    corpus = audformat_database.read(folder, manifest="", allow_missing=False)
    original = audformat_database.read(repository, manifest="", allow_missing=False)
    assert corpus.utterances == original.utterances and len(corpus.utterances) == len(FEW)
    assert [corpus.path(row).read_bytes() for row in corpus.utterances] == [
        original.path(row).read_bytes() for row in original.utterances
    ]


def test_the_registry_fetches_it(repository):
    corpus = registry.read_corpus(
        "audformat", "audb:tiny==1.0.0", manifest="manifest.csv", allow_missing=False
    )
    assert corpus.name == "audformat" and corpus.protocol == "audformat-split"


@pytest.mark.parametrize("root", ["audb:tiny==2.0.0", "audb:other==1.0.0"])
def test_what_the_repository_does_not_have(repository, root):
    with pytest.raises(UserError) as error:
        audformat_database.fetch(root)
    name, _, version = root.removeprefix("audb:").partition("==")
    assert str(error.value).startswith(f"corpus.root={root} cannot be loaded (RuntimeError: ")
    assert version in str(error.value) and name in str(error.value)
    assert str(error.value).endswith("the repositories in ~/.config/audb.yaml")


def test_name_and_version_are_both_needed():
    for name in ("", "emodb", "emodb=1.4.1", "emodb==", "a/b==1", "x==1 "):
        sentence = (
            f"corpus.root=audb:{name}: write it as audb:NAME==VERSION, for example audb:emodb"
        )
        with pytest.raises(UserError, match=sentence):
            audformat_database.fetch(f"audb:{name}")


def test_without_audb(monkeypatch):
    monkeypatch.setitem(sys.modules, "audb", None)
    with pytest.raises(
        UserError, match=r"corpus.root=audb:tiny==1.0.0 needs audb: pip install 'ser_jax\[data\]'"
    ):
        audformat_database.fetch("audb:tiny==1.0.0")


def test_a_cache_that_another_process_holds(monkeypatch):
    monkeypatch.setattr(audb, "load", lambda *arguments, **options: None)
    with pytest.raises(UserError, match="another process holds audb's cache; try again"):
        audformat_database.fetch("audb:tiny==1.0.0")
