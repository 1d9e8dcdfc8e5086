"""Timelines as files: tables (CSV, JSON), labels for Praat (TextGrid) and Audacity, and drawings (PNG, SVG)."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ser_jax import atomic
from ser_jax.errors import UserError
from ser_jax.prediction import timeline_plot
from ser_jax.prediction.rule import Rule
from ser_jax.prediction.timeline import Plan, Timeline

SCHEMA = 1
TIER = "emotion"
# Format → how its files end.
SUFFIXES = {
    "csv": ".csv",
    "json": ".json",
    "textgrid": ".TextGrid",
    "audacity": ".txt",
    "png": ".png",
    "svg": ".svg",
}


def format_of(path: Path) -> str:
    """Returns the format that the end of a file name stands for, "" for any other end."""
    return next((name for name, suffix in SUFFIXES.items() if path.suffix.lower() == suffix.lower()), "")


def write(path: Path, form: str, timeline: Timeline, rule: Rule, plan: Plan, model: str) -> None:
    """Writes a timeline; the file appears whole or not at all.

    Args:
      path: The file; its folder must exist.
      form: One of `SUFFIXES`.
      timeline: The timeline.
      rule: How its answers were made.
      plan: How it was made.
      model: Which models predict, in words.

    Raises:
      UserError: If the file cannot be written.
    """
    makers: dict[str, Callable[[], bytes]] = {
        "csv": lambda: _csv(timeline, rule),
        "textgrid": lambda: _text_grid(timeline).encode(),
        "audacity": lambda: _audacity(timeline).encode(),
        "png": lambda: timeline_plot.draw(timeline, rule, "png"),
        "svg": lambda: timeline_plot.draw(timeline, rule, "svg"),
    }
    try:
        if form == "json":
            atomic.write_json(path, _record(timeline, rule, plan, model))
        else:
            atomic.write_bytes(path, makers[form]())
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error.strerror}; name another place") from None


def _csv(timeline: Timeline, rule: Rule) -> bytes:
    """A line per row: start, end, label, p_<class>… by the window, so_far_<class>…; nothing where it is silent."""
    shares = [f"{kind}_{name}" for kind in ("p", "so_far") for name in rule.classes]
    lines = (
        (*times, label, *map(_number, (*window, *so_far)))
        for times, label, window, so_far in zip(
            *(timeline.times.tolist(), timeline.answers, timeline.window.tolist(), timeline.so_far.tolist()),
            strict=True,
        )
    )
    return atomic.csv_bytes(("start", "end", "label", *shares), lines)


def _record(timeline: Timeline, rule: Rule, plan: Plan, model: str) -> dict[str, Any]:
    def shares(row: list[float]) -> dict[str, float] | None:
        return None if math.isnan(row[0]) else dict(zip(rule.classes, row, strict=True))

    return {
        "schema": SCHEMA,
        "model": model,
        "classes": rule.classes,
        "threshold": rule.threshold,
        "window_seconds": plan.window_seconds,
        "hop_seconds": plan.hop_seconds,
        "file": timeline.file,
        "start": timeline.start,
        "seconds": timeline.seconds,
        "flags": timeline.flags,
        "label": timeline.answer.label,
        "probabilities": timeline.answer.probabilities,
        "moments": [
            {"start": times[0], "end": times[1], "label": label, "window": shares(window), "so_far": shares(so_far)}
            for times, label, window, so_far in zip(
                *(timeline.times.tolist(), timeline.answers, timeline.window.tolist(), timeline.so_far.tolist()),
                strict=True,
            )
        ],
    }


def _text_grid(timeline: Timeline) -> str:
    """One interval tier, in Praat's long text form; where no class is named the text is empty."""
    intervals = list(timeline.intervals())
    begin, end = timeline.start, timeline.start + timeline.seconds
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", f"xmin = {begin!r}", f"xmax = {end!r}"]
    lines += ["tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"']
    lines += [f'        name = "{TIER}"', f"        xmin = {begin!r}", f"        xmax = {end!r}"]
    lines += [f"        intervals: size = {len(intervals)}"]
    for number, (start, stop, label) in enumerate(intervals, 1):
        text = (label or "").replace('"', '""')
        lines += [f"        intervals [{number}]:", f"            xmin = {start!r}", f"            xmax = {stop!r}"]
        lines += [f'            text = "{text}"']
    return "\n".join(lines) + "\n"


def _audacity(timeline: Timeline) -> str:
    """A line per interval in which a class is named: start, end and label, parted by tabs."""
    named = ((start, end, label) for start, end, label in timeline.intervals() if label is not None)
    return "".join(f"{start:.6f}\t{end:.6f}\t{' '.join(label.split())}\n" for start, end, label in named)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def check_writable(folder: Path) -> None:
    """Raises `UserError` if no file can be made in the folder."""
    if not folder.is_dir():
        raise UserError(f"--output: there is no folder {folder}; make it, or name another place")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output: nothing can be written in {folder}; name another place")
