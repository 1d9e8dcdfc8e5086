"""A child for the limited decoder that misbehaves as a hostile file could make it, by file name."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from ser_jax.features import audio, limited_child


def decode(
    path: str, *, max_seconds: float, mix: audio.Mix = audio.USUAL, silent: bool = False
) -> audio.Recording:
    """Misbehaves as the file's name says, else decodes."""
    name = Path(path).stem
    endings = {
        "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "abort": os.abort,
        "exit": lambda: os._exit(3),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    if name in endings:
        endings[name]()
    if name == "spin":
        while True:
            pass
    if name == "sleep":
        time.sleep(1000)
    if name == "stuck":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(1000)
    if name == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)
    if name == "memory":
        _ = [np.ones(2**20) for _ in range(100)]
    if name == "defect":
        raise ZeroDivisionError("by nothing")
    if name == "write":
        Path(path).with_suffix(".made").write_bytes(b"x")
    if name == "noise":
        os.write(1, b"x" * 1000)
        os.write(2, b"x" * 1000)
    if name == "state":
        descriptors = [f"/proc/self/fd/{number}" for number in range(20)]
        files = [os.readlink(one) for one in descriptors if os.path.exists(one)]
        state = {
            "environment": sorted(os.environ),
            "files": files,
            "folder": os.getcwd(),
            "jax": "jax" in sys.modules,
        }
        raise audio.BadAudio("unreadable", json.dumps(state))
    if name.startswith("answer-"):
        samples = np.full(16000, 0.5, np.float32)
        seconds, flags = 1.0, ()
        if name == "answer-nan":
            samples[5] = np.nan
        if name == "answer-loud":
            samples[5] = 2
        if name == "answer-long":
            samples = np.tile(samples, 60)
        if name == "answer-other":
            seconds = 2.0
        if name == "answer-flag":
            flags = ("<script>",)
        if name == "answer-empty":
            samples = samples[:0]
        return audio.Recording(samples, seconds, 16000, 1, "PCM_16", flags)
    if name == "reason":
        raise audio.BadAudio("<script>", "no such reason")
    return audio.decode(path, max_seconds=max_seconds, mix=mix, silent=silent)


if __name__ == "__main__":
    limited_child.serve(sys.stdin.buffer, sys.stdout.buffer, decode)
