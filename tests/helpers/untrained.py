"""Models of every neural system with random parameters, small enough to compile in a second."""

from typing import Any

import jax
import numpy as np

from ser_jax.config import Config, get_config
from ser_jax.data.standardise import Statistics
from ser_jax.features.functionals import COMPARE, WIDTHS
from ser_jax.models import build
from ser_jax.prediction.ensemble import Ensemble
from ser_jax.training.model_files import Model

DIMENSION = WIDTHS[COMPARE]
CLASSES = ("angry", "happy", "sad")
NEURAL = ("plain_crnn", "multi_crnn", "hsf_crnn", "end2you")


def small_config(system: str) -> Config:
    config = get_config()
    config.system = system
    m = config.model
    m.filters, m.lstm_units = 4, 8
    m.plain_head = m.hsf_head = m.hsf_dense = m.hsf_crnn_dense = m.multi_head = (
        m.multi_short_dense
    ) = (8,)
    m.end2you_filters, m.end2you_pools, m.end2you_units = 4, (2, 2), 8
    config.training.compilation_cache = False
    return config


def make(system: str, count: int = 1, config: Config = None) -> Ensemble:
    """Returns models of fold 03, seeds 0, 1, …; temperatures 1.5, 2.5, …, but None of the last."""
    config = config or small_config(system)
    module = build.build_model(config, len(CLASSES))
    inputs = build.example(config)
    models = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        params: Any = build.initial_params(module, jax.random.key(seed), inputs)
        # Far from 0, so that answers differ.
        params = jax.tree.map(lambda leaf, rng=rng: _moved(leaf, rng), params)
        temperature = None if count > 1 and seed == count - 1 else 1.5 + seed
        description = {"system": system, "classes": CLASSES, "fold": "03", "seed": seed}
        description["temperature"] = temperature
        models.append(Model(description, params, _statistics(config, rng)))
    names = tuple(f"03-{seed}" for seed in range(count))
    return Ensemble(config, tuple(models), names, CLASSES, f"{count} {system}")


def _moved(leaf: jax.Array, rng: np.random.Generator) -> np.ndarray:
    deviation = 0.4 * min(1, (64 / leaf.shape[0]) ** 0.5)
    return np.asarray(leaf + rng.normal(0, deviation, leaf.shape), np.float32)


def _statistics(config: Config, rng: np.random.Generator) -> Statistics:
    if build.uses_wave(config):
        return Statistics()
    hsf = (None, None)
    if build.uses_hsf(config):  # Means that float32 cannot hold, of functionals that vary little.
        width = build.vector_width(config)
        hsf = rng.uniform(-1, 1, width) + _magnitudes(width), rng.uniform(0.5, 2, width)
    return Statistics(rng.normal(-6, 1, 40), rng.uniform(1, 3, 40), *hsf)


def _magnitudes(width: int) -> np.ndarray:
    return 10.0 ** np.random.default_rng(0).integers(0, 8, width)


def functionals(rows: int, seed: int = 0) -> np.ndarray:
    """Returns functionals [rows, 6373] f32 near the models' means, some huge and some NaN."""
    rng = np.random.default_rng(seed)
    values = (_magnitudes(DIMENSION) + rng.normal(0, 1, (rows, DIMENSION))).astype(np.float32)
    values[:, :3] = np.nan, 1e13, -1e13
    return values
