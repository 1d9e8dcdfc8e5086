"""Atomic files: their content, and what is left behind by a failure."""

import errno
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from ser_jax import atomic


def test_text_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    atomic.write_text(path, "new\nÄ\n")
    assert path.read_bytes() == "new\nÄ\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_written_piece_by_piece_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    with atomic.writing(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    with pytest.raises(KeyboardInterrupt), atomic.writing(path) as file:
        file.write(b"three")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one two" and [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_process_that_is_killed_leaves_the_old_file_and_a_leftover(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    program = (
        "import os, pathlib, sys\n"
        "from ser_jax import atomic\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "atomic.write_text(pathlib.Path(sys.argv[1]), 'new')"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], timeout=120)
    (left,) = set(tmp_path.iterdir()) - {path}
    assert ended.returncode == -9 and path.read_text() == "old" and left.read_text() == "new"
    assert atomic.is_leftover(left) and not atomic.is_leftover(path)


def test_hosts_with_equal_process_numbers_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    names = set()
    for host in ("a", "b"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        names.add(atomic.temporary(tmp_path / "x.csv"))
    assert len(names) == 2 and all(map(atomic.is_leftover, names)) and {name.parent for name in names} == {tmp_path}


def test_an_error_names_the_file(tmp_path):
    """That of a full disk does not by itself."""
    with pytest.raises(OSError) as failed, atomic.naming(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert failed.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError) as failed, atomic.naming(tmp_path / "a.txt"):
        (tmp_path / "b.txt").read_text()
    assert failed.value.filename == str(tmp_path / "b.txt")


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic.write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_that_is_not_unicode_stays_writable(tmp_path):
    name = os.fsdecode(b"\xe4.wav")
    atomic.write_json(tmp_path / "a.json", [name])
    atomic.write_text(tmp_path / "a.txt", name)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == [name]
    assert (tmp_path / "a.txt").read_text("utf-8") == "\\udce4.wav"


def test_json_is_strict_and_keeps_the_order(tmp_path):
    value = {
        "b": np.float32(0.5),
        "a": (1, np.int64(2), float("nan"), float("inf")),
        "array": np.array([[1.0, np.nan]]),
        "text": "ü",
        "none": None,
        "flag": np.bool_(True),
    }
    atomic.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text("utf-8")
    expected = {"b": 0.5, "a": [1, 2, None, None], "array": [[1.0, None]], "text": "ü", "none": None, "flag": True}
    assert json.loads(text) == expected
    assert list(json.loads(text)) == list(value)
    assert text.endswith("}\n")


def test_json_refuses_other_values(tmp_path):
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "a.json", {"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_csv_quotes_what_needs_it(tmp_path):
    atomic.write_csv(tmp_path / "a.csv", ("file", "line"), [('a,"b"', None), ("c", 1 / 3)])
    assert (tmp_path / "a.csv").read_text() == 'file,line\n"a,""b""",\nc,0.3333333333333333\n'
