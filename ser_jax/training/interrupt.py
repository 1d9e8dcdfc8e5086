"""SIGTERM and Ctrl-C: training notices them at once and acts at the next step boundary; everything else just stops.

What is on disk is whole at any moment, so stopping anywhere costs no more than what was not stored yet. Only training
has something to save.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

GRACE = 3.0  # s from SIGTERM until a process that is busy in a library, such as XLA's compiler, is ended from outside
_POLL = 0.05  # s

_watching: list["Watch"] = []  # those that are entered


class Interrupted(BaseException):
    """The work was saved and the process should leave. Like KeyboardInterrupt it passes `except Exception`.

    Attributes:
      signal: The signal that asked for it.
    """

    def __init__(self, number: int):
        """Keeps the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Watch:
    """While entered, keeps SIGTERM and SIGINT for `received`; a second Ctrl-C raises KeyboardInterrupt as usual.

    Attributes:
      saves: Whether what runs inside saves before it leaves, and is to be given the time for that.
    """

    saves = True

    def __enter__(self) -> "Watch":
        """Installs the handlers."""
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        _watching.append(self)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _watching.remove(self)

    def abandon(self) -> None:
        """Called from another thread before the process is ended inside."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def received() -> int | None:
    """Returns the signal that a `Watch` keeps for later, if any."""
    return next((watch.received for watch in _watching if watch.received is not None), None)


def farewell(number: int) -> str:
    """Returns the sentence with which an interrupted command ends."""
    return f"stopped by {signal.Signals(number).name}; run the same command again to go on from here"


@contextlib.contextmanager
def leaving_on_sigterm(exit_code: int) -> Iterator[None]:
    """Has SIGTERM raise Interrupted, and ends the process if that has not left after `GRACE` seconds.

    What a handler raises in a destructor or in the hooks of a fork, Python drops; it is then raised again.

    Python runs handlers between its own instructions only. A thread therefore reads what Python's handler in C writes,
    and ends the process if the main thread does not come back; not while a `Watch` is entered that saves.

    Args:
      exit_code: Of a process that is ended so.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    left, dropped = threading.Event(), threading.Event()
    before, report = signal.signal(signal.SIGTERM, _interrupt), sys.unraisablehook

    def raise_again(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            return report(unraisable)
        signal.signal(signal.SIGTERM, _interrupt)
        dropped.set()  # Here it would be dropped once more: the thread sends the signal.

    sys.unraisablehook = raise_again
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    guard = threading.Thread(
        target=_end_in_time, args=(reader, left, dropped, exit_code), daemon=True, name="leaving_on_sigterm"
    )
    guard.start()
    try:
        yield
    finally:
        left.set()
        sys.unraisablehook = report
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)  # The thread reads the end of the pipe, if it has not read a signal.
        guard.join()
        os.close(reader)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    signal.signal(number, signal.SIG_IGN)  # Schedulers repeat it; cleaning up goes on.
    raise Interrupted(number)


def _end_in_time(reader: int, left: threading.Event, dropped: threading.Event, exit_code: int) -> None:
    while received := os.read(reader, 1):
        if received[0] == signal.SIGTERM:
            break
    seconds = GRACE
    while not left.wait(_POLL):
        if dropped.is_set():
            dropped.clear()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        seconds = GRACE if any(watch.saves for watch in _watching) else seconds - _POLL
        if seconds <= 0:
            for watch in _watching:
                watch.abandon()
            os.write(2, f"{farewell(signal.SIGTERM)}\n".encode())
            os._exit(exit_code)
