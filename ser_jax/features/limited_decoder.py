"""Decodes untrusted recordings, such as uploads, in a process with limits and without secrets.

The decoders are C libraries, and a hostile file may crash them, keep them busy or make them
allocate memory. Here that is a `BadAudio` like any other, after a bounded time. A decoder that a
file takes over could still read what this user may read: run a public server under a user of its
own. This module must not import jax.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ser_jax.features import audio
from ser_jax.features.audio import MIN_SECONDS, SAMPLE_RATE, USUAL, Mix, Recording
from ser_jax.features.limited_child import LENGTHS, MAX_HEADER, READY, most_bytes
from ser_jax.features.pcm import FLAGS, REASONS, BadAudio
from ser_jax.runtime.errors import UserError

CPU_SECONDS = 10
WALL_SECONDS = 20.0
MEMORY_BYTES = 256 * 1024**2

_COMMAND = ("-m", "ser_jax.features.limited_child")
# A fork of several threads can deadlock.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_START_SECONDS = 60.0
_GRACE_SECONDS = 5.0  # a child that does not keep wall_seconds by itself is killed after this
# Seconds by which samples and header may differ: resampling rounds to whole samples.
_SLACK = 1e-3


class LimitedDecoder:
    """Decodes files one after the other, each in a new fork of one child process.

    A server keeps one decoder per thread. The child starts with the first file and again after it
    had to be killed. It inherits no environment, no open file but standard error, and not the
    terminal's signals. POSIX only; the limit on memory holds on Linux only.
    """

    def __init__(
        self,
        *,
        max_seconds: float,
        cpu_seconds: int = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        mix: Mix = USUAL,
    ):
        """Sets the limits of each file; memory is address space beyond that of the idle child.

        `mix`: channel and preparation of the samples.
        """
        self._mix = dataclasses.asdict(mix)
        self._limits = {
            "max_seconds": max_seconds,
            "cpu_seconds": cpu_seconds,
            "wall_seconds": wall_seconds,
            "memory_bytes": memory_bytes,
        }
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def decode(self, path: str | os.PathLike[str]) -> Recording:
        """Reads a recording as `audio.decode` does; threads wait for each other.

        Raises:
          BadAudio: As `audio.decode`; also "over the limits" for a file that needs more time or
            memory than is allowed, and "unreadable" for one that crashes its decoder.
          UserError: If the child cannot be started.
        """
        with self._lock:
            child = self._running_child()
            try:
                exchange = _Exchange(child, self._request(path, blocks=False))
                header, data = exchange.receive()
            except BaseException:  # the next answer on this pipe could belong to this file
                self._kill()
                raise
        return _recording(header, data, self._limits["max_seconds"])

    @contextlib.contextmanager
    def opened(self, path: str | os.PathLike[str]) -> Iterator["Blocks"]:
        """Opens a recording that is decoded while it is read, whatever its length.

        Until it is closed, other threads wait. `wall_seconds` is for each block.

        Raises:
          BadAudio: As `decode`.
          UserError: If the child cannot be started.
        """
        with self._lock:
            child, exchange = self._running_child(), None
            try:
                exchange = _Exchange(child, self._request(path, blocks=True))
                yield Blocks(exchange)
            finally:
                if exchange is None or not exchange.ended:
                    self._kill()

    def _request(self, path: str | os.PathLike[str], *, blocks: bool) -> dict[str, Any]:
        request = {"path": os.path.abspath(os.fspath(path)), "blocks": blocks, "mix": self._mix}
        return {**request, **self._limits}

    def close(self) -> None:
        """Ends the child; a later `decode` starts another."""
        # Whoever has been given up while reading blocks keeps the lock.
        held = self._lock.acquire(timeout=_GRACE_SECONDS)
        self._kill()
        if held:
            self._lock.release()

    def __enter__(self) -> "LimitedDecoder":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the child."""
        self.close()

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._kill()
            self._child = _start()
        return self._child

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # it and the fork that decodes
        with contextlib.suppress(BrokenPipeError):
            child.__exit__(None, None, None)  # closes the pipes and waits


def _start() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-s", "-P", *_COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **_ONE_THREAD},
        start_new_session=True,
    )
    try:
        if _read(child, len(READY), time.monotonic() + _START_SECONDS) == READY:
            return child
    except (EOFError, TimeoutError):
        pass
    child.kill()
    child.__exit__(None, None, None)
    raise UserError("The process that decodes uploads does not start; its own message stands above")


class _Exchange:
    """A request, and the messages that answer it."""

    def __init__(self, child: subprocess.Popen[bytes], request: dict[str, Any]):
        self._child, self.request = child, request
        self.ended = False  # whether its last message has been read
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise _dead() from None

    def receive(self) -> tuple[Mapping[str, Any], bytes]:
        """Returns header and samples of the next message."""
        child, limit = self._child, self.request["wall_seconds"]
        deadline = time.monotonic() + limit + _GRACE_SECONDS
        try:
            head, body = LENGTHS.unpack(_read(child, LENGTHS.size, deadline))
            if head > MAX_HEADER or body > most_bytes(self.request):
                raise _odd_answer()
            header = json.loads(_read(child, head, deadline))
            return header, _read(child, body, deadline)
        except TimeoutError:
            detail = f"decoding takes too long; wall_seconds={limit:g}"
            raise BadAudio("over the limits", detail) from None
        except EOFError:
            raise _dead() from None
        except (RecursionError, ValueError):  # no JSON
            raise _odd_answer() from None


class Blocks:
    """A recording that is being decoded; see `LimitedDecoder.opened`.

    Attributes:
      rate: Sampling rate in Hz.
      channels: Number of channels.
    """

    def __init__(self, exchange: _Exchange):
        """Reads the beginning."""
        self._exchange = exchange
        header, _ = self._receive()
        rate, channels = header.get("rate"), header.get("channels")
        if type(rate) is not int or type(channels) is not int or channels < 1:
            raise _odd_answer()
        audio.check_stream(rate, channels)
        self.rate, self.channels = rate, channels

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields blocks [S, channels] f32 as the file holds them; the samples are not checked.

        Raises:
          BadAudio: As `decode`.
        """
        done = 0
        while True:
            header, data = self._receive()
            if not header:
                self._exchange.ended = True
                return
            if not data or len(data) % (4 * self.channels):
                raise _odd_answer()
            block = np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, self.channels)
            done += len(block)
            if done > self._exchange.request["max_seconds"] * self.rate:
                raise _odd_answer()
            yield block

    def _receive(self) -> tuple[Mapping[str, Any], bytes]:
        header, data = self._exchange.receive()
        if not isinstance(header, dict):
            raise _odd_answer()
        if "reason" in header:
            self._exchange.ended = True
            raise _refusal(header)
        return header, data


def _read(child: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    """Reads exactly `count` bytes; raises `EOFError` at the end, `TimeoutError` at the deadline."""
    assert child.stdout is not None
    pipe, parts, missing = child.stdout.fileno(), [], count
    while missing:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(pipe, min(missing, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _recording(header: Mapping[str, Any], data: bytes, max_seconds: float) -> Recording:
    """Checks an answer as strictly as a file: a hostile file may have taken over its decoder."""
    try:
        if "reason" in header:
            raise _refusal(header)
        seconds, rate = float(header["seconds"]), int(header["rate"])
        channels = int(header["channels"])
        encoding, flags = str(header["encoding"]), tuple(map(str, header["flags"]))
        samples = np.frombuffer(data, "<f4").astype(np.float32)
    except (KeyError, OverflowError, TypeError, ValueError):
        raise _odd_answer() from None
    if (
        abs(seconds - len(samples) / SAMPLE_RATE) > _SLACK
        or not MIN_SECONDS <= seconds <= max_seconds  # true for NaN, too
        or not set(flags) <= set(FLAGS)
        or not np.isfinite(samples).all()
        or np.abs(samples).max() > 1
    ):
        raise _odd_answer()
    return Recording(samples, seconds, rate, channels, encoding, flags)


def _refusal(header: Mapping[str, Any]) -> BadAudio:
    reason = header["reason"]
    if not isinstance(reason, str) or reason not in REASONS:
        return _odd_answer()
    return BadAudio(reason, str(header.get("detail")))


def _dead() -> BadAudio:
    detail = "the process that decodes it dies; a hostile file, or too little memory"
    return BadAudio("unreadable", detail)


def _odd_answer() -> BadAudio:
    return BadAudio("unreadable", "the decoder's answer is no recording; a hostile file")
