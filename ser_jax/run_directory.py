"""The run directory: what stands in it before training, and whether it belongs to this configuration."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from ser_jax import __version__, atomic, strict_json
from ser_jax.config import NEUTRAL_KEYS, Config, from_json
from ser_jax.errors import UserError
from ser_jax.evaluation import finished
from ser_jax.protocols.protocol import Protocol

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "soundfile", "soxr"),
    *("opensmile", "scikit-learn"),
)

BUCKETS = ("gs:", "s3:")  # how a path begins that was meant as one


def open_directory(workdir: Path, config: Config) -> None:
    """Makes a run directory, or checks that an existing one was made with the same configuration.

    Until `protocol.json` is there nothing has been trained: a command that was refused may be mended and run again.

    Args:
      workdir: The folder.
      config: The resolved configuration; `config.json` is written from it.

    Raises:
      UserError: If the folder holds something else, another configuration, or cannot be written.
    """
    if "".join(workdir.parts[:1]) in BUCKETS:
        raise UserError(
            f"--workdir={workdir}: a bucket is no folder; mount it on every host (gcsfuse BUCKET /mnt/runs) and name "
            f"the folder there"
        )
    resolved = json.loads(config.to_json())
    path = workdir / "config.json"
    if path.is_file() and (workdir / "protocol.json").is_file():
        different = _differences(_read(path), resolved)
        if different:
            raise UserError(
                f"{workdir} was made with another configuration ({'; '.join(different)}): "
                f"choose another --workdir or delete the folder"
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        others = (entry for entry in workdir.iterdir() if not atomic.is_leftover(entry))
        if not path.is_file() and any(entry.name != "rejected.csv" for entry in others):
            raise UserError(f"{workdir} is not empty and not a run directory: choose another --workdir")
        atomic.write_json(path, resolved)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from None


def record_protocol(workdir: Path, protocol: Protocol) -> None:
    """Writes `protocol.json`, or checks that training began with the same protocol.

    Raises:
      UserError: If the recordings or labels have changed since.
    """
    path = workdir / "protocol.json"
    if path.is_file():
        before = _read(path)
        if before.get("sha256") != protocol.sha256:
            raise UserError(
                f"{workdir} was begun with the protocol {before.get('name')} {str(before.get('sha256'))[:12]}…, the "
                f"recordings now give {protocol.name} {protocol.sha256[:12]}…: "
                f"choose another --workdir or delete the folder"
            )
    atomic.write_json(path, protocol.to_json(), indent=None)


def record_versions(workdir: Path, devices: str, processes: int = 1) -> None:
    """Writes `versions.json`: package versions, Python, platform and devices (those of one of the processes)."""
    devices = devices if processes == 1 else f"{processes} processes, each {devices}"
    here = {"platform": platform.platform(), "devices": devices}
    atomic.write_json(workdir / "versions.json", versions() | here)


def versions() -> dict[str, str]:
    """Returns the versions of this package, of Python and of the packages that results may depend on."""
    found = {"ser_jax": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def finished_results(workdir: Path) -> dict[str, Any] | None:
    """Returns the results of a finished run, or None.

    Raises:
      UserError: If they are damaged or of a version with other results.
    """
    return finished.read_results(workdir) if (workdir / "results.json").is_file() else None


def read_config(workdir: Path) -> Config:
    """Returns the configuration that a run directory was made with.

    Raises:
      UserError: If the folder is not a run directory, its configuration is damaged or was made by a version with other
        keys.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is not a run directory: there is no config.json; python -m ser_jax.main makes one")
    return from_json(_read(path))


def write_results(workdir: Path, results: dict[str, Any]) -> None:
    """Writes `results.json`."""
    atomic.write_json(workdir / "results.json", results)


def _read(path: Path) -> dict[str, Any]:
    return strict_json.read(path, remedy="choose another --workdir or delete the folder")


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(before.keys() | now.keys()):
        name = prefix + key
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, name + ".")
        elif old != new and name not in NEUTRAL_KEYS:
            found.append(f"{name}: {json.dumps(old)} there, {json.dumps(new)} now")
    return found
