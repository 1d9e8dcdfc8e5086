"""Parameters, statistics and temperatures of models in the safetensors format, for programs of any language."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ser_jax import atomic
from ser_jax.prediction.members import Members


def tensors(found: Members) -> dict[str, np.ndarray]:
    """Returns the arrays of all models by flat names.

    Returns:
      `<fold>-<seed>/params/…` f32, as trained; `<fold>-<seed>/statistics/…` f64, means and standard deviations of the
      training part; `<fold>-<seed>/temperature` f64 [], which divides the logits, where the model has one.
    """
    flat: dict[str, np.ndarray] = {}
    for name, model in zip(found.names, found.models, strict=True):
        statistics = {key: value for key, value in model.statistics._asdict().items() if value is not None}
        values: dict[str, Any] = {"params": model.params, "statistics": statistics}
        if model.description["temperature"] is not None:
            values["temperature"] = np.float64(model.description["temperature"])
        for path, leaf in jax.tree.leaves_with_path(values):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            flat[f"{name}/{place}"] = np.asarray(leaf, order="C")
    return flat


def write(path: Path, found: Members, description: dict[str, Any]) -> None:
    """Writes the file.

    Args:
      path: The file.
      found: The models.
      description: Becomes the file's metadata, a string each: text as it is, everything else as JSON. The keys
        "features" and "model", the sections of the configuration that the arrays depend on, are added.
    """
    from safetensors.numpy import save

    sections = {key: found.config[key].to_dict() for key in ("features", "model")}
    metadata = {
        key: value if isinstance(value, str) else json.dumps(atomic.plain(value))
        for key, value in {**description, **sections}.items()
    }
    atomic.write_bytes(path, save(tensors(found), metadata))
