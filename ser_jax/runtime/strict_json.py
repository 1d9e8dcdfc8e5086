"""Strict JSON: reads files that may be damaged or hostile, and checksums of records.

Python's reader takes the last of repeated keys, accepts NaN, and ends a deeply nested text with a
RecursionError; here each is refused with a sentence. A checksum (SHA-256 under the key "seal")
finds a record that was damaged, or edited by hand, and is still JSON.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError

# Bytes; the largest file of ours, a protocol, takes about a hundred per utterance.
LARGEST = 1 << 28
CHECKSUM = "seal"
DELETE = "delete it, and "  # how a remedy may begin; there is nothing to delete if it is missing
DEEPEST = 32  # levels of objects and lists; ours have fewer than ten


def parse(text: str) -> Any:
    """Returns what `json.loads` returns; a ValueError for what the module's docstring lists."""
    try:
        found = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
        )
        if _is_shallow(found):
            return found
    except RecursionError:
        pass
    raise ValueError(f"nested more than {DEEPEST} levels deep")


def read(path: Path, *, remedy: str, sealed: bool = False) -> dict[str, Any]:
    """Reads a file that holds one JSON object; returns it without its checksum.

    Args:
      path: The file.
      remedy: What the user can do if it is damaged; the end of every error message.
      sealed: Whether it must have a checksum; else one is checked where there is one (files of
        older versions have none).

    Raises:
      UserError: If it cannot be read, is larger than 256 MB, `parse` refuses it, or its checksum
        does not match.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy.removeprefix(DELETE)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    try:
        if len(content) > LARGEST:
            raise ValueError(f"larger than {LARGEST >> 20} MB")
        found = parse(content.decode("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}, not an object")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from None
    if (sealed or CHECKSUM in found) and not checksum_matches(found):
        raise UserError(
            f"{path} is damaged or was edited by hand (its checksum is missing or wrong): {remedy}"
        )
    found.pop(CHECKSUM, None)
    return found


def parse_line(text: str) -> dict[str, Any]:
    """Returns a record from its line, without its checksum; a ValueError if it is damaged."""
    found = parse(text)
    if not isinstance(found, dict) or CHECKSUM in found and not checksum_matches(found):
        raise ValueError("no record, or its checksum is wrong")
    found.pop(CHECKSUM, None)
    return found


def line(record: dict[str, Any]) -> str:
    """Returns a record with its checksum as one line of text; `parse_line` reads it."""
    return json.dumps(with_checksum(files.plain(record)), allow_nan=False) + "\n"


def write(path: Path, record: dict[str, Any], *, indent: int | None = 2) -> None:
    """Writes a record with its checksum; see `files.write_json`."""
    files.write_json(path, with_checksum(files.plain(record)), indent=indent)


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return not any(isinstance(value, dict | list) for value in level)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated[:40]!r} stands twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record with its checksum, in the place of another one."""
    # As it will be read: tuples become lists, keys become text.
    plain = json.loads(json.dumps(record))
    plain.pop(CHECKSUM, None)
    return {**plain, CHECKSUM: _record_digest(plain)}


def checksum_matches(record: Any) -> bool:
    """Returns whether the record, as it was read, is as it was when it got its checksum."""
    if not isinstance(record, dict):
        return False
    rest = {name: value for name, value in record.items() if name != CHECKSUM}
    return record.get(CHECKSUM) == _record_digest(rest)


def _record_digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
