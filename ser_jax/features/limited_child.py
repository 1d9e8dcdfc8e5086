"""The process that decodes untrusted recordings; limited.py starts it.

It forks for each, so that the limits, the memory and whatever damage a file does end with that file.

A request is a line of JSON. An answer is two lengths (u32, little endian), a header (JSON) and samples (f32, little
endian); nothing that is read on either side can run code. This module must not import jax.
"""

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from ser_jax.features import audio
from ser_jax.features.bad_audio import BadAudio

LENGTHS = struct.Struct("<II")  # bytes of the header, bytes of the samples
READY = b"ready\n"
MAX_HEADER = 4096

_MEGABYTE = 1024**2
_MOST_TEXT = 200  # characters of a message
_MAX_FILES = 32  # enough for the pipe, the recording, and what the libraries have open
_IN_TIME = {signal.SIGXCPU: "cpu_seconds", signal.SIGALRM: "wall_seconds"}  # what ends a slow decoder → its limit


def answer_bytes(max_seconds: float) -> int:
    """Returns the most bytes an answer can have; resampling adds a sample at most."""
    return LENGTHS.size + MAX_HEADER + 4 * (int(max_seconds * audio.SAMPLE_RATE) + 2)


def serve(requests: BinaryIO, answers: BinaryIO, decode: Callable[..., audio.Recording] = audio.decode) -> None:
    """Answers requests until there are no more.

    Args:
      requests: One JSON object per line: `path`, `max_seconds`, `cpu_seconds`, `wall_seconds`, `memory_bytes`.
      answers: Gets `READY`, then an answer per request.
      decode: Called in a fork with the path and `max_seconds`.
    """
    answers.write(READY)
    answers.flush()
    for line in requests:
        answers.write(_in_fork(json.loads(line), decode))
        answers.flush()


def _in_fork(request: dict[str, Any], decode: Callable[..., audio.Recording]) -> bytes:
    """Returns the answer of a fork, or one that says how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _decode_and_leave(request, decode, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        most = answer_bytes(request["max_seconds"])
        answer = pipe.read(most + 1)
    if len(answer) > most:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if len(answer) <= most and status == 0:
        return answer
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in _IN_TIME:
        key = _IN_TIME[signal.Signals(number)]
        return _packed({"reason": "over the limits", "detail": f"decoding takes too long; {key}={request[key]:g}"})
    how = f"signal {signal.Signals(number).name}" if number else f"exit code {os.waitstatus_to_exitcode(status)}"
    return _packed({"reason": "unreadable", "detail": f"the decoder crashed ({how}); a damaged or hostile file"})


def _decode_and_leave(request: dict[str, Any], decode: Callable[..., audio.Recording], writer: int) -> None:
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # a file must not speak to the parents, and mpg123 says a lot about damaged ones
            os.dup2(nothing, standard)
        _limit(request)
        answer = _answer(request, decode)
        with open(writer, "wb") as pipe:
            pipe.write(answer)
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
    """Returns how much address space this process has before it reads anything of the file, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _answer(request: dict[str, Any], decode: Callable[..., audio.Recording]) -> bytes:
    try:
        found = decode(request["path"], max_seconds=request["max_seconds"])
    except BadAudio as error:
        return _packed({"reason": error.reason, "detail": error.detail})
    except MemoryError:
        megabytes = request["memory_bytes"] / _MEGABYTE
        return _packed({"reason": "over the limits", "detail": f"decoding needs more than {megabytes:g} MiB of memory"})
    except Exception as error:  # a defect of this program, or of a library under these limits
        detail = f"the decoder fails ({type(error).__name__}: {str(error)[:_MOST_TEXT]})"
        return _packed({"reason": "unreadable", "detail": detail})
    header = {
        "seconds": found.seconds,
        "rate": found.rate,
        "channels": found.channels,
        "encoding": found.encoding,
        "flags": found.flags,
    }
    return _packed(header, found.samples)


def _packed(header: dict[str, Any], samples: np.ndarray | None = None) -> bytes:
    text = json.dumps(header).encode("ascii")
    data = b"" if samples is None else samples.astype("<f4").tobytes()
    return LENGTHS.pack(len(text), len(data)) + text + data


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
