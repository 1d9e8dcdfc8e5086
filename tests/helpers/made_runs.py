"""Finished runs without training: random parameters, written as training writes them."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import untrained

from ser_jax.data.standardise import Statistics
from ser_jax.experiment import run_directory
from ser_jax.models import build
from ser_jax.training import model_files

CLASSES = ("angry", "happy", "neutral", "sad")


def make_run(
    folder: Path, system: str, models: int = 2, features: dict[str, Any] | None = None, **keys: Any
) -> Path:
    """Writes a run of models whose predictions depend on the recording.

    `features` and `keys` (`config.model`) are of the configuration.
    """
    config = untrained.small_config(system)
    config.training.precision = "float32"
    config.model.activation = "relu"  # after a sigmoid, random layers give equal logits
    config.model.update(keys)
    config.features.update(features or {})
    run_directory.open_directory(folder, config)
    inputs = build.example(config)
    model = build.build_model(config, len(CLASSES))
    for number in range(models):
        rng = np.random.default_rng(number)
        params = jax.device_get(build.initial_params(model, jax.random.key(number), inputs))
        bands = rng.normal(-6, 1, 40), rng.uniform(1, 3, 40)
        hsf = (np.zeros(6373), np.full(6373, 100.0)) if build.uses_hsf(config) else (None, None)
        statistics = Statistics(*bands, *hsf)
        description = {"fold": f"s{number}", "seed": 0, "status": "finished", "best_epoch": 1}
        description |= {"system": system, "classes": CLASSES}
        description["config"] = json.loads(config.to_json())
        # Random networks are hardly confident; a low temperature makes them so.
        description["temperature"] = 0.2 + 0.1 * number
        model_files.write_model(folder / f"models/s{number}-0", description, params, statistics)
    (folder / "results.json").write_text("{}")
    return folder


def speech(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Returns noise whose loudness and spectrum change, so that all segments differ."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    time = np.arange(count) / rate
    tone = np.sin(2 * np.pi * (200 + 900 * np.sin(1.7 * time + seed)) * time)
    loud = 0.3 * np.abs(np.sin(2.3 * time + seed)) + 0.02
    return (loud * (0.7 * tone + 0.3 * rng.uniform(-1, 1, count))).astype(np.float32)
