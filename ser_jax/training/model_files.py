"""`models/<fold>-<seed>/`: everything that prediction needs of a trained run, in one JSON and one array file.

`model.json` is written last: where it exists, the run is finished. It holds the digest of `model.npz`, so a damaged
file is noticed. A run that is trained again after its choice of the epoch has `choice.json`, written in between.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from ser_jax import atomic
from ser_jax.arrays.standardise import Statistics
from ser_jax.errors import UserError

SCHEMA = 1
DESCRIPTION, ARRAYS, CHOICE = "model.json", "model.npz", "choice.json"


class Model(NamedTuple):
    """A trained run.

    Attributes:
      description: Content of `model.json`: fold, seed, status, best epoch, classes, configuration.
      params: Parameters as a nested dict of NumPy arrays.
      statistics: Standardisation of its training part, float64.
    """

    description: dict[str, Any]
    params: dict[str, Any]
    statistics: Statistics


def write_model(folder: Path, description: dict[str, Any], params: Any, statistics: Statistics | None) -> None:
    """Writes a finished run; one without parameters (diverged) as its description only."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = None
    if params is not None:
        assert statistics is not None
        arrays: dict[str, Any] = dict(traverse_util.flatten_dict({"params": params}, sep="/"))
        arrays |= {f"statistics/{name}": value for name, value in statistics._asdict().items() if value is not None}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        atomic.write_bytes(folder / ARRAYS, buffer.getvalue())
    atomic.write_json(folder / DESCRIPTION, {"schema": SCHEMA, **description, "sha256": digest})


def write_choice(folder: Path, choice: dict[str, Any]) -> None:
    """Writes what the validation part of a run has chosen, before the run is trained again."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(folder / CHOICE, {"schema": SCHEMA, **choice})


def read_description(folder: Path) -> dict[str, Any] | None:
    """Returns the content of a finished run's `model.json`, or None if the run is not finished."""
    return _read(folder / DESCRIPTION)


def read_choice(folder: Path) -> dict[str, Any] | None:
    """Returns what the validation part of a run has chosen (status, best epoch, …), or None if it has not yet."""
    return _read(folder / CHOICE) or read_description(folder)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); delete {path.parent} and run the training command again"
        ) from None
    if description.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {description.get('schema')}; this version reads schema {SCHEMA}")
    return description


def read_model(folder: Path) -> Model:
    """Reads a finished run.

    Raises:
      UserError: If the run is not finished, has diverged, or its files do not fit together.
    """
    description = read_description(folder)
    if description is None or description["sha256"] is None:
        raise UserError(f"{folder} holds no trained model; run the training command again to finish it")
    path = folder / ARRAYS
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise UserError(
            f"{path} is not the file that {DESCRIPTION} describes (SHA-256 differs); delete {folder} and train it again"
        )
    with np.load(io.BytesIO(content)) as arrays:
        flat = {tuple(name.split("/")): arrays[name] for name in arrays.files}
    tree = traverse_util.unflatten_dict(flat)
    return Model(description, tree["params"], Statistics(**tree.get("statistics", {})))


def list_models(workdir: Path) -> list[Path]:
    """Returns the folders of all finished runs under `workdir/models`, sorted."""
    return sorted(path.parent for path in (workdir / "models").glob(f"*/{DESCRIPTION}"))
