"""Limits of the server: uploads at once, requests of a client, sizes and times; and refusals."""

import collections
import contextlib
import dataclasses
import ipaddress
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

_TOO_SLOW = 408


@dataclasses.dataclass(eq=False)
class Refusal(Exception):
    """Ends a request."""

    status: int  # HTTP status, 400 to 599
    reason: str  # one sentence that names the value, the limit and the remedy
    # for recordings that cannot be used: one of `pcm.REASONS`; otherwise None
    kind: str | None = None
    # seconds after which the same request may succeed; None where waiting does not help
    retry_after: int | None = None

    @property
    def body(self) -> dict[str, str]:
        """The JSON answer."""
        return {"reason": self.reason} | ({"kind": self.kind} if self.kind else {})

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that go with it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == _TOO_SLOW:  # the rest of the body is not read
            found["Connection"] = "close"
        return found


_MOST_CLIENTS = 10_000  # whose rates are remembered: 2 MB
_MINUTE = 60.0  # s
_TINY = 1e-6  # s; sums of fractions are not exact
_WEIGHT = 0.2  # of the newest job in the mean time of a job


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes on."""

    max_mb: int = 20  # largest upload in MB (10^6 bytes)
    queue: int = 32  # most uploads that wait or are worked on at once; one more is refused with 429
    per_minute: int = 120  # most uploads and live sessions of one client (address) in a minute
    live_sessions: int = 20  # most live sessions at once
    per_client: int = 10  # most uploads, and most live sessions, of one client at once
    upload_seconds: float = 60.0  # most time that a client may take to send an upload
    live_seconds: float = 600.0  # longest live session
    # most time without anything of an upload, without a message in a live session, and to take in
    # a message of the server
    silent_seconds: float = 10.0
    message_bytes: int = 262_144  # largest message of a live session

    def __post_init__(self):
        """Raises `UserError` for a limit that lets nothing through."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and math.isfinite(value)):
                raise UserError(
                    f"--{field.name}={value:g} lets nothing through; it must be above 0"
                )


def client_of(address: Sequence[Any] | None) -> str:
    """Returns who is counted as one client, given its host and port.

    That is an IPv4 address, or the first 64 bits of an IPv6 address: all others of them are a
    customer's own.
    """
    host = str(address[0]) if address else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return found.packed[:8].hex()
    return host.removeprefix("::ffff:")


class Queue:
    """Counts uploads from their last byte to their answer."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic):
        """Starts empty.

        Args:
          size: Most uploads at once.
          clock: Tells the time in s.
        """
        self._size, self._clock = size, clock
        self._count, self._mean = 0, 1.0

    @property
    def count(self) -> int:
        """Uploads that wait or are worked on."""
        return self._count

    def check(self) -> None:
        """Looks for a free place.

        Raises:
          Refusal: With 429 if all are taken, and the time in which, by the jobs before, one will be
            free.
        """
        if self._count >= self._size:
            wait = max(1, math.ceil(self._mean))
            raise Refusal(
                429,
                f"{counted(self._count, 'upload is', 'uploads are')} being worked on, as many"
                f" as may be; try again in {wait} s",
                None,
                wait,
            )

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place while entered; raises what `check` raises."""
        self.check()
        self._count += 1
        begin = self._clock()
        try:
            yield
        finally:
            self._count -= 1
            self._mean += _WEIGHT * (self._clock() - begin - self._mean)


class PerClient:
    """Lets each client have so many of something at once."""

    def __init__(self, most: int, what: str):
        """Starts with none; `what` is the name of one."""
        self._most, self._what = most, what
        self._counts: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Holds a place while entered.

        Raises:
          Refusal: With 429 if the client has all that it may have.
        """
        if self._counts[client] >= self._most:
            raise Refusal(
                429,
                f"one client may have {counted(self._most, self._what)} at once; try again when"
                " one has ended",
                None,
                1,
            )
        self._counts[client] += 1
        try:
            yield
        finally:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]


class Rate:
    """Lets each client do something so often in a minute, and at most so often at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        """Starts with no client known.

        Args:
          per_minute: How often; after a pause of a minute all of them may come together.
          clock: Tells the time in s.
        """
        self._most, self._clock = per_minute, clock
        # Client → when all its requests are forgotten; the longest unseen first.
        self._paid: collections.OrderedDict[str, float] = collections.OrderedDict()

    def count(self, client: str) -> None:
        """Counts one.

        Raises:
          Refusal: With 429 if it is one too many.
        """
        now = self._clock()
        before = max(self._paid.pop(client, now), now)
        after = before + _MINUTE / self._most
        wait = after - _MINUTE - now
        self._paid[client] = before if wait > _TINY else after
        if len(self._paid) > _MOST_CLIENTS:
            self._paid.popitem(last=False)
        if wait > _TINY:
            seconds = math.ceil(wait - _TINY)
            raise Refusal(
                429,
                f"one client may ask {counted(self._most, 'time')} in a minute; try again in"
                f" {seconds} s",
                None,
                seconds,
            )
