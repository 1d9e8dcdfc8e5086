"""`metrics.jsonl`: one line per run and epoch, as training went."""

from pathlib import Path
from typing import Any

from ser_jax import strict_json


def read_history(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Reads the lines; a run that was interrupted may have left broken or repeated ones.

    Args:
      path: The file; it may be absent (a system without epochs).

    Returns:
      One record per (fold, seed, phase, epoch), the latest where an interrupted epoch was repeated, in the order of
      the file; and the number of unreadable lines, not counting a last line that is cut off. Lines about a run as a
      whole (a system without epochs) are skipped.
    """
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    records: dict[tuple, dict[str, Any]] = {}
    unreadable = 0
    for number, line in enumerate(lines, start=1):
        try:
            record = strict_json.parse(line)
            run = record["fold"], record["seed"]
            if "epoch" in record:
                records[*run, record.get("phase"), record["epoch"]] = record
        except (ValueError, KeyError, TypeError):
            unreadable += bool(line.strip()) and number < len(lines)
    return list(records.values()), unreadable
