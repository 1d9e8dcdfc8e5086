"""`models/<fold>-<seed>/`: everything that prediction needs of a trained run, in one JSON and one array file.

`model.json` is written last: where it exists, the run is finished. It is sealed and holds the digest of `model.npz`,
so a damaged file is noticed. A run that is trained again after its choice of the epoch has `choice.json`, written in
between.
"""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from ser_jax import atomic, strict_json
from ser_jax.arrays.standardise import Statistics
from ser_jax.errors import UserError
from ser_jax.training import seal
from ser_jax.training.outcome import DIVERGED

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
    _write(folder / DESCRIPTION, {**description, "sha256": digest})


def write_choice(folder: Path, choice: dict[str, Any]) -> None:
    """Writes what the validation part of a run has chosen, before the run is trained again."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CHOICE, choice)


def _write(path: Path, description: dict[str, Any]) -> None:
    atomic.write_json(path, seal.sealed(atomic.plain({"schema": SCHEMA, **description})))


def read_description(folder: Path) -> dict[str, Any] | None:
    """Returns the content of a finished run's `model.json`, or None if the run is not finished."""
    return _read(folder / DESCRIPTION)


def read_choice(folder: Path) -> dict[str, Any] | None:
    """Returns what the validation part of a run has chosen (status, best epoch, …), or None if it has not yet."""
    return _read(folder / CHOICE) or read_description(folder)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    description = strict_json.read(path, remedy=f"delete {path.parent} and run the training command again")
    if description.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {description.get('schema')}; this version reads schema {SCHEMA}")
    if not seal.intact(description):
        raise UserError(
            f"{path} is damaged (its seal does not fit); delete {path.parent} and run the training command again"
        )
    return description


def check(folder: Path) -> None:
    """Checks the files of a finished run against their digests; does nothing if it is not finished.

    Raises:
      UserError: If one is damaged or missing.
    """
    description = read_description(folder)
    if description is not None and description.get("sha256") is not None:
        _read_arrays(folder, description)


def read_model(folder: Path) -> Model:
    """Reads a finished run.

    Raises:
      UserError: If the run is not finished, has diverged, or its files do not fit together.
    """
    description = read_description(folder)
    if description is None or description.get("sha256") is None:
        raise UserError(f"{folder} holds no trained model; run the training command again to finish it")
    content = _read_arrays(folder, description)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            flat = {tuple(name.split("/")): arrays[name] for name in arrays.files}
        tree = traverse_util.unflatten_dict(flat)
        return Model(description, tree["params"], Statistics(**tree.get("statistics", {})))
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder / ARRAYS} holds no model ({error}); delete {folder} and train it again") from None


def _read_arrays(folder: Path, description: dict[str, Any]) -> bytes:
    path = folder / ARRAYS
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise UserError(
            f"{path} is not the file that {DESCRIPTION} describes (SHA-256 differs); delete {folder} and train it again"
        )
    return content


def list_models(workdir: Path) -> list[Path]:
    """Returns the folders of all finished runs under `workdir/models`, sorted."""
    return sorted(path.parent for path in (workdir / "models").glob(f"*/{DESCRIPTION}"))


def list_trained(workdir: Path) -> dict[Path, dict[str, Any]]:
    """Returns the folders of all finished runs that have not diverged, sorted, with the content of their `model.json`.

    Raises:
      UserError: If there is none.
    """
    descriptions = ((folder, read_description(folder)) for folder in list_models(workdir))
    trained = {folder: found for folder, found in descriptions if found and found["status"] != DIVERGED}
    if not trained:
        raise UserError(f"{workdir} holds no trained model; run the training command again to finish it")
    return trained
