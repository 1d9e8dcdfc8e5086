"""The HTTP server: uvicorn with this project's limits, which neither takes signals nor writes a log of its own."""

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from ser_jax.web.limits import Limits

_GRACE_SECONDS = 2  # that answers under way are given at the end; less than interrupt.GRACE
_MOST_CONNECTIONS = 500
_WAITING_MESSAGES = 16  # of a live session, before its client has to wait


class Listener(uvicorn.Server):
    """Serves until it is told to stop."""

    def __init__(self, app: ASGIApp, limits: Limits, *, ready: Callable[[], None], stopped: Callable[[], bool]):
        """Prepares to serve.

        Args:
          app: The application.
          limits: What is let through.
          ready: Called when the first visitor may come.
          stopped: Asked ten times a second whether to stop.
        """
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="websockets-sansio",
                ws_max_size=2 * limits.message_bytes,  # what is a little too large is still told so
                ws_max_queue=_WAITING_MESSAGES,
                ws_per_message_deflate=False,  # a small message could stand for a huge one
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # anyone could send them
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._ready, self._stopped = ready, stopped

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the command."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and says so."""
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Looks whether to stop."""
        self.should_exit = self.should_exit or self._stopped()
        return await super().on_tick(counter)
