"""From a run directory to a server that listens, and to its end."""

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

from ser_jax.errors import UserError
from ser_jax.training import interrupt
from ser_jax.web.limits import Limits

_PACKAGES = ("fastapi", "python_multipart", "uvicorn", "websockets")
_MOST_PORT = 65_535

log = logging.getLogger(__name__)


class Stop(interrupt.Watch):
    """Notices SIGTERM and Ctrl-C; uploads are removed even if the process is ended from outside."""

    saves = False

    def __init__(self, folder: Path):
        """Keeps the folder of uploads."""
        self._folder = folder

    def abandon(self) -> None:
        """Removes the folder of uploads."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                path.unlink()
            self._folder.rmdir()


def serve(
    model: str | os.PathLike[str],
    limits: Limits,
    *,
    host: str,
    port: int,
    names: Sequence[str],
    ready: Callable[[str], None],
) -> None:
    """Serves a trained run until SIGTERM, which is its regular end.

    Args:
      model: The run directory.
      limits: What is let through.
      host: Address to listen on.
      port: Its port; 0: any that is free.
      names: Host names that are answered to besides those of this machine.
      ready: Called with the address of the page when the first visitor may come.

    Raises:
      KeyboardInterrupt: After Ctrl-C, when everything has ended.
      UserError: If the run cannot be used, the address cannot be listened on, or a package is missing.
    """
    require_packages()
    from ser_jax.prediction.predictor import Predictor
    from ser_jax.prediction.stream import Stream
    from ser_jax.web.app import make_app
    from ser_jax.web.engine import Engine
    from ser_jax.web.guard import LOCAL
    from ser_jax.web.listening import Listener

    with contextlib.closing(bind(host, port)) as listener:
        if not is_local(listener):
            log.warning(
                "--host=%s lets others in, and there is no password: whoever reaches it may use the model", host
            )
        predictor = Predictor(model)
        log.info("preparing %s", predictor.description)
        # Visitors are not told where on this machine it stands.
        described = predictor.description.replace(str(Path(model)), Path(model).resolve().name)
        with contextlib.closing(Engine(predictor, Stream, described)) as engine:
            engine.warm_up()
            with tempfile.TemporaryDirectory(prefix="ser_jax-") as folder, Stop(Path(folder)) as stop:
                answered = {*LOCAL, *names} if is_local(listener) or names else None
                app = make_app(engine, limits, Path(folder), answered)
                url = address_of(listener.getsockname())
                server = Listener(app, limits, ready=lambda: ready(url), stopped=lambda: stop.received is not None)
                asyncio.run(server.serve([listener]))
                received = stop.received
    if received == signal.SIGINT:
        raise KeyboardInterrupt


def require_packages() -> None:
    """Raises `UserError` with the remedy if a package of the extra is not installed; imports none."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'The web page needs {", ".join(missing)}, not installed: pip install "ser_jax[serve]"')


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that has the address, and does not listen yet.

    Raises:
      UserError: If there is no such address, or the port is taken or reserved.
    """
    if not 0 <= port <= _MOST_PORT:
        raise UserError(f"--port={port} is none; choose one from 1 to {_MOST_PORT}, or 0 for any that is free")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host={host} is no address of this machine; 127.0.0.1 is the default") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(
            f"{host}, port {port} cannot be listened on ({error.strerror}); "
            f"choose another --port, or --port=0 for any that is free"
        ) from None
    return listener


def is_local(listener: socket.socket) -> bool:
    """Returns whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(name: Sequence[Any]) -> str:
    """Returns what a browser opens, given what `getsockname` says."""
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
