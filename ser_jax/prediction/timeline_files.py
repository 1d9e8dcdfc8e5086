"""Timelines as tables (CSV, JSON), labels (Praat TextGrid, Audacity) and drawings (PNG, SVG)."""

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.prediction.timeline import Timeline
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError

# Distinguishable with any colour vision (Okabe and Ito); more classes begin again.
COLOURS = ("#D55E00", "#E69F00", "#777777", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#B8A800")
WIDTH, WAVE, LANE, MARGIN = 9.0, 0.9, 0.55, 1.0  # inches: the drawing, waveform, a class, the rest
DOTS = 160  # per inch of a PNG
MOST_COLUMNS = 360  # of a lane: 0.6 mm each; of more rows, neighbours are averaged
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # s
MOST_TICKS = 12
IN_SECONDS = 60.0  # s; the time axis of longer recordings is in minutes and seconds


def draw(timeline: Timeline, form: str) -> bytes:
    """Draws the waveform and below it a lane for every class; equal timelines give equal bytes.

    The height of a lane is the probability of the class by the window; it is filled where the class
    is the answer. Where there is no answer, lanes are empty. `form` is "png" or "svg"; returns the
    content of the file.
    """
    from matplotlib import figure

    from ser_jax.report import figures

    classes = timeline.decision.classes
    edges, shares, step = columns(timeline)
    best = np.nan_to_num(shares, nan=-1.0)
    answer = np.where(best.max(axis=1) >= timeline.decision.threshold, best.argmax(axis=1), -1)
    with figures.styled(timeline.file, *classes):
        height = MARGIN + WAVE + LANE * len(classes)
        drawing = figure.Figure(figsize=(WIDTH, height), layout="constrained")
        ratios = (WAVE, *[LANE] * len(classes))
        upper, *lanes = drawing.subplots(1 + len(classes), 1, sharex=True, height_ratios=ratios)
        begin, end = timeline.start, timeline.start + timeline.seconds
        low, high = timeline.envelope.ranges().T
        times = np.linspace(begin, end, len(low))
        upper.fill_between(times, low, high, color=figures.MUTED, linewidth=0.5)
        peak = max(float(np.abs(timeline.envelope.ranges()).max(initial=0)), 1e-3)
        upper.set(ylim=(-peak, peak), yticks=[])
        upper.set_title(figures.short(os.path.basename(timeline.file) or "samples"), loc="left")
        for number, (name, lane) in enumerate(zip(classes, lanes, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            lane.stairs(shares[:, number], edges, fill=True, color=colour, alpha=0.3)
            named = np.where(answer == number, shares[:, number], np.nan)
            lane.stairs(named, edges, fill=True, color=colour)
            lane.set(ylim=(0, 1), yticks=[])
            style = {"rotation": 0, "ha": "right", "va": "center", "color": figures.INK}
            lane.set_ylabel(figures.short(name), **style)
        for axes in (upper, *lanes):
            axes.grid(False, axis="y")
        lanes[-1].set(xlim=(begin, end), xlabel=_time_axis(lanes[-1], begin, end))
        note = "height: probability, full colour: the answer"
        if step > 1:
            mean = timeline.seconds / len(shares)
            note += f", means over {mean:.{int(mean < 1)}f} s"
        upper.set_title(note, loc="right", fontsize=9, color=figures.MUTED)
        content = io.BytesIO()
        nothing = {
            "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
            "png": {"Software": None},
        }
        drawing.savefig(content, format=form, dpi=DOTS, facecolor="white", metadata=nothing[form])
    return content.getvalue()


def columns(timeline: Timeline) -> tuple[np.ndarray, np.ndarray, int]:
    """Averages neighbouring rows until no more than `MOST_COLUMNS` are left.

    Returns:
      Their C + 1 edges in s, their probabilities [C, K] (NaN where no row has an answer), and how
      many rows became one. A recording without rows is one column without an answer.
    """
    edges, shares = timeline.edges(), timeline.window
    if not len(shares):
        shares = np.full((1, len(timeline.decision.classes)), np.nan)
    step = -(-len(shares) // MOST_COLUMNS)
    starts = np.arange(0, len(shares), step)
    known = np.isfinite(shares)
    total = np.add.reduceat(np.where(known, shares, 0.0), starts)
    count = np.add.reduceat(known.astype(np.int64), starts)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.append(edges[starts], edges[-1]), means, step


def _time_axis(axes: Any, begin: float, end: float) -> str:
    """Places round ticks, in minutes and hours where the recording is long; returns the name."""
    from matplotlib import ticker

    if end <= IN_SECONDS:
        return "time in s"
    apart = next((tick for tick in TICKS if (end - begin) / tick <= MOST_TICKS), TICKS[-1])
    axes.xaxis.set_major_locator(ticker.MultipleLocator(apart))
    axes.xaxis.set_major_formatter(lambda seconds, _: clock(seconds))
    return "time in h:min:s" if end >= 3600 else "time in min:s"


def clock(seconds: float) -> str:
    """Returns a time as minutes and seconds (1:05), or with hours (1:00:05)."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


SCHEMA = 1
TIER = "emotion"
TEXTS = ("csv", "textgrid", "audacity")
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
    end = path.suffix.lower()
    return next((name for name, suffix in SUFFIXES.items() if end == suffix.lower()), "")


def known_format(path: Path) -> str:
    """Returns the format that the end of a file name stands for; a `UserError` if it is none."""
    if not (form := format_of(path)):
        ends = ", ".join(SUFFIXES.values())
        raise UserError(f"--output={path}: a timeline ends in {ends}, which says what to write")
    return form


def write(path: Path, form: str, timeline: Timeline) -> None:
    """Writes a timeline; the file appears whole or not at all.

    Args:
      path: The file; its folder must exist.
      form: One of `SUFFIXES`.
      timeline: The timeline.

    Raises:
      UserError: If the file cannot be written.
    """
    try:
        if form == "json":
            files.write_json(path, _record(timeline))
        elif form in TEXTS:
            files.write_bytes(path, text(form, timeline).encode())
        else:
            files.write_bytes(path, draw(timeline, form))
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written: {error.strerror}; name another place"
        ) from None


def text(form: str, timeline: Timeline) -> str:
    """Returns the content of a file in one of the formats `TEXTS`."""
    if form == "csv":
        return _csv(timeline)
    return _text_grid(timeline) if form == "textgrid" else _audacity(timeline)


def _rows(timeline: Timeline) -> Iterator[tuple[list[float], str | None, list[float], list[float]]]:
    t = timeline
    return zip(t.times.tolist(), t.answers, t.window.tolist(), t.so_far.tolist(), strict=True)


def _csv(timeline: Timeline) -> str:
    """Rows: start, end, label, p_<class>… by the window, so_far_<class>…, empty without speech."""
    shares = [f"{kind}_{name}" for kind in ("p", "so_far") for name in timeline.decision.classes]
    lines = (
        (*times, label, *map(_number, (*window, *so_far)))
        for times, label, window, so_far in _rows(timeline)
    )
    return files.csv_bytes(("start", "end", "label", *shares), lines).decode()


def _record(timeline: Timeline) -> dict[str, Any]:
    decision, plan = timeline.decision, timeline.plan

    def shares(row: list[float]) -> dict[str, float] | None:
        return None if math.isnan(row[0]) else dict(zip(decision.classes, row, strict=True))

    return {
        "schema": SCHEMA,
        "model": timeline.model,
        "classes": decision.classes,
        "threshold": decision.threshold,
        "window_seconds": plan.window_seconds,
        "hop_seconds": plan.hop_seconds,
        "file": timeline.file,
        "start": timeline.start,
        "seconds": timeline.seconds,
        "flags": timeline.flags,
        "label": timeline.answer.label,
        "probabilities": timeline.answer.probabilities,
        "moments": [
            {
                "start": times[0],
                "end": times[1],
                "label": label,
                "window": shares(window),
                "so_far": shares(so_far),
            }
            for times, label, window, so_far in _rows(timeline)
        ],
    }


def _text_grid(timeline: Timeline) -> str:
    """One interval tier, in Praat's long text form; where no class is named the text is empty."""
    intervals = list(timeline.intervals())
    begin, end = timeline.start, timeline.start + timeline.seconds
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += [f"xmin = {begin!r}", f"xmax = {end!r}", "tiers? <exists>", "size = 1", "item []:"]
    lines += ["    item [1]:", '        class = "IntervalTier"']
    lines += [f'        name = "{TIER}"', f"        xmin = {begin!r}", f"        xmax = {end!r}"]
    lines += [f"        intervals: size = {len(intervals)}"]
    for number, (start, stop, label) in enumerate(intervals, 1):
        text = (label or "").replace('"', '""')
        lines += [f"        intervals [{number}]:", f"            xmin = {start!r}"]
        lines += [f"            xmax = {stop!r}", f'            text = "{text}"']
    return "\n".join(lines) + "\n"


def _audacity(timeline: Timeline) -> str:
    """A line per interval in which a class is named: start, end and label, parted by tabs."""
    named = ((start, end, label) for start, end, label in timeline.intervals() if label is not None)
    return "".join(
        f"{start:.6f}\t{end:.6f}\t{' '.join(label.split())}\n" for start, end, label in named
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def check_writable(folder: Path) -> None:
    """Raises `UserError` if no file can be made in the folder."""
    if not folder.is_dir():
        raise UserError(f"--output: there is no folder {folder}; make it, or name another place")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output: nothing can be written in {folder}; name another place")
