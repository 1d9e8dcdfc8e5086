"""Programs that threads compile while the first ones already run."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ser_jax.cores import available_cores
from ser_jax.training import memory

HEAD_START = 2.0  # s that threads wait for the first program to be asked for
tracing = threading.Lock()  # It is Python: several at a time would share one core, and each be as late as all.


class Compiling:
    """Programs by number, such as one per bucket, each there as soon as it is compiled.

    One that is asked for before a thread has begun with it is compiled at once by whoever asks, so that work starts
    after one compilation and not after all of them. Threads begin when that is done: Python runs one thread at a time.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        lower: Callable[[Any], Any],
        of: Sequence[Any],
        options: Any = None,
        asked: threading.Event | None = None,
    ):
        """Has the programs compiled by the threads of a pool.

        Args:
          pool: Threads.
          lower: Given an element of `of`, returns a program as `jax.jit(…).lower` does.
          of: What the programs are made of.
          options: XLA's, for all of them.
          asked: Set when the first program that was asked for is there; shared by those for which one may start.
        """
        self._lower, self._of, self._options = lower, of, options
        self._asked = asked or threading.Event()
        self._jobs = [pool.submit(self._compile_later, one) for one in of]

    def _compile_later(self, one: Any) -> Any:
        self._asked.wait(HEAD_START)
        return self._compile(one)

    def _compile(self, one: Any) -> Any:
        with tracing:
            lowered = self._lower(one)
        program = lowered.compile(self._options)
        memory.return_freed_memory()  # The compiler takes far more than what it leaves.
        return program

    def __len__(self) -> int:
        """Returns the number of programs."""
        return len(self._jobs)

    def __getitem__(self, number: int) -> Any:
        """Returns a program; raises what compiling it has raised."""
        if self._jobs[number].cancel():
            self._jobs[number] = Future()
            self._jobs[number].set_result(self._compile(self._of[number]))
        self._asked.set()
        return self._jobs[number].result()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to compile."""
        return all(job.done() for job in self._jobs)

    def cancel(self) -> None:
        """Drops what no thread has begun; it is compiled if it is asked for after all."""
        for job in self._jobs:
            job.cancel()
        self._asked.set()

    def wait(self) -> None:
        """Returns when all programs are there."""
        for number in range(len(self._jobs)):
            self[number]


def threads() -> ThreadPoolExecutor:
    """Returns threads that leave a core, and memory, to whoever asks for programs and compiles, too."""
    return ThreadPoolExecutor(max(1, available_cores() - 1), thread_name_prefix="compile")
