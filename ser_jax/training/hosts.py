"""The processes that train together, one per host as a rule: how they find, tell and lose each other.

Each trains runs of its own on its own devices, which needs no communication. What they do need is a word now and then:
that all were started alike, that everybody is done, that one of them has to leave. That goes through the key-value
store of jax's multi-controller runtime, whose heartbeats also end the process (134) when another one dies or hangs.
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

from ser_jax import atomic
from ser_jax.errors import EXIT_HOST_LOST, HostLost, UserError
from ser_jax.training.interrupt import Interrupted, Watch, received

VARIABLES = ("SER_JAX_COORDINATOR", "SER_JAX_PROCESSES", "SER_JAX_PROCESS")
CLUSTERS = ("slurm", "ompi", "gcetpu", "gketpu")  # jax's names of those that tell how many processes there are

_SLICE = 500  # ms of one wait, so that signals are heard in between
_EAR = 100  # ms between two looks for a signal that others must be told of
_STOP = "stop"

log = logging.getLogger(__name__)


class Hosts:
    """This process among those that train together.

    Attributes:
      index: Its number, from 0; number 0 alone writes logs and reports.
      count: How many there are.
      seconds: Longest wait for another one that has to come.
      news: What another one said when it left too early: `host`, `signal` and, unless it was interrupted, `sentence`.
    """

    def __init__(self, index: int = 0, count: int = 1, seconds: float = 0.0, client: Any = None):
        """Takes what `joined` has found out."""
        self.index, self.count, self.seconds = index, count, seconds
        self.news: dict[str, Any] | None = None
        self._client = client
        self._left = threading.Event()

    @property
    def silence(self) -> float:
        """After how many s without a sign of life a process, or a file that it wrote, is taken as lost."""
        return self.seconds / 3

    @property
    def first(self) -> bool:
        """Whether this is the one that writes logs, tables and reports."""
        return self.index == 0

    def share(self, name: str, word: Any) -> list[Any]:
        """Tells all others a word and hears theirs.

        Args:
          name: What it is about; each name serves once.
          word: JSON-able.

        Returns:
          The words of all processes, in their order.

        Raises:
          HostLost: If one is not heard within `seconds`.
        """
        if self.count == 1:
            return [word]
        self._tell(f"{name}/{self.index}", json.dumps(word))
        return [json.loads(self._hear(f"{name}/{host}", host, self.seconds)) for host in range(self.count)]

    def from_first(self, name: str, word: Any = None) -> Any:
        """Returns the word of process 0, which it alone needs to give; see `share`."""
        if self.count == 1:
            return word
        if self.first:
            self._tell(name, json.dumps(atomic.plain(word)))
        return json.loads(self._hear(name, 0, self.seconds))

    def wait(self, name: str) -> None:
        """Waits until all have come here, however long they train; see `share`."""
        if self.count > 1:
            self._tell(f"{name}/{self.index}", "here")
            for host in range(self.count):
                self._hear(f"{name}/{host}", host, float("inf"))

    def _tell(self, key: str, word: str) -> None:
        self._client.key_value_set(f"ser_jax/{key}", word)

    def _hear(self, key: str, host: int, seconds: float) -> str:
        end = time.monotonic() + seconds
        while True:
            try:
                return self._client.blocking_key_value_get(f"ser_jax/{key}", _SLICE)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise HostLost(f"the processes have lost each other ({_line(error)}): start all again") from None
            if time.monotonic() > end:
                raise HostLost(
                    f"process {host} of {self.count} was not heard for {seconds:g} s (--host_timeout) when its word on "
                    f"{key.partition('/')[0]!r} was due: look at its log and start all of them again"
                )

    def _announce(self, number: int, sentence: str) -> None:
        """Tells the others to leave; who was first is heard."""
        word = {"host": self.index, "name": socket.gethostname(), "signal": number, "sentence": sentence}
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._tell(_STOP, json.dumps(word))

    def _listen(self) -> None:
        """Passes a signal on, and makes another process's leaving a signal of this one; runs in a thread."""
        while not self._left.is_set():
            number = received()
            if number is not None:
                self._announce(number, "")
            try:
                word = json.loads(self._client.blocking_key_value_get(f"ser_jax/{_STOP}", _EAR))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    return
                continue
            if word["host"] != self.index and not self._left.is_set():
                self.news = word
                os.kill(os.getpid(), word["signal"])
            return


ALONE = Hosts()


@contextlib.contextmanager
def joined(mode: str, seconds: float) -> Iterator[Hosts]:
    """Joins the processes that were started together; must come before jax computes anything.

    When one leaves early, for a signal or an error, the others get the same signal, save what they have and leave.

    Args:
      mode: "auto": as SLURM, Open MPI, Cloud TPU or `VARIABLES` say; "none": not at all; "explicit": as `VARIABLES`
        say.
      seconds: Longest wait for a process to start; one that is silent for a third of it later is taken as dead.

    Yields:
      This process among them.

    Raises:
      UserError: If variables are missing or wrong, or another process has ended with an error.
      HostLost: If another process does not answer.
    """
    arguments = _arguments(mode)
    if arguments is None:
        yield ALONE
        return
    hosts = _start(arguments, seconds)
    listener = threading.Thread(target=hosts._listen, daemon=True, name="hosts")
    level = logging.getLogger("ser_jax").level
    try:
        listener.start()
        if not hosts.first:
            logging.getLogger("ser_jax").setLevel(logging.ERROR)
        log.info("training with %d processes, of which %s is number 0", hosts.count, socket.gethostname())
        try:
            yield hosts
        except BaseException as error:
            hosts._announce(*_farewell(error))
            raise
    except Interrupted:
        if hosts.news and hosts.news["sentence"]:
            raise UserError(
                f"process {hosts.news['host']} ({hosts.news['name']}) has ended: {hosts.news['sentence']}"
            ) from None
        raise
    finally:
        with Watch():  # Others may still save: a signal that comes now changes nothing.
            hosts._left.set()
            listener.join()
            logging.getLogger("ser_jax").setLevel(level)
            jax.distributed.shutdown()


def _start(arguments: Mapping[str, Any], seconds: float) -> Hosts:
    # A handler of its own for SIGTERM, which would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    # The runtime aborts in a thread of its own. A dump of all threads, which absl asks for, would read what the others
    # do meanwhile, and now and then end in a segmentation fault, which no scheduler takes for a lost host.
    if faulthandler.is_enabled():
        faulthandler.enable(all_threads=False)
    late = threading.Timer(seconds, _nobody_came, (arguments, seconds))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=int(seconds) + 60,  # jax would end the process without a word of ours
            heartbeat_timeout_seconds=max(1, int(seconds / 3)),  # `Hosts.silence`
            shutdown_timeout_seconds=max(1, int(seconds)),
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise HostLost(f"the processes do not find each other ({_line(error)}): see BUILD.md, many hosts") from None
    finally:
        late.cancel()
    from jax._src import distributed  # jax has no public name for its key-value store

    state = distributed.global_state
    return Hosts(state.process_id, state.num_processes, seconds, state.client)


def _nobody_came(arguments: Mapping[str, Any], seconds: float) -> None:
    where = arguments.get("coordinator_address", "the address that the cluster gives")
    sentence = (
        f"error: not all processes have joined at {where} within {seconds:g} s (--host_timeout): start the same "
        f"command on every host, and see that they reach that address\n"
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
                "Open MPI has started several processes, but does not say where the first one is (from version 5 on): "
                f"set {VARIABLES[0]}=HOST:PORT, and {VARIABLES[1]} and {VARIABLES[2]} from OMPI_COMM_WORLD_SIZE and "
                "OMPI_COMM_WORLD_RANK"
            )
        return None
    if found.get_process_count() == 1:
        return None
    arguments: dict[str, Any] = {"cluster_detection_method": found.name}
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if gpus.isdecimal() and os.environ.get("SLURM_NTASKS") == os.environ.get("SLURM_STEP_NUM_NODES"):
        arguments["local_device_ids"] = list(range(int(gpus)))  # One task per node has all of them; jax takes one.
    return arguments


def _explicit() -> dict[str, Any] | None:
    address, *numbers = (os.environ.get(name, "") for name in VARIABLES)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not all(number.isdecimal() for number in numbers):
        given = ", ".join(f"{name}={os.environ.get(name, '')!r}" for name in VARIABLES)
        raise UserError(
            f"{given}: set them to HOST:PORT of process 0, how many processes there are and the number of this one, "
            f"from 0"
        )
    count, index = map(int, numbers)
    if index >= count:
        raise UserError(f"{VARIABLES[2]}={index}, but there are {VARIABLES[1]}={count} processes, numbered from 0")
    if count == 1:
        return None
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _farewell(error: BaseException) -> tuple[int, str]:
    """Returns the signal that makes the others leave, and why they have to if it was no signal."""
    if isinstance(error, Interrupted):
        return error.signal, ""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT, ""
    known = isinstance(error, UserError | HostLost)
    return signal.SIGTERM, _line(error) if known else f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    """Returns what an error says, on one line and no longer than that."""
    text = " ".join(str(error).split())
    return text if len(text) < 300 else f"{text[:300]}…"
