"""The processes that train together, usually one per host: joining, messages, loss of a process.

Each process trains its own trials on its own devices. They exchange a few JSON values, by the
key-value store of jax's multi-controller runtime: whether all were started alike, that all have
finished, that one of them has to leave. The heartbeats of that runtime end a process with 134 when
another one has died or hangs.
"""

import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ser_jax.runtime import files
from ser_jax.runtime.errors import EXIT_HOST_LOST, HostLost, UserError
from ser_jax.runtime.signals import Closing, Interrupted, Watch, received

VARIABLES = ("SER_JAX_COORDINATOR", "SER_JAX_PROCESSES", "SER_JAX_PROCESS")
# jax's names of the cluster environments that tell how many processes there are
CLUSTERS = ("slurm", "ompi", "gcetpu", "gketpu")

_RECEIVE_MS = 500  # one wait for a value; between two waits signals are looked for
_LISTEN_MS = 100  # one wait for the message that ends all processes
_STOP = "stop"  # key of that message

log = logging.getLogger(__name__)


class Hosts:
    """This process among those that train together."""

    def __init__(self, index: int = 0, count: int = 1, timeout: float = 0.0, client: Any = None):
        """Process `index` of `count`; `client` is that of jax's key-value store."""
        self.index, self.count = index, count
        self.timeout = timeout  # s, longest wait for a value of another process
        # What the process that made all others leave has sent: `host`, `name`, `signal` and
        # `sentence`, empty if it was interrupted.
        self.stop_message: dict[str, Any] | None = None
        self._client = client
        self._left = threading.Event()

    @property
    def heartbeat_timeout(self) -> float:
        """Seconds without a heartbeat (or without a file that it wrote) until a process is lost."""
        return self.timeout / 3

    @property
    def first(self) -> bool:
        """Whether this is the process that writes logs, tables and reports."""
        return self.index == 0

    def all_gather(self, name: str, value: Any) -> list[Any]:
        """Sends a JSON-able value to all other processes; returns those of all, in their order.

        `name` is the key of the exchange; each can be used once. If one has not arrived within
        `timeout`, a HostLost is raised.
        """
        if self.count == 1:
            return [value]
        self._send(f"{name}/{self.index}", json.dumps(value))
        keys = [(f"{name}/{host}", host) for host in range(self.count)]
        return [json.loads(self._receive(key, host, self.timeout)) for key, host in keys]

    def broadcast(self, name: str, value: Any = None) -> Any:
        """Returns the value of process 0, which it alone needs to pass; see `all_gather`."""
        if self.count == 1:
            return value
        if self.first:
            self._send(name, json.dumps(files.plain(value)))
        return json.loads(self._receive(name, 0, self.timeout))

    def barrier(self, name: str) -> None:
        """Waits until all processes have reached this call, however long; see `all_gather`."""
        if self.count > 1:
            self._send(f"{name}/{self.index}", "reached")
            for host in range(self.count):
                self._receive(f"{name}/{host}", host, float("inf"))

    def _send(self, key: str, text: str) -> None:
        self._client.key_value_set(f"ser_jax/{key}", text)

    def _receive(self, key: str, host: int, timeout: float) -> str:
        end = time.monotonic() + timeout
        while True:
            try:
                return self._client.blocking_key_value_get(f"ser_jax/{key}", _RECEIVE_MS)
            except jax.errors.JaxRuntimeError as error:
                if (number := received()) is not None:
                    raise Interrupted(number) from None
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise HostLost(
                        f"the processes have lost each other ({_line(error)}): start all again"
                    ) from None
            if time.monotonic() > end:
                raise HostLost(
                    f"process {host} of {self.count} has sent no {key.partition('/')[0]!r} within"
                    f" {timeout:g} s (--host_timeout): look at its log and start all of them again"
                )

    def _send_stop(self, number: int, sentence: str) -> None:
        """Makes the other processes leave; only the first such message counts."""
        name = socket.gethostname()
        message = {"host": self.index, "name": name, "signal": number, "sentence": sentence}
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._send(_STOP, json.dumps(message))

    def _listen(self) -> None:
        """Forwards a signal to all, and raises here the one that another process sends (thread)."""
        while not self._left.is_set():
            number = received()
            if number is not None:
                self._send_stop(number, "")
            try:
                text = self._client.blocking_key_value_get(f"ser_jax/{_STOP}", _LISTEN_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    return
                continue
            message = json.loads(text)
            if message["host"] != self.index and not self._left.is_set():
                self.stop_message = message
                os.kill(os.getpid(), message["signal"])
            return


ALONE = Hosts()


@contextlib.contextmanager
def joined(mode: str, timeout: float) -> Iterator[Hosts]:
    """Joins the processes that were started together; must come before jax computes anything.

    When one leaves early, for a signal or an error, the others get the same signal, save and leave.

    Args:
      mode: "auto": as SLURM, Open MPI, Cloud TPU or `VARIABLES` say; "none": not at all;
        "explicit": as `VARIABLES` say.
      timeout: Longest wait for a process to start, s; a third of it without a heartbeat later, and
        a process is lost.

    Raises:
      UserError: If variables are missing or wrong, or another process has ended with an error.
      HostLost: If another process does not answer.
    """
    arguments = _arguments(mode)
    if arguments is None:
        yield ALONE
        return
    hosts = _start(arguments, timeout)
    listener = threading.Thread(target=hosts._listen, daemon=True, name="hosts")
    level = logging.getLogger("ser_jax").level
    with Closing():  # Until the end: when one fails, the others send a signal.
        try:
            listener.start()
            if not hosts.first:
                logging.getLogger("ser_jax").setLevel(logging.ERROR)
            name = socket.gethostname()
            log.info("training with %d processes, of which %s is number 0", hosts.count, name)
            try:
                yield hosts
            except BaseException as error:
                hosts._send_stop(*_exit_reason(error))
                raise
        except Interrupted:
            message = hosts.stop_message
            if message and message["sentence"]:
                which = f"process {message['host']} ({message['name']})"
                raise UserError(f"{which} has ended: {message['sentence']}") from None
            raise
        finally:
            with Watch():  # Others may still save: a signal that comes now changes nothing.
                hosts._left.set()
                listener.join()
                logging.getLogger("ser_jax").setLevel(level)
                jax.distributed.shutdown()


def _start(arguments: Mapping[str, Any], timeout: float) -> Hosts:
    # Its handler of SIGTERM would replace ours.
    jax.config.update("jax_enable_preemption_service", False)
    # The runtime aborts in a thread of its own. Faulthandler's dump of all threads would now and
    # then end in a segmentation fault, which no scheduler takes for a lost host.
    if faulthandler.is_enabled():
        faulthandler.enable(all_threads=False)
    too_late = threading.Timer(timeout, _exit_incomplete, (arguments, timeout))
    too_late.daemon = True
    too_late.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=int(timeout) + 60,  # jax would end the process without a message
            heartbeat_timeout_seconds=max(1, int(timeout / 3)),  # `Hosts.heartbeat_timeout`
            shutdown_timeout_seconds=max(1, int(timeout)),
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise HostLost(
            f"the processes do not find each other ({_line(error)}): see docs/scale.md, many hosts"
        ) from None
    finally:
        too_late.cancel()
    from jax._src import distributed  # jax has no public name for its key-value store

    state = distributed.global_state
    return Hosts(state.process_id, state.num_processes, timeout, state.client)


def _exit_incomplete(arguments: Mapping[str, Any], timeout: float) -> None:
    """Ends this process from a thread, while jax still waits for the others."""
    where = arguments.get("coordinator_address", "the address that the cluster gives")
    sentence = (
        f"error: not all processes have joined at {where} within {timeout:g} s (--host_timeout):"
        " start the same command on every host, and see that they reach that address\n"
    )
    os.write(sys.stderr.fileno(), sentence.encode())
    os._exit(EXIT_HOST_LOST)


def _arguments(mode: str) -> dict[str, Any] | None:
    """Returns what `jax.distributed.initialize` takes, None for a process that is alone."""
    if mode == "none":
        return None
    if mode == "explicit" or VARIABLES[0] in os.environ:
        return _explicit()
    from jax._src import clusters  # jax has no public name for what it detects

    kinds = clusters.ClusterEnv._cluster_types
    found = next((kind for kind in kinds if kind.name in CLUSTERS and kind.is_env_present()), None)
    if found is None:
        if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
            raise UserError(
                "Open MPI has started several processes, but does not say where the first one is"
                f" (from version 5 on): set {VARIABLES[0]}=HOST:PORT, and {VARIABLES[1]} and"
                f" {VARIABLES[2]} from OMPI_COMM_WORLD_SIZE and OMPI_COMM_WORLD_RANK"
            )
        return None
    if found.get_process_count() == 1:
        return None
    arguments: dict[str, Any] = {"cluster_detection_method": found.name}
    gpus, tasks = (os.environ.get(f"SLURM_{name}", "") for name in ("GPUS_ON_NODE", "NTASKS"))
    if gpus.isdecimal() and tasks == os.environ.get("SLURM_STEP_NUM_NODES"):
        # The one task of a node has all of its GPUs; jax would take one.
        arguments["local_device_ids"] = list(range(int(gpus)))
    return arguments


def _explicit() -> dict[str, Any] | None:
    address, *numbers = (os.environ.get(name, "") for name in VARIABLES)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not all(number.isdecimal() for number in numbers):
        given = ", ".join(f"{name}={os.environ.get(name, '')!r}" for name in VARIABLES)
        raise UserError(
            f"{given}: set them to HOST:PORT of process 0, how many processes there are and the"
            " number of this one, from 0"
        )
    count, index = map(int, numbers)
    if index >= count:
        numbered = f"{VARIABLES[1]}={count} processes, numbered from 0"
        raise UserError(f"{VARIABLES[2]}={index}, but there are {numbered}")
    if count == 1:
        return None
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _exit_reason(error: BaseException) -> tuple[int, str]:
    """Returns the signal to send to the other processes, and why, unless it was a signal itself."""
    if isinstance(error, Interrupted):
        return error.signal, ""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT, ""
    known = isinstance(error, UserError | HostLost)
    return signal.SIGTERM, _line(error) if known else f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    """Returns the message of an error as one line of at most 300 letters."""
    text = " ".join(str(error).split())
    return text if len(text) < 300 else f"{text[:300]}…"
