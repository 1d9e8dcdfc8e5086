"""Finished runs without training: random parameters, written as training writes them."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import untrained

from ser_jax import run_directory
from ser_jax.arrays.standardise import Statistics
from ser_jax.models import build
from ser_jax.training import model_files

CLASSES = ("angry", "happy", "neutral", "sad")


def make_run(folder: Path, system: str, models: int = 2, **keys: Any) -> Path:
    """Writes a run of some models whose answers differ from recording to recording; `keys` are of `config.model`."""
    config = untrained.small_config(system)
    config.training.precision = "float32"
    config.model.activation = "relu"  # behind a sigmoid, random layers say the same of everything
    config.model.update(keys)
    run_directory.open_directory(folder, config)
    inputs = untrained.silent_inputs(config)
    model = build.build_model(config, len(CLASSES))
    for number in range(models):
        rng = np.random.default_rng(number)
        params = jax.device_get(jax.jit(model.init)(jax.random.key(number), inputs))["params"]
        statistics = Statistics(
            *(rng.normal(-6, 1, 40), rng.uniform(1, 3, 40), np.zeros(6373), np.full(6373, 100.0)),
        )
        # Random networks hardly have an opinion; a low temperature makes one of it.
        description = {"fold": f"s{number}", "seed": 0, "status": "finished", "classes": CLASSES, "system": system}
        description |= {"temperature": 0.2 + 0.1 * number, "best_epoch": 1, "config": json.loads(config.to_json())}
        model_files.write_model(folder / f"models/s{number}-0", description, params, statistics)
    (folder / "results.json").write_text("{}")
    return folder


def speech(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Noise whose loudness and colour change, so that every segment is another."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    time = np.arange(count) / rate
    tone = np.sin(2 * np.pi * (200 + 900 * np.sin(1.7 * time + seed)) * time)
    loud = 0.3 * np.abs(np.sin(2.3 * time + seed)) + 0.02
    return (loud * (0.7 * tone + 0.3 * rng.uniform(-1, 1, count))).astype(np.float32)
