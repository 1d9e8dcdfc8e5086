"""What models read of one recording after every change of the stress test.

This module must not import jax: worker processes load it.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ser_jax.features import audio, changes
from ser_jax.features.extraction import compute_kind
from ser_jax.features.logmel import LogMelSettings
from ser_jax.features.pcm import BadAudio


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A recording that is to be changed."""

    id: str  # its id, from which its random draws follow
    path: Path  # the file
    start: float | None  # start of the span in s, or None
    end: float | None  # its end in s, or None
    voices: tuple[np.ndarray, ...]  # [S] f32 each, for babble


@dataclasses.dataclass(frozen=True, slots=True)
class Stressed:
    """What models read of a changed recording."""

    flags: tuple[str, ...]  # of `pcm.FLAGS`
    features: Mapping[str, np.ndarray]  # kind → array, see `extraction.compute_kind`


def compute(
    job: Job,
    *,
    kinds: Sequence[str],
    settings: LogMelSettings,
    feature_set: str,
    mix: audio.Mix,
    max_seconds: float,
    seed: int,
) -> dict[str, Stressed | BadAudio] | BadAudio:
    """Decodes a recording once; returns change → features as of a file that sounds so.

    `BadAudio` stands for what cannot be used: the recording, or it after a change.
    """
    try:
        wave = changes.decode(job.path, job.start, job.end, mix, max_seconds)
    except BadAudio as error:
        return error
    number = zlib.crc32(job.id.encode(errors="surrogateescape")) ^ seed
    found: dict[str, Stressed | BadAudio] = {}
    for name, change in changes.changes(job.voices).items():
        try:
            changed = change(wave, audio.SAMPLE_RATE, number)
            recording = changes.as_recorded(changed, mix)
            arrays = {kind: compute_kind(kind, recording, settings, feature_set) for kind in kinds}
            found[name] = Stressed(recording.flags, arrays)
        except BadAudio as error:
            found[name] = error
    return found
