"""The files of a trained trial, `models/<fold>-<seed>/`: all that prediction needs.

`model.npz` holds parameters and standardisation; `model.json`, written last, marks the trial as
finished, with a checksum of its own and the SHA-256 of `model.npz`. Between the two phases of a
trial that is refitted, `choice.json` holds the epoch that its validation part has chosen.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from ser_jax.data.standardise import Statistics
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError

SCHEMA = 1
DONE, DIVERGED = "done", "diverged"  # values of "status"
DESCRIPTION, ARRAYS, CHOICE = "model.json", "model.npz", "choice.json"


class Model(NamedTuple):
    """A trained trial."""

    description: dict[str, Any]  # content of `model.json`: fold, seed, status, configuration, …
    params: dict[str, Any]  # parameters as a nested dict of NumPy arrays
    statistics: Statistics  # standardisation of its training part, float64


def write_model(
    folder: Path, description: dict[str, Any], params: Any, statistics: Statistics | None
) -> None:
    """Writes a finished trial; one that has diverged has no parameters, only its description."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = None
    if params is not None:
        assert statistics is not None
        arrays: dict[str, Any] = dict(traverse_util.flatten_dict({"params": params}, sep="/"))
        present = {name: value for name, value in statistics._asdict().items() if value is not None}
        arrays |= {f"statistics/{name}": value for name, value in present.items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        files.write_bytes(folder / ARRAYS, buffer.getvalue())
    _write(folder / DESCRIPTION, {**description, "sha256": digest})


def write_choice(folder: Path, choice: dict[str, Any]) -> None:
    """Writes what the validation part of a trial has chosen, before the trial is refitted."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CHOICE, choice)


def _write(path: Path, description: dict[str, Any]) -> None:
    strict_json.write(path, {"schema": SCHEMA, **description})


def read_description(folder: Path) -> dict[str, Any] | None:
    """Returns the content of `model.json`, or None if the trial is not finished."""
    return _read(folder / DESCRIPTION)


def read_choice(folder: Path) -> dict[str, Any] | None:
    """Returns the status, best epoch, … that the validation part has chosen, or None."""
    return _read(folder / CHOICE) or read_description(folder)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    remedy = f"delete {path.parent} and run the training command again"
    description = strict_json.read(path, remedy=remedy, sealed=True)
    if description.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has schema {description.get('schema')}; this version reads schema {SCHEMA}"
        )
    return description


def check(folder: Path) -> None:
    """Checks the files of a trial against their digests; does nothing if it is not finished.

    Raises:
      UserError: If one is damaged or missing.
    """
    description = read_description(folder)
    if description is not None and description.get("sha256") is not None:
        _read_arrays(folder, description)


def read_model(folder: Path) -> Model:
    """Reads a finished trial.

    Raises:
      UserError: If the trial is not finished, has diverged, or its files do not fit together.
    """
    description = read_description(folder)
    if description is None or description.get("sha256") is None:
        raise UserError(
            f"{folder} holds no trained model; run the training command again to finish it"
        )
    content = _read_arrays(folder, description)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return from_arrays(description, arrays)
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{folder / ARRAYS} holds no model ({error}); delete {folder} and train it again"
        ) from None


def from_arrays(description: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Model:
    """Returns the model of arrays `params/…` and `statistics/…`, errors as they come."""
    tree = traverse_util.unflatten_dict({tuple(name.split("/")): arrays[name] for name in arrays})
    return Model(description, tree["params"], Statistics(**tree.get("statistics", {})))


def _read_arrays(folder: Path, description: dict[str, Any]) -> bytes:
    path = folder / ARRAYS
    remedy = f"delete {folder} and train it again"
    if not path.is_file():
        raise UserError(f"{path} is missing, which {DESCRIPTION} describes; {remedy}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise UserError(
            f"{path} is not the file that {DESCRIPTION} describes (SHA-256 differs); {remedy}"
        )
    return content


def list_models(workdir: Path) -> list[Path]:
    """Returns the folders of all finished trials under `workdir/models`, sorted."""
    return sorted(path.parent for path in (workdir / "models").glob(f"*/{DESCRIPTION}"))
