"""Live sessions: a WebSocket receives samples and returns moments.

The client begins with `{"rate": 48000, "channels": 1, "format": "i16"}` and receives `{"ready":
true, …}`. It then sends binary messages of interleaved samples (little endian) and receives
`{"moments": […]}` for new segments. `{"end": true}` requests `{"result": …}`.
Errors are sent as `{"reason": …}` before the server closes.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from ser_jax.features.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.web.answer import to_json
from ser_jax.web.engine import Engine, Streaming
from ser_jax.web.limits import Limits, PerClient, Refusal, client_of

FORMATS = {"i16": "<i2", "f32": "<f4"}
_HEAD_START = 5.0  # s of sound that a client may send at once; after that as fast as it is spoken
_RATE_TOLERANCE = 1.1  # clocks of microphones differ a little
_LEAST_BLOCK = 0.02  # s of sound that are computed at a time, at least
_MOST_MESSAGES = 400  # in a second; browsers give at most 375 blocks of samples, at 48 kHz
_DONE, _VIOLATION, _TOO_BIG, _TRY_LATER = 1000, 1008, 1009, 1013  # RFC 6455, section 7.4.1


class _End(Exception):
    """Ends a session: the client gets the reason as text, and the code of RFC 6455."""

    def __init__(self, reason: str, code: int = _VIOLATION):
        super().__init__(reason)
        self.reason, self.code = reason, code


class Sessions:
    """Counts the live sessions of a server and holds them."""

    def __init__(self, engine: Engine, limits: Limits, clock: Callable[[], float] = time.monotonic):
        """Starts with none.

        Args:
          engine: The models.
          limits: What is let through.
          clock: Tells the time in s.
        """
        self._engine, self._limits, self._clock = engine, limits, clock
        self._of_client = PerClient(limits.per_client, "live session")
        self.count = 0

    async def hold(self, websocket: WebSocket, refused: str = "") -> None:
        """Holds a session from its first message to its end.

        Args:
          websocket: The connection, not yet accepted.
          refused: Why it is to be turned away; empty if it is not.
        """
        await websocket.accept()
        try:
            if refused:
                raise _End(refused, _TRY_LATER)
            if self._engine.not_live:
                raise _End(self._engine.not_live)
            with self._of_client.place(client_of(websocket.client)), self._place():
                async with asyncio.timeout(self._limits.live_seconds):
                    await self._talk(websocket)
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            await self._close(
                websocket,
                _End(
                    f"a live session lasts {self._limits.live_seconds:g} s at most; begin another"
                ),
            )
        except _End as end:
            await self._close(websocket, end)
        except Refusal as error:
            await self._close(websocket, _End(error.reason, _TRY_LATER))
        except UserError as error:
            await self._close(websocket, _End(str(error)))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Counts a session while entered; those that are turned away are none."""
        if self.count >= self._limits.live_sessions:
            raise _End(
                f"{counted(self.count, 'live session is', 'live sessions are')} open, as many"
                " as may be; try again later, or send a recording",
                _TRY_LATER,
            )
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    async def _talk(self, websocket: WebSocket) -> None:
        rate, channels, dtype = _read_hello(await self._receive(websocket))
        session = await self._engine.open_stream(rate)
        await self._send(
            websocket, {"ready": True, "classes": list(self._engine.predictor.classes)}
        )
        begin, received, messages = self._clock(), 0, 0
        blocks: list[np.ndarray] = []  # that are not computed yet
        while True:
            message = await self._receive(websocket)
            messages += 1
            if messages > _MOST_MESSAGES * (_HEAD_START + self._clock() - begin):
                raise _End(
                    f"more than {_MOST_MESSAGES} messages come in a second; put more samples into"
                    " each"
                )
            if isinstance(message, bytes):
                blocks.append(_samples(message, channels, dtype))
                received += len(blocks[-1])
                if received / rate > _HEAD_START + _RATE_TOLERANCE * (self._clock() - begin):
                    raise _End(
                        "samples come faster than they can be spoken; send a recording to"
                        " /api/predict instead"
                    )
                if sum(map(len, blocks)) < _LEAST_BLOCK * rate:
                    continue
            if blocks:
                samples = np.concatenate(blocks)
                blocks.clear()
                moments = await self._engine.compute(session.push, samples)
                await self._send_moments(websocket, moments)
            if not isinstance(message, bytes):
                await self._finish(websocket, session, message)
                return

    async def _finish(self, websocket: WebSocket, session: Streaming, message: str) -> None:
        if _parse(message) != {"end": True}:
            raise _End('a text message in a session says {"end": true}; samples are binary')
        await self._send_moments(websocket, await self._engine.compute(session.drain))
        found = await self._engine.compute(session.finish)
        result = {
            "label": found.label,
            "probabilities": found.probabilities,
            "seconds": found.seconds,
        }
        await self._send(websocket, {"result": {**result, "flags": list(found.flags)}})
        await websocket.close(_DONE)

    async def _send_moments(self, websocket: WebSocket, moments: list[Any]) -> None:
        if moments:
            await self._send(
                websocket, {"moments": [to_json(moment).model_dump() for moment in moments]}
            )

    async def _receive(self, websocket: WebSocket) -> str | bytes:
        seconds = self._limits.silent_seconds
        try:
            async with asyncio.timeout(seconds):
                message = await websocket.receive()
        except TimeoutError:
            raise _End(f"nothing has come for {seconds:g} s; begin another session") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", _DONE))
        content: str | bytes = message["text"] if message.get("bytes") is None else message["bytes"]
        if len(content) > self._limits.message_bytes:
            raise _End(
                f"a message has {len(content)} bytes; at most {self._limits.message_bytes} are"
                " taken",
                _TOO_BIG,
            )
        return content

    async def _send(self, websocket: WebSocket, message: dict[str, Any]) -> None:
        """Sends JSON; a client that does not read it in time counts as disconnected."""
        try:
            async with asyncio.timeout(self._limits.silent_seconds):
                await websocket.send_text(json.dumps(message))
        except TimeoutError:
            raise WebSocketDisconnect(_VIOLATION, "the client takes nothing in") from None

    async def _close(self, websocket: WebSocket, end: _End) -> None:
        try:
            await self._send(websocket, {"reason": end.reason})
            await websocket.close(end.code)
        except (WebSocketDisconnect, RuntimeError):  # it has gone by itself
            pass


def _read_hello(message: str | bytes) -> tuple[int, int, str]:
    """Returns the rate in Hz, the number of channels and NumPy's type of the samples."""
    hello = _parse(message) if isinstance(message, str) else None
    if not isinstance(hello, dict):
        raise _End(
            'a session begins with a text such as {"rate": 48000, "channels": 1, "format": "i16"}'
        )
    unknown = sorted(set(hello) - {"rate", "channels", "format"})
    if unknown:
        raise _End(
            f"the first message has a key {unknown[0][:80]!r}; rate, channels and format are read"
        )
    rate, channels, form = hello.get("rate"), hello.get("channels", 1), hello.get("format", "i16")
    if type(rate) is not int or not MIN_RATE <= rate <= MAX_RATE:
        raise _End(f"rate={str(rate)[:80]}; {MIN_RATE} to {MAX_RATE} Hz are supported")
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise _End(f"channels={str(channels)[:80]}; 1 to {MAX_CHANNELS} are supported")
    if not isinstance(form, str) or form not in FORMATS:
        raise _End(f"format={str(form)[:80]}; {' and '.join(FORMATS)} are supported")
    return rate, channels, FORMATS[form]


def _samples(message: bytes, channels: int, dtype: str) -> np.ndarray:
    """Returns the samples of a message, [S] or [S, channels], in this machine's byte order."""
    frame = channels * np.dtype(dtype).itemsize
    if not message or len(message) % frame:
        raise _End(
            f"a message has {counted(len(message), 'byte')}; it must be a multiple of {frame}"
        )
    samples = np.frombuffer(message, dtype)
    samples = samples.astype(samples.dtype.newbyteorder("="))
    return samples if channels == 1 else samples.reshape(-1, channels)


def _parse(message: str | bytes) -> Any:
    try:
        return json.loads(message)
    except (RecursionError, ValueError):
        return None
