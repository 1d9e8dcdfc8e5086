"""Programs that are compiled while others run; what compiles them is faked, and waits until it may go on."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ser_jax.training import compiling
from ser_jax.training.compiling import Compiling


class Fake:
    """Something to be lowered and compiled.

    Attributes:
      begun, may_end: Set when compiling begins; it ends when the other one is set.
      by: Names of the threads that have compiled it.
      options: What they were given.
    """

    def __init__(self, *, ready: bool = True):
        """A program that is compiled at once, or when told."""
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.by: list[str] = []
        self.options: list[object] = []
        if ready:
            self.may_end.set()

    def compile(self, options: object) -> "Fake":
        """Returns itself: the program."""
        self.by.append(threading.current_thread().name)
        self.options.append(options)
        self.begun.set()
        assert self.may_end.wait(10)
        return self


def lower(program: Fake) -> Fake:
    return program


@pytest.fixture
def asked() -> threading.Event:
    """Threads need not wait for anybody to ask."""
    found = threading.Event()
    found.set()
    return found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as made:
        yield made


def test_what_is_asked_for_first_is_compiled_first(pool, asked):
    """By the caller, while the thread is still busy with another one."""
    busy, waiting = Fake(ready=False), Fake()
    programs = Compiling(pool, lower, [busy, waiting], "options", asked)
    assert busy.begun.wait(10)
    assert programs[1] is waiting and waiting.by == [threading.current_thread().name]
    assert not programs.ended and not busy.may_end.is_set()
    busy.may_end.set()
    assert programs[0] is busy and busy.by == ["pool_0"], "what a thread has begun is waited for"
    programs.wait()
    assert programs.ended and len(programs) == 2
    assert (busy.options, waiting.options) == (["options"], ["options"]), "each is compiled once"


def test_all_are_compiled_without_being_asked_for(pool, asked):
    fakes = [Fake() for _ in range(5)]
    programs = Compiling(pool, lower, fakes, None, asked)
    pool.shutdown(wait=False)
    assert all(fake.begun.wait(10) for fake in fakes)
    programs.wait()
    assert [len(fake.by) for fake in fakes] == [1] * 5 and programs.ended


def test_what_is_cancelled_is_compiled_on_demand_only(pool, asked):
    busy, dropped, wanted = Fake(ready=False), Fake(), Fake()
    programs = Compiling(pool, lower, [busy, dropped, wanted], None, asked)
    assert busy.begun.wait(10)
    programs.cancel()
    busy.may_end.set()
    assert programs[2] is wanted
    pool.shutdown()
    assert programs.ended and (len(busy.by), len(dropped.by), len(wanted.by)) == (1, 0, 1)


@pytest.mark.parametrize("by_the_caller", [False, True])
def test_errors_reach_who_asks(by_the_caller, pool, asked):
    def fails(_: Fake) -> Fake:
        raise ValueError("out of memory")

    if by_the_caller:
        busy = Fake(ready=False)
        Compiling(pool, lower, [busy], None, asked)
        assert busy.begun.wait(10)
    programs = Compiling(pool, fails, [Fake()], None, asked)
    with pytest.raises(ValueError, match="out of memory"):
        programs[0]
    if by_the_caller:
        busy.may_end.set()


def test_threads_begin_when_the_first_program_is_there(pool, monkeypatch):
    """Until then they would only make it late. Nobody waits for ever, though."""
    first, second = [Fake(), Fake()], [Fake()]
    asked = threading.Event()
    training, scoring = (Compiling(pool, lower, fakes, None, asked) for fakes in (first, second))
    assert not first[0].begun.wait(0.2) and training[1] is first[1]
    assert first[0].begun.wait(10) and second[0].begun.wait(10)
    training.wait()
    scoring.wait()
    assert first[1].by == [threading.current_thread().name] and len(first[0].by) == len(second[0].by) == 1
    monkeypatch.setattr(compiling, "HEAD_START", 0.05)
    unasked = Fake()
    Compiling(pool, lower, [unasked])
    assert unasked.begun.wait(10)
