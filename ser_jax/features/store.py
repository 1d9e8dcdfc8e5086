"""The feature store: arrays on disk under a key that names everything they were computed from.

An entry is an ordinary .npy file followed by 32 bytes: the SHA-256 of the key and the file before it. `numpy.load`
opens it; the store itself returns an entry only if the digest fits, so a damaged, cut or renamed one is computed again.
Against flipped bits a CRC-32 would do, but processors compute SHA-256 nearly as fast, and it also tells entries apart
that were made to look alike. It is no signature: whoever may write here may leave wrong numbers, but never code.
"""

import hashlib
import io
import json
import logging
import math
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
_PLAIN = "biufc"  # kinds of numbers; a file may hold objects, too, which only a pickle or an address can stand for
# The beginning of a .npy file, format 1.0, as numpy.save writes it; the numbers follow the line feed.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<>|][biufc]\d{1,2})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[\d, ]*)\), \} *\n",
    re.DOTALL,
)
_LONGEST_HEADER = 512  # bytes


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


def encode(key: str, array: np.ndarray) -> bytes:
    """Returns the entry of a key as it lies on disk: the array as a .npy file, then the digest.

    Raises:
      ValueError: If the array holds anything but plain numbers.
    """
    if array.dtype.kind not in _PLAIN:
        raise ValueError(f"an array of {array.dtype}: the store keeps plain numbers")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    payload = buffer.getvalue()
    return payload + _digest(key, payload)


class FeatureStore:
    """A folder of arrays; any number of processes may use it at once.

    Writes are atomic (a temporary file of its own, then a rename), and equal keys have equal contents: who writes last
    does not matter. Nothing is ever removed: a process that found an entry damaged would remove the sound one by which
    another has replaced it meanwhile. Leftovers of killed processes are never read and may be deleted at any time.
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
        return Path(self._file(key))

    def get(self, key: str) -> np.ndarray | None:
        """Reads an entry.

        Args:
          key: The entry's name.

        Returns:
          The array, read-only, or None if there is none. An entry whose digest does not fit is none, with a warning.

        Raises:
          UserError: If the file exists but cannot be read.
        """
        file = self._file(key)
        try:
            with open(file, "rb", buffering=0) as opened:  # A start reads thousands: no buffer, no Path.
                blob = opened.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused("cannot read", file, error) from error
        sound = blob[-_DIGEST_BYTES:] == _digest(key, memoryview(blob)[:-_DIGEST_BYTES])
        found = _array(blob) if sound else None
        if found is None:
            log.warning("Feature store: %s is damaged; it will be computed again.", file)
        return found

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Returns the shape of an entry without reading its numbers; None if there is none that looks like one."""
        try:
            with open(self._file(key), "rb") as opened:
                header = _HEADER.match(opened.read(_LONGEST_HEADER))
        except OSError:
            return None
        return None if header is None else _shape(header)

    def size(self, key: str) -> int | None:
        """Returns about how many bytes the numbers of an entry take; None if there is none."""
        try:
            return os.stat(self._file(key)).st_size
        except OSError:
            return None

    def put(self, key: str, array: np.ndarray) -> None:
        """Writes an entry; one that exists is replaced.

        Args:
          key: The entry's name.
          array: Any array of numbers.

        Raises:
          UserError: If the disk is full or the folder cannot be written.
          ValueError: If the array holds something else.
        """
        self.put_encoded(key, encode(key, array))

    def put_encoded(self, key: str, blob: bytes) -> None:
        """Writes an entry that `encode` made, perhaps elsewhere; see `put`.

        Raises:
          UserError: If the disk is full or the folder cannot be written.
        """
        path = self.path(key)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._write(path, blob)
        except OSError as error:
            raise _refused("cannot write", path, error) from error

    def _file(self, key: str) -> str:
        return f"{self.root}/{key[:2]}/{key}.npy"

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


def _array(blob: bytes) -> np.ndarray | None:
    """What numpy.load returns, without copies; None if it is not what `put` writes.

    numpy.load parses the header with `ast`, which fails now and then when threads of Python 3.11 use it at once
    (SystemError: AST constructor recursion depth mismatch).
    """
    header = _HEADER.match(blob)
    if header is None:
        return None
    try:
        dtype = np.dtype(header["dtype"].decode())
        shape = _shape(header)
        if math.prod(shape) * dtype.itemsize != len(blob) - _DIGEST_BYTES - header.end():
            return None
        return np.ndarray(shape, dtype, blob, header.end(), order="F" if header["fortran"] == b"True" else "C")
    except (TypeError, ValueError):  # no such type, more axes or longer ones than NumPy has
        return None


def _shape(header: re.Match[bytes]) -> tuple[int, ...]:
    return tuple(int(length) for length in header["shape"].split(b",") if length.strip())


def _refused(what: str, path: Path | str, error: OSError) -> UserError:
    return UserError(
        f"Feature store: {what} {path}: {error.strerror or error} (errno {error.errno}). "
        "Free space, mend the permissions, or choose another folder for the store; finished entries are kept."
    )
