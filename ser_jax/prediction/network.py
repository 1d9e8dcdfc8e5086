"""Logits of a neural system for recordings of any length.

Recordings are padded to a few lengths, so that few compiled programs serve all.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.config import Config
from ser_jax.data import padding
from ser_jax.data.inputs import Inputs, covered_frames
from ser_jax.data.standardise import Statistics, standardise
from ser_jax.experiment import setup
from ser_jax.features.logmel import silence
from ser_jax.models import build
from ser_jax.models.layers import ComputeOptions
from ser_jax.training.execution.program_cache import use_compilation_cache
from ser_jax.training.model_files import Model

SHORTEST = 128  # frames of the smallest padded length: 1.3 s; every other is twice the one before
MOST_ROWS = 32  # of a batch
# Frames and samples of a batch, so that long recordings do not need much memory: 5 and 1.4 minutes.
MOST_FRAMES, MOST_SAMPLES = 32_768, 1_310_720


class Values(NamedTuple):
    """Features of N recordings; what no model reads is left out."""

    # N arrays of frames [F, M] f32; of embeddings [F, L, D]
    log_mel: Sequence[np.ndarray] = ()
    hsf: np.ndarray | None = None  # [N, D] f32, functionals, embeddings or both; or None
    waves: Sequence[np.ndarray] = ()  # N arrays [S] i16


class Network:
    """The models of one run on the default device, with one program per padded length."""

    def __init__(self, config: Config, models: Sequence[Model], classes: int):
        """Puts the models, trained with `config`, on the device; `classes` is their number K."""
        self._config = config
        self._segmentations = build.segmentations(config)
        self._precision = setup.matmul_precision(config)
        if config.training.compilation_cache:
            use_compilation_cache()
        compute = ComputeOptions(jnp.bfloat16 if config.training.precision == "bf16" else None)
        model = build.build_model(config, classes, compute)
        self._score = jax.jit(functools.partial(_score, model))
        # Near all means: what is huge is subtracted in float64, and float32 is exact for the rest.
        means = [m.statistics.hsf_mean for m in models if m.statistics.hsf_mean is not None]
        self._centre = np.mean(means, axis=0) if means else None
        self._models = [jax.device_put((m.params, self._shifted(m.statistics))) for m in models]

    def logits(self, values: Values, models: Sequence[int] | None = None) -> np.ndarray:
        """Returns logits [R, N, K] f64 of R models for the features of N recordings.

        `models` are the numbers of those to use; None: all.
        """
        chosen = self._models if models is None else [self._models[n] for n in models]
        count = len(values.waves) or len(values.log_mel)
        found: list[list[Any]] = [[] for _ in chosen]
        order = []
        with jax.default_matmul_precision(self._precision):
            for members, inputs in self._batches(values):
                order.append(members)
                batch = jax.device_put(inputs)
                scores = [self._score(*arrays, batch) for arrays in chosen]
                for rows, logits in zip(found, jax.device_get(scores), strict=True):
                    rows.append(logits[: len(members)])
        place = np.empty(count, np.int64)
        place[np.concatenate(order)] = np.arange(count)
        return np.stack([np.concatenate(rows).astype(np.float64)[place] for rows in found])

    def _batches(self, values: Values) -> Iterator[tuple[np.ndarray, Inputs]]:
        """Yields numbers of recordings and their inputs, filled up with copies of the last row."""
        if build.uses_wave(self._config):
            chunk = self._config.model.end2you_chunk
            covered = np.array([padding.chunk_count(len(wave), chunk) for wave in values.waves])
            most, shortest = MOST_SAMPLES // chunk, SHORTEST // 4
        else:
            lengths = np.array([len(frames) for frames in values.log_mel])
            covered = covered_frames(lengths, self._segmentations)
            most, shortest = MOST_FRAMES, SHORTEST
        sizes = shortest * 2 ** np.ceil(np.log2(np.maximum(covered / shortest, 1))).astype(np.int64)
        for size in np.unique(sizes).tolist():
            members = np.flatnonzero(sizes == size)
            rows = 1 if len(members) == 1 else max(1, min(MOST_ROWS, most // size))
            for first in range(0, len(members), rows):
                part = members[first : first + rows]
                filled = np.append(part, np.repeat(part[-1:], rows - len(part)))
                yield part, self._pad(values, filled, size)

    def _pad(self, values: Values, members: np.ndarray, size: int) -> Inputs:
        numbers = members.tolist()
        if build.uses_wave(self._config):
            chunk, waves = self._config.model.end2you_chunk, [values.waves[n] for n in numbers]
            lengths = np.array([padding.chunk_count(len(wave), chunk) for wave in waves], np.int32)
            return Inputs(lengths, wave=padding.pad_waves(waves, size, chunk))
        frames = [values.log_mel[n] for n in numbers]
        quiet = silence(setup.logmel_settings(self._config))
        minimum = max(segmentation.window for segmentation in self._segmentations)
        hsf = None
        if self._centre is not None:  # else others read them
            assert values.hsf is not None
            hsf = (values.hsf[members] - self._centre).astype(np.float32)
        return Inputs(
            np.array([len(rows) for rows in frames], np.int32),
            frames=padding.pad_frames([rows[:size] for rows in frames], size, minimum, quiet),
            hsf=hsf,
        )

    def _shifted(self, statistics: Statistics) -> Statistics:
        if self._centre is not None:
            statistics = statistics._replace(hsf_mean=statistics.hsf_mean - self._centre)
        return Statistics(
            *(None if value is None else value.astype(np.float32) for value in statistics)
        )


def _score(model: Any, params: Any, statistics: Statistics, inputs: Inputs) -> jax.Array:
    """Logits [B, K] of one model."""
    return model.apply({"params": params}, standardise(inputs, statistics, jnp))
