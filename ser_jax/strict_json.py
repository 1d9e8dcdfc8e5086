"""JSON read strictly: what a damaged or hostile file may hold is refused with a sentence, not guessed at.

Python's reader takes the last of repeated keys, knows NaN, and ends a deeply nested text with a RecursionError.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ser_jax.errors import UserError

LARGEST = 1 << 28  # bytes; the largest file of ours, a protocol, takes about a hundred per utterance
DEEPEST = 32  # levels of objects and lists; ours have fewer than ten


def parse(text: str) -> Any:
    """Reads JSON.

    Args:
      text: The whole text.

    Returns:
      What `json.loads` returns.

    Raises:
      ValueError: If it is no JSON, repeats a key within an object, is nested more than 32 levels deep, or holds a
        number that is not finite.
    """
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        if _is_shallow(found):
            return found
    except RecursionError:
        pass
    raise ValueError(f"nested more than {DEEPEST} levels deep")


def read(path: Path, *, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: The file.
      remedy: What to do about a damaged one; the end of the sentence.

    Raises:
      UserError: If it cannot be read, is larger than 256 MB, or is no such object in the sense of `parse`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
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
    return found


def _is_shallow(value: Any) -> bool:
    level = _containers([value])
    for _ in range(DEEPEST):
        level = [
            inner for outer in level for inner in _containers(outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return True
    return False


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]


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
