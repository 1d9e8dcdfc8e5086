"""Compiling and loading the kernels: once per machine, and never without a sentence if it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from ser_jax.models import native_library

pytestmark = pytest.mark.skipif(native_library.compiler() is None, reason="there is no C++ compiler")

PREPARE = """
import ser_jax
from ser_jax.models import native_library, kernel_parity
from ser_jax.training import factored
try:
    print(kernel_parity.prepare(factored.differences))
except native_library.UnavailableError as error:
    print('unavailable:', error)
"""


def prepare(cache: Path, compiler: Path | str | None = None) -> str:
    """What a fresh process says that has the kernels ready."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)} | ({"CXX": str(compiler)} if compiler else {})
    process = subprocess.run(
        [sys.executable, "-c", PREPARE], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def counting(tmp_path_factory) -> Path:
    """A compiler that counts how often it compiles."""
    folder = tmp_path_factory.mktemp("compiler")
    real = native_library.compiler()
    return script(folder / "c++", f'[ "$1" = --version ] || echo . >> "$0.log"\nexec "{real}" "$@"')


def compiled(counting: Path) -> int:
    return len(Path(f"{counting}.log").read_text().split())


@pytest.fixture(scope="module")
def filled(counting, tmp_path_factory) -> Path:
    """A cache folder with compiled kernels."""
    cache = tmp_path_factory.mktemp("cache")
    assert "unavailable" not in prepare(cache, counting) and compiled(counting) == 1
    return cache


def test_what_is_compiled_is_kept(filled, counting):
    prepare(filled, counting)
    assert compiled(counting) == 1
    names = sorted(path.name for path in (filled / "ser_jax/native").iterdir())
    assert [name.partition(".")[2] for name in names] == ["sha256", "so"]
    assert (filled / "ser_jax/native").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["flipped", "cut", "no digest"])
def test_what_is_damaged_is_compiled_again(damage, filled, counting):
    (library,) = (filled / "ser_jax/native").glob("*.so")
    before, content = compiled(counting), bytearray(library.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        library.write_bytes(content)
    elif damage == "cut":
        library.write_bytes(content[:1000])
    else:
        library.with_suffix(".sha256").unlink()
    assert "unavailable" not in prepare(filled, counting)
    assert compiled(counting) == before + 1


def test_without_a_compiler(tmp_path):
    assert prepare(tmp_path, "no-such-compiler").startswith("unavailable: no C++ compiler was found (c++, g++")


def test_a_compiler_that_does_not_work(tmp_path):
    broken = script(tmp_path / "broken", "echo it is broken >&2; exit 1")
    assert prepare(tmp_path, broken) == f"unavailable: the C++ compiler {broken} does not work: it is broken"


def test_a_compiler_that_is_no_program(tmp_path):
    text = tmp_path / "text"
    text.write_text("what cannot be executed")
    text.chmod(0o755)
    said = prepare(tmp_path, text)
    assert said.startswith(f"unavailable: the C++ compiler {text} does not work: ") and "Exec format error" in said


def test_a_compiler_that_is_too_old(tmp_path):
    old = script(tmp_path / "old", '[ "$1" = --version ] && echo cc 4.0 || { echo "x: error: no C++17" >&2; exit 1; }')
    assert prepare(tmp_path, old) == "unavailable: cc 4.0 cannot compile kernels.cc: x: error: no C++17"
    assert list((tmp_path / "ser_jax/native").iterdir()) == []


def test_what_is_no_library_is_not_used(tmp_path):
    other = script(tmp_path / "other", 'for last; do :; done\n[ "$1" = --version ] && echo cc 1 || echo text > "$last"')
    assert "unavailable: " in prepare(tmp_path, other) and "cannot be written or loaded" in prepare(tmp_path, other)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be written or loaded (Not a directory)" in prepare(tmp_path / "file")
