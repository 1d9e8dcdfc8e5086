"""The HTTP server: uvicorn with this project's limits, without signal handlers or a log.

uvicorn waits without end for the first request of a connection, for the rest of its header and for
a client that does not read its answers, turns everybody away when idle connections are many, and
answers each ping of a WebSocket into a buffer that grows. The two protocols below end such
connections: when a client has too many, the one that has been idle longest makes room.
"""

import asyncio
import collections
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ser_jax.web.limits import Limits, client_of

_GRACE_SECONDS = 2  # that tasks are given at the end; less than signals.GRACE
_BACKLOG = 256  # connections that are accepted at a time; with those below fewer than 1,024 files
# Connections that the kernel keeps until then; one that it has no room for tries again after 1 s.
_QUEUE = 4096
_MOST_CONNECTIONS = 500
_OF_ONE_CLIENT = 5  # times `Limits.per_client`: most connections of one client
_IDLE_SECONDS = 10.0  # for the whole header of a request, from the end of the answer before
_UNREAD_SECONDS = 60.0  # for taking in what has been sent
_SLICE = 4096  # bytes of a live session that are parsed at a time
# Of a live session, beyond any use: pings and pongs at once and per second, pieces of a message.
_CONTROL_FRAMES, _CONTROL_RATE, _MOST_PIECES = 100, 10, 4096
_FULL = b"all connections are in use; try again later"
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Retry-After: 10\r\nContent-Length: %d\r\n\r\n%b" % (len(_FULL), _FULL)
)


class _Config(uvicorn.Config):
    most_of_one_client = 0


class _Connection(asyncio.Protocol):
    """What both protocols know of their client; comes before uvicorn's class in the bases."""

    loop: asyncio.AbstractEventLoop
    client: tuple[str, int] | None
    address = ""  # who counts as one client
    since = 0.0  # when it was opened, or its last answer was complete
    _unread_since: float | None = None  # since when the client has not taken in what was sent

    def connection_made(self, transport: Any) -> None:
        """Notes whose it is."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called at once
        self.address, self.since = client_of(self.client), self.loop.time()

    def pause_writing(self) -> None:
        """Notes that something waits to be sent."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Notes that all has been sent."""
        self._unread_since = None
        super().resume_writing()

    def is_overdue(self, now: float) -> bool:
        """Returns whether the client has had its time."""
        return self._unread_since is not None and now - self._unread_since > _UNREAD_SECONDS


class _Http(_Connection, H11Protocol):
    """A connection, until it becomes a live session."""

    config: _Config

    @property
    def is_idle(self) -> bool:
        """Whether the server waits for a request."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Makes room for itself, or is turned away."""
        super().connection_made(transport)
        others = [
            one
            for one in self.connections
            if isinstance(one, _Connection) and one is not self and not one.transport.is_closing()
        ]
        counts = collections.Counter(one.address for one in others)
        if counts[self.address] >= self.config.most_of_one_client:
            others = [one for one in others if one.address == self.address]
        elif len(others) < _MOST_CONNECTIONS:
            return
        idle = [one for one in others if isinstance(one, _Http) and one.is_idle]
        if idle:
            oldest = min(idle, key=lambda one: (-counts[one.address], one.since))
            oldest.transport.abort()
        else:
            transport.write(_UNAVAILABLE)
            transport.close()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        self.since = self.loop.time()
        super().on_response_complete()

    def is_overdue(self, now: float) -> bool:
        """Returns whether the client has had its time."""
        idle = self.is_idle and now - self.since > _IDLE_SECONDS
        return idle or super().is_overdue(now)


class _Live(_Connection, WebSocketsSansIOProtocol):
    """A live session, which ends when its client floods it."""

    _control = 0  # pings and pongs
    _held = b""  # what has come and is not parsed yet
    _scheduled = False  # whether more of it will be parsed by itself

    def data_received(self, data: bytes) -> None:
        """Takes in a little at a time: a quarter of a megabyte can hold 40,000 messages."""
        self._held += data
        self._parse()

    async def receive(self) -> Any:
        """Returns the next message; then others may be parsed."""
        message = await super().receive()
        self._parse_later()
        return message

    def _parse(self) -> None:
        self._scheduled = False
        if self._held and not self.read_paused and not self.transport.is_closing():
            first, self._held = self._held[:_SLICE], self._held[_SLICE:]
            super().data_received(first)
            usual = _CONTROL_FRAMES + _CONTROL_RATE * (self.loop.time() - self.since)
            if self._control > usual or len(self.frames) > _MOST_PIECES:
                self.transport.abort()
        self._parse_later()

    def _parse_later(self) -> None:
        """Has the rest wait for others' turn, and the client for the rest."""
        if self._held:
            self.transport.pause_reading()
            if not (self._scheduled or self.read_paused or self.transport.is_closing()):
                self._scheduled = True
                self.loop.call_soon(self._parse)
        elif not self.read_paused:
            self.transport.resume_reading()

    def handle_ping(self) -> None:
        """Counts a ping, then answers it."""
        self._control += 1
        super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        """Counts a pong."""
        self._control += 1
        super().handle_pong(event)


class Listener(uvicorn.Server):
    """Serves until `stopped` returns True."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        *,
        ready: Callable[[], None],
        stopped: Callable[[], bool],
    ):
        """Prepares to serve.

        Args:
          app: The application.
          limits: What is let through.
          ready: Called when the first visitor may come.
          stopped: Whether to stop; called ten times a second.
        """
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # requests of others are no warnings
        config = _Config(
            app,
            loop="asyncio",
            http=_Http,
            ws=_Live,
            ws_max_size=2 * limits.message_bytes,  # one a little too large still gets a reason
            ws_per_message_deflate=False,  # a small message could stand for a huge one
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # anyone could send them
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        config.most_of_one_client = _OF_ONE_CLIENT * limits.per_client
        super().__init__(config)
        self._ready, self._stopped = ready, stopped

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the command."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, then calls `ready`."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_QUEUE)  # asyncio has one number for the queue and for its own turns
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Closes connections whose clients do nothing; checks whether to stop."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection) and connection.is_overdue(now):
                connection.transport.abort()
        self.should_exit = self.should_exit or self._stopped()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends uploads that are still coming; gives answers half of `_GRACE_SECONDS`."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Http) and not connection.is_idle:
                if connection.cycle.more_body:
                    connection.transport.abort()
                else:
                    connection.loop.call_later(_GRACE_SECONDS / 2, connection.transport.abort)
        await super().shutdown(sockets)
