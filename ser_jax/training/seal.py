"""A SHA-256 over a JSON record, kept in it: a record that was damaged and is still JSON is noticed."""

import hashlib
import json
from typing import Any

KEY = "seal"


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record with its seal, in the place of another one.

    Args:
      record: What the json module can write.
    """
    # As it will be read: tuples become lists, keys become text.
    plain = {name: value for name, value in json.loads(json.dumps(record)).items() if name != KEY}
    return {**plain, KEY: _digest(plain)}


def intact(record: Any) -> bool:
    """Returns whether the record, as it was read, is a sealed one to which nothing has happened since."""
    if not isinstance(record, dict):
        return False
    return record.get(KEY) == _digest({name: value for name, value in record.items() if name != KEY})


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
