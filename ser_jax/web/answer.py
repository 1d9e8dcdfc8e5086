"""The response to an upload: prediction, waveform, log-mel picture and timeline."""

import base64
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pydantic

from ser_jax.experiment import setup
from ser_jax.features import domain
from ser_jax.features.audio import SAMPLE_RATE, Recording
from ser_jax.features.logmel import log_mel
from ser_jax.features.pcm import FLAGS
from ser_jax.prediction import timeline_files
from ser_jax.prediction.ensemble import Decision
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.timeline import Following, Timeline
from ser_jax.prediction.weights import STRANGER
from ser_jax.web.engine import Engine
from ser_jax.web.limits import Refusal

MOST_COLUMNS = 600  # of what is drawn; more than a page shows
_RANGE = 16.0  # of the picture: natural logarithm of power, 70 dB below the loudest
_BLOCK = 5 * SAMPLE_RATE  # samples; between blocks others have their turn


class Moment(pydantic.BaseModel):
    """Probabilities of a window of a recording, and of everything up to its end."""

    start: float = pydantic.Field(description="Start of the window in s.")
    end: float = pydantic.Field(description="Its end in s.")
    so_far: dict[str, float] = pydantic.Field(
        description="Class → probability in [0, 1], of everything up to the end."
    )
    window: dict[str, float] = pydantic.Field(
        description="Class → probability in [0, 1], of the window alone; empty without speech."
    )


class Waveform(pydantic.BaseModel):
    """The sound in columns of equal length."""

    low: list[float] = pydantic.Field(description="Smallest sample of each column, in [-1, 1].")
    high: list[float] = pydantic.Field(description="Largest sample of each column.")


class Picture(pydantic.BaseModel):
    """The log-mel spectrogram in columns of equal length."""

    columns: int
    bands: int
    pixels: str = pydantic.Field(
        description=(
            "Base64 of columns x bands bytes, column after column, low bands first; 255 is the"
            " loudest."
        )
    )


class Answer(pydantic.BaseModel):
    """The response to an upload."""

    label: str | None = pydantic.Field(
        description='The class; null below the threshold, "no speech" where there is none.'
    )
    probabilities: dict[str, float] = pydantic.Field(
        description="Class → probability in [0, 1]; they add up to 1. Empty without speech."
    )
    seconds: float = pydantic.Field(description="Length of the recording.")
    flags: list[str] = pydantic.Field(
        description=f"What is odd about it, of: {', '.join((*FLAGS, *domain.FLAGS, STRANGER))}."
    )
    long: bool = pydantic.Field(
        description=(
            "Whether it is longer than the models can judge as a whole: label and probabilities are"
            " then those at the end of the timeline."
        )
    )
    waveform: Waveform
    picture: Picture | None = pydantic.Field(description="Null if it is long.")
    timeline: list[Moment] | None = pydantic.Field(
        description=(
            f"At most {MOST_COLUMNS} moments of the chosen classes; null for short recordings of"
            " systems that need the whole recording."
        )
    )
    files: dict[str, str] | None = pydantic.Field(
        description="Format → the whole timeline as a file, as requested; null without a timeline."
    )


async def make(
    engine: Engine, recording: Recording, decision: Decision, formats: Sequence[str]
) -> Answer:
    """Predicts and describes a recording.

    Args:
      engine: The models.
      recording: What was decoded.
      decision: How probabilities become answers.
      formats: Formats of the timeline's files, of `timeline_files.TEXTS`.

    Returns:
      The answer.

    Raises:
      UserError: If the recording cannot be used.
    """
    waveform, picture, found = await engine.compute(_predict, engine.predictor, recording, decision)
    timeline = None
    if not engine.not_live:
        samples = recording.samples[:, None]

        async def blocks() -> AsyncIterator[np.ndarray]:
            for first in range(0, len(samples), _BLOCK):
                yield samples[first : first + _BLOCK]

        timeline = await _follow(engine, SAMPLE_RATE, blocks(), decision)
    return Answer(
        label=found.label,
        probabilities=found.probabilities,
        seconds=recording.seconds,
        flags=list(dict.fromkeys((*recording.flags, *found.flags))),
        long=False,
        waveform=waveform,
        picture=picture,
        timeline=timeline and to_moments(timeline),
        files=timeline and to_files(timeline, formats),
    )


async def make_long(
    engine: Engine,
    path: str | os.PathLike[str],
    decision: Decision,
    formats: Sequence[str],
    is_gone: Callable[[], Awaitable[bool]],
) -> Answer:
    """Follows a recording that is too long to be judged as a whole.

    Args:
      engine: The models.
      path: The upload.
      decision: How probabilities become answers.
      formats: Formats of the timeline's files, of `timeline_files.TEXTS`.
      is_gone: Whether the client has gone, so that the rest need not be computed.

    Returns:
      The answer.

    Raises:
      Refusal: If the recording cannot be decoded, or the client has gone.
      UserError: If its samples cannot be used.
    """
    async with engine.opened(path) as (rate, blocks):

        async def chunks() -> AsyncIterator[np.ndarray]:
            async for block in blocks:
                if await is_gone():
                    raise Refusal(400, "the client has gone before the answer was complete")
                yield block

        timeline = await _follow(engine, rate, chunks(), decision)
    low, high = timeline.envelope.ranges().T
    return Answer(
        label=timeline.answer.label,
        probabilities=timeline.answer.probabilities,
        seconds=timeline.seconds,
        flags=list(timeline.flags),
        long=True,
        waveform=envelope(low, high),
        picture=None,
        timeline=to_moments(timeline),
        files=to_files(timeline, formats),
    )


async def _follow(
    engine: Engine, rate: int, blocks: AsyncIterator[np.ndarray], decision: Decision
) -> Timeline:
    follower = await engine.open_follower(rate)
    following = Following(follower, decision, engine.plan, engine.predictor.description)
    async for block in blocks:
        await engine.compute(following.push, block)  # others have their turn in between
    return await engine.compute(following.finish, "", 0.0)


def envelope(low: np.ndarray, high: np.ndarray) -> Waveform:
    """Returns the smallest of `low` and the largest of `high` [S] in each column."""
    edges = _edges(len(low))
    # float32 would print all the digits of its binary value
    lowest = np.minimum.reduceat(low.astype(np.float64), edges)
    highest = np.maximum.reduceat(high.astype(np.float64), edges)
    # Adding 0 makes 0 of -0.
    return Waveform(
        low=(np.round(lowest, 3) + 0.0).tolist(), high=(np.round(highest, 3) + 0.0).tolist()
    )


def picture(frames: np.ndarray) -> Picture:
    """Returns log-mel frames [F, M] as bytes, averaged over the frames of each column."""
    edges = _edges(len(frames))
    widths = np.diff(np.append(edges, len(frames)))
    columns = np.add.reduceat(frames, edges, axis=0) / widths[:, None]
    shares = np.clip((columns - (columns.max() - _RANGE)) / _RANGE, 0, 1)
    pixels = base64.b64encode(np.round(255 * shares).astype(np.uint8).tobytes()).decode("ascii")
    return Picture(columns=len(columns), bands=frames.shape[1], pixels=pixels)


def to_json(moment: Any) -> Moment:
    """Returns a moment of a stream as it is sent."""
    return Moment(start=moment.start, end=moment.end, so_far=moment.so_far, window=moment.window)


def to_moments(timeline: Timeline) -> list[Moment]:
    """Returns at most `MOST_COLUMNS` rows of a timeline, evenly spaced."""
    names = timeline.decision.classes

    def shares(row: list[float]) -> dict[str, float]:
        # NaN where there is no answer.
        return {} if math.isnan(row[0]) else dict(zip(names, row, strict=True))

    kept = slice(None, None, -(-len(timeline.times) // MOST_COLUMNS) or 1)
    rows = (array[kept].tolist() for array in (timeline.times, timeline.so_far, timeline.window))
    return [
        Moment(start=start, end=end, so_far=shares(so_far), window=shares(window))
        for (start, end), so_far, window in zip(*rows, strict=True)
    ]


def to_files(timeline: Timeline, formats: Sequence[str]) -> dict[str, str]:
    """Returns format → content of a file of the whole timeline."""
    return {form: timeline_files.text(form, timeline) for form in formats}


def _edges(count: int) -> np.ndarray:
    """Returns where columns begin: at most `MOST_COLUMNS`, of one entry at least."""
    return np.arange(min(count, MOST_COLUMNS)) * count // min(count, MOST_COLUMNS)


def _predict(
    predictor: Predictor, recording: Recording, decision: Decision
) -> tuple[Waveform, Picture, Any]:
    found = predictor.predict(
        recording.samples, SAMPLE_RATE, classes=decision.classes, threshold=decision.threshold
    )
    frames = log_mel(recording.samples, setup.logmel_settings(predictor.config))
    return envelope(recording.samples, recording.samples), picture(frames), found
