"""What is said about an upload: the prediction, the sound as a line and as a picture, and how it moves in time."""

import base64
from typing import Any

import numpy as np
import pydantic

from ser_jax import machinery
from ser_jax.features.audio import SAMPLE_RATE, Recording
from ser_jax.features.logmel import log_mel
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.rule import Rule
from ser_jax.web.engine import Engine

MOST_COLUMNS = 600  # of what is drawn; more than a page shows
_RANGE = 16.0  # of the picture: natural logarithm of power, 70 dB below the loudest
_BLOCK = 5 * SAMPLE_RATE  # samples; between blocks others have their turn


class Moment(pydantic.BaseModel):
    """What is said about a stretch of a recording, and about all of it up to there."""

    start: float = pydantic.Field(description="Start of the window in s.")
    end: float = pydantic.Field(description="Its end in s.")
    so_far: dict[str, float] = pydantic.Field(description="Class → share in [0, 1], of everything up to the end.")
    window: dict[str, float] = pydantic.Field(description="Class → share in [0, 1], of the window alone.")


class Waveform(pydantic.BaseModel):
    """The sound in columns of equal length."""

    low: list[float] = pydantic.Field(description="Smallest sample of each column, in [-1, 1].")
    high: list[float] = pydantic.Field(description="Largest sample of each column.")


class Picture(pydantic.BaseModel):
    """The log-mel spectrogram in columns of equal length."""

    columns: int
    bands: int
    pixels: str = pydantic.Field(
        description="Base64 of columns x bands bytes, column after column, low bands first; 255 is the loudest."
    )


class Answer(pydantic.BaseModel):
    """What is said about an upload."""

    label: str | None = pydantic.Field(description="The class; null below the threshold.")
    probabilities: dict[str, float] = pydantic.Field(description="Class → share in [0, 1]; they add up to 1.")
    seconds: float = pydantic.Field(description="Length of the recording.")
    flags: list[str] = pydantic.Field(description="Oddities: clipped, odd rate (not 16 kHz), several channels.")
    waveform: Waveform
    picture: Picture
    timeline: list[Moment] | None = pydantic.Field(description="Null for systems that need the whole recording.")


async def make(engine: Engine, recording: Recording, rule: Rule) -> Answer:
    """Predicts and describes a recording.

    Args:
      engine: The models.
      recording: What was decoded.
      rule: How probabilities become answers; the timeline keeps all classes.

    Returns:
      The answer.

    Raises:
      UserError: If the recording cannot be used.
    """
    waveform, picture, found = await engine.compute(_predict, engine.predictor, recording, rule)
    return Answer(
        label=found.label,
        probabilities=found.probabilities,
        seconds=recording.seconds,
        flags=list(recording.flags),
        waveform=waveform,
        picture=picture,
        timeline=None if engine.not_live else await _timeline(engine, recording.samples),
    )


def envelope(samples: np.ndarray) -> Waveform:
    """Returns the smallest and the largest sample of each column of [S] samples."""
    edges = _edges(len(samples))
    wide = samples.astype(np.float64)  # float32 would be written with all the digits of its binary value
    low, high = np.minimum.reduceat(wide, edges), np.maximum.reduceat(wide, edges)
    # Adding 0 makes 0 of -0.
    return Waveform(low=(np.round(low, 3) + 0.0).tolist(), high=(np.round(high, 3) + 0.0).tolist())


def picture(frames: np.ndarray) -> Picture:
    """Returns log-mel frames [F, M] as bytes, averaged over the frames of each column."""
    edges = _edges(len(frames))
    widths = np.diff(np.append(edges, len(frames)))
    columns = np.add.reduceat(frames, edges, axis=0) / widths[:, None]
    shares = np.clip((columns - (columns.max() - _RANGE)) / _RANGE, 0, 1)
    pixels = base64.b64encode(np.round(255 * shares).astype(np.uint8).tobytes()).decode("ascii")
    return Picture(columns=len(columns), bands=frames.shape[1], pixels=pixels)


def to_json(moment: Any) -> Moment:
    """Returns what a stream says as it is sent."""
    return Moment(start=moment.start, end=moment.end, so_far=moment.so_far, window=moment.window)


def _edges(count: int) -> np.ndarray:
    """Returns where columns begin: at most `MOST_COLUMNS`, of one entry at least."""
    return np.arange(min(count, MOST_COLUMNS)) * count // min(count, MOST_COLUMNS)


def _predict(predictor: Predictor, recording: Recording, rule: Rule) -> tuple[Waveform, Picture, Any]:
    found = predictor.predict(recording.samples, SAMPLE_RATE, classes=rule.classes, threshold=rule.threshold)
    frames = log_mel(recording.samples, machinery.logmel_settings(predictor.config))
    return envelope(recording.samples), picture(frames), found


async def _timeline(engine: Engine, samples: np.ndarray) -> list[Moment]:
    session, moments = await engine.open_stream(SAMPLE_RATE), []
    for first in range(0, len(samples), _BLOCK):
        moments += await engine.compute(session.push, samples[first : first + _BLOCK])
    moments = moments[:: -(-len(moments) // MOST_COLUMNS) or 1]
    return [to_json(moment) for moment in moments]
