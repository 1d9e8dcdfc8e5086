"""The feature store: arrays on disk under a key that names everything they were computed from.

An entry is an ordinary .npy file followed by 32 bytes: the SHA-256 of the key and the file before
it. `numpy.load` opens it; the store itself returns an entry only if the digest fits, so a damaged,
cut or renamed one is computed again. A CRC-32 would find flipped bits, but SHA-256 is nearly as
fast, and it also tells apart entries that were forged to look alike. It is no signature: whoever
may write here may leave wrong numbers, but never code.
"""

import hashlib
import io
import json
import logging
import math
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ser_jax.runtime import machine
from ser_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

# The version of the code behind each kind of entry. Raise it whenever the code would compute other
# values: old entries are then never found again.
VERSIONS = {"audio": 4, "logmel": 1, "hsf": 1, "wave": 1, "level": 1}

_DIGEST_BYTES = hashlib.sha256().digest_size
_PLAIN = "biufc"  # kinds of numbers; other types may need a pickle or an address
# The header of a .npy file, format 1.0, as numpy.save writes it; the numbers follow the line feed.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<>|][biufc]\d{1,2})', 'fortran_order':"
    rb" (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[\d, ]*)\), \} *\n",
    re.DOTALL,
)
_MAX_HEADER = 512  # bytes


def key(
    kind: str,
    content_sha256: str,
    start: float | None,
    end: float | None,
    settings: Mapping[str, str | int | float],
) -> str:
    """Names an entry.

    Args:
      kind: One of `VERSIONS`.
      content_sha256: SHA-256 of the recording's bytes: a copy under another name finds the same
        entry.
      start: Start of the span in seconds, or None.
      end: End of the span in seconds, or None.
      settings: Everything else the values depend on.

    Returns:
      64 hexadecimal digits: the SHA-256 over canonical JSON of the arguments and the kind's
        version.
    """
    named = {"kind": kind, "version": VERSIONS[kind], "content": content_sha256}
    named |= {"start": start, "end": end, "settings": dict(settings)}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), allow_nan=False)
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
    """A folder of arrays; any number of processes, also of several users, may use it at once.

    Writes are atomic (a temporary file, then a rename), and equal keys have equal contents, so the
    order of writes does not matter. Nothing is ever removed: a process that found an entry damaged
    could remove the sound one by which another has replaced it meanwhile. Leftovers of killed
    processes are never read and may be deleted at any time.

    Who may read and write entries is who may do so in the folder: `chmod 2770` shares it with a
    group. A folder that cannot be written is read, and new entries go to a temporary one, `root`.
    """

    def __init__(self, root: Path):
        """Creates the folder if need be, open to those to whom the folder above it is open."""
        self.root, self._behind = Path(root), None
        reason = f"the feature store {root} cannot be written"
        try:
            if not self.root.exists():
                _make(self.root)
        except OSError as error:
            reason = f"the feature store {root} cannot be made ({error.strerror})"
        if not _is_writable(self.root):
            self._behind, self.root = self.root, machine.temporary_folder(reason)
        self._mode = stat.S_IMODE(self.root.stat().st_mode)

    def path(self, key: str) -> Path:
        """Returns where the entry of a key lies, whether it exists or not."""
        return Path(self._file(key))

    def get(self, key: str) -> np.ndarray | None:
        """Returns the array of an entry, read-only, or None if there is none.

        An entry whose digest does not fit counts as none, with a warning.

        Raises:
          UserError: If the file exists but cannot be read.
        """
        file = self._existing(key)
        try:
            with open(file, "rb", buffering=0) as opened:  # thousands at start: no buffer, no Path
                blob = opened.read()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except OSError as error:
            raise _refused("cannot read", file, error) from error
        sound = blob[-_DIGEST_BYTES:] == _digest(key, memoryview(blob)[:-_DIGEST_BYTES])
        found = _array(blob) if sound else None
        if found is None:
            log.warning("Feature store: %s is damaged; it will be computed again.", file)
        return found

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Returns the shape of an entry without reading its numbers; None if there is no array."""
        try:
            with open(self._existing(key), "rb") as opened:
                header = _HEADER.match(opened.read(_MAX_HEADER))
        except OSError:
            return None
        return None if header is None else _shape(header)

    def size(self, key: str) -> int | None:
        """Returns the approximate size of an entry's numbers in bytes; None if there is none."""
        try:
            return os.stat(self._existing(key)).st_size
        except OSError:
            return None

    def put(self, key: str, array: np.ndarray) -> None:
        """Writes an array of numbers as an entry; one that exists is replaced.

        Raises:
          UserError: If the disk is full or the folder cannot be written.
          ValueError: If the array holds something else.
        """
        self.put_encoded(key, encode(key, array))

    def put_encoded(self, key: str, blob: bytes) -> None:
        """Writes an entry that `encode` made, perhaps on another machine; see `put`."""
        path = self.path(key)
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700, exist_ok=True)
                path.parent.chmod(self._mode)
            self._write(path, blob)
        except OSError as error:
            raise _refused("cannot write", path, error) from error

    def _file(self, key: str) -> str:
        return f"{self.root}/{key[:2]}/{key}.npy"

    def _existing(self, key: str) -> str:
        """Returns the file to read: of the folder that cannot be written, where it is there."""
        file = self._file(key)
        if self._behind is None or os.path.exists(file):
            return file
        return f"{self._behind}/{key[:2]}/{key}.npy"

    def _write(self, path: Path, blob: bytes) -> None:
        # Without fsync: what a power cut leaves behind fails its digest and is computed again.
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(blob)
                os.fchmod(file.fileno(), self._mode & 0o666)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _is_writable(root: Path) -> bool:
    """Returns whether entries can be written, also beside those of others."""
    if not root.is_dir() or not os.access(root, os.W_OK | os.X_OK):
        return False
    with os.scandir(root) as inside:
        return all(os.access(one.path, os.W_OK | os.X_OK) for one in inside if one.is_dir())


def _make(root: Path) -> None:
    """Makes a folder for those to whom the one above it is open; in one for all, private."""
    above = next(parent for parent in root.absolute().parents if parent.exists())
    mode = stat.S_IMODE(above.stat().st_mode)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700 if mode & stat.S_ISVTX else mode & 0o2775)


def _digest(key: str, payload: bytes | memoryview) -> bytes:
    """The key is part of it: an entry copied from another key's place does not pass."""
    digest = hashlib.sha256(key.encode())
    digest.update(payload)
    return digest.digest()


def _array(blob: bytes) -> np.ndarray | None:
    """What numpy.load returns, without copies; None if it is not what `put` writes.

    numpy.load parses the header with `ast`, which fails now and then when threads of Python 3.11
    use it at once (SystemError: AST constructor recursion depth mismatch).
    """
    header = _HEADER.match(blob)
    if header is None:
        return None
    try:
        dtype = np.dtype(header["dtype"].decode())
        shape = _shape(header)
        if math.prod(shape) * dtype.itemsize != len(blob) - _DIGEST_BYTES - header.end():
            return None
        order = "F" if header["fortran"] == b"True" else "C"
        return np.ndarray(shape, dtype, blob, header.end(), order=order)
    except (TypeError, ValueError):  # no such type, more axes or longer ones than NumPy has
        return None


def _shape(header: re.Match[bytes]) -> tuple[int, ...]:
    return tuple(int(length) for length in header["shape"].split(b",") if length.strip())


def _refused(what: str, path: Path | str, error: OSError) -> UserError:
    return UserError(
        f"Feature store: {what} {path}: {error.strerror or error} (errno {error.errno}). Free"
        " space, mend the permissions, or choose another folder for the store; finished entries"
        " are kept."
    )
