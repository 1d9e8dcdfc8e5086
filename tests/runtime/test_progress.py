"""Progress: sparse log lines where nobody watches, a bar on a terminal."""

import io
import logging
import re
import sys
import types

import pytest

from ser_jax.runtime import progress as progress_module
from ser_jax.runtime.progress import counted, progress


class Clock:
    """A clock that the test turns."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress_module, "time", made)
    return made


class Terminal(io.StringIO):
    """A terminal that keeps what is written on it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="ser_jax.runtime.progress")
    return caplog


def redirect(monkeypatch, stream: io.StringIO) -> io.StringIO:
    """Replaces standard error, in the test itself: pytest replaces it between set-up and call."""
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_line_every_ten_seconds_and_one_at_the_end(logged, clock, monkeypatch):
    file = redirect(monkeypatch, io.StringIO())
    with progress("extracting", 100, "files") as advance:
        for _ in range(100):
            clock.now += 0.25
            advance(note="x.wav")
    assert logged.messages == [
        "extracting: 40/100 files, 4 files/s, 15 s left x.wav",
        "extracting: 80/100 files, 4 files/s, 5 s left x.wav",
        "extracting: 100/100 files, 4 files/s x.wav",
    ]
    assert not file.getvalue(), "no control characters in a log file"


def test_work_done_before_does_not_count_in_the_rate(logged, clock, monkeypatch):
    redirect(monkeypatch, io.StringIO())
    with progress("training", 100, "epochs", start=90) as advance:
        clock.now += 20
        advance(5)
    assert logged.messages == ["training: 95/100 epochs"]


def test_work_that_is_not_needed_shortens_the_way(logged, clock, monkeypatch):
    """It counts neither as done nor in the rate."""
    redirect(monkeypatch, io.StringIO())
    with progress("training", 100, "epochs") as advance:
        clock.now += 20
        advance(10)
        advance(0, skipped=70)
        clock.now += 40
        advance(20)
        advance(0, skipped=0)
    assert logged.messages == ["training: 10/100 epochs", "training: 30/30 epochs, 30 epochs/min"]


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_inside_reaches_the_caller(terminal, monkeypatch):
    redirect(monkeypatch, Terminal() if terminal else io.StringIO())
    with pytest.raises(ZeroDivisionError), progress("extracting", 2, "files") as advance:
        advance()
        raise ZeroDivisionError


def test_a_bar_on_a_terminal(logged, monkeypatch):
    terminal = redirect(monkeypatch, Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress("training", 8, "epochs", start=2) as advance:
        advance(4, skipped=2, note="03-0 loss 1.2")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    for part in ("training", "6/6 epochs", "epochs/s", "03-0 loss 1.2"):
        assert part in shown
    assert not logged.messages


def test_time_left_follows_from_what_was_done_since_the_last_line(logged, clock, monkeypatch):
    """20 s for the first of 100, because something was compiled, then one a second."""
    redirect(monkeypatch, io.StringIO())
    with progress("training", 100, "epochs") as advance:
        clock.now += 20
        advance()
        for _ in range(10):
            clock.now += 1
            advance()
    assert logged.messages == [
        "training: 1/100 epochs",
        "training: 11/100 epochs, 1 epochs/s, 89 s left",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_fractions_of_pieces_that_last_long(logged, clock, monkeypatch, terminal):
    """Thirds of a recording, the first of them slow; their sum is a little less than 1."""
    file = redirect(monkeypatch, Terminal() if terminal else io.StringIO())
    monkeypatch.setenv("COLUMNS", "120")
    with progress("timelines", 1, "recordings") as advance:
        clock.now += 60
        for _ in range(3):
            clock.now += 30
            advance(1 / 3 - 1e-13)
        advance(-1e-17)
    if not terminal:
        assert logged.messages == [
            "timelines: 0/1 recordings",
            "timelines: 1/1 recordings, 40.0 recordings/h, 30 s left",
            "timelines: 1/1 recordings, 24.0 recordings/h",
        ]
    assert "-0" not in file.getvalue()


class Shell:
    kernel = object()


class Handle:
    def __init__(self, lines: list[str]):
        self.lines = lines

    def update(self, data: dict[str, str], raw: bool) -> None:
        self.lines.append(data["text/plain"])


def test_in_a_notebook_one_line_is_replaced(logged, clock, monkeypatch):
    """By stand-ins for IPython; tests/test_notebook.py runs a notebook."""
    shown: list[list[str]] = []

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append([data["text/plain"]])
        return Handle(shown[-1])

    part = types.SimpleNamespace(display=display)
    module = types.SimpleNamespace(get_ipython=Shell, display=part)
    monkeypatch.setitem(sys.modules, "IPython", module)
    with progress("training", 10, "epochs") as advance:
        for _ in range(10):
            clock.now += 0.2
            advance()
    assert shown == [
        [
            "training: 0/10 epochs",
            "training: 3/10 epochs, 5 epochs/s, 1 s left",
            "training: 6/10 epochs, 5 epochs/s, 1 s left",
            "training: 9/10 epochs, 5 epochs/s, 0 s left",
            "training: 10/10 epochs, 5 epochs/s",
        ]
    ]
    assert not logged.messages


@pytest.mark.parametrize("count", [0, 1, 2])
def test_counted(count):
    assert counted(count, "recording") == f"{count} recording{'s' * (count != 1)}"
