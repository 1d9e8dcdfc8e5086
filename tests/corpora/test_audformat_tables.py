"""R24 for databases: reading one never runs what it says, and damage is told from absence."""

import pickle
from pathlib import Path

import audformat
import pytest
from audformat_release import emodb_like, filewise_rows, save

from ser_jax.corpora.audformat_tables import Database
from ser_jax.errors import UserError

# The library uses arguments of pandas that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:aud(b|format)")

ROWS = filewise_rows((3, 8, 9), 1)


@pytest.fixture
def root(tmp_path) -> Path:
    return save(emodb_like(ROWS), tmp_path / "database", audio=False)


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_table_is_never_loaded(root, tmp_path):
    """The library itself prefers it, and so runs it."""
    (root / "db.emotion.pkl").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    assert [value for _, value in Database(root).rows("emotion", "emotion")] == [label for _, label, _ in ROWS]
    assert not (tmp_path / "canary").exists()
    pickle.loads((root / "db.emotion.pkl").read_bytes())
    assert (tmp_path / "canary").exists(), "the canary is alive"


def test_a_table_that_is_only_pickled_is_refused(root, tmp_path):
    (root / "db.emotion.parquet").unlink()
    (root / "db.emotion.pkl").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(UserError, match="no db.emotion.csv or .parquet; a pickled table is not read, because it could"):
        Database(root).source("emotion")
    (root / "db.emotion.pkl").unlink()
    with pytest.raises(UserError, match="no db.emotion.csv or .parquet; complete the database$"):
        Database(root).source("emotion")
    assert not (tmp_path / "canary").exists()


def test_a_header_builds_no_objects(root, tmp_path):
    """The library itself would build them."""
    header = root / "db.yaml"
    evil = f"!!python/object/apply:os.mkdir [{tmp_path / 'canary'}]"
    header.write_text(header.read_text() + f"meta: {evil}\n")
    with pytest.raises(UserError, match="db.yaml: not the header of an audformat database .ConstructorError"):
        Database(root)
    assert not (tmp_path / "canary").exists()
    audformat.Database.load(str(root))
    assert (tmp_path / "canary").exists(), "the canary is alive"


@pytest.mark.parametrize("text", ["", "[", "just text", "name: x\n", "name: 3\nsource: x\nusage: y\ntables: 5\n"])
def test_a_damaged_header(root, text):
    (root / "db.yaml").write_text(text)
    with pytest.raises(UserError, match="db.yaml: not the header of an audformat database"):
        Database(root)


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more", None])
def test_a_damaged_table(root, content):
    path = root / "db.emotion.parquet"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(UserError, match="db.emotion.parquet: not a table of the database"):
        list(Database(root).rows("emotion", "emotion"))


def test_what_a_database_says_of_itself(root):
    database = Database(root)
    gold = [f"emotion.categories.{split}.gold_standard" for split in ("test", "train")]
    assert sorted(database.tables) == ["emotion", *gold, "files"]
    assert database.columns["files", "speaker"] == "speaker" and database.columns["emotion", "emotion"] == "emotion"
    assert [database.split(table) for table in ("emotion", *gold)] == ["", "test", "train"]
    assert database.dtype("emotion") == "str" and database.is_filewise("files")
    assert database.source("files") == "db.files.parquet"
    assert [segment for segment, _ in database.rows("files")] == [(file, None, None) for file, _, _ in ROWS]
    assert [value for _, value in database.rows("files", "speaker")] == [str(who) for _, _, who in ROWS]
