"""Atomic files: their content, and what is left behind by a failure."""

import errno
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from ser_jax.runtime import files


def test_text_replaces_the_old_file_unless_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    files.write_text(path, "new\nÄ\n")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "newer")
    assert path.read_bytes() == "new\nÄ\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_written_piece_by_piece_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    with files.writing(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    with pytest.raises(KeyboardInterrupt), files.writing(path) as file:
        file.write(b"three")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one two" and [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", [84 * "李" + ".md", 255 * "a"])
def test_the_longest_names_are_written(name, tmp_path):
    files.write_text(tmp_path / name, "x")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_process_that_is_killed_leaves_the_old_file_and_a_leftover(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    program = (
        "import os, pathlib, sys\n"
        "from ser_jax.runtime import files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "files.write_text(pathlib.Path(sys.argv[1]), 'new')"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], timeout=120)
    (left,) = set(tmp_path.iterdir()) - {path}
    assert ended.returncode == -9 and path.read_text() == "old" and left.read_text() == "new"
    assert files.is_leftover(left) and not files.is_leftover(path)


def test_hosts_with_equal_process_numbers_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    names = set()
    for host in ("a", "b"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        names.add(files.temporary(tmp_path / "x.csv"))
    assert len(names) == 2 and all(map(files.is_leftover, names))
    assert {name.parent for name in names} == {tmp_path}


def test_an_error_names_the_file(tmp_path):
    """That of a full disk does not by itself."""
    with pytest.raises(OSError) as failed, files.naming(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert failed.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError) as failed, files.naming(tmp_path / "a.txt"):
        (tmp_path / "b.txt").read_text()
    assert failed.value.filename == str(tmp_path / "b.txt")


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_that_is_not_unicode_stays_writable(tmp_path):
    name = os.fsdecode(b"\xe4.wav")
    files.write_json(tmp_path / "a.json", [name])
    files.write_text(tmp_path / "a.txt", name)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == [name]
    assert (tmp_path / "a.txt").read_text("utf-8") == "\\udce4.wav"


def test_json_is_strict_and_keeps_the_order(tmp_path):
    value = {
        **{"b": np.float32(0.5), "a": (1, np.int64(2), float("nan"), float("inf"))},
        **{"array": np.array([[1.0, np.nan]]), "text": "ü", "none": None, "flag": np.bool_(True)},
    }
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text("utf-8")
    plain = {"b": 0.5, "a": [1, 2, None, None], "array": [[1.0, None]], "text": "ü"}
    assert json.loads(text) == plain | {"none": None, "flag": True}
    assert list(json.loads(text)) == list(value)
    assert text.endswith("}\n")
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "b.json", {"path": tmp_path})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((text, f"'{text}") for text in ("=1+1", "+1", "-rf.wav", "@SUM(A1)", "\t=1", "＝1")),
        *((text, f"'{text}") for text in ("'=1", "''-1")),
        *((text, text) for text in ("a=1", "'a", "", " =1", "'")),
    ],
)
def test_no_text_of_a_table_is_a_formula(text, cell):
    content = files.csv_bytes([text, "x"], [[-0.5, text]]).decode()
    assert content == f"{cell},x\n-0.5,{cell}\n"
    assert files.cell_text(cell) == text


def test_csv_quotes_what_needs_it(tmp_path):
    files.write_csv(tmp_path / "a.csv", ("file", "line"), [('a,"b"', None), ("c", 1 / 3)])
    assert (tmp_path / "a.csv").read_text() == 'file,line\n"a,""b""",\nc,0.3333333333333333\n'
