"""Worker processes on a Ray cluster, each of which prepares once and then does job after job.

Few jobs are under way at once. A process that dies is replaced; the job that it was at is given back to the caller, who
knows whether it is to blame, and the jobs that waited for it go elsewhere. This module must not import jax.
"""

import collections
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from ser_jax.errors import UserError
from ser_jax.features.workers import WorkerDied

Job = TypeVar("Job")
Result = TypeVar("Result")

Prepare = Callable[..., tuple[Callable[[Any], Any], Mapping[str, str]]]

_AHEAD = 2  # jobs per worker: one runs, one waits
_MOST_DEATHS = 20  # of workers, one after the other without a result in between
_MOST_STARTS = 3  # of workers that die before they are ready, likewise
_SLICE = 0.5  # s of one wait, so that signals are heard in between
_PATIENCE = 30.0  # s until it is said that no worker is there yet
_MOST_TEXT = 200  # characters of what Ray says

log = logging.getLogger(__name__)


class Worker:
    """Lives in a process of its own, on any node."""

    def prepare(self, prepare: Prepare, arguments: tuple) -> "Ready":
        """Makes ready for jobs."""
        import ray

        node = socket.gethostname()
        try:
            self._perform, facts = prepare(*arguments)
        except UserError as error:
            return Ready(node, "", os.getpid(), {}, str(error))
        return Ready(node, ray.get_runtime_context().get_node_id(), os.getpid(), facts)

    def perform(self, job: Any) -> Any:
        """Does a job."""
        return self._perform(job)


@dataclasses.dataclass(frozen=True)
class Ready:
    """What a worker says when it has prepared.

    Attributes:
      node: Name of its machine.
      node_id: Ray's name of it.
      pid: Number of its process.
      facts: What must be the same on all nodes, by name.
      complaint: Why it cannot work; empty if it can.
    """

    node: str
    node_id: str
    pid: int
    facts: Mapping[str, str]
    complaint: str = ""


class _Member:
    """A worker as this process sees it: its handle, the jobs it has, in their order, and what it said when ready."""

    def __init__(self, handle: Any, first: Any):
        self.handle, self.first = handle, first
        self.ready: Ready | None = None
        self.jobs: dict[Any, Any] = {}

    @property
    def awaited(self) -> list[Any]:
        return list(self.jobs) if self.ready else [self.first]


class Pool(Generic[Job, Result]):
    """Worker processes on the cluster that has been joined; closing it ends them."""

    def __init__(self, prepare: Prepare, arguments: tuple, facts: Mapping[str, str], workers: int):
        """Starts nothing yet.

        Args:
          prepare: Called in every worker; returns the function that does jobs, and facts. It is sent by name, so it
            belongs at the top of a module.
          arguments: Its arguments.
          facts: What the facts must be, such as versions.
          workers: How many workers; each takes one core.
        """
        self._prepare, self._arguments, self._facts, self._workers = prepare, arguments, facts, workers
        self._members: list[_Member] = []
        self._starts = self._deaths = 0  # that failed, since something went well

    def run(
        self, jobs: Sequence[Job], *, alone: bool = False
    ) -> Generator[tuple[Job, Result | WorkerDied], None, None]:
        """Has jobs done, begun in this order.

        Args:
          jobs: The jobs.
          alone: Whether a worker has one job at a time. It waits between them, but what it dies of is certain: a worker
            may also die before the result of the job before has left it.

        Yields:
          Each job with its result, as they finish; `WorkerDied` in the place of the result of a job that a worker was
          at when it died, unless its whole node was lost.

        Raises:
          UserError: If a node is not like this one or cannot work, or worker after worker dies.
        """
        import ray
        from ray import exceptions

        queue = collections.deque(jobs)
        last = time.monotonic()
        while True:
            self._hand_out(queue, 1 if alone else _AHEAD)
            if not queue and not any(member.jobs for member in self._members):
                return
            waiting = {ref: member for member in self._members for ref in member.awaited}
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_SLICE)
            if not ready:
                if not any(member.ready for member in self._members) and time.monotonic() - last > _PATIENCE:
                    log.warning("Ray: no worker is ready yet; has the cluster %d free cores?", len(self._members))
                    last = time.monotonic()
                continue
            member = waiting[ready[0]]
            if member.ready is None:
                self._greet(member)
                continue
            job = member.jobs[ready[0]]
            try:
                result = ray.get(ready[0])
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except exceptions.ObjectLostError:  # done, but its node was lost before the result arrived
                del member.jobs[ready[0]]
                queue.appendleft(job)
            except exceptions.RayError as error:
                yield from self._bury(member, error, queue)
            else:
                del member.jobs[ready[0]]
                self._deaths = self._starts = 0
                yield job, result

    def close(self) -> None:
        """Ends the workers, whatever they are at."""
        import ray

        while self._members:
            ray.kill(self._members.pop().handle)

    def _hand_out(self, queue: collections.deque, most: int) -> None:
        import ray

        under_way = sum(len(member.jobs) for member in self._members)
        while len(self._members) < min(self._workers, under_way + len(queue)):
            remote: Any = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Worker)
            handle = remote.remote()
            self._members.append(_Member(handle, handle.prepare.remote(self._prepare, self._arguments)))
        for ahead in range(most):  # Everybody gets one before somebody gets two.
            for member in self._members:
                if queue and member.ready is not None and len(member.jobs) <= ahead:
                    job = queue.popleft()
                    member.jobs[member.handle.perform.remote(job)] = job

    def _greet(self, member: _Member) -> None:
        """Takes a worker in that is ready, and refuses one that is not like this process."""
        import ray
        from ray import exceptions

        try:
            found: Ready = ray.get(member.first)
        except exceptions.RayTaskError as error:
            raise error.cause from None
        except exceptions.RayError as error:
            self._remove(member)
            self._starts += 1
            if self._starts < _MOST_STARTS:
                return
            raise UserError(
                f"Ray: worker processes end before they are ready ({_said(error)}): install this version of ser_jax on "
                f"every node, and give them memory"
            ) from None
        if found.complaint:
            raise UserError(f"on the node {found.node}: {found.complaint}")
        for name, ours in self._facts.items():
            theirs = found.facts.get(name)
            if theirs != ours:
                raise UserError(
                    f"the node {found.node} is not like this machine: {name} is {ours} here and {theirs} there; give "
                    f"all nodes the same"
                )
        member.ready = found

    def _bury(
        self, member: _Member, error: Exception, queue: collections.deque
    ) -> Generator[tuple[Any, Any], None, None]:
        """Takes a dead worker out: gives back what it had done and what it was at; the rest goes back to the queue."""
        import ray
        from ray import exceptions

        assert member.ready is not None
        self._remove(member)
        self._deaths += 1
        if self._deaths >= _MOST_DEATHS:
            raise UserError(
                f"Ray: {self._deaths} worker processes died one after the other, the last one on the node "
                f"{member.ready.node} ({_said(error)}): give the nodes more memory, or start them with fewer cores"
            ) from None
        lost = isinstance(error, exceptions.ActorUnavailableError) or not _alive(member.ready.node_id)
        log.warning("Ray: a worker on the node %s %s.", member.ready.node, "is lost" if lost else "died")
        left = []
        for ref, job in member.jobs.items():
            try:
                result = ray.get(ref)
            except exceptions.RayError:
                if left or lost:
                    left.append(job)
                    continue
                lost, result = True, WorkerDied((job,))  # Jobs are done in their order: it was at this one.
            yield job, result
        queue.extendleft(reversed(left))

    def _remove(self, member: _Member) -> None:
        import ray

        self._members.remove(member)
        ray.kill(member.handle)  # It may only be out of reach.


def _said(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:_MOST_TEXT]


def _alive(node_id: str) -> bool:
    import ray

    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
