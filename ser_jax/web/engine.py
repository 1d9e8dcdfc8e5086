"""Threads for the models and processes for decoding: the event loop waits for neither."""

import asyncio
import contextlib
import functools
import logging
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from ser_jax.features.audio import SAMPLE_RATE, Mix, Recording
from ser_jax.features.limited_decoder import LimitedDecoder
from ser_jax.features.pcm import BadAudio
from ser_jax.prediction.predictor import Prediction, Predictor
from ser_jax.prediction.timeline import WINDOW_SECONDS, Plan
from ser_jax.prediction.windows import Windows
from ser_jax.runtime.errors import UserError
from ser_jax.web.limits import Refusal

DECODERS = 2  # processes
# s: longest recording that is followed, and the processor time that may be used to decode it
MAX_TIMELINE_SECONDS, TIMELINE_CPU_SECONDS = 3600.0, 60
# Lengths that are compiled before the first visitor comes.
WARM_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
# s: 15 segments at once, for which a stream needs its programs for 8, 4, 2 and 1; 16 come after
_WARM_BLOCK = 3.2

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Streaming(Protocol):
    """What `streaming.Stream` offers."""

    def push(self, samples: np.ndarray) -> list[Any]:
        """Takes samples; returns the new moments."""
        ...

    def drain(self) -> list[Any]:
        """Ends the input; returns the last moments."""
        ...

    def finish(self) -> Prediction:
        """Returns the prediction for the whole."""
        ...


MakeStream = Callable[[Predictor, int], Streaming]  # (predictor, rate in Hz); raises UserError


class Engine:
    """One thread for the models, and a decoder process per thread for uploads.

    Attributes:
      predictor: The models.
      description: Which models they are, for visitors.
      notes: What visitors need to know of them, from the model card.
      not_live: Why they cannot follow a stream; "" if they can.
      max_seconds: Longest recording that is judged as a whole.
      max_timeline_seconds: Longest recording that is followed.
    """

    def __init__(
        self,
        predictor: Predictor,
        make_stream: MakeStream,
        description: str = "",
        notes: Sequence[str] = (),
    ):
        """Starts no process yet.

        Args:
          predictor: The models.
          make_stream: Makes the stream of a live session.
          description: Which models they are, for visitors; default: as the predictor says it.
          notes: What visitors need to know of them.
        """
        self.predictor, self.description = predictor, description or predictor.description
        self.notes = list(notes)
        self.max_seconds = float(predictor.config.features.max_seconds)
        self.max_timeline_seconds = max(self.max_seconds, MAX_TIMELINE_SECONDS)
        self._make_stream = make_stream
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._decoding = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
        self._decoders: queue.SimpleQueue[LimitedDecoder] = queue.SimpleQueue()
        channel = Mix(predictor.config.features.channel)  # `predict` prepares
        limited = functools.partial(LimitedDecoder, max_seconds=self.max_seconds, mix=channel)
        self._all = [limited() for _ in range(DECODERS)]
        for decoder in self._all:
            self._decoders.put(decoder)
        # Long recordings one after the other, so that they keep no short one waiting.
        self._long_decoding = ThreadPoolExecutor(1, thread_name_prefix="long-decoder")
        self._long_decoder = LimitedDecoder(
            max_seconds=self.max_timeline_seconds, cpu_seconds=TIMELINE_CPU_SECONDS
        )
        self._one_long = asyncio.Lock()
        try:
            make_stream(predictor, SAMPLE_RATE)
            self.not_live = ""
        except UserError as error:
            self.not_live = str(error)

    def warm_up(self) -> None:
        """Compiles for recordings of the usual lengths and live sessions; starts the decoders."""
        noise = (
            np.random.default_rng(0)
            .uniform(-0.1, 0.1, round(WARM_SECONDS[-1] * SAMPLE_RATE))
            .astype(np.float32)
        )
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
          Refusal: With 422 and the kind if it cannot be used; with 503 if the process does not
            start.
        """
        with _refusals():
            return await asyncio.get_running_loop().run_in_executor(
                self._decoding, self._decode, path
            )

    @contextlib.asynccontextmanager
    async def opened(
        self, path: str | os.PathLike[str]
    ) -> AsyncIterator[tuple[int, AsyncIterator[np.ndarray]]]:
        """Opens an upload that is decoded, in a process with limits, while it is read.

        Others wait until it is closed.

        Yields:
          Its rate in Hz, and its blocks [S, channels] f32.

        Raises:
          Refusal: As `decode`, also while blocks are read.
        """
        run = functools.partial(asyncio.get_running_loop().run_in_executor, self._long_decoding)

        async def read(blocks: Iterator[np.ndarray]) -> AsyncIterator[np.ndarray]:
            while True:
                with _refusals():
                    block = await run(next, blocks, None)
                if block is None:
                    return
                yield block

        async with self._one_long:
            opened = self._long_decoder.opened(path)
            with _refusals():
                found = await run(opened.__enter__)
            try:
                yield found.rate, read(found.blocks())
            finally:
                await asyncio.shield(run(opened.__exit__, None, None, None))

    async def compute(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs a function in the thread of the models, after those that came before."""
        return await asyncio.get_running_loop().run_in_executor(
            self._model, functools.partial(function, *arguments)
        )

    async def open_stream(self, rate: int) -> Streaming:
        """Makes the stream of a session.

        Raises:
          UserError: If the system needs the whole recording, or the rate does not fit.
        """
        return await self.compute(self._make_stream, self.predictor, rate)

    @property
    def plan(self) -> Plan:
        """How recordings are followed: the stream, or windows that overlap by half."""
        return Plan(WINDOW_SECONDS, WINDOW_SECONDS / 2 if self.not_live else None)

    async def open_follower(self, rate: int) -> Any:
        """Makes what follows a recording: a stream, or windows for systems that need the whole."""
        window, hop = self.plan.window_seconds, self.plan.hop_seconds
        if hop is None:
            return await self.open_stream(rate)
        return await self.compute(
            functools.partial(Windows, self.predictor, rate, window_seconds=window, hop_seconds=hop)
        )

    def close(self) -> None:
        """Ends threads and processes; what has not started is dropped."""
        for executor in (self._model, self._decoding, self._long_decoding):
            executor.shutdown(wait=False, cancel_futures=True)
        for decoder in (*self._all, self._long_decoder):
            decoder.close()
        self._model.shutdown(wait=True)

    def _decode(self, path: str | os.PathLike[str]) -> Recording:
        decoder = self._decoders.get()
        try:
            return decoder.decode(path)
        finally:
            self._decoders.put(decoder)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns errors of a decoder into refusals."""
    try:
        yield
    except BadAudio as error:
        reason = str(error).replace(" (features.max_seconds)", "")  # visitors cannot set it
        raise Refusal(422, f"the recording cannot be used: {reason}", error.reason) from None
    except UserError as error:
        log.error("%s", error)
        raise Refusal(
            503, "the server cannot decode recordings at present; try again later", None, 60
        ) from None
