"""A Ray cluster: one that somebody has started, or one on this machine alone that ends with the command.

This module must not import jax, and imports Ray only when it is asked for.
"""

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
from collections.abc import Iterator
from typing import Any

from ser_jax.cores import available_cores
from ser_jax.errors import UserError

_STORE_BYTES, _STORE_BYTES_PER_WORKER = 128 * 2**20, 16 * 2**20  # of results that wait to be written
_ADDRESS = re.compile(r"auto|[^\s/]+:\d+")
_MOST_TEXT = 200  # characters of what Ray says
_KNOCK = 10.0  # s for a first answer: Ray itself would try for minutes

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What there is to compute with.

    Attributes:
      cores: Cores of all nodes.
      nodes: Number of nodes.
    """

    cores: int
    nodes: int


def require_ray() -> None:
    """Raises `UserError` with the remedy if Ray is not installed; does not import it."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            '--engine=ray needs Ray, which is not installed: pip install "ser_jax[ray]", on every node of a cluster; '
            "--engine=local does without"
        )


@contextlib.contextmanager
def joined(address: str = "", cores: int = 0) -> Iterator[Cluster]:
    """Joins a Ray cluster, or starts one on this machine that is gone afterwards, however this process ends.

    Args:
      address: "auto" for the cluster that this machine is a node of, HOST:PORT of its head, or "" to start one.
      cores: Cores of the one that is started; 0: all that this process may use.

    Yields:
      The cluster.

    Raises:
      UserError: If Ray is missing, or no cluster answers.
    """
    require_ray()
    if address and not _ADDRESS.fullmatch(address):
        raise UserError(f"--address={address}: name the cluster's head as HOST:PORT, or auto on one of its nodes")
    if address not in ("", "auto"):
        _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Actors here ask for no accelerator anyway.
    with contextlib.ExitStack() as stack:
        if address:
            options: dict[str, Any] = {"address": address}
        else:
            options = _own(cores or available_cores())
            # Ray's sockets need a short path; what it logs there is deleted with it.
            folder = tempfile.TemporaryDirectory(prefix="ser_jax-ray-", dir="/tmp", ignore_cleanup_errors=True)
            options["_temp_dir"] = stack.enter_context(folder)
        ray = _import()
        stack.callback(ray.shutdown)
        try:
            with _own_sigterm():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises nothing more special, as where a node does not start within 30 s.
            if not address:
                raise UserError(f"Ray does not start on this machine ({_said(error)}); use --engine=local") from error
            raise _nobody(address, error) from None
        found = Cluster(int(ray.cluster_resources().get("CPU", 0)), sum(node["Alive"] for node in ray.nodes()))
        if not found.cores:
            raise UserError(f"--address={address}: the cluster has no cores; start its nodes with --num-cpus above 0")
        log.info("Ray: %d nodes, %d cores%s", found.nodes, found.cores, "" if address else ", this machine alone")
        yield found


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, error) from None


def _nobody(address: str, error: Exception) -> UserError:
    return UserError(
        f"--address={address}: no Ray cluster can be joined there ({_said(error)}); start one with ray start --head, "
        f"set RAY_AUTH_MODE=token here if it asks for a token, or leave --address out to use this machine alone"
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:_MOST_TEXT]


def _import() -> Any:
    with _own_sigterm():
        import ray
    return ray


def _own(cores: int) -> dict[str, Any]:
    """Options of a cluster of one's own.

    Ray's ports are open to the network, and whoever may call them runs code: so its processes ask for a password that
    only they and this process know.
    """
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", _token()
    store = max(_STORE_BYTES, cores * _STORE_BYTES_PER_WORKER)
    return {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": store}


@functools.cache
def _token() -> str:
    """The same for all clusters of this process: Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps this program's handler of SIGTERM, in whose place Ray puts its own, which leaves with code 15."""
    before: Any = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as leaving:
        if leaving.code == signal.SIGTERM and callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
