"""Progress: sparse log lines where nobody watches, a bar on a terminal."""

import io
import logging
import re
import sys

import pytest

from ser_jax import progress as progress_module
from ser_jax.progress import progress


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
    caplog.set_level(logging.INFO, logger="ser_jax.progress")
    return caplog


def redirect(monkeypatch, stream: io.StringIO) -> io.StringIO:
    """Replaces standard error: in the test itself, since pytest replaces it between setup and call."""
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
        "extracting: 100/100 files, 4 files/s, 0 s left x.wav",
    ]
    assert not file.getvalue(), "no control characters in a log file"


def test_work_done_before_does_not_count_in_the_rate(logged, clock, monkeypatch):
    redirect(monkeypatch, io.StringIO())
    with progress("training", 100, "epochs", start=90) as advance:
        clock.now += 20
        advance(5)
    assert logged.messages == ["training: 95/100 epochs, 0 epochs/s, 20 s left "]


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
    assert logged.messages == [
        "training: 10/100 epochs, 0 epochs/s, 180 s left ",
        "training: 30/30 epochs, 0 epochs/s, 0 s left ",
    ]


def test_no_time_at_all_is_no_division_by_zero(logged, clock, monkeypatch):
    redirect(monkeypatch, io.StringIO())
    with progress("extracting", 1, "files") as advance:
        advance()
    assert len(logged.messages) == 1


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
    assert "training" in shown and "6/6 epochs" in shown and "epochs/s" in shown and "03-0 loss 1.2" in shown
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
        "training: 1/100 epochs, 0 epochs/s, 1980 s left ",
        "training: 11/100 epochs, 1 epochs/s, 89 s left ",
    ]
