"""The feature store: arrays on disk under a key that names everything they were computed from.

An entry is an ordinary .npy file followed by 32 bytes: the SHA-256 of the key and the file before it. `numpy.load`
opens it; the store itself returns an entry only if the digest fits, so a damaged, cut or renamed one is computed again.
"""

import hashlib
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ser_jax.errors import UserError

log = logging.getLogger(__name__)

# The version of the code behind each kind of entry. Raise it whenever the code would compute other values: old entries
# are then never found again.
VERSIONS = {"audio": 1, "logmel": 1, "hsf": 1, "wave": 1}

_DIGEST_BYTES = hashlib.sha256().digest_size
# The beginning of a .npy file, format 1.0, as numpy.save writes it; the numbers follow the line feed.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[^']+)', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[\d, ]*)\), \} *\n",
    re.DOTALL,
)


def key(
    kind: str, content_sha256: str, start: float | None, end: float | None, settings: Mapping[str, str | int | float]
) -> str:
    """Names an entry.

    Args:
      kind: One of `VERSIONS`.
      content_sha256: SHA-256 of the recording's bytes: a copy under another name finds the same entry.
      start: Start of the span in seconds, or None.
      end: End of the span in seconds, or None.
      settings: Everything else the values depend on.

    Returns:
      64 hexadecimal digits: the SHA-256 over canonical JSON of the arguments and the kind's version.
    """
    named = {
        "kind": kind,
        "version": VERSIONS[kind],
        "content": content_sha256,
        "start": start,
        "end": end,
        "settings": dict(settings),
    }
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureStore:
    """A folder of arrays; any number of processes may use it at once.

    Writes are atomic (a temporary file of its own, then a rename), and equal keys have equal contents: who writes last
    does not matter. Leftovers of killed processes are never read and may be deleted at any time.
    """

    def __init__(self, root: Path):
        """Opens the store and creates its folder, readable by its owner only.

        Args:
          root: The folder.

        Raises:
          UserError: If it cannot be created.
        """
        self.root = Path(root)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _refused("cannot create", self.root, error) from error

    def path(self, key: str) -> Path:
        """Returns where the entry of a key lies, whether it exists or not."""
        return self.root / key[:2] / f"{key}.npy"

    def get(self, key: str) -> np.ndarray | None:
        """Reads an entry.

        Args:
          key: The entry's name.

        Returns:
          The array, read-only, or None if there is none. An entry whose digest does not fit is removed with a warning:
          None.

        Raises:
          UserError: If the file exists but cannot be read.
        """
        path = self.path(key)
        try:
            blob = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused("cannot read", path, error) from error
        if blob[-_DIGEST_BYTES:] == _digest(key, memoryview(blob)[:-_DIGEST_BYTES]):
            return _array(blob)
        log.warning("Feature store: %s is damaged; it is removed and will be computed again.", path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _refused("cannot remove", path, error) from error
        return None

    def put(self, key: str, array: np.ndarray) -> None:
        """Writes an entry; one that exists is replaced.

        Args:
          key: The entry's name.
          array: Any array of numbers.

        Raises:
          UserError: If the disk is full or the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        payload = buffer.getvalue()
        path = self.path(key)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._write(path, payload + _digest(key, payload))
        except OSError as error:
            raise _refused("cannot write", path, error) from error

    def _write(self, path: Path, blob: bytes) -> None:
        # Without fsync: what a power cut leaves behind fails its digest and is computed again.
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(blob)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _digest(key: str, payload: bytes | memoryview) -> bytes:
    """The key is part of it: an entry copied from another key's place does not pass."""
    digest = hashlib.sha256(key.encode())
    digest.update(payload)
    return digest.digest()


def _array(blob: bytes) -> np.ndarray:
    """What numpy.load returns, without copies; a start reads thousands of entries, in threads.

    numpy.load parses the header with `ast`, which fails now and then when threads of Python 3.11 use it at once
    (SystemError: AST constructor recursion depth mismatch).
    """
    found = _HEADER.match(blob)
    if found is None:
        raise ValueError(f"not a .npy file of plain numbers: {blob[:128]!r}")
    dtype, order = np.dtype(found["dtype"].decode()), "F" if found["fortran"] == b"True" else "C"
    shape = tuple(int(length) for length in found["shape"].split(b",") if length.strip())
    return np.ndarray(shape, dtype, blob, found.end(), order=order)


def _refused(what: str, path: Path, error: OSError) -> UserError:
    return UserError(
        f"Feature store: {what} {path}: {error.strerror or error} (errno {error.errno}). "
        "Free space, mend the permissions, or choose another folder for the store; finished entries are kept."
    )
