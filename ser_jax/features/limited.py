"""Decodes recordings that nobody vouches for, such as uploads, in a process with limits and without this one's secrets.

The decoders are C libraries, and a hostile file may crash them, keep them busy or make them ask for memory. Here that
is a typed reason like any other, after a bounded time. A decoder that a file takes over could still read what this user
may read: who serves strangers runs the server under a user of its own. This module must not import jax.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ser_jax.errors import UserError
from ser_jax.features.audio import MIN_SECONDS, SAMPLE_RATE, Recording
from ser_jax.features.bad_audio import REASONS, BadAudio
from ser_jax.features.limited_child import LENGTHS, MAX_HEADER, READY

CPU_SECONDS = 10
WALL_SECONDS = 20.0
MEMORY_BYTES = 256 * 1024**2

_COMMAND = ("-m", "ser_jax.features.limited_child")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a forked copy of several threads can deadlock
_START_SECONDS = 60.0
_GRACE_SECONDS = 5.0  # the child keeps wall_seconds by itself; this one ends a child that does not
_FLAGS = {"clipped", "odd rate", "several channels"}
_SLACK = 1e-3  # seconds by which the samples and the header may differ: resampling rounds to whole samples


class LimitedDecoder:
    """Decodes files one after the other, each in a new copy of one child process; a server keeps one per thread.

    The child starts with the first file and again after it had to be killed. It inherits no environment, no open file
    but standard error, and not the terminal's signals. POSIX only; the limit on memory holds on Linux only.
    """

    def __init__(
        self,
        *,
        max_seconds: float,
        cpu_seconds: int = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ):
        """Sets the limits of each file.

        Args:
          max_seconds: Longest recording that is read.
          cpu_seconds: Most computing time, in whole seconds.
          wall_seconds: Most time.
          memory_bytes: Most address space beyond what the idle child has.
        """
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

        Args:
          path: A WAV, FLAC, Ogg or MP3 file.

        Returns:
          The recording.

        Raises:
          BadAudio: As `audio.decode`; also "over the limits" for a file that needs more time or memory than is allowed,
            and "unreadable" for one that crashes its decoder.
          UserError: If the child cannot be started.
        """
        request = json.dumps({"path": os.path.abspath(os.fspath(path)), **self._limits}).encode("ascii") + b"\n"
        with self._lock:
            child = self._running_child()
            try:
                header, data = _exchange(child, request, self._limits)
            except BaseException:  # whatever it is: the next answer on this pipe could belong to this file
                self._kill()
                raise
        return _recording(header, data, self._limits["max_seconds"])

    def close(self) -> None:
        """Ends the child; a later `decode` starts another."""
        with self._lock:
            self._kill()

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
            os.killpg(child.pid, signal.SIGKILL)  # it and the copy that decodes
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


def _exchange(
    child: subprocess.Popen[bytes], request: bytes, limits: Mapping[str, float]
) -> tuple[Mapping[str, Any], bytes]:
    """Sends a request, receives its answer: header, samples."""
    deadline = time.monotonic() + limits["wall_seconds"] + _GRACE_SECONDS
    assert child.stdin is not None
    try:
        child.stdin.write(request)
        child.stdin.flush()
        head, body = LENGTHS.unpack(_read(child, LENGTHS.size, deadline))
        if head > MAX_HEADER or body > 4 * (limits["max_seconds"] + _SLACK) * SAMPLE_RATE:
            raise _odd_answer()
        header = json.loads(_read(child, head, deadline))
        return header, _read(child, body, deadline)
    except TimeoutError:
        detail = f"decoding takes too long; wall_seconds={limits['wall_seconds']:g}"
        raise BadAudio("over the limits", detail) from None
    except (EOFError, BrokenPipeError):
        raise BadAudio("unreadable", "the process that decodes it dies; a hostile file, or too little memory") from None
    except (RecursionError, ValueError):  # no JSON
        raise _odd_answer() from None


def _read(child: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    """Reads exactly `count` bytes.

    Raises:
      EOFError: There are fewer.
      TimeoutError: They do not come in time.
    """
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
    """Checks an answer as strictly as the file: a decoder that the file has taken over may have written it."""
    try:
        if "reason" in header:
            if header["reason"] not in REASONS:
                raise _odd_answer()
            raise BadAudio(header["reason"], str(header["detail"]))
        seconds, rate, channels = float(header["seconds"]), int(header["rate"]), int(header["channels"])
        encoding, flags = str(header["encoding"]), tuple(map(str, header["flags"]))
        samples = np.frombuffer(data, "<f4").astype(np.float32)
    except (KeyError, OverflowError, TypeError, ValueError):
        raise _odd_answer() from None
    consistent = abs(seconds - len(samples) / SAMPLE_RATE) <= _SLACK and MIN_SECONDS <= seconds <= max_seconds
    if not consistent or not set(flags) <= _FLAGS or not np.isfinite(samples).all() or np.abs(samples).max() > 1:
        raise _odd_answer()
    return Recording(samples, seconds, rate, channels, encoding, flags)


def _odd_answer() -> BadAudio:
    return BadAudio("unreadable", "the decoder's answer is no recording; a hostile file")
