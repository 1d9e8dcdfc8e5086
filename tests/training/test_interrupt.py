"""Signals: noted, not obeyed at once; a second Ctrl-C is; the handlers of before come back."""

import signal
import sys
import threading
import time
import weakref

import pytest

from ser_jax.training.interrupt import GRACE, Interrupted, Watch, farewell, leaving_on_sigterm

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


class Once:
    """What nobody holds is destroyed at once."""


@pytest.fixture(autouse=True)
def earlier():
    """Handlers that would notice a signal that Watch lets through; returns what they noticed."""
    noticed = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda n, _: noticed.append(n)) for number in numbers}
    yield noticed
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_received():
    with Watch() as watch:
        assert watch.received is None


@BOTH
def test_noted(number, earlier):
    with Watch() as watch:
        signal.raise_signal(number)
        assert watch.received == number
    assert earlier == []


@BOTH
def test_handlers_come_back(number, earlier):
    handler = signal.getsignal(number)
    with Watch():
        assert signal.getsignal(number) != handler
    assert signal.getsignal(number) is handler
    with pytest.raises(RuntimeError), Watch():
        raise RuntimeError
    assert signal.getsignal(number) is handler
    signal.raise_signal(number)
    assert earlier == [number]


def test_second_ctrl_c_breaks_off():
    with pytest.raises(KeyboardInterrupt), Watch():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_second_sigterm_does_not():
    """Schedulers repeat it; the save that is under way goes on."""
    with Watch() as watch:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert watch.received == signal.SIGTERM


def test_ctrl_c_after_sigterm_is_a_first_one():
    with Watch() as watch:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert watch.received == signal.SIGINT


def test_a_watch_can_be_entered_again():
    watch = Watch()
    with watch:
        signal.raise_signal(signal.SIGTERM)
    with watch:
        assert watch.received is None


def test_interrupted_says_by_what():
    error = Interrupted(signal.SIGTERM)
    assert str(error) == "SIGTERM" and error.signal == signal.SIGTERM
    assert farewell(signal.SIGTERM) == "stopped by SIGTERM; run the same command again to go on from here"


# --- Everything else (how a process ends: test_cli.py) ----------------------------------------------------------------


def test_sigterm_raises_where_nothing_watches_and_only_once(earlier):
    with pytest.raises(Interrupted, match="SIGTERM"), leaving_on_sigterm(42):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
    assert earlier == []
    signal.raise_signal(signal.SIGTERM)
    assert earlier == [signal.SIGTERM], "the handler of before is back"


def test_what_python_drops_is_raised_again(earlier, capfd):
    """Such as what is raised in a destructor; and without a word of Python's about it."""
    began = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"), leaving_on_sigterm(42):
        weakref.finalize(Once(), signal.raise_signal, signal.SIGTERM)
        while time.monotonic() < began + 2 * GRACE:
            pass
    assert time.monotonic() < began + GRACE and "ignored" not in capfd.readouterr().err and earlier == []


def test_other_things_that_python_drops_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    with leaving_on_sigterm(42):
        weakref.finalize(Once(), int, "x")
        assert [type(value) for value in told] == [ValueError]
    weakref.finalize(Once(), int, "x")
    assert len(told) == 2, "the hook of before is back"


def test_a_watch_has_it_until_it_ends(earlier):
    with leaving_on_sigterm(42):
        with Watch() as watch:
            signal.raise_signal(signal.SIGTERM)
            assert watch.received == signal.SIGTERM
    assert earlier == []


def test_without_a_signal_nothing_is_left(earlier):
    threads = set(threading.enumerate())
    with leaving_on_sigterm(42):
        assert len(set(threading.enumerate()) - threads) == 1
        signal.raise_signal(signal.SIGINT)
    assert set(threading.enumerate()) == threads and earlier == [signal.SIGINT]
    assert signal.set_wakeup_fd(-1) == -1
