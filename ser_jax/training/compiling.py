"""Programs that threads compile while the first ones already run."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ser_jax.cores import available_cores
from ser_jax.training import memory

HEAD_START = 2.0  # s that threads wait for the first program to be asked for
tracing = threading.Lock()  # It is Python: several at a time would share one core, and each be as late as all.


class Compiler:
    """Threads that compile what is asked for later, and who asks compiles what is wanted now.

    So work starts after one compilation and not after all of them. Threads begin when that one is done: Python runs one
    thread at a time.

    Attributes:
      asked: Set when the first program that was asked for is there, and when threads need not wait for that.
    """

    def __init__(self, threads: int | None = None):
        """Starts with nothing to do.

        Args:
          threads: How many; None: a core, and memory, is left to who asks.
        """
        self.asked = threading.Event()
        self._pool = ThreadPoolExecutor(threads or max(1, available_cores() - 1), thread_name_prefix="compile")
        self._begun: list[Compiling] = []

    def begin(self, lower: Callable[[Any], Any], of: Sequence[Any], options: Any = None) -> "Compiling":
        """Begins to compile programs.

        Args:
          lower: Given an element of `of`, returns a program as `jax.jit(…).lower` does.
          of: What the programs are made of.
          options: XLA's, for all of them.
        """
        self._begun.append(Compiling(self._pool, self.asked, lower, of, options))
        return self._begun[-1]

    def __len__(self) -> int:
        """Returns the number of programs."""
        return sum(len(part.jobs) for part in self._begun)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to compile."""
        return all(job.done() for part in self._begun for job in part.jobs)

    def cancel(self) -> None:
        """Drops what no thread has begun; it is compiled if it is asked for after all."""
        for part in self._begun:
            for job in part.jobs:
                job.cancel()
        self.asked.set()

    def wait(self) -> None:
        """Returns when all programs are there; compiles from the end while the threads do from the beginning."""
        self.asked.set()
        for part in reversed(self._begun):
            for number in reversed(range(len(part.jobs))):
                part[number]


class Compiling:
    """Programs by number, such as one per bucket, each there as soon as it is compiled; see `Compiler.begin`.

    Attributes:
      jobs: What threads compile, or whoever asked.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        asked: threading.Event,
        lower: Callable[[Any], Any],
        of: Sequence[Any],
        options: Any,
    ):
        """Hands all of it to the threads."""
        self._asked, self._lower, self._of, self._options = asked, lower, of, options
        self.jobs = [pool.submit(self._compile_later, one) for one in of]

    def __getitem__(self, number: int) -> Any:
        """Returns a program; raises what compiling it has raised."""
        if self.jobs[number].cancel():
            self.jobs[number] = Future()
            self.jobs[number].set_result(self._compile(self._of[number]))
        self._asked.set()
        return self.jobs[number].result()

    def _compile_later(self, one: Any) -> Any:
        self._asked.wait(HEAD_START)
        return self._compile(one)

    def _compile(self, one: Any) -> Any:
        with tracing:
            lowered = self._lower(one)
        program = lowered.compile(self._options)
        memory.return_freed_memory()  # The compiler takes far more than what it leaves.
        return program
