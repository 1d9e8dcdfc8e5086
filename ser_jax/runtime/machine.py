"""The machine: its processor, the cache folder, and what glibc does with freed memory."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

# What the lines of /proc/cpuinfo that tell processors apart begin with, in lower case: x86, Arm,
# POWER, RISC-V, LoongArch, S/390.
_CPUINFO = ("model name", "flags", "features", "cpu implementer", "cpu variant", "cpu part")
_CPUINFO += ("cpu revision", "cpu\t", "cpu family", "isa", "uarch", "processor 0:")
_NAMES = ("model name", "cpu\t", "uarch", "processor 0:", "cpu part")  # of them, the best first

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def available_cores() -> int:
    """Returns how many cores this process may use: on Linux those assigned to it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/ser_jax`, by default `~/.cache/ser_jax`.

    It holds features, the rendered demo corpus and compiled programs; deleting it costs time only.
    Where there is no home, or nothing can be written there, it is a temporary folder, with a
    warning.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(given).expanduser() if given else Path.home() / ".cache"
    except RuntimeError:
        return temporary_folder("the home folder is unknown")
    return _usable(folder / "ser_jax")


def feature_folder() -> Path:
    """Returns the folder of features in the cache folder, private to the user."""
    folder = cache_folder() / "features"
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def sizes(folder: Path) -> dict[str, tuple[float, int]]:
    """Returns every file below a folder → when it was last read or written, and its bytes."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):  # another process may remove it
                status = os.lstat(path)
                found[path] = max(status.st_atime, status.st_mtime), status.st_size
    return found


def prune(folder: Path, most_bytes: float) -> tuple[int, int]:
    """Removes files below a folder, the longest unread first, until they take `most_bytes` at most.

    Returns how many were removed, and their bytes.
    """
    found = sizes(folder)
    left, removed = sum(size for _, size in found.values()), []
    for path, (_, size) in sorted(found.items(), key=lambda item: item[1]):
        if left <= most_bytes:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        left -= size
        removed.append(size)
    return len(removed), sum(removed)


@functools.cache
def _usable(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return temporary_folder(f"the cache folder {folder} cannot be made ({error.strerror})")
    if not os.access(folder, os.W_OK | os.X_OK):
        return temporary_folder(f"the cache folder {folder} cannot be written")
    return folder


@functools.cache
def temporary_folder(reason: str) -> Path:
    """Returns a folder in place of a cache, with a warning; it is gone when Python ends."""
    folder = tempfile.TemporaryDirectory(prefix="ser_jax-")
    _kept.append(folder)
    log.warning(
        "note: %s: what would be kept there is made again in every run; set XDG_CACHE_HOME to a"
        " folder of your own",
        reason,
    )
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []  # they are removed with the process


@functools.cache
def processor() -> tuple[str, ...]:
    """Returns architecture and processor, all kinds of cores of one that has several."""
    found = [sys.platform, platform.machine(), platform.processor()]
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        lines = set(cpuinfo.read_text().splitlines())
        found += sorted(line for line in lines if line.lower().startswith(_CPUINFO))
    elif sys.platform != "win32":  # macOS, BSD
        for name in ("machdep.cpu.brand_string", "hw.model"):
            try:
                answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True)
            except OSError:
                break
            found.append(answer.stdout.strip())
    return tuple(found)


def processor_name() -> str:
    """Returns the processor as a person would name it, such as "AMD EPYC 7B13"."""
    lines = processor()[3:]
    for name in _NAMES:
        for line in lines:
            if line.lower().startswith(name) and ":" in line:
                return line.partition(":")[2].strip()
    return next(filter(None, [*lines, platform.processor(), platform.machine()]), "unknown")


def code_key(*parts: str | bytes) -> str:
    """Returns 16 hex digits that name compiled code: they follow from parts and processor."""
    key = hashlib.sha256()
    for part in (*parts, *processor()):
        key.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    return key.hexdigest()[:16]


def may_hold_code(folder: Path, otherwise: str) -> bool:
    """Makes a cache folder; returns whether it is this user's and nobody else may write to it.

    If not, code is not loaded from it: a warning says so, and what happens `otherwise`. Raises
    OSError if it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not hasattr(os, "geteuid"):  # Windows: a user's folders are private.
        return True
    status = folder.stat()
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not private:
        log.warning(
            "%s belongs to another user or can be written by others, and code is not loaded from"
            " such a folder: %s. Remove the folder, or set XDG_CACHE_HOME to a folder of your own",
            *(folder, otherwise),
        )
    return private


# Freed memory stays in the process while a group of trials trains; it is returned between groups.
#
# A train step allocates and frees its temporaries, tens of megabytes each. By default glibc returns
# such blocks to the kernel, which clears them page by page when the next step asks again. For
# HSF-CRNN that was a third of the time: 10 million page faults in 346 steps, 18 of 50 s; with this,
# 1,800 faults and 0.2 s. What is kept becomes ever more scattered when groups come and go, so
# between them it is returned: 30 trials of HSF-CRNN peaked at 2.5 GB without that. The number of
# arenas stays glibc's: a single one has the same peak, and doubles the time of compilation in
# threads.


def keep_freed_memory() -> bool:
    """Returns whether glibc now reuses freed blocks up to 1 GiB; call it before jax starts."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # Another C library, which has its own ways.
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> None:
    """Hands free pages back to the kernel; where there is no glibc, nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
