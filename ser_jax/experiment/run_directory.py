"""The run directory: its configuration, protocol, versions and results (docs/run-directory.md)."""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_jax import __version__
from ser_jax.config import NEUTRAL_KEYS, Config, from_json
from ser_jax.evaluation import finished_run
from ser_jax.protocols import speaker_rule
from ser_jax.protocols.protocol import Protocol, trial_name
from ser_jax.runtime import files, strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training import model_files
from ser_jax.training.model_files import DIVERGED

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "soundfile", "soxr"),
    *("opensmile", "scikit-learn"),
)

log = logging.getLogger(__name__)

PROTOCOL = "protocol.json"
FUSION = "fusion"  # the system whose members are run directories
MEMBERS = "members"  # folder of these
BUCKETS = ("gs:", "s3:")  # first part of a path that names a bucket


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes of this machine from training or scoring in a run directory.

    Makes the folder. The lock ends with the process, however that ends; where a file system has
    none a warning is all.

    Raises:
      UserError: If another process has it, or the folder cannot be made.
    """
    _make(workdir)
    descriptor = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training or scoring in {workdir}: wait for its end, or choose"
                " another --workdir"
            ) from None
        except OSError as error:
            log.warning("note: %s cannot be locked (%s): start only one", workdir, error.strerror)
        yield
    finally:
        os.close(descriptor)


def _make(workdir: Path) -> None:
    if "".join(workdir.parts[:1]) in BUCKETS:
        raise UserError(
            f"--workdir={workdir}: a bucket is no folder; mount it on every host (gcsfuse BUCKET"
            " /mnt/runs) and name the folder there"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from None


def open_directory(workdir: Path, config: Config) -> None:
    """Makes a run directory, or checks that an existing one was made with the same configuration.

    Until there is a protocol or a model nothing has been trained: a command that was refused may
    be mended and run again. `config.json` is written from the resolved configuration.

    Raises:
      UserError: If the folder holds something else, another configuration, or cannot be written.
    """
    _make(workdir)
    resolved = json.loads(config.to_json())
    path = workdir / "config.json"
    started = (workdir / PROTOCOL).is_file() or (workdir / "models").is_dir()
    if path.is_file() and started:
        made_with = json.loads(read_config(workdir).to_json())
        different = differences(made_with, resolved)
        if different:
            raise UserError(
                f"{workdir} was made with another configuration ({'; '.join(different)}): "
                "choose another --workdir or delete the folder"
            )
    try:
        others = (entry for entry in workdir.iterdir() if not files.is_leftover(entry))
        if not path.is_file() and any(entry.name != "rejected.csv" for entry in others):
            raise UserError(
                f"{workdir} is not empty and not a run directory: choose another --workdir"
            )
        strict_json.write(path, resolved)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from None


def record_protocol(
    workdir: Path,
    protocol: Protocol,
    digests: Sequence[str] = (),
    embeddings: dict[str, Any] | None = None,
    variants: dict[str, Any] | None = None,
) -> None:
    """Writes `protocol.json` with the SHA-256 of every utterance's file, and of the embeddings.

    `variants` is what identifies those that are trained on; None: it is kept as it stands there.

    Raises:
      UserError: If training began with another protocol (other recordings), other embeddings or
        other variants, or its file is damaged.
    """
    path = workdir / PROTOCOL
    before, embedded, varied = {}, [], []
    if path.is_file():
        found = read_protocol(workdir)
        before[str(found.get("sha256"))] = found.get("name")
        embedded.append(found.get("embeddings"))
        varied.append(found.get("variants"))
    for folder in model_files.list_models(workdir):  # They tell where the file was lost.
        found = model_files.read_description(folder) or {}
        if "protocol_sha256" in found:
            before[found["protocol_sha256"]] = found.get("protocol")
            embedded.append(found.get("embeddings"))
            varied.append(found.get("variants"))
    for sha256, name in before.items():
        if sha256 != protocol.sha256:
            raise UserError(
                f"{workdir} was started with the protocol {name} {sha256[:12]}…, the recordings"
                f" now give {protocol.name} {protocol.sha256[:12]}…: choose another --workdir or"
                " delete the folder"
            )
    for one in embedded:
        if (one or {}).get("sha256") != (embeddings or {}).get("sha256"):
            raise UserError(
                f"{workdir} was started with other embeddings, or with none: bring them back as"
                " they were (features.embeddings), choose another --workdir or delete the folder"
            )
    known = [one for one in varied if one]
    if variants and any(one["sha256"] != variants["sha256"] for one in known):
        raise UserError(
            f"{workdir} was started with other variants of its recordings: bring the files of"
            " augment.noise_folder and augment.room_folder back as they were, choose another"
            " --workdir or delete the folder"
        )
    content = protocol.to_json() | ({"recordings": list(digests)} if digests else {})
    if embeddings:
        content["embeddings"] = embeddings
    if variants := variants or next(iter(known), None):
        content["variants"] = variants
    strict_json.write(path, content, indent=None)


def read_protocol(workdir: Path) -> dict[str, Any]:
    """Returns the content of `protocol.json`; a UserError if it is absent or damaged."""
    path, remedy = workdir / PROTOCOL, finished_run.REMADE.format(workdir)
    return strict_json.read(path, remedy=f"{remedy}, as does the training command")


def protocol_name(workdir: Path, config: Config) -> str:
    """Returns `protocol.name`; for "auto" the one that the run was made with.

    The default of a corpus may have been another one when an older version trained the run.
    """
    if config.protocol.name != "auto" or not (workdir / PROTOCOL).is_file():
        return config.protocol.name
    name = str(read_protocol(workdir).get("name", "auto"))
    return name.removesuffix(speaker_rule.SUFFIX).removesuffix("+modified")


def record_versions(
    workdir: Path, devices: str, processes: int = 1, trained_with: Mapping[str, Any] | None = None
) -> None:
    """Writes `versions.json`: packages, Python, platform, and the devices of one process.

    `trained_with` is what fixes the bits of a training that begins or goes on, of which a warning
    says whether it went another way before; None: nothing is trained, and what is there stays.
    """
    path = workdir / "versions.json"
    before: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # A damaged one is written again.
        before = strict_json.read(path, remedy="") if path.is_file() else {}
    devices = devices if processes == 1 else f"{processes} processes, each {devices}"
    here = versions() | {"platform": platform.platform(), "devices": devices}
    other = {
        key: (before[key], value)
        for key, value in (trained_with or {}).items()
        if key in before and before[key] != value
    }
    if other:
        changes = ", ".join(f"{key}={old} then, {new} now" for key, (old, new) in other.items())
        flags = [f"--config.{key}={old}" for key, (old, _) in other.items() if "." in key]
        remedy = f"; {' '.join(flags)} goes on as it began" if flags else ""
        log.warning(
            "%s was started in another way (%s): its trials are not trained alike, which changes"
            " scores as another seed may (docs/reproducibility.md)%s",
            *(workdir, changes, remedy),
        )
    strict_json.write(path, before | here | dict(trained_with or {}))


def versions() -> dict[str, str]:
    """Returns the versions of Python and of all packages that results may depend on."""
    found = {"ser_jax": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def finished_results(workdir: Path) -> dict[str, Any] | None:
    """Returns the results of a finished run, or None; a UserError if they cannot be read."""
    return finished_run.read_results(workdir) if (workdir / "results.json").is_file() else None


def read_trials(workdir: Path) -> dict[str, dict[str, Any] | None]:
    """Returns the trials of a finished run: name of the folder → `model.json`; None: missing.

    Raises:
      UserError: If the run is not finished, or a file is damaged.
    """
    path, config = workdir / "results.json", read_config(workdir)
    found = {folder.name for folder in model_files.list_models(workdir)}
    if not path.is_file():
        raise UserError(
            f"{workdir} is not finished: it holds {counted(len(found), 'model')} and no"
            " results.json; run the training command again to finish it"
        )
    results = strict_json.read(path, remedy=finished_run.REMEDY.format(workdir))
    for run in results.get("runs", ()):
        seeds = range(run["seed"], run["seed"] + config.protocol.ensemble)
        found |= {trial_name(run["fold"], seed) for seed in seeds}
    folders = {name: workdir / "models" / name for name in sorted(found)}
    return {name: model_files.read_description(folder) for name, folder in folders.items()}


def split_diverged(
    workdir: Path, trials: Mapping[str, dict[str, Any] | None]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Splits trials of `read_trials` into those with a model and the names of diverged ones.

    Raises:
      UserError: If one is missing, or none has a model.
    """
    missing = [name for name, found in trials.items() if found is None]
    if missing:
        raise UserError(
            f"{workdir}: {len(missing)} of {counted(len(trials), 'model is', 'models are')} missing"
            f" ({', '.join(missing[:5])}); run the training command again, it trains only those"
        )
    trained = {
        name: found for name, found in trials.items() if found and found["status"] != DIVERGED
    }
    if not trained:
        raise UserError(
            f"{workdir} holds no trained model; run the training command again to finish it"
        )
    return trained, [name for name in trials if name not in trained]


def read_config(workdir: Path) -> Config:
    """Returns the configuration of a run directory; a UserError if it is absent or damaged."""
    path = workdir / "config.json"
    if not path.is_file():
        why = "there is no config.json" if workdir.is_dir() else "there is nothing of that name"
        why = "it is a file" if workdir.is_file() else why
        raise UserError(f"{workdir} is not a run directory: {why}; ser-jax train makes one")
    remedy = (
        "put it back as it was (if the edit is meant, delete its key seal), or train in another"
        " --workdir"
    )
    return from_json(strict_json.read(path, remedy=remedy))


def member_name(preset: str) -> str:
    """Returns the name of the member of a fusion that has this preset: that of its file."""
    return Path(preset.partition(":")[0]).name.removesuffix(".py")


def member_folders(workdir: Path, config: Config) -> dict[str, Path]:
    """Returns the run directories of the members of a fusion by name; none of another system."""
    names = map(member_name, config.fusion.members if config.system == FUSION else ())
    return {name: workdir / MEMBERS / name for name in names}


def write_results(workdir: Path, results: dict[str, Any]) -> None:
    """Writes `results.json`."""
    strict_json.write(workdir / "results.json", results)


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns the keys of nested values that differ, but neutral ones, each with both values."""
    found = []
    for key, old in sorted(before.items()):
        name, new = prefix + key, now[key]
        if isinstance(old, dict):
            found += differences(old, new, name + ".")
        elif old != new and name not in NEUTRAL_KEYS:
            found.append(f"{name}: {json.dumps(old)} there, {json.dumps(new)} now")
    return found
