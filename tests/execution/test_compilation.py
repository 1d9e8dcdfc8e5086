"""Background compilation, with fake programs whose compilation waits for the test."""

import threading
from pathlib import Path

import jax
import pytest

from ser_jax.runtime import machine
from ser_jax.training.execution import compilation, program_cache
from ser_jax.training.execution.compilation import Compiler


class Fake:
    """Something to be lowered and compiled."""

    def __init__(self, *, ready: bool = True):
        """A program whose compilation ends at once, or when the test sets `may_end`."""
        self.started, self.may_end = threading.Event(), threading.Event()
        self.calls: list[tuple[str, object]] = []  # thread and options of every compilation
        if ready:
            self.may_end.set()

    def compile(self, options: object) -> "Fake":
        """Returns itself: the program."""
        self.calls.append((threading.current_thread().name, options))
        self.started.set()
        assert self.may_end.wait(10)
        return self


def lower(program: Fake) -> Fake:
    return program


CALLER = threading.current_thread().name


@pytest.fixture
def compiler() -> Compiler:
    """One thread, which starts at once."""
    made = Compiler(threads=1)
    made.may_start.set()
    return made


def busy_thread(compiler: Compiler, *waiting: Fake, options: object = None):
    """Submits a program that occupies the thread, and others behind it."""
    busy = Fake(ready=False)
    programs = compiler.submit(lower, [busy, *waiting], options)
    assert busy.started.wait(10)
    return busy, programs


def test_a_program_that_is_needed_is_compiled_by_the_caller(compiler):
    waiting = Fake()
    busy, programs = busy_thread(compiler, waiting, options="options")
    assert programs[1] is waiting and waiting.calls == [(CALLER, "options")]
    assert not compiler.done and not busy.may_end.is_set()
    busy.may_end.set()
    assert programs[0] is busy, "a compilation that a thread has started is waited for"
    compiler.wait()
    assert compiler.done and len(compiler) == 2
    assert busy.calls == [("compile_0", "options")] and len(waiting.calls) == 1


def test_all_are_compiled_in_the_background(compiler):
    fakes = [Fake() for _ in range(5)]
    compiler.submit(lower, fakes)
    assert all(fake.started.wait(10) for fake in fakes)
    compiler.wait()
    assert [len(fake.calls) for fake in fakes] == [1] * 5 and compiler.done


def test_a_cancelled_program_is_compiled_on_demand_only(compiler):
    dropped, wanted = Fake(), Fake()
    busy, programs = busy_thread(compiler, dropped, wanted)
    compiler.cancel()
    busy.may_end.set()
    assert programs[2] is wanted
    compiler._pool.shutdown()
    assert compiler.done and [len(f.calls) for f in (busy, dropped, wanted)] == [1, 0, 1]


@pytest.mark.parametrize("by_the_caller", [False, True])
def test_errors_reach_the_caller(by_the_caller, compiler):
    def fails(_: Fake) -> Fake:
        raise ValueError("out of memory")

    busy = busy_thread(compiler)[0] if by_the_caller else Fake()
    programs = compiler.submit(fails, [Fake()])
    with pytest.raises(ValueError, match="out of memory"):
        programs[0]
    busy.may_end.set()


def test_threads_start_when_the_first_program_is_ready(monkeypatch):
    """Before, they would only make it late; they do not wait for ever, though."""
    first, second = [Fake(), Fake()], [Fake()]
    compiler = Compiler(threads=1)
    training, scoring = (compiler.submit(lower, fakes) for fakes in (first, second))
    assert not first[0].started.wait(0.2) and training[1] is first[1]
    assert first[0].started.wait(10) and second[0].started.wait(10)
    compiler.wait()
    assert scoring[0] is second[0] and first[1].calls == [(CALLER, None)]
    assert len(first[0].calls) == len(second[0].calls) == 1
    monkeypatch.setattr(compilation, "HEAD_START", 0.05)
    never_needed = Fake()
    Compiler(threads=1).submit(lower, [never_needed])
    assert never_needed.started.wait(10)


def test_waiting_for_all_compiles_from_the_end(compiler):
    last = Fake()
    busy, _ = busy_thread(compiler, last)
    threading.Timer(0.2, busy.may_end.set).start()
    compiler.wait()
    assert last.calls == [(CALLER, None)] and compiler.done


def test_unlike_processors_do_not_share_compiled_programs(tmp_path, monkeypatch):
    before = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    found = []
    try:
        for kind in (["x86", "avx512"], ["x86", "avx2"], ["x86", "avx512"]):
            monkeypatch.setattr(machine, "processor", lambda kind=kind: kind)
            program_cache.use_compilation_cache()
            found.append(jax.config.values["jax_compilation_cache_dir"])
        assert found[0] == found[2] != found[1]
        assert {Path(place).parent for place in found} == {tmp_path / "ser_jax/xla"}
        # Where the user has chosen a folder, it stays.
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/site/cache")
        jax.config.update("jax_compilation_cache_dir", "/site/cache")
        program_cache.use_compilation_cache()
        assert jax.config.values["jax_compilation_cache_dir"] == "/site/cache"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
