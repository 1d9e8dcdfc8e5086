"""Progress for a person: a bar on a terminal, a line in a notebook, log lines elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 10.0
SHOW_EVERY_SECONDS = 0.5  # in a notebook

Advance = Callable[..., None]


@contextlib.contextmanager
def progress(what: str, total: float, unit: str, start: float = 0) -> Iterator[Advance]:
    """Shows how far a job is, its rate and the time left.

    Args:
      what: What is being done, e.g. "extracting".
      total: Amount of work, in `unit`, e.g. "files".
      unit: Its unit.
      start: Amount done before this process began (a resumed job); not counted in the rate.

    Yields:
      `advance(amount=1, note="", skipped=0)`: call it after each piece of work; `note` is shown
      behind the bar, `skipped` is work that has turned out not to be needed.
    """
    show = _notebook_line()
    if show is not None:
        show(f"{what}: {start:.0f}/{total:.0f} {unit}")
        yield from _lines(what, total, unit, start, show, SHOW_EVERY_SECONDS)
    elif sys.stderr.isatty():
        yield from _bar(what, total, unit, start)
    else:
        yield from _lines(what, total, unit, start, log.info, LOG_EVERY_SECONDS)


def counted(count: int, one: str, many: str = "") -> str:
    """Returns a number with its noun: 1 recording, 2 recordings; `many` if that is not `one` + s.

    Both may hold a verb, too: `counted(2, "file is", "files are")`.
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _notebook_line() -> Callable[[str], None] | None:
    """Returns what shows a line under the cell of a notebook, in place of the one before.

    None outside of notebooks; IPython is not loaded if it is not already.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython import display  # pyright: ignore[reportMissingImports]

    handles = []

    def show(line: str) -> None:
        if handles:
            handles[0].update({"text/plain": line}, raw=True)
        else:
            handles.append(display.display({"text/plain": line}, raw=True, display_id=True))

    return show


def _rate(rate: float, unit: str) -> str:
    """Returns a rate, by the minute or by the hour where it is low."""
    for per, seconds in (("s", 1), ("min", 60)):
        if rate * seconds >= 1:
            return f"{rate * seconds:,.0f} {unit}/{per}"
    return f"{rate * 3600:.1f} {unit}/h"


def _bar(what: str, total: float, unit: str, start: float) -> Iterator[Advance]:
    from rich import console
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(bar_width=24),
        rich_progress.TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TimeRemainingColumn(compact=True),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    begin = time.monotonic()
    with rich_progress.Progress(*columns, console=console.Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=int(start), unit=unit, rate="", note="")
        done = 0.0

        def advance(amount: float = 1, note: str = "", skipped: float = 0) -> None:
            nonlocal done, total
            done += amount
            total -= skipped
            rate = _rate(done / max(time.monotonic() - begin, 1e-9), unit) if done > 0 else ""
            bar.update(task, advance=amount, total=total, rate=rate, note=note)

        yield advance


def _lines(
    what: str, total: float, unit: str, start: float, show: Callable[[str], None], every: float
) -> Iterator[Advance]:
    begin = last = time.monotonic()
    done = shown = 0.0
    over = False
    first: tuple[float, float] | None = None  # when the first piece was done, and how much it was

    def advance(amount: float = 1, note: str = "", skipped: float = 0) -> None:
        nonlocal done, last, shown, total, first, over
        done += amount
        total -= skipped
        now = time.monotonic()
        first = first or ((now, done) if done > 0 else None)
        # Pieces add up with rounding errors.
        left = total - start - done
        ended = left <= 1e-9 and (amount or skipped)
        if over or (now - last < every and not ended):
            return
        parts = [f"{what}: {start + done:.0f}/{total:.0f} {unit}"]
        if ended:
            parts.append(_rate(done / max(now - begin, 1e-9), unit))
        elif first:
            # Since the last line or the first piece, which waits for the compiler.
            since, before = max((last, shown), first)
            if now > since and done > before:
                rate = (done - before) / (now - since)
                parts += [_rate(rate, unit), f"{left / rate:.0f} s left"]
        show(f"{', '.join(parts)} {note}".rstrip())
        last, shown, over = now, done, bool(ended)

    yield advance
