"""SIGTERM and Ctrl-C: a signal ends the process at once, unless the code at work has to leave well.

What is on disk is whole at any moment, so a process may end anywhere. Code that has something to
save or to close enters a `Watch`, looks at `received` where it can leave, and raises `Interrupted`.
No handler raises: what it raised would be dropped in a destructor or a callback of jax, and while
an extension module is loaded it has ended in segmentation faults.
"""

from __future__ import annotations

# While this file is imported, Python itself deals with a signal: import nothing that is not needed.
import atexit
import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

GRACE = 3.0  # s from a signal until a process that does not leave by itself is ended
PREEMPTED, INTERRUPTED = 42, 128 + signal.SIGINT  # exit codes; the first can be configured
# Set for a process that has to end, as by SIGTERM, with the one that holds its standard input open.
ENDS_WITH_PARENT = "SER_JAX_ENDS_WITH_PARENT"

_POLL = 0.05  # s
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_watching: list[Watch] = []  # entered now
_handlers: dict[int, Any] = {}  # that were installed before ours; empty while ours are not
_guard: Guard | None = None  # of this process
_last_acts: list[Callable[[], None]] = []  # called before the process is ended


class Interrupted(BaseException):
    """A signal ended the work, which is saved. Like KeyboardInterrupt no Exception."""

    def __init__(self, number: int):
        """Stores the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Watch:
    """While entered, keeps SIGTERM and SIGINT in `received`; a second Ctrl-C ends the process.

    Python allows handlers in the main thread only: in another one none are installed.
    """

    saves = True  # whether the code inside saves before it leaves, however long that takes

    def __enter__(self) -> Watch:
        """Begins to listen; only the main thread receives signals."""
        self.received: int | None = None
        self._installed = _listen()
        _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the earlier handlers back."""
        _watching.remove(self)
        if self._installed:
            _stop_listening()

    def check(self) -> None:
        """Raises Interrupted if a signal has been received; in a notebook KeyboardInterrupt."""
        if self.received == signal.SIGINT and _guard is None:
            raise KeyboardInterrupt
        if self.received is not None:
            raise Interrupted(self.received)


class Closing(Watch):
    """A watch for code that has nothing to save but something to close; it has `GRACE` seconds."""

    saves = False


class Guard:
    """Ends this process after a signal; there is one at most."""

    def __init__(self):
        """Does nothing until `open`."""
        self.exit_code: int | None = None  # after SIGTERM; None: not known yet
        self.received: int | None = None
        # exit code of a command that has ended by itself; None: it is at work
        self._finished_with: int | None = None
        self._closed = threading.Event()  # Nothing is to be ended any more.
        self._ending = threading.Lock()  # held for ever by the thread that ends the process

    def open(self) -> Guard:
        """Listens, and starts a thread that ends the process if the main thread does not."""
        global _guard
        _guard = self
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # Python runs handlers between its own instructions only; until then its handler in C writes
        # the number of the signal into this pipe, which the thread reads.
        self._earlier_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._installed = _listen()  # After the pipe: its thread would miss an earlier signal.
        thread = threading.Thread(target=self._follow, args=(reader,), daemon=True, name="signals")
        self._thread = thread
        thread.start()
        return self

    def close(self) -> None:
        """Puts the earlier handlers back, and ends the thread."""
        global _guard
        self._closed.set()
        signal.set_wakeup_fd(self._earlier_wakeup)
        if self._installed:
            _stop_listening()
        os.close(self._writer)  # The thread reads the end of the pipe, if it has not read a signal.
        self._thread.join()
        _guard = None

    def note(self, number: int) -> None:
        """Notes a signal; ends the process unless the code at work leaves by itself."""
        self.received = number
        if not self._leaves_by_itself():
            self._end(number)

    def know_exit_code(self, exit_code: int) -> None:
        """Sets the exit code after SIGTERM; raises Interrupted if a signal has waited for that."""
        self.exit_code = exit_code
        if self.received is not None:
            raise Interrupted(self.received)

    def finish(self, exit_code: int) -> int:
        """Returns the exit code of a command that has ended; from now on no signal changes it."""
        self._finished_with = exit_code
        return exit_code

    def _leaves_by_itself(self) -> bool:
        return bool(_watching) or (self.exit_code is None and self._finished_with is None)

    def _follow(self, reader: int) -> None:
        """Reads signals in the thread, until one has ended the process or the guard is closed."""
        number = _next_signal(reader)
        # A main thread that runs Python ends the process itself, within a moment.
        seconds = GRACE if self._leaves_by_itself() else 4 * _POLL
        while number and seconds > 0 and not self._closed.is_set():
            begin = time.monotonic()
            if select.select([reader], [], [], _POLL)[0] and (again := _next_signal(reader)):
                if again == number == signal.SIGINT:
                    break
                number = again
            saving = any(watch.saves for watch in _watching)
            seconds = GRACE if saving else seconds - (time.monotonic() - begin)
        if number and not self._closed.is_set():
            self._end(number)
        os.close(reader)

    def _end(self, number: int) -> None:
        if not self._ending.acquire(blocking=False):
            return  # The other thread is at it, or the code that this handler has interrupted.
        for act in list(_last_acts):
            with contextlib.suppress(Exception):  # Nothing keeps the process from its end.
                act()
        code = self._finished_with
        if code is None:
            show_cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # A progress bar has hidden it.
            with contextlib.suppress(OSError):
                os.write(2, f"{show_cursor}{exit_message(number)}\n".encode())
            code = self.code_after(number)
        os._exit(code)

    def code_after(self, number: int) -> int:
        """Returns the exit code after a signal."""
        if number == signal.SIGINT:
            return INTERRUPTED
        return PREEMPTED if self.exit_code is None else self.exit_code


def guard_process() -> Guard:
    """Begins to end this process after SIGTERM and Ctrl-C; call it before anything is imported."""
    # The first to be registered is the last to be called: what is left then takes no time.
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in _SIGNALS])
    guard = Guard().open()
    if os.environ.pop(ENDS_WITH_PARENT, ""):
        threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    return guard


@contextlib.contextmanager
def guarded() -> Iterator[Guard]:
    """Gives this process's guard; one that lasts as long as the context if it has none."""
    if _guard is not None:
        yield _guard
        return
    guard = Guard().open()
    try:
        yield guard
    finally:
        guard.close()


@contextlib.contextmanager
def before_the_end(act: Callable[[], None]) -> Iterator[None]:
    """Has a function called if a signal ends the process in the middle of the code inside.

    It must be short, and wait for nothing that the main thread does.
    """
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


def removing(path: Path) -> contextlib.AbstractContextManager[None]:
    """Has a file or folder, which the code inside removes, removed if a signal ends the process."""
    import shutil

    def remove() -> None:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    return before_the_end(remove)


def received() -> int | None:
    """Returns the signal that a `Watch` keeps for later, if any."""
    return next((watch.received for watch in _watching if watch.received is not None), None)


def exit_message(number: int) -> str:
    """Returns the sentence with which an interrupted command ends."""
    name = signal.Signals(number).name
    return f"stopped by {name}; run the same command again to go on from here"


def _listen() -> bool:
    """Installs the handlers; returns whether they were not there before. Main thread only."""
    if _handlers or threading.current_thread() is not threading.main_thread():
        return False
    _handlers.update((number, signal.signal(number, _note)) for number in _SIGNALS)
    return True


def _stop_listening() -> None:
    for number, handler in _handlers.items():
        signal.signal(number, handler)
    _handlers.clear()


def _note(number: int, frame: FrameType | None) -> None:
    del frame
    again = number == signal.SIGINT == received()
    for watch in _watching:
        watch.received = number
    if _guard is not None:
        _guard.note(number)
    elif again:
        raise KeyboardInterrupt


def _next_signal(reader: int) -> int:
    """Returns the next signal of `_SIGNALS` from the pipe; 0 at its end."""
    while number := os.read(reader, 1):
        if number[0] in _SIGNALS:
            return number[0]
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
