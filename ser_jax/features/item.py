"""One recording or span: what the feature store should hold of it, and how that is computed.

This module must not import jax: worker processes load it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ser_jax.features import audio
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.hsf import functionals
from ser_jax.features.logmel import LogMelSettings, log_mel
from ser_jax.features.store import FeatureStore
from ser_jax.features.wave import to_int16


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """What is wanted of a recording or span. Utterances with equal bytes and span share one.

    Attributes:
      name: Key of its "audio" entry.
      path: One of the files with these bytes.
      start: Start of the span in seconds, or None.
      end: End of the span in seconds, or None.
      cost: Rough amount of samples, in bytes.
      keys: Kind of entry → key in the store.
    """

    name: str
    path: Path
    start: float | None
    end: float | None
    cost: float
    keys: Mapping[str, str]


def extract_one(item: Item, store_root: Path, settings: LogMelSettings, max_seconds: float) -> BadAudio | None:
    """Decodes a recording once and stores the wanted kinds of features; runs in a thread or in a worker process.

    Args:
      item: The recording and the kinds.
      store_root: Folder of the feature store.
      settings: The log-mel front end.
      max_seconds: Longest recording or span that is read.

    Returns:
      Why the recording is bad, or None if everything is stored. No array: those would cross a pipe.

    Raises:
      UserError: If the store cannot be written.
    """
    found = compute_one(item, settings, max_seconds)
    if isinstance(found, BadAudio):
        return found
    feature_store = FeatureStore(store_root)
    for kind, key in item.keys.items():
        feature_store.put(key, found[kind])
    return None


def compute_one(item: Item, settings: LogMelSettings, max_seconds: float) -> dict[str, np.ndarray] | BadAudio:
    """Decodes a recording once; returns kind → array for the wanted kinds, or why the recording is bad."""
    try:
        recording = audio.decode(item.path, item.start, item.end, max_seconds=max_seconds)
        return {kind: compute_kind(kind, recording, settings) for kind in item.keys}
    except BadAudio as error:
        return error


def compute_kind(kind: str, recording: audio.Recording, settings: LogMelSettings) -> np.ndarray:
    """Computes one kind of features of a recording: "logmel", "hsf", "wave", or what "audio" tells of it.

    Raises:
      BadAudio: If openSMILE gives NaN.
    """
    if kind == "logmel":
        return log_mel(recording.samples, settings)
    if kind == "hsf":
        values = functionals(recording.samples)
        if np.isnan(values).any():
            raise BadAudio("non-finite", f"openSMILE gives NaN for {np.isnan(values).sum()} of {len(values)} values")
        return values
    if kind == "wave":
        return to_int16(recording.samples)
    clipped = "clipped" in recording.flags
    return np.array([recording.seconds, recording.rate, recording.channels, clipped], np.float64)
