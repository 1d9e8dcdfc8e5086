"""The process that decodes untrusted recordings; limited_decoder.py starts it.

It forks for each, so that the limits, the memory and whatever damage a file does end with that
file. A request is a line of JSON. An answer is a message: two lengths (u32, little endian), a
header (JSON) and samples (f32, little endian); nothing that is read on either side can run code. A
request for blocks is answered by many: their rate and number of frames, the blocks as they are
decoded, and an empty header at the end. This module must not import jax.
"""

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from ser_jax.features import audio, media
from ser_jax.features.pcm import BadAudio

LENGTHS = struct.Struct("<II")  # bytes of the header, bytes of the samples
READY = b"ready\n"
MAX_HEADER = 4096
BLOCK = 65536  # most frames of a block

_MEGABYTE = 1024**2
_MAX_TEXT = 200  # characters of a message
_MAX_FILES = 32  # enough for the pipe, the recording, and what the libraries have open
# The signal that ends a slow decoder → its limit.
_TIME_LIMITS = {signal.SIGXCPU: "cpu_seconds", signal.SIGALRM: "wall_seconds"}


def most_bytes(request: dict[str, Any]) -> int:
    """Returns the largest size of the samples of a message; resampling adds a sample at most."""
    if request["blocks"]:
        return 4 * audio.MAX_CHANNELS * BLOCK
    return 4 * (int(request["max_seconds"] * audio.SAMPLE_RATE) + 2)


def serve(
    requests: BinaryIO, answers: BinaryIO, decode: Callable[..., audio.Recording] = audio.decode
) -> None:
    """Writes `READY`, then an answer per request; `decode` is called in a fork.

    A request is a line with a JSON object: `path`, `mix`, `blocks` (whether to send them), and the
    limits `max_seconds`, `cpu_seconds`, `wall_seconds` (of each message) and `memory_bytes`.
    """
    media.load()  # once, and outside the limits of memory
    answers.write(READY)
    answers.flush()
    for line in requests:
        for message in _in_fork(json.loads(line), decode):
            answers.write(message)
            answers.flush()


def _in_fork(request: dict[str, Any], decode: Callable[..., audio.Recording]) -> Iterator[bytes]:
    """Yields the messages of a fork; the last one, or why there is none, when it has ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _decode_and_leave(request, decode, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        last = _message(pipe, request)
        while last and (message := _message(pipe, request)):
            yield last
            last = message
        if pipe.read(1):  # a message is too long
            last = b""
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    yield last if last and status == 0 else _death(request, status)


def _message(pipe: BinaryIO, request: dict[str, Any]) -> bytes:
    """Reads a message; returns nothing at the end, and where it is cut off or too long."""
    lengths = pipe.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return b""
    head, body = LENGTHS.unpack(lengths)
    if head > MAX_HEADER or body > most_bytes(request):
        return b""
    content = pipe.read(head + body)
    return lengths + content if len(content) == head + body else b""


def _death(request: dict[str, Any], status: int) -> bytes:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in _TIME_LIMITS:
        key = _TIME_LIMITS[signal.Signals(number)]
        return _refusal("over the limits", f"decoding takes too long; {key}={request[key]:g}")
    how = f"exit code {os.waitstatus_to_exitcode(status)}"
    if number:
        how = f"signal {signal.Signals(number).name}"
    return _refusal("unreadable", f"the decoder crashed ({how}); a damaged or hostile file")


def _decode_and_leave(
    request: dict[str, Any], decode: Callable[..., audio.Recording], writer: int
) -> None:
    code = 1
    try:
        # A hostile file must not write to the parents, and mpg123 reports a lot about damaged ones.
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        _limit(request)
        with open(writer, "wb") as pipe:
            for message in _messages(request, decode):
                signal.setitimer(signal.ITIMER_REAL, 0)  # the reader may take its time
                pipe.write(message)
                pipe.flush()
                signal.setitimer(signal.ITIMER_REAL, request["wall_seconds"])
        code = 0
    finally:
        os._exit(code)


def _limit(request: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file grows by it
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))
    resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_seconds"], request["cpu_seconds"] + 1))
    if sys.platform == "linux":  # elsewhere the kernel does not keep this limit
        most = _address_space() + request["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, request["wall_seconds"])


def _address_space() -> int:
    """Returns the address space in bytes that this process has before it reads the file."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _messages(request: dict[str, Any], decode: Callable[..., audio.Recording]) -> Iterator[bytes]:
    try:
        if request["blocks"]:
            yield from _blocks(request)
            return
        mix = audio.Mix(**request["mix"])
        found = decode(request["path"], max_seconds=request["max_seconds"], mix=mix, silent=True)
        names = ("seconds", "rate", "channels", "encoding", "flags")
        yield _packed({name: getattr(found, name) for name in names}, found.samples)
    except BadAudio as error:
        yield _refusal(error.reason, error.detail)
    except MemoryError:
        megabytes = request["memory_bytes"] / _MEGABYTE
        yield _refusal("over the limits", f"decoding needs more than {megabytes:g} MiB of memory")
    except Exception as error:  # a defect of this program, or of a library under these limits
        detail = f"the decoder fails ({type(error).__name__}: {str(error)[:_MAX_TEXT]})"
        yield _refusal("unreadable", detail)


def _blocks(request: dict[str, Any]) -> Iterator[bytes]:
    most, done = request["max_seconds"], 0
    with audio.opened(request["path"]) as span:
        if span.frames is not None:
            audio.check_length(span.frames / span.rate, most)
        yield _packed({"rate": span.rate, "channels": span.channels})
        for block in span.blocks():
            done += len(block)
            audio.check_length(max(audio.MIN_SECONDS, done / span.rate), most)
            for first in range(0, len(block), BLOCK):
                yield _packed({"frames": len(block[first : first + BLOCK])}, block[first:][:BLOCK])
    yield _packed({})


def _refusal(reason: str, detail: str) -> bytes:
    return _packed({"reason": reason, "detail": detail})


def _packed(header: dict[str, Any], samples: np.ndarray | None = None) -> bytes:
    text = json.dumps(header).encode("ascii")
    data = b"" if samples is None else samples.astype("<f4").tobytes()
    return LENGTHS.pack(len(text), len(data)) + text + data


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
