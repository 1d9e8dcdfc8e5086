"""The models and the decoders of a server, each in threads of its own: the event loop waits for neither."""

import asyncio
import functools
import logging
import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from ser_jax.errors import UserError
from ser_jax.features.audio import SAMPLE_RATE, Recording
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.limited import LimitedDecoder
from ser_jax.prediction.predictor import Prediction, Predictor
from ser_jax.web.refusal import Refusal

DECODERS = 2  # processes
WARM_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # lengths that are compiled before the first visitor comes
_WARM_BLOCK = 3.2  # s: 15 segments at once, for which a stream needs its programs for 8, 4, 2 and 1; 16 come after

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Streaming(Protocol):
    """What `stream.Stream` offers."""

    def push(self, samples: np.ndarray) -> list[Any]:
        """Takes samples; returns what can be said since the last call."""
        ...

    def drain(self) -> list[Any]:
        """Ends the input; returns what is still to be said."""
        ...

    def finish(self) -> Prediction:
        """Says what the whole is."""
        ...


MakeStream = Callable[[Predictor, int], Streaming]  # (predictor, rate in Hz); raises UserError


class Engine:
    """One thread for the models, and a decoder process per thread for uploads.

    Attributes:
      predictor: The models.
      description: Which models they are, for visitors.
      not_live: Why they cannot judge speech while it is spoken; "" if they can.
      max_seconds: Longest recording.
    """

    def __init__(self, predictor: Predictor, make_stream: MakeStream, description: str = ""):
        """Starts no process yet.

        Args:
          predictor: The models.
          make_stream: Makes the stream of a live session.
          description: Which models they are, for visitors; default: as the predictor says it.
        """
        self.predictor, self.description = predictor, description or predictor.description
        self.max_seconds = float(predictor.config.features.max_seconds)
        self._make_stream = make_stream
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._decoding = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
        self._decoders: queue.SimpleQueue[LimitedDecoder] = queue.SimpleQueue()
        self._all = [LimitedDecoder(max_seconds=self.max_seconds) for _ in range(DECODERS)]
        for decoder in self._all:
            self._decoders.put(decoder)
        try:
            make_stream(predictor, SAMPLE_RATE)
            self.not_live = ""
        except UserError as error:
            self.not_live = str(error)

    def warm_up(self) -> None:
        """Compiles what recordings of the usual lengths and live sessions need, and starts the decoders."""
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, round(WARM_SECONDS[-1] * SAMPLE_RATE)).astype(np.float32)
        for seconds in WARM_SECONDS:
            if seconds <= self.max_seconds:
                self.predictor.predict(noise[: round(seconds * SAMPLE_RATE)], SAMPLE_RATE)
        if not self.not_live:
            session = self._make_stream(self.predictor, SAMPLE_RATE)
            for block in np.split(noise, [round(_WARM_BLOCK * SAMPLE_RATE)]):
                session.push(block)
            session.finish()
        for decoder in self._all:
            try:
                decoder.decode(os.devnull)
            except BadAudio:  # it is none, but the process has started
                pass

    async def decode(self, path: str | os.PathLike[str]) -> Recording:
        """Decodes an upload in a process with limits.

        Raises:
          Refusal: With 422 and the kind if it cannot be used; with 503 if the process does not start.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoding, self._decode, path)
        except BadAudio as error:
            raise Refusal(422, f"the recording cannot be used: {error}", error.reason) from None
        except UserError as error:
            log.error("%s", error)
            raise Refusal(503, "the server cannot decode recordings at present; try again later", None, 60) from None

    async def compute(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs a function in the thread of the models, after those that came before."""
        return await asyncio.get_running_loop().run_in_executor(self._model, functools.partial(function, *arguments))

    async def open_stream(self, rate: int) -> Streaming:
        """Makes the stream of a session.

        Raises:
          UserError: If the system needs the whole recording, or the rate does not fit.
        """
        return await self.compute(self._make_stream, self.predictor, rate)

    def close(self) -> None:
        """Ends threads and processes; what has not begun is dropped."""
        for executor in (self._model, self._decoding):
            executor.shutdown(wait=False, cancel_futures=True)
        for decoder in self._all:
            decoder.close()
        self._model.shutdown(wait=True)

    def _decode(self, path: str | os.PathLike[str]) -> Recording:
        decoder = self._decoders.get()
        try:
            return decoder.decode(path)
        finally:
            self._decoders.put(decoder)
