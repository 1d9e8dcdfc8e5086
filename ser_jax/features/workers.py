"""Runs one function over many jobs, in threads or in fresh processes, with a bounded number of jobs under way."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

# Submitted jobs per worker: one runs, one waits. So an interrupted program has little left to wait for.
_AHEAD = 2


class WorkerDied(Exception):
    """A worker process ended without a result (out of memory, a crash in a C library).

    Attributes:
      jobs: The jobs that were under way; one of them may be the cause.
    """

    def __init__(self, jobs: tuple):
        """Stores the jobs."""
        super().__init__(f"a worker process died with {len(jobs)} jobs under way")
        self.jobs = jobs


def run(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, *, processes: bool
) -> Generator[tuple[Job, Result], None, None]:
    """Applies a function to jobs in parallel.

    Close the iterator if you leave it early: that cancels what has not begun and waits for what has.

    Args:
      function: With `processes` it is pickled by name, so it belongs at the top of a module.
      jobs: Its arguments, begun in this order.
      workers: How many run at once, at least 1.
      processes: Spawned processes instead of threads. They import what `function` needs and not the program's main
        module; they leave Ctrl-C to this process and end with it, even if it is killed. POSIX only.

    Yields:
      Each job with its result, as they finish.

    Raises:
      WorkerDied: If a worker process dies; what has been yielded is done.
    """
    queue = iter(jobs)
    running: dict[concurrent.futures.Future[Result], Job] = {}
    pool = _pool(workers, processes)
    try:
        while True:
            for job in itertools.islice(queue, _AHEAD * workers - len(running)):
                with _clean_start() if processes else contextlib.nullcontext():  # a submission may start a worker
                    running[pool.submit(function, job)] = job
            if not running:
                return
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                result = future.result()
                yield running.pop(future), result
    except BrokenProcessPool:
        raise WorkerDied(tuple(running.values())) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int, processes: bool) -> concurrent.futures.Executor:
    if not processes:
        return concurrent.futures.ThreadPoolExecutor(workers)
    spawn = multiprocessing.get_context("spawn")  # a forked copy of a process with JAX's threads can deadlock
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn, initializer=_leave_with_parent)


@contextlib.contextmanager
def _clean_start() -> Iterator[None]:
    """Lets a worker process start without SIGINT and without the main module.

    A blocked signal stays blocked in the child, from its first instruction: no tracebacks of workers after Ctrl-C. And
    spawning imports the main module again in the child, and jax with it, unless that has neither a name nor a file.
    """
    main = sys.modules["__main__"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_with_parent() -> None:
    """In a worker: ends it when its parent dies; otherwise it would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="leave_with_parent").start()
