"""Listens live: samples from a source into a stream, and what it says onto the terminal, line by line or as JSON."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np

from ser_jax import atomic
from ser_jax.prediction.predictor import Prediction
from ser_jax.prediction.stream import Moment, Stream

Say = Callable[[Moment | Prediction], None]


def listen(stream: Stream, source: Iterator[np.ndarray], say: Say) -> None:
    """Follows a source until it ends or Ctrl-C is pressed, then gives the answer for all that was heard.

    Args:
      stream: A new stream.
      source: Pieces of samples.
      say: Called with every moment and, last, with the prediction.

    Raises:
      UserError: If samples cannot be used, or all that was heard is too short or silent.
      KeyboardInterrupt: At a second Ctrl-C.
    """
    with _Ear() as ear:
        for samples in ear.pieces(source):
            for moment in stream.push(samples):
                say(moment)
        for moment in stream.drain():
            say(moment)
        say(stream.finish())


def speaker(as_json: bool) -> Say:
    """Returns how to say things on standard output: JSON, a line that is rewritten (terminal), or plain lines."""
    if as_json:
        return _say_json
    return _say_in_place if sys.stdout.isatty() else _say_line


class _Stopped(BaseException):
    """Ctrl-C while waiting for samples."""


class _Ear:
    """While entered, Ctrl-C ends the input; never in the middle of a computation, whose state would be half done."""

    def __enter__(self) -> "_Ear":
        self._waiting = self._stopped = False
        self._before = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def pieces(self, source: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        while not self._stopped:
            try:
                self._waiting = True
                samples = next(source, None)
                self._waiting = False
            except _Stopped:
                return
            if samples is None:
                return
            yield samples

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._stopped:
            raise KeyboardInterrupt
        self._stopped = True
        if self._waiting:
            self._waiting = False
            raise _Stopped


def _say_json(said: Moment | Prediction) -> None:
    if isinstance(said, Moment):
        record = {"start": said.start, "end": said.end, "window": said.window, "so_far": said.so_far}
    else:
        record = {"label": said.label, "probabilities": said.probabilities, "seconds": said.seconds}
        record["flags"] = said.flags
    print(json.dumps(atomic.plain(record), allow_nan=False), flush=True)


def _say_line(said: Moment | Prediction) -> None:
    print(_text(said), flush=True)


def _say_in_place(said: Moment | Prediction) -> None:
    width = shutil.get_terminal_size().columns - 1
    end = "" if isinstance(said, Moment) else "\n"
    print(f"\r\x1b[K{_text(said)[:width]}", end=end, flush=True)


def _text(said: Moment | Prediction) -> str:
    if isinstance(said, Moment):
        place, shares, label = f"{said.end:8.2f} s", said.window, max(said.window, key=said.window.__getitem__)
    else:
        place, shares, label = f"all {said.seconds:.2f} s", said.probabilities, str(said.label)
    listed = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
    return f"{place}  {label:<{max(map(len, shares))}}  {listed}"
