"""`ser-jax serve`: from a run directory to a listening server, until SIGTERM or Ctrl-C."""

import asyncio
import contextlib
import importlib.util
import ipaddress
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ser_jax import pretrained
from ser_jax.runtime import signals
from ser_jax.runtime.errors import UserError
from ser_jax.web.limits import Limits

_PACKAGES = ("fastapi", "python_multipart", "uvicorn", "websockets")
_MOST_PORT = 65_535

log = logging.getLogger(__name__)


def serve(
    model: str | os.PathLike[str],
    limits: Limits,
    *,
    host: str,
    port: int,
    names: Sequence[str],
    enrol: str = "",
    ready: Callable[[str], None],
    embedder: str = "",
) -> None:
    """Serves a trained run until SIGTERM, which is its regular end.

    Args:
      model: The run directory.
      limits: What is let through.
      host: Address to listen on.
      port: Its port; 0: any that is free.
      names: Host names that are answered to besides those of this machine.
      enrol: Recordings of the person who is to speak; empty: nobody is enrolled.
      ready: Called with the address of the page when the first visitor may come.
      embedder: Models trained on embeddings: the ONNX file that made them.

    Raises:
      Interrupted: After Ctrl-C, when everything has ended.
      UserError: If the run cannot be used, the address cannot be listened on, or a package is
        missing.
    """
    require_packages()
    from ser_jax.exporting import card
    from ser_jax.prediction import batch
    from ser_jax.prediction.predictor import Predictor
    from ser_jax.prediction.streaming import Stream
    from ser_jax.web.app import make_app
    from ser_jax.web.engine import Engine
    from ser_jax.web.guard import LOCAL
    from ser_jax.web.http_server import Listener

    with contextlib.closing(bind(host, port)) as listener:
        if not is_local(listener):
            log.warning(
                "--host=%s lets others in, and there is no password: whoever reaches it may use the"
                " model",
                host,
            )
        predictor = batch.enrolled(Predictor(model, embedder=embedder), enrol)
        log.info("preparing %s", predictor.description)
        # Visitors do not see where on this machine it lies, or how the folder is called.
        described = predictor.description.replace(f" of {Path(model)}", "")
        notes = card.notes(predictor.config, pretrained.find(model))
        with contextlib.closing(Engine(predictor, Stream, described, notes)) as engine:
            engine.warm_up()
            with (
                tempfile.TemporaryDirectory(prefix="ser_jax-") as folder,
                signals.removing(Path(folder)),
                signals.Closing() as watch,
            ):
                answered = {*LOCAL, *names} if is_local(listener) or names else None
                app = make_app(engine, limits, Path(folder), answered)
                url = address_of(listener.getsockname())
                server = Listener(
                    *(app, limits),
                    ready=lambda: ready(url),
                    stopped=lambda: watch.received is not None,
                )
                asyncio.run(server.serve([listener]))
                received = watch.received
    if received == signal.SIGINT:
        raise signals.Interrupted(signal.SIGINT)


def require_packages() -> None:
    """Raises `UserError` with the remedy if a package of the extra is missing; imports none."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f'The web page needs {", ".join(missing)}, not installed: pip install "ser_jax[serve]"'
        )


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at the address.

    Clients that come before the models are loaded wait; of two servers that are started at once for
    one port, the second is refused (two sockets may have an address as long as neither listens).

    Raises:
      UserError: If there is no such address, or the port is taken or reserved.
    """
    if not 0 <= port <= _MOST_PORT:
        raise UserError(
            f"--port={port} is none; choose one from 1 to {_MOST_PORT}, or 0 for any that is free"
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError):
        raise UserError(
            f"--host={host} is no address of this machine; 127.0.0.1 is the default"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(
            f"{host}, port {port} cannot be listened on ({error.strerror}); "
            "choose another --port, or --port=0 for any that is free"
        ) from None
    return listener


def is_local(listener: socket.socket) -> bool:
    """Returns whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(name: Sequence[Any]) -> str:
    """Returns what a browser opens, given what `getsockname` says."""
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
