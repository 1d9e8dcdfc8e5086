"""Joins or starts a Ray cluster, and runs jobs in worker processes on it.

The cluster is one that somebody has started, or one on this machine that ends with the command.
Each worker prepares once and then does job after job; few jobs are under way at once. A worker that
dies is replaced: the job that it was at is given back to the caller, who knows whether it is to
blame, and its waiting jobs go to others. This module must not import jax, and imports Ray only
where it is used.
"""

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import available_cores
from ser_jax.runtime.progress import counted
from ser_jax.runtime.signals import Closing, Interrupted, received, removing
from ser_jax.runtime.workers import WorkerDied

Job = TypeVar("Job")
Result = TypeVar("Result")

Prepare = Callable[..., tuple[Callable[[Any], Any], Mapping[str, str]]]

# Bytes of results that wait to be written.
_STORE_BYTES, _STORE_BYTES_PER_WORKER = 128 * 2**20, 16 * 2**20
_ADDRESS = re.compile(r"auto|[^\s/]+:\d+")
_MOST_TEXT = 200  # characters of an error of Ray in a message
_CONNECT_SECONDS = 10.0  # s for a first answer: Ray itself would try for minutes

_AHEAD = 2  # jobs per worker: one runs, one waits
_MOST_DEATHS = 20  # of workers, one after the other without a result in between
_MOST_STARTS = 3  # of workers that die before they are ready, likewise
_POLL_SECONDS = 0.5  # of one wait; between two waits signals are looked for
_WARN_SECONDS = 30.0  # s without a worker that is ready, until a warning

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster that has been joined."""

    cores: int  # of all nodes
    nodes: int


def require_ray() -> None:
    """Raises `UserError` with the remedy if Ray is not installed; does not import it."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            '--engine=ray needs Ray, which is not installed: pip install "ser_jax[ray]", on every'
            " node of a cluster; --engine=local does without"
        )


@contextlib.contextmanager
def joined(address: str = "", cores: int = 0) -> Iterator[Cluster]:
    """Joins a Ray cluster, or starts one on this machine that ends with this process.

    Args:
      address: "auto" for this machine's own, HOST:PORT of its head, "" to start one.
      cores: Cores of the one that is started; 0: all that this process may use.

    Raises:
      UserError: If Ray is missing, or no cluster answers.
    """
    require_ray()
    if address and not _ADDRESS.fullmatch(address):
        remedy = "name the cluster's head as HOST:PORT, or auto on one of its nodes"
        raise UserError(f"--address={address}: {remedy}")
    if address not in ("", "auto"):
        _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers need no accelerator.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(Closing())
        if address:
            options: dict[str, Any] = {"address": address}
        else:
            options = _own_cluster(cores or available_cores())
            # Ray's sockets need a short path; what it logs there is deleted with it.
            folder = tempfile.TemporaryDirectory(
                prefix="ser_jax-ray-", dir="/tmp", ignore_cleanup_errors=True
            )
            options["_temp_dir"] = stack.enter_context(folder)
            stack.enter_context(removing(Path(folder.name)))
        with _own_sigterm():
            import ray
        stack.callback(ray.shutdown)
        try:
            with _own_sigterm():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises nothing more special, for example after 30 s.
            if not address:
                raise UserError(
                    f"Ray does not start on this machine ({_text(error)}); use --engine=local"
                ) from error
            raise _unreachable(address, error) from None
        watch.check()
        found = Cluster(
            int(ray.cluster_resources().get("CPU", 0)), sum(node["Alive"] for node in ray.nodes())
        )
        if not found.cores:
            remedy = "start its nodes with --num-cpus above 0"
            raise UserError(f"--address={address}: the cluster has no cores; {remedy}")
        where = "" if address else ", this machine alone"
        of = counted(found.nodes, "node"), counted(found.cores, "core")
        log.info("Ray: %s, %s%s", *of, where)
        yield found


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(
        f"--address={address}: no Ray cluster can be joined there ({_text(error)}); start one with"
        " ray start --head, set RAY_AUTH_MODE=token here if it asks for a token, or leave"
        " --address out to use this machine alone"
    )


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:_MOST_TEXT]


def _own_cluster(cores: int) -> dict[str, Any]:
    """Returns options for a cluster on this machine.

    Ray's ports are open to the network, and whoever may call them runs code: so its processes
    require a token that only they and this process know.
    """
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", _token()
    options = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    store = max(_STORE_BYTES, cores * _STORE_BYTES_PER_WORKER)
    return options | {"object_store_memory": store}


@functools.cache
def _token() -> str:
    """Returns the token of all clusters of this process: Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps Ray from installing its handler of SIGTERM.

    It raises wherever it is called; in a callback of a fork Python drops that with a traceback.
    """
    install = signal.signal

    def keep_sigterm(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number == signal.SIGTERM else install(number, handler)

    signal.signal = keep_sigterm
    try:
        yield
    finally:
        signal.signal = install


class Worker:
    """Does jobs in a process of its own, on any node."""

    def prepare(self, prepare: Prepare, arguments: tuple) -> "Ready":
        """Prepares for jobs."""
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
    """What a worker reports once it has prepared."""

    node: str  # name of its machine
    node_id: str  # Ray's name of it
    pid: int
    facts: Mapping[str, str]  # what must be the same on all nodes, by name
    problem: str = ""  # why it cannot work; empty if it can


class _Member:
    """A worker as this process sees it: its handle, its report, and its jobs in their order."""

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
          prepare: Called in every worker; returns the function that does jobs, and facts. It is
            sent by name, so it belongs at the top of a module.
          arguments: Its arguments.
          facts: What the facts must be, such as versions.
          workers: How many, of one core each.
        """
        self._prepare, self._arguments = prepare, arguments
        self._facts, self._workers = facts, workers
        self._members: list[_Member] = []
        self._starts = self._deaths = 0  # that failed, since something went well

    def run(
        self, jobs: Sequence[Job], *, alone: bool = False
    ) -> Generator[tuple[Job, Result | WorkerDied], None, None]:
        """Has jobs done, started in this order, and yields each with its result, as they finish.

        The result of a job at which a worker died is `WorkerDied`, unless its whole node was lost.

        Args:
          jobs: The jobs.
          alone: Whether a worker has one job at a time. It waits between them, but what it dies of
            is certain: a worker may also die before the result of the job before has left it.

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
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
            if (number := received()) is not None:
                raise Interrupted(number)
            if not ready:
                waited = time.monotonic() - last
                if waited > _WARN_SECONDS and not any(member.ready for member in self._members):
                    cores = counted(len(self._members), "free core")
                    log.warning("Ray: no worker is ready yet; has the cluster %s?", cores)
                    last = time.monotonic()
                continue
            member = waiting[ready[0]]
            if member.ready is None:
                self._admit(member)
                continue
            job = member.jobs[ready[0]]
            try:
                result = ray.get(ready[0])
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except exceptions.ObjectLostError:  # Its node was lost before the result arrived.
                del member.jobs[ready[0]]
                queue.appendleft(job)
            except exceptions.RayError as error:
                yield from self._retire(member, error, queue)
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
            first = handle.prepare.remote(self._prepare, self._arguments)
            self._members.append(_Member(handle, first))
        for ahead in range(most):  # Everybody gets one before somebody gets two.
            for member in self._members:
                if queue and member.ready is not None and len(member.jobs) <= ahead:
                    job = queue.popleft()
                    member.jobs[member.handle.perform.remote(job)] = job

    def _admit(self, member: _Member) -> None:
        """Admits a worker that is ready; raises if it is not like this process."""
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
                f"Ray: worker processes end before they are ready ({_last_line(error)}): install"
                " this version of ser_jax on every node, and give them memory"
            ) from None
        if found.problem:
            raise UserError(f"on the node {found.node}: {found.problem}")
        for name, ours in self._facts.items():
            theirs = found.facts.get(name)
            if theirs != ours:
                raise UserError(
                    f"the node {found.node} is not like this machine: {name} is {ours} here and"
                    f" {theirs} there; give all nodes the same"
                )
        member.ready = found

    def _retire(
        self, member: _Member, error: Exception, queue: collections.deque
    ) -> Generator[tuple[Any, Any], None, None]:
        """Removes a dead worker: yields its results and the job it was at, requeues the others."""
        import ray
        from ray import exceptions

        assert member.ready is not None
        self._remove(member)
        self._deaths += 1
        if self._deaths >= _MOST_DEATHS:
            raise UserError(
                f"Ray: {self._deaths} worker processes died one after the other, the last one on"
                f" the node {member.ready.node} ({_last_line(error)}): give the nodes more memory,"
                " or start them with fewer cores"
            ) from None
        unavailable = isinstance(error, exceptions.ActorUnavailableError)
        lost = unavailable or not _alive(member.ready.node_id)
        end = "is lost" if lost else "died"
        log.warning("Ray: a worker on the node %s %s.", member.ready.node, end)
        left = []
        for ref, job in member.jobs.items():
            try:
                result = ray.get(ref)
            except exceptions.RayError:
                if left or lost:
                    left.append(job)
                    continue
                # Jobs are done in their order: it was at this one.
                lost, result = True, WorkerDied((job,))
            yield job, result
        queue.extendleft(reversed(left))

    def _remove(self, member: _Member) -> None:
        import ray

        self._members.remove(member)
        ray.kill(member.handle)  # It may only be out of reach.


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:_MOST_TEXT]


def _alive(node_id: str) -> bool:
    import ray

    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
