"""Programs that are compiled while others run; what compiles them is faked, and waits until it may go on."""

import threading

import pytest

from ser_jax.training import compiling
from ser_jax.training.compiling import Compiler


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
def compiler() -> Compiler:
    """One thread, which need not wait for anybody to ask."""
    made = Compiler(threads=1)
    made.asked.set()
    return made


def test_what_is_asked_for_first_is_compiled_first(compiler):
    """By the caller, while the thread is still busy with another one."""
    busy, waiting = Fake(ready=False), Fake()
    programs = compiler.begin(lower, [busy, waiting], "options")
    assert busy.begun.wait(10)
    assert programs[1] is waiting and waiting.by == [threading.current_thread().name]
    assert not compiler.ended and not busy.may_end.is_set()
    busy.may_end.set()
    assert programs[0] is busy and busy.by == ["compile_0"], "what a thread has begun is waited for"
    compiler.wait()
    assert compiler.ended and len(compiler) == 2
    assert (busy.options, waiting.options) == (["options"], ["options"]), "each is compiled once"


def test_all_are_compiled_without_being_asked_for(compiler):
    fakes = [Fake() for _ in range(5)]
    compiler.begin(lower, fakes)
    assert all(fake.begun.wait(10) for fake in fakes)
    compiler.wait()
    assert [len(fake.by) for fake in fakes] == [1] * 5 and compiler.ended


def test_what_is_cancelled_is_compiled_on_demand_only(compiler):
    busy, dropped, wanted = Fake(ready=False), Fake(), Fake()
    programs = compiler.begin(lower, [busy, dropped, wanted])
    assert busy.begun.wait(10)
    compiler.cancel()
    busy.may_end.set()
    assert programs[2] is wanted
    compiler._pool.shutdown()
    assert compiler.ended and (len(busy.by), len(dropped.by), len(wanted.by)) == (1, 0, 1)


@pytest.mark.parametrize("by_the_caller", [False, True])
def test_errors_reach_who_asks(by_the_caller, compiler):
    def fails(_: Fake) -> Fake:
        raise ValueError("out of memory")

    if by_the_caller:
        busy = Fake(ready=False)
        compiler.begin(lower, [busy])
        assert busy.begun.wait(10)
    programs = compiler.begin(fails, [Fake()])
    with pytest.raises(ValueError, match="out of memory"):
        programs[0]
    if by_the_caller:
        busy.may_end.set()


def test_threads_begin_when_the_first_program_is_there(monkeypatch):
    """Until then they would only make it late. Nobody waits for ever, though."""
    first, second = [Fake(), Fake()], [Fake()]
    compiler = Compiler(threads=1)
    training, scoring = (compiler.begin(lower, fakes) for fakes in (first, second))
    assert not first[0].begun.wait(0.2) and training[1] is first[1]
    assert first[0].begun.wait(10) and second[0].begun.wait(10)
    compiler.wait()
    assert scoring[0] is second[0] and first[1].by == [threading.current_thread().name]
    assert len(first[0].by) == len(second[0].by) == 1
    monkeypatch.setattr(compiling, "HEAD_START", 0.05)
    unasked = Fake()
    Compiler(threads=1).begin(lower, [unasked])
    assert unasked.begun.wait(10)


def test_who_waits_for_all_takes_part(compiler):
    """From the end, so that thread and caller meet; none waits for the other's head start."""
    busy, last = Fake(ready=False), Fake()
    compiler.begin(lower, [busy, last])
    assert busy.begun.wait(10)
    threading.Timer(0.2, busy.may_end.set).start()
    compiler.wait()
    assert last.by == [threading.current_thread().name] and compiler.ended
