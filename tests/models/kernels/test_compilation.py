"""Compiling and loading the CPU kernels in fresh processes: once per machine, or a clear reason."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT

from ser_jax.models.kernels import cpu
from ser_jax.runtime import machine

pytestmark = pytest.mark.skipif(cpu.compiler() is None, reason="there is no C++ compiler")

PREPARE = """
import logging, sys
import ser_jax
from ser_jax.models.kernels import cpu, verify
logging.basicConfig(stream=sys.stdout, format="%(levelname)s: %(message)s")
try:
    verify.prepare()
    print("ready:", cpu.load().path)
except cpu.UnavailableError as error:
    print("unavailable:", error)
"""


def prepare(cache: Path, compiler: Path | str | None = None) -> str:
    """Returns the output of a fresh process that prepares the kernels."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    environment |= {"CXX": str(compiler)} if compiler else {}
    command = [sys.executable, "-c", PREPARE]
    options: Any = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 300}
    process = subprocess.run(command, env=environment, **options)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def write_script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def counting(tmp_path_factory) -> Path:
    """A compiler that counts how often it is called; what it compiled once it copies from then on.

    The kernels are the only program it is given, and compiling them takes ten seconds.
    """
    program = tmp_path_factory.mktemp("compiler") / "c++"
    text = f'''
[ "$1" = --version ] && exec "{cpu.compiler()}" "$@"
echo . >> "$0.log"
for last; do :; done
if [ -f "$0.so" ]; then cp "$0.so" "$last"; else "{cpu.compiler()}" "$@" && cp "$last" "$0.so"; fi
'''
    return write_script(program, text)


def compiled(counting: Path) -> int:
    return len(Path(f"{counting}.log").read_text().split())


@pytest.fixture(scope="module")
def filled(counting, tmp_path_factory) -> Path:
    """A cache folder with compiled kernels."""
    cache = tmp_path_factory.mktemp("cache")
    assert prepare(cache, counting).startswith("ready: ") and compiled(counting) == 1
    return cache


def test_compiled_kernels_are_kept(filled, counting):
    prepare(filled, counting)
    assert compiled(counting) == 1
    names = sorted(path.name for path in (filled / "ser_jax/native").iterdir())
    assert [name.partition(".")[2] for name in names] == ["sha256", "so"]
    assert (filled / "ser_jax/native").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["flipped", "no digest", "digest that is no text"])
def test_damaged_kernels_are_compiled_again(damage, filled, counting):
    (library,) = (filled / "ser_jax/native").glob("*.so")
    before, content = compiled(counting), bytearray(library.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        library.write_bytes(content)
    elif damage == "no digest":
        library.with_suffix(".sha256").unlink()
    else:
        library.with_suffix(".sha256").write_bytes(b"\xff" * 64)
    assert prepare(filled, counting).startswith("ready: ")
    assert compiled(counting) == before + 1


def test_a_folder_that_others_can_write_is_not_used(tmp_path, filled, counting):
    """Code would be loaded from it."""
    folder = tmp_path / "ser_jax/native"
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    warning, ready = prepare(tmp_path, counting).splitlines()
    assert warning.startswith(f"WARNING: {folder} belongs to another user or can be written by")
    assert ready.startswith("ready: ") and str(tmp_path) not in ready
    assert not Path(ready.removeprefix("ready: ")).exists() and not any(folder.iterdir())


def test_names_follow_from_all_that_the_code_depends_on(monkeypatch):
    changes = {
        (cpu, "_OPTIONS"): ("-O2",),
        (cpu, "_TARGETS"): ("-march=native",),
        (machine, "processor"): lambda: ("other",),
        (cpu.importlib.metadata, "version"): lambda _: "0.1",
    }
    keys = [cpu._key("cc 1"), cpu._key("cc 2")]
    for place, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(*place, value)
            keys.append(cpu._key("cc 1"))
    assert len(set(keys)) == 6


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo it is broken >&2; exit 1", "the C++ compiler {} does not work: it is broken"),
        (
            '[ "$1" = --version ] && echo cc 4.0 || { echo "x: error: no C++17" >&2; exit 1; }',
            "cc 4.0 cannot compile cpu.cc: x: error: no C++17",
        ),
        (
            'for last; do :; done\n[ "$1" = --version ] && echo cc 1 || echo text > "$last"',
            "cannot be written or loaded",
        ),
    ],
    ids=["broken", "too old", "makes no library"],
)
def test_a_compiler_that_fails(tmp_path, script, reason):
    program = write_script(tmp_path / "compiler", script)
    answer = prepare(tmp_path, program)
    assert answer.startswith("unavailable: ") and reason.format(program) in answer
    if "too old" in reason:
        assert not any((tmp_path / "ser_jax/native").iterdir())


def test_no_compiler_and_no_program(tmp_path):
    answer = prepare(tmp_path, "no-such-compiler")
    assert answer.startswith("unavailable: no C++ compiler was found (c++, g++")
    text = tmp_path / "text"
    text.write_text("not a program")
    text.chmod(0o755)
    answer = prepare(tmp_path, text)
    assert f"the C++ compiler {text} does not work: " in answer and "Exec format error" in answer


def test_a_cache_that_cannot_be_written(tmp_path, filled, counting):
    (tmp_path / "file").touch()
    warning, ready = prepare(tmp_path / "file", counting).splitlines()
    assert f"{tmp_path / 'file/ser_jax'} cannot be made (Not a directory)" in warning
    assert ready.startswith("ready: ") and str(tmp_path) not in ready
