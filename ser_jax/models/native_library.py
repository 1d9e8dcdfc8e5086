"""Compiles and loads kernels.cc: once per machine, with the C++ compiler that is there.

What was compiled is kept in the cache folder, private to the user, under a name that follows from source, compiler,
processor and jaxlib. A file is only loaded with its SHA-256 beside it, which is written when the kernels have been
compared with XLA's (kernel_parity.py).
"""

import ctypes
import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax

from ser_jax import atomic
from ser_jax.cache import cache_folder

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cc")
NAMES = ("convolve_forward", "convolve_kernel_gradient", "convolve_inputs_gradient", "lstm_forward", "lstm_backward")
NAMES += ("adam_of_product",)
COMPILERS = ("c++", "g++", "clang++")
_OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-w")
_LONGEST = 300  # s that compilation may take


class UnavailableError(Exception):
    """The kernels cannot be used; its text says why."""


@dataclasses.dataclass(frozen=True)
class Library:
    """Compiled kernels whose calls XLA knows.

    Attributes:
      path: The file.
      compiler: What has compiled it, in words.
      prefix: Of the names of the calls.
    """

    path: Path
    compiler: str
    prefix: str

    @property
    def trusted(self) -> bool:
        """Whether the file is the one that was compared with XLA's results."""
        return _intact(self.path)

    def trust(self) -> None:
        """Notes that the kernels have been compared with XLA's."""
        atomic.write_text(_digest_file(self.path), _digest(self.path))

    def distrust(self) -> None:
        """Removes the file; the next start compiles it again."""
        self.path.unlink(missing_ok=True)


@functools.cache
def load() -> Library:
    """Compiles the kernels, if that has not been done on this machine, and registers their calls.

    Raises:
      UnavailableError: If there is no compiler, it fails, or its result cannot be loaded.
    """
    found = compiler()
    if sys.platform == "win32" or found is None:
        raise UnavailableError(f"no C++ compiler was found ({', '.join(COMPILERS)}, or the one that CXX names)")
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=_LONGEST)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"the C++ compiler {found} does not work: {error}") from error
    version = said.stdout.partition("\n")[0].strip()
    if said.returncode or not version:
        raise UnavailableError(f"the C++ compiler {found} does not work: {said.stderr.strip():.200}")
    key = hashlib.sha256(SOURCE.read_bytes())
    for part in (version, _processor(), importlib.metadata.version("jaxlib")):
        key.update(hashlib.sha256(part.encode()).digest())
    folder = cache_folder() / "native"
    path = folder / f"{key.hexdigest()[:16]}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _intact(path):
            _compile(found, version, path)
        library = ctypes.CDLL(os.fspath(path))
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written or loaded ({error.strerror or error})") from error
    prefix = f"ser_jax_{path.stem}_"
    for name in NAMES:
        jax.ffi.register_ffi_target(prefix + name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return Library(path, version, prefix)


def compiler() -> str | None:
    """Returns the path of the C++ compiler, None if there is none."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)


def _compile(found: str, version: str, path: Path) -> None:
    """Writes the library; other processes may be doing the same."""
    begin = time.monotonic()
    unfinished = atomic.temporary(path)
    try:
        # Compilers for some processors know the second form only.
        for native in ("-march=native", "-mcpu=native"):
            command = [found, *_OPTIONS, native, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(unfinished)]
            said = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST)
            if said.returncode == 0:
                break
        else:
            reason = next((line for line in said.stderr.splitlines() if "error" in line), said.stderr.strip())
            raise UnavailableError(f"{version} cannot compile {SOURCE.name}: {reason:.200}")
        os.replace(unfinished, path)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{version} has not compiled {SOURCE.name} in {_LONGEST} s") from error
    finally:
        unfinished.unlink(missing_ok=True)
    log.info("compiled the kernels for this processor in %.1f s (%s), once", time.monotonic() - begin, version)


def _processor() -> str:
    """Returns what the compiler's code for this processor depends on."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    named = {line.split(":")[0].strip(): line for line in lines if ":" in line}
    return "".join(named.get(name, "") for name in ("model name", "flags", "Features")) or platform.processor()


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _intact(path: Path) -> bool:
    beside = _digest_file(path)
    return path.is_file() and beside.is_file() and beside.read_text() == _digest(path)
