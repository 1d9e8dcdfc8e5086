"""Applies a function to many jobs in threads or fresh processes, a bounded number at once."""

import concurrent.futures
import contextlib
import functools
import itertools
import math
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

from ser_jax.runtime.signals import Closing, before_the_end

Job = TypeVar("Job")
Result = TypeVar("Result")

# Submitted jobs per worker: one runs, one waits. An interrupted program has little to wait for.
_AHEAD = 2
_POLL = 0.1  # s between two looks at whether a signal has come


class WorkerDied(Exception):
    """A worker process ended without a result (out of memory, a crash in a C library)."""

    def __init__(self, jobs: tuple):
        """Stores the jobs."""
        super().__init__(f"a worker process died with {len(jobs)} jobs under way")
        self.jobs = jobs  # that were under way; one of them may be the cause


def worth_starting(cores: int, jobs: int, work: float, per_process: float) -> int:
    """Returns how many processes pay: one for each `per_process` of the work, or part of it.

    At least one, and no more than cores or jobs. `per_process` is the work that takes about as long
    as starting a process, in the unit of `work`.
    """
    return max(1, min(cores, jobs, math.ceil(work / per_process)))


def run(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, *, processes: bool
) -> Generator[tuple[Job, Result], None, None]:
    """Applies a function to jobs in parallel.

    Close the iterator if you leave it early: that cancels waiting jobs and waits for the others.

    Args:
      function: With `processes` it is pickled by name, so it belongs at the top of a module.
      jobs: Its arguments, started in this order.
      workers: How many run at once, at least 1.
      processes: Spawned processes instead of threads. They import what `function` needs and not the
        program's main module; they leave Ctrl-C to this process and end with it, even if it is
        killed. POSIX only.

    Yields:
      Each job with its result, as they finish.

    Raises:
      Interrupted: After SIGTERM or Ctrl-C; processes are ended in the middle of their jobs.
      WorkerDied: If a worker process dies; what has been yielded is done.
    """
    queue = iter(jobs)
    running: dict[concurrent.futures.Future[Result], Job] = {}
    # A forked copy of a process with JAX's threads can deadlock.
    spawn = multiprocessing.get_context("spawn")
    alive, alive_here = spawn.Pipe(duplex=False)  # Its end tells the processes to leave.
    if processes:
        pool: concurrent.futures.Executor = concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=spawn, initializer=_leave_at_the_end_of, initargs=(alive,)
        )
    else:
        pool = concurrent.futures.ThreadPoolExecutor(workers)
    end = functools.partial(_end_processes, multiprocessing.active_children())
    with alive, alive_here, Closing() as watch, before_the_end(end):
        try:
            while True:
                for job in itertools.islice(queue, _AHEAD * workers - len(running)):
                    # A submission may start a worker.
                    with _clean_start() if processes else contextlib.nullcontext():
                        running[pool.submit(function, job)] = job
                if not running:
                    return
                done, _ = concurrent.futures.wait(
                    running, _POLL, return_when=concurrent.futures.FIRST_COMPLETED
                )
                watch.check()
                for future in done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            watch.check()  # It may have reached the workers as well.
            raise WorkerDied(tuple(running.values())) from None
        finally:
            if watch.received is not None:
                alive_here.close()
            pool.shutdown(wait=True, cancel_futures=True)
            watch.check()


@contextlib.contextmanager
def _clean_start() -> Iterator[None]:
    """Lets a worker process start without SIGINT and without the main module.

    A blocked signal stays blocked in the child, from its first instruction: no tracebacks of
    workers after Ctrl-C. And spawning imports the main module again in the child, and jax with it,
    unless that has neither a name nor a file.
    """
    main = sys.modules["__main__"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_processes(others: Sequence[BaseProcess]) -> None:
    """Ends the workers, all child processes but `others`, and removes shared semaphores.

    Python does so when a process leaves; of one that is ended instead, Python's tracker tells on
    standard error that it leaked semaphores, and workers that are just starting miss them.
    """
    for process in multiprocessing.active_children():
        if process not in others:
            process.kill()
    # What Python calls on leaving; it has no public name. Below priority 0 threads are waited for.
    multiprocessing.util._run_finalizers(0)  # pyright: ignore[reportAttributeAccessIssue]


def _leave_at_the_end_of(alive: Connection) -> None:
    """In a worker: ends it with its parent, or earlier; it would wait for jobs for ever."""

    def watch() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="leave").start()
