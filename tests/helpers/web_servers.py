"""Servers as tests of the web page use them: real sockets, and models that need no training."""

import asyncio
import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_recordings
import numpy as np
import pytest
from commands import ROOT

from ser_jax import config
from ser_jax.features.audio import USUAL
from ser_jax.prediction.ensemble import make_decision
from ser_jax.prediction.predictor import Prediction
from ser_jax.runtime.errors import UserError
from ser_jax.web import server
from ser_jax.web.app import make_app
from ser_jax.web.engine import Engine
from ser_jax.web.guard import LOCAL
from ser_jax.web.http_server import Listener
from ser_jax.web.limits import Limits

CLASSES = ("angry", "happy", "neutral", "sad")
NOT_LIVE = "hsf_crnn needs the whole recording; take plain_crnn"
SPEECH = bad_recordings.encoded(np.full(8000, 0.25, np.float32))
NOTES = ("Trained on <b>noise</b>.", "It hears loudness and nothing else.")
NOT_LIVE_SHORT = "hsf_crnn needs the whole recording."


class LoudIsAngry:
    """A predictor whose share of "angry" is the peak of the samples."""

    classes = CLASSES
    description = "a model that hears loudness"
    mix = USUAL
    vad = False
    remarks = ()

    def __init__(self):
        self.config = config.get_config()
        self.threads: set[str] = set()  # in which it was called
        self.gate = threading.Event()  # predictions wait for it
        self.gate.set()

    def features(self, recordings):
        return recordings

    def probabilities(self, recordings) -> np.ndarray:
        return np.stack([shares(recording.samples) for recording in recordings])

    def decision(self, classes=(), threshold=0.0):
        return make_decision(self.classes, classes, threshold)

    def predict(self, samples: np.ndarray, rate: int, *, classes=(), threshold=0.0) -> Prediction:
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(60)
        answer = self.decision(classes, threshold).answers(shares(samples)[None, :])[0]
        return Prediction(answer.label, answer.probabilities, len(samples) / rate)


def shares(samples: np.ndarray) -> np.ndarray:
    angry = float(np.abs(samples / (32768 if samples.dtype == np.int16 else 1)).max())
    return np.array([angry, *3 * [(1 - angry) / 3]])


def named(samples: np.ndarray) -> dict[str, float]:
    return {name: float(share) for name, share in zip(CLASSES, shares(samples), strict=True)}


@dataclasses.dataclass(frozen=True)
class Moment:
    start: float
    end: float
    so_far: dict[str, float]
    window: dict[str, float]


class LoudStream:
    """The same while it is spoken: a moment for every block."""

    def __init__(self, predictor: Any, rate: int, *, window_seconds: float = 3.0):
        self._predictor, self._rate, self._window = predictor, rate, window_seconds
        self._samples = np.zeros(0)

    def push(self, samples: np.ndarray) -> list[Moment]:
        self._predictor.threads.add(threading.current_thread().name)
        assert samples.dtype.isnative and len(samples)
        scaled = samples / (32768 if samples.dtype == np.int16 else 1)
        mono = scaled if scaled.ndim == 1 else scaled.mean(axis=1)
        self._samples = np.append(self._samples, mono)
        return [self._moment()]

    def drain(self) -> list[Moment]:
        # A real stream has moments here at rates other than 16 kHz.
        return [self._moment()] if len(self._samples) else []

    def _moment(self) -> Moment:
        end = len(self._samples) / self._rate
        window = self._samples[-round(self._window * self._rate) :]
        return Moment(max(0.0, end - self._window), end, named(self._samples), named(window))

    def finish(self) -> Prediction:
        if not len(self._samples):
            raise UserError("the samples cannot be used: too short")
        return self._predictor.predict(self._samples, self._rate)


def wait_for(condition) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it does not happen")


def no_stream(predictor: Any, rate: int) -> LoudStream:
    del predictor, rate
    raise UserError(NOT_LIVE)


@dataclasses.dataclass
class Served:
    url: str
    folder: Path
    engine: Engine
    predictor: Any

    @property
    def live(self) -> str:
        return f"{self.url.replace('http', 'ws')}/api/live"

    @property
    def left_behind(self) -> list[Path]:
        return list(self.folder.iterdir())


@contextlib.contextmanager
def serving(
    folder: Path,
    limits: Limits | None = None,
    predictor: Any = None,
    make_stream: Any = LoudStream,
    names: Any = LOCAL,
) -> Iterator[Served]:
    """Serves in a thread, on a free port."""
    predictor, limits = predictor or LoudIsAngry(), limits or Limits()
    ready, stop = threading.Event(), threading.Event()
    with contextlib.closing(server.bind("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.closing(Engine(predictor, make_stream, notes=NOTES)) as engine:
            app = make_app(engine, limits, folder, names)
            running = Listener(app, limits, ready=ready.set, stopped=stop.is_set)
            thread = threading.Thread(target=lambda: asyncio.run(running.serve([listener])))
            thread.start()
            try:
                assert ready.wait(60)
                yield Served(url, folder, engine, predictor)
            finally:
                stop.set()
                thread.join()


@contextlib.contextmanager
def in_a_process() -> Iterator[tuple[str, int]]:
    """Serves in a process of its own; yields the address and the process's number."""
    command = [sys.executable, __file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.stdin.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as uploads, serving(Path(uploads), Limits()) as server_:
        print(server_.url, flush=True)
        sys.stdin.read()  # until the test closes it


@contextlib.contextmanager
def started(run: Path, uploads: Path, *arguments: str):
    """Runs the command as a user does; yields the process and the address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_jax", "serve", f"--model={run}", "--port=0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(uploads)},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        ready = re.fullmatch(r"ready: (http://127\.0\.0\.1:\d+)  \(Ctrl-C ends it\)\n", line)
        assert ready, line + process.communicate()[1]
        yield process, ready[1]
    finally:
        process.kill()
        process.communicate()
