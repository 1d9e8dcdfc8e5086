"""How much a server takes on: at once, from one client, and of each upload and each live session."""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

from ser_jax.errors import UserError
from ser_jax.web.refusal import Refusal

_MOST_CLIENTS = 10_000  # whose rates are remembered: 2 MB
_MINUTE = 60.0  # s
_TINY = 1e-6  # s; sums of fractions are not exact
_WEIGHT = 0.2  # of the newest job in the mean time of a job


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
      max_mb: Largest upload in MB (10^6 bytes).
      queue: Most uploads that wait or are worked on at once; one more is refused with 429.
      per_minute: Most uploads and live sessions of one client (address) in a minute.
      live_sessions: Most live sessions at once.
      upload_seconds: Most time that a client may take to send an upload.
      live_seconds: Longest live session.
      silent_seconds: Most time without a message in a live session, and to take in an answer.
      message_bytes: Largest message of a live session.
    """

    max_mb: int = 20
    queue: int = 32
    per_minute: int = 120
    live_sessions: int = 20
    upload_seconds: float = 60.0
    live_seconds: float = 600.0
    silent_seconds: float = 10.0
    message_bytes: int = 262_144

    def __post_init__(self):
        """Raises `UserError` for a limit that lets nothing through."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and math.isfinite(value)):
                raise UserError(f"--{field.name}={value:g} lets nothing through; it must be above 0")


class Queue:
    """Counts uploads from their first byte to their answer."""

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

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place while entered.

        Raises:
          Refusal: With 429 if all are taken, and the time in which, by the jobs before, one will be free.
        """
        if self._count >= self._size:
            wait = max(1, math.ceil(self._mean))
            raise Refusal(
                429, f"{self._count} uploads are being worked on, as many as may be; try again in {wait} s", None, wait
            )
        self._count += 1
        begin = self._clock()
        try:
            yield
        finally:
            self._count -= 1
            self._mean += _WEIGHT * (self._clock() - begin - self._mean)


class Rate:
    """Lets each client do something so often in a minute, and at most so often at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        """Starts with no client known.

        Args:
          per_minute: How often; after a pause of a minute all of them may come together.
          clock: Tells the time in s.
        """
        self._most, self._clock = per_minute, clock
        # Client → when everything is forgotten that it asked; the longest unseen first.
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
                429, f"one client may ask {self._most} times in a minute; try again in {seconds} s", None, seconds
            )
