"""One line of an EmoBox list: a JSON object with key, wav, emo and, where recordings hold several, start and end."""

import json
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ser_jax.corpora.listing import BadRow

VIDEO = (".avi", ".mp4")  # listed as video; their sound is expected beside or instead of them as wav


class Row(NamedTuple):
    """What a line says.

    Attributes:
      key: Name of the utterance in the benchmark, such as "emodb-03a01Wa".
      file: Path of the recording as listed, such as "downloads/emodb/wav/03a01Wa.wav"; wav where it is a video.
      start: Start of the span in seconds, or None for the beginning of the file.
      end: End of the span in seconds, or None for the end of the file.
      raw_label: Label in the list.
      label: Class in the label map, in lower case.
    """

    key: str
    file: str
    start: float | None
    end: float | None
    raw_label: str
    label: str


def parse_row(line: str, label_map: Mapping[str, str]) -> Row:
    """Reads a line.

    Args:
      line: The line.
      label_map: Label in the lists → class; looked up as it is, then without regard to case: some of the maps differ
        from their lists in it.

    Raises:
      BadRow: It is no such object, its label is not in the map or its span is none.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRow("bad line", f"not JSON: {line[:80]!r}") from None
    if not isinstance(value, dict):
        raise BadRow("bad line", f"not a JSON object: {line[:80]!r}")
    key, file, raw = (value.get(name) for name in ("key", "wav", "emo"))
    if not (isinstance(key, str) and key and isinstance(file, str) and file and isinstance(raw, str)):
        raise BadRow("bad line", f"key, wav and emo must be texts: {line[:80]!r}")
    if value.get("type", "raw") != "raw":
        raise BadRow("bad line", f"type {value['type']!r} of {key}; only recordings (raw) can be used")
    by_case = {name.lower(): name for name in label_map}
    found = label_map.get(raw) or label_map.get(by_case.get(raw.lower(), ""))
    if not found:
        raise BadRow("unknown label", f"{raw!r} of {key}; known: {', '.join(label_map)}")
    start, end = _seconds(value, "start_time"), _seconds(value, "end_time")
    if end is not None and (start or 0.0) >= end:
        raise BadRow("bad line", f"start_time {start or 0.0} of {key} is not before end_time {end}")
    if not start and end is None:
        start = None  # the whole file, however it is written, has one id
    path = PurePosixPath(file)
    file = str(path.with_suffix(".wav") if path.suffix.lower() in VIDEO else path)
    return Row(key, file, start, end, raw, found.lower())


def _seconds(value: Mapping[str, Any], name: str) -> float | None:
    seconds = value.get(name)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise BadRow("bad line", f"{name} {seconds!r} is not a number of seconds from 0")
    return float(seconds)
