"""Signals: noted, not obeyed at once; a second Ctrl-C is; the handlers of before come back."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ser_jax.runtime.signals import ENDS_WITH_PARENT, Interrupted, Watch, exit_message, guarded

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture(autouse=True)
def earlier():
    """Handlers that would notice a signal that Watch lets through; returns what they noticed."""
    noticed = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda n, _: noticed.append(n)) for number in numbers}
    yield noticed
    for number, handler in before.items():
        signal.signal(number, handler)


@BOTH
def test_noted_by_a_watch_that_can_be_entered_again(number, earlier):
    watch = Watch()
    for _ in range(2):
        with watch:
            assert watch.received is None
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


def test_second_sigterm_does_not_and_ctrl_c_after_it_is_a_first_one():
    """Schedulers repeat it; the save that is under way goes on."""
    with Watch() as watch:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert watch.received == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert watch.received == signal.SIGINT


def test_interrupted_says_by_what():
    error = Interrupted(signal.SIGTERM)
    assert str(error) == "SIGTERM" and error.signal == signal.SIGTERM
    sentence = "stopped by SIGTERM; run the same command again to go on from here"
    assert exit_message(signal.SIGTERM) == sentence


def test_without_a_signal_nothing_is_left(earlier):
    threads = set(threading.enumerate())
    with guarded() as guard, guarded() as same:
        assert guard is same and len(set(threading.enumerate()) - threads) == 1
    assert set(threading.enumerate()) == threads
    assert signal.set_wakeup_fd(-1) == -1
    signal.raise_signal(signal.SIGINT)
    assert earlier == [signal.SIGINT], "the handlers of before are back"


# --- A guarded process

TERM, INT = (exit_message(number) + "\n" for number in (signal.SIGTERM, signal.SIGINT))


def program(body: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    text = f"""
import hashlib, os, pathlib, sys, threading, time, weakref
from signal import SIGINT, SIGTERM, raise_signal
from ser_jax.runtime import signals
signals.GRACE = 0.3
guard = signals.guard_process()
def later(number):
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
try:
{textwrap.indent(textwrap.dedent(body), "    ")}
except signals.Interrupted as stop:
    print("left")
    sys.exit(guard.code_after(stop.signal))
"""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
        **options,
    )


def ended(body: str, *arguments: str) -> tuple[int, str, str]:
    """Returns exit code, standard output and standard error."""
    process = program(body, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


KNOWN = "guard.know_exit_code(75)\n"
FOR_EVER = "time.sleep(100)"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{KNOWN}raise_signal(SIGTERM); {FOR_EVER}", (75, "", TERM)),
        (f"{KNOWN}raise_signal(SIGINT); {FOR_EVER}", (130, "", INT)),
        (f"{KNOWN}try: raise_signal(SIGTERM)\nfinally: print('never', flush=True)", (75, "", TERM)),
        # What a handler raises there is dropped.
        (f"{KNOWN}weakref.finalize(set(), raise_signal, SIGTERM); {FOR_EVER}", (75, "", TERM)),
        # No handler of Python's is called there.
        (
            f"{KNOWN}later(SIGTERM); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
            (75, "", TERM),
        ),
        # The configuration, which has the exit code, is not read yet; or hangs.
        (f"raise_signal(SIGTERM); {KNOWN}{FOR_EVER}", (75, "left\n", "")),
        (f"raise_signal(SIGINT); {KNOWN}{FOR_EVER}", (130, "left\n", "")),
        (f"raise_signal(SIGTERM); {FOR_EVER}", (42, "", TERM)),
        (f"{KNOWN}guard.finish(3); raise_signal(SIGTERM); {FOR_EVER}", (3, "", "")),
    ],
)
def test_a_signal_ends_the_process(body, expected):
    assert ended(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # While the code inside saves, it has all the time that it needs.
        ("Watch() as w: later(SIGTERM); time.sleep(1); w.check()", (75, "left\n", "")),
        ("Watch() as w: later(SIGINT); time.sleep(1); w.check()", (130, "left\n", "")),
        # Otherwise GRACE.
        ("Closing() as w: later(SIGTERM); time.sleep(0.3); w.check()", (75, "left\n", "")),
        (f"Closing(): later(SIGTERM); {FOR_EVER}", (75, "", TERM)),
        # A second Ctrl-C ends it at once, a second SIGTERM does not: schedulers repeat it.
        (f"Watch(): later(SIGINT); time.sleep(0.5); later(SIGINT); {FOR_EVER}", (130, "", INT)),
        (
            "Watch() as w: later(SIGTERM); later(SIGTERM); time.sleep(1); w.check()",
            (75, "left\n", ""),
        ),
    ],
)
def test_a_watch_leaves_by_itself(body, expected):
    assert ended(f"{KNOWN}with signals.{body}") == expected


@pytest.mark.parametrize("watch", ["", "with signals.Closing(): "])
def test_scratch_files_go_with_the_process(watch, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    (tmp_path / "file").touch()
    body = f"""
        guard.know_exit_code(75)
        folder = pathlib.Path(sys.argv[1])
        with signals.removing(folder / "folder"), signals.removing(folder / "file"):
            {watch}raise_signal(SIGTERM); {FOR_EVER}
    """
    assert ended(body, str(tmp_path)) == (75, "", TERM)
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_its_parent(monkeypatch):
    """As after SIGTERM, when the process that holds its standard input open has been killed."""
    monkeypatch.setenv(ENDS_WITH_PARENT, "1")
    process = program(f"{KNOWN}print('ready', flush=True); {FOR_EVER}", stdin=-1)
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    assert process.poll() is None
    _, err = process.communicate(timeout=60)  # closes standard input
    assert (process.returncode, err) == (75, TERM)
