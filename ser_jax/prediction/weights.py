"""Models in one file, in the safetensors format: parameters, statistics, temperatures."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ser_jax import config as configuration
from ser_jax import pretrained
from ser_jax.config import Config
from ser_jax.experiment import config_checks, fusion, run_directory
from ser_jax.features import domain, embeddings
from ser_jax.models import build
from ser_jax.prediction import ensemble
from ser_jax.prediction.ensemble import Ensemble
from ser_jax.protocols import speaker_rule
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.training import model_files

SECTIONS = ("features", "model")  # of the configuration, in the metadata
NOT_ENROLLED = ", not normalised by speaker because nobody is enrolled"
STRANGER = "nobody enrolled"  # flag of their answers


def tensors(found: Ensemble) -> dict[str, np.ndarray]:
    """Returns the arrays of all models by flat names.

    Returns:
      `<fold>-<seed>/params/…` f32, as trained; `<fold>-<seed>/statistics/…` f64, means and standard
      deviations of the training part; `<fold>-<seed>/temperature` f64 [], which divides the logits,
      where the model has one.
    """
    flat: dict[str, np.ndarray] = {}
    for name, model in zip(found.names, found.models, strict=True):
        statistics = {
            key: value for key, value in model.statistics._asdict().items() if value is not None
        }
        values: dict[str, Any] = {"params": model.params, "statistics": statistics}
        if model.description["temperature"] is not None:
            values["temperature"] = np.float64(model.description["temperature"])
        for place, leaf in _named(values):
            flat[f"{name}/{place}"] = np.asarray(leaf, order="C")
    return flat


def _named(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree.leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def shapes(
    config: Config, classes: int, embedded: tuple[int, int] = (0, 0)
) -> dict[str, tuple[int, ...]]:
    """Returns the names of the arrays that a model with K = `classes` needs → their shapes.

    `embedded` are the layers and the width of its embeddings, if it reads such.

    Raises:
      ValueError: If the system is no network.
    """
    if build.spec(config).build is None:
        raise ValueError(f"{config.system} has no export")
    model = build.build_model(config, classes)
    params = build.parameter_shapes(model, build.example(config, embedded))
    statistics = {}
    if build.uses_log_mel(config) or build.uses_embedded_frames(config):
        frame = np.zeros(build.frame_shape(config, embedded))
        statistics |= dict.fromkeys(("mean", "std"), frame)
    if build.uses_hsf(config):
        vector = np.zeros(build.vector_width(config, embedded))
        statistics |= dict.fromkeys(("hsf_mean", "hsf_std"), vector)
    needed = _named({"params": params, "statistics": statistics})
    return {place: leaf.shape for place, leaf in needed}


def write(path: Path, found: Ensemble, description: dict[str, Any]) -> None:
    """Writes the file.

    Args:
      path: The file.
      found: The models.
      description: Becomes the file's metadata, a string each: text as it is, everything else as
        JSON. `SECTIONS`, what the arrays depend on, are added, and "sha256", see `digest`.
    """
    from safetensors.numpy import save

    sections = {key: found.config[key].to_dict() for key in SECTIONS}
    metadata = {
        key: value if isinstance(value, str) else json.dumps(files.plain(value))
        for key, value in {**description, **sections}.items()
    }
    arrays = tensors(found)
    metadata["sha256"] = digest(arrays, metadata)
    files.write_bytes(path, save(arrays, metadata))


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Returns a SHA-256 over the metadata but "sha256", and the arrays in the order of their names.

    The metadata as JSON with sorted keys; of every array name, dtype and shape as text, and its
    bytes.
    """
    rest = {key: value for key, value in metadata.items() if key != "sha256"}
    sha256 = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(arrays):
        sha256.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        sha256.update(arrays[name].tobytes())
    return sha256.hexdigest()


def read(path: Path, called: Path | None = None) -> Ensemble:
    """Reads what `write` has written; keys of the configuration that it lacks have their defaults.

    A file of an earlier version has no digest and is not checked for damage. The description names
    the models by `called`, by default the path.

    Raises:
      UserError: If it is no such file, of a version with other keys, not as it was written, or an
        array that the configuration needs is missing or has another shape.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if "sha256" in metadata and metadata["sha256"] != digest(arrays, metadata):
            raise UserError(
                f"{path} is damaged or was edited by hand (its SHA-256 differs): export it again"
            )
        values = _parse(metadata)
        sections = {key: values[key] for key in SECTIONS} | {"system": metadata["system"]}
        config = configuration.from_json(sections)
        config_checks.check(config)
        common = {"system": metadata["system"], "classes": values["classes"]}
        embedded = (0, 0)
        if build.uses_embeddings(config):
            common["embeddings"] = facts = values["embeddings"]
            embedded = facts["layers"], facts["width"]
        needed = shapes(config, len(values["classes"]), embedded)
        common["domain"] = values["domain"]
        models = []
        for one in values["models"]:
            own = {}
            for place, shape in needed.items():
                name = f"{one['name']}/{place}"
                array = arrays.get(name)
                if array is None or array.shape != shape:
                    found = "is missing" if array is None else f"is {list(array.shape)}"
                    raise ValueError(f"{name} {found}; its configuration needs {list(shape)}")
                own[place] = array
            models.append(model_files.from_arrays({**one, **common}, own))
        final = all(model.description["fold"] == ensemble.FINAL for model in models)
        return Ensemble(
            config=config,
            models=tuple(models),
            names=tuple(one["name"] for one in values["models"]),
            classes=tuple(values["classes"]),
            description=ensemble.describe(tuple(models), called or path, final),
        )
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no models ({error}): name a run directory, or a file that ser-jax export"
            " --format=safetensors has written"
        ) from None


def _parse(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns what is read of the metadata; a ValueError names what `write` cannot have written."""
    found = {key: strict_json.parse(metadata[key]) for key in (*SECTIONS, "classes", "models")}
    for key in ("domain", "embeddings"):  # not in files of earlier versions
        found[key] = strict_json.parse(metadata.get(key, "null"))
    fits = {
        **{key: isinstance(found[key], dict) for key in SECTIONS},
        "classes": _is_list_of(str, found["classes"]),
        "models": _is_list_of(dict, found["models"]) and all(map(_is_model, found["models"])),
        "domain": found["domain"] is None or domain.is_description(found["domain"]),
        "embeddings": found["embeddings"] is None or embeddings.are_facts(found["embeddings"]),
    }
    if wrong := [key for key, fit in fits.items() if not fit]:
        raise ValueError(f"{', '.join(wrong)} in its metadata: another form than was written")
    return found


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_model(one: dict[str, Any]) -> bool:
    temperature = one.get("temperature")
    return (
        all(isinstance(one.get(key), str) for key in ("name", "fold"))
        and type(one.get("seed")) is int
        and (temperature is None or type(temperature) in (int, float) and temperature > 0)
    )


def read_models(path: Path) -> Ensemble:
    """Reads the models of a run directory, an exported file or a packaged model, as `path` names.

    Raises:
      UserError: If nothing is there, or what is there cannot be used.
    """
    place = pretrained.find(path)
    found = read(place, path) if place.is_file() else ensemble.read_ensemble(place)
    return dataclasses.replace(found, description=found.description + not_enrolled(found.config))


def read_config(path: Path) -> Config:
    """Reads the configuration of what `read_models` reads, or of a fusion; errors are the same."""
    place = pretrained.find(path)
    return read(place, path).config if place.is_file() else run_directory.read_config(place)


class Outline(NamedTuple):
    """What is known of models, or of a fusion, before they are made ready to predict."""

    config: Config
    classes: tuple[str, ...]
    description: str  # which models predict, in words


def outline(path: Path) -> Outline:
    """Reads what `path` names as `Predictor` does, without a device; errors are the same."""
    if together := fusion.read(path):
        classes = read_models(next(iter(together.folders.values()))).classes
        described = together.describe(path) + not_enrolled(together.config)
        return Outline(together.config, classes, described)
    found = read_models(path)
    return Outline(found.config, found.classes, found.description)


def not_enrolled(config: Config) -> str:
    """Returns what stands behind the description of models that normalise by speaker, else ""."""
    return "" if speaker_rule.rule(config) is None else NOT_ENROLLED
