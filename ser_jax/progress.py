"""Progress for a person: a live bar on a terminal, plain log lines elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


LOG_EVERY_SECONDS = 10.0

Advance = Callable[..., None]


@contextlib.contextmanager
def progress(what: str, total: float, unit: str, start: float = 0) -> Iterator[Advance]:
    """Shows how far a job is, its rate and the time left.

    Args:
      what: What is being done, e.g. "extracting".
      total: Amount of work.
      unit: Unit of the work, e.g. "files".
      start: Amount done before this process began (a resumed job); not counted in the rate.

    Yields:
      `advance(amount=1, note="", skipped=0)`: call it after each piece of work; `note` is shown behind the bar,
      `skipped` is work that has turned out not to be needed.
    """
    if sys.stderr.isatty():
        yield from _bar(what, total, unit, start)
    else:
        yield from _lines(what, total, unit, start)


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
            rate = done / max(time.monotonic() - begin, 1e-9)
            bar.update(task, advance=amount, total=total, rate=f"{rate:,.0f} {unit}/s", note=note)

        yield advance


def _lines(what: str, total: float, unit: str, start: float) -> Iterator[Advance]:
    last = time.monotonic()
    done = shown = 0.0

    def advance(amount: float = 1, note: str = "", skipped: float = 0) -> None:
        nonlocal done, last, shown, total
        done += amount
        total -= skipped
        now = time.monotonic()
        ended = start + done >= total and (amount or skipped)
        if now - last >= LOG_EVERY_SECONDS or ended:
            rate = (done - shown) / max(now - last, 1e-9)  # since the last line: what came first may have been slow
            left = max(total - start - done, 0) / max(rate, 1e-9)
            log.info(
                "%s: %.0f/%.0f %s, %.0f %s/s, %.0f s left %s", what, start + done, total, unit, rate, unit, left, note
            )
            last, shown = now, done

    yield advance
