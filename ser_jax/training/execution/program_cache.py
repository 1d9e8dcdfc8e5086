"""Compiled programs kept for the next start: jax's persistent cache with whole, sealed files.

jax itself writes an entry in place and never replaces it. One that a full disk or a kill has cut
would be read, refused and compiled again at every start; one with flipped bits might be run.
"""

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import jax
from jaxlib.version import __version__ as jaxlib_version

from ser_jax.runtime import files, machine

_DIGEST_BYTES = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


def use_compilation_cache() -> None:
    """Keeps compiled programs in the cache folder for the next start on the same processor.

    With JAX_COMPILATION_CACHE_DIR in that folder, as jax does it; with
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS only those that take at least so long to compile.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    # jax names programs by their options, but not on every platform by the processor.
    folder = machine.cache_folder() / "xla" / machine.code_key(jaxlib_version)
    try:
        if not machine.may_hold_code(folder, "programs are compiled at every start"):
            return
    except OSError as error:
        log.warning("%s cannot be used (%s): programs are compiled at every start", folder, error)
        return
    _seal_entries()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _seal_entries() -> None:
    """Has jax keep its entries in a `ProgramCache`; a jax with other names keeps its own files."""
    with contextlib.suppress(ImportError):
        from jax._src import compilation_cache  # jax has no public name for this

        module: Any = compilation_cache
        if hasattr(module, "get_file_cache"):
            module.get_file_cache = lambda path: (ProgramCache(Path(path)), path)


class ProgramCache:
    """A folder of entries, each followed by the SHA-256 of its key and its bytes."""

    def __init__(self, folder: Path):
        """Reads nothing yet."""
        self._path = folder
        self._told = False  # that an entry cannot be written

    def get(self, key: str) -> bytes | None:
        """Returns an entry; None if there is none or it is damaged: it is then replaced."""
        try:
            found = self._file(key).read_bytes()
        except OSError:
            return None
        entry = found[:-_DIGEST_BYTES]
        return entry if found[-_DIGEST_BYTES:] == _digest(key, entry) else None

    def put(self, key: str, value: bytes) -> None:
        """Writes an entry, or tells once that there is no room: programs work without."""
        try:
            files.write_bytes(self._file(key), value + _digest(key, value))
        except OSError as error:
            if not self._told:
                log.warning("note: compiled programs are not kept: %s", error)
            self._told = True

    def _file(self, key: str) -> Path:
        return self._path / f"{key}-cache"


def _digest(key: str, entry: bytes) -> bytes:
    return hashlib.sha256(key.encode() + entry).digest()
