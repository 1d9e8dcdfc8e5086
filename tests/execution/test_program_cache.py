"""Compiled programs on disk: used again, and replaced when they are damaged."""

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import jax
from commands import FORKS

from ser_jax.runtime import files
from ser_jax.training.execution import program_cache
from ser_jax.training.execution.program_cache import ProgramCache


def run_one_program(folder: Path) -> int:
    warnings.simplefilter("error")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    os.environ.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
    program_cache.use_compilation_cache()
    found = []
    jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
    assert jax.jit(lambda x: x * 3 + 1)(2) == 7
    return sum(event.endswith("cache_hits") for event in found)


def hits(folder: Path) -> int:
    """Returns how many programs a process has found that runs one."""
    with FORKS.Pool(1) as pool:
        return pool.apply(run_one_program, (folder,))


def test_a_damaged_program_is_compiled_again_and_replaced(tmp_path):
    assert hits(tmp_path) == 0
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*-cache")}
    assert whole and hits(tmp_path)
    for path, content in whole.items():
        for damaged in (
            content[: len(content) // 2],
            b"",
            content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
        ):
            path.write_bytes(damaged)
            assert ProgramCache(path.parent).get(path.name.removesuffix("-cache")) is None
    assert hits(tmp_path) == 0
    assert set(tmp_path.rglob("*-cache")) == whole.keys()
    assert hits(tmp_path)


def test_compiled_programs_are_kept_in_a_private_folder(tmp_path, monkeypatch, caplog):
    """One for every processor; none where others can write; where none can be made, for a time."""
    used: list[Any] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: used.append(value))
    program_cache.use_compilation_cache()
    folder = Path(used[0])
    assert folder.parent == tmp_path / "ser_jax/xla" and folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(program_cache.machine, "processor", lambda: ("other",))
    program_cache.use_compilation_cache()
    assert Path(used[2]) != folder
    Path(used[2]).chmod(0o777)
    program_cache.use_compilation_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    (folder / "file").touch()
    program_cache.use_compilation_cache()
    assert caplog.text.count("programs are compiled at every start") == 1
    assert f"{folder / 'file/ser_jax'} cannot be made" in caplog.text
    assert len(used) == 6 and tmp_path not in Path(used[4]).parents
    # Which programs are worth keeping is what the user has set.
    assert used[1::2] == [0, 0, 0]
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    program_cache.use_compilation_cache()
    assert len(used) == 7


def test_a_renamed_program_is_none(tmp_path):
    cache = ProgramCache(tmp_path)
    cache.put("one", b"program")
    assert cache.get("one") == b"program" and cache.get("two") is None
    (tmp_path / "one-cache").rename(tmp_path / "two-cache")
    assert cache.get("two") is None


def test_a_full_disk_is_told_once(tmp_path, monkeypatch, caplog):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_bytes", full)
    cache = ProgramCache(tmp_path)
    for key in ("one", "two"):
        cache.put(key, b"program")
    (record,) = caplog.records
    assert "compiled programs are not kept: [Errno 28] No space left" in record.getMessage()
