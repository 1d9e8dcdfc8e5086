"""Compiles programs in background threads while the first of them already run."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ser_jax.runtime import machine
from ser_jax.runtime.machine import available_cores

HEAD_START = 2.0  # s that the threads wait at most for the caller to get its first program
# Tracing is Python: several threads at it would share one core, and all of them be late.
tracing = threading.Lock()


class Compiler:
    """Compiles programs in the background; one needed earlier is compiled in the caller's thread.

    So work starts after one compilation and not after all of them. The threads start when the first
    program is ready: Python runs one thread at a time.
    """

    def __init__(self, threads: int | None = None):
        """Starts with no programs; by default one core, and memory, is left to the caller."""
        self.may_start = threading.Event()  # set when the threads need not wait any longer
        self._pool = ThreadPoolExecutor(
            threads or max(1, available_cores() - 1), thread_name_prefix="compile"
        )
        self._submitted: list[Programs] = []

    def submit(
        self, lower: Callable[[Any], Any], items: Sequence[Any], options: Any = None
    ) -> "Programs":
        """Returns programs by number, one per item; the threads compile them.

        Args:
          lower: Makes a lowered program of an item, as `jax.jit(…).lower` does.
          items: What the programs are made of.
          options: Compiler options of XLA for all of them.
        """
        self._submitted.append(Programs(self._pool, self.may_start, lower, items, options))
        return self._submitted[-1]

    def __len__(self) -> int:
        """Returns the number of programs."""
        return sum(len(programs.jobs) for programs in self._submitted)

    @property
    def done(self) -> bool:
        """Whether nothing is left to compile."""
        return all(job.done() for programs in self._submitted for job in programs.jobs)

    def cancel(self) -> None:
        """Drops what no thread has started; a dropped program is compiled when it is needed."""
        for programs in self._submitted:
            for job in programs.jobs:
                job.cancel()
        self.may_start.set()

    def wait(self) -> None:
        """Waits for all programs; compiles from the last while the threads start at the first."""
        self.may_start.set()
        for programs in reversed(self._submitted):
            for number in reversed(range(len(programs.jobs))):
                programs[number]


class Programs:
    """Programs by number, such as one per bucket; see `Compiler.submit`."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        may_start: threading.Event,
        lower: Callable[[Any], Any],
        items: Sequence[Any],
        options: Any,
    ):
        """Hands all of them to the threads."""
        self._may_start, self._lower, self._items = may_start, lower, items
        self._options = options
        self.jobs = [pool.submit(self._compile_later, item) for item in items]

    def __getitem__(self, number: int) -> Any:
        """Returns a program when it is compiled; raises what its compilation raised."""
        if self.jobs[number].cancel():
            self.jobs[number] = Future()
            self.jobs[number].set_result(self._compile(self._items[number]))
        self._may_start.set()
        return self.jobs[number].result()

    def _compile_later(self, item: Any) -> Any:
        self._may_start.wait(HEAD_START)
        return self._compile(item)

    def _compile(self, item: Any) -> Any:
        with tracing:
            lowered = self._lower(item)
        program = lowered.compile(self._options)
        machine.return_freed_memory()  # The compiler takes far more than what it leaves.
        return program
