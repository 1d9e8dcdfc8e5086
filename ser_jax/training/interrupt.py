"""SIGTERM and Ctrl-C: noticed at once, acted upon at the next step boundary."""

import signal
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The work was saved and the process should leave.

    Attributes:
      signal: The signal that asked for it.
    """

    def __init__(self, number: int):
        """Keeps the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Watch:
    """While entered, keeps SIGTERM and SIGINT for `received`; a second Ctrl-C raises KeyboardInterrupt as usual."""

    def __enter__(self) -> "Watch":
        """Installs the handlers."""
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
