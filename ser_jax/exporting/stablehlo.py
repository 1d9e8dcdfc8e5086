"""A StableHLO program and its weights as one ZIP file, which `numpy.load` opens.

Reading it needs jax and flatbuffers. The program has no weights inside: an ensemble of large models
would exceed its limit (2 GB), and compiling it would take minutes.
"""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ser_jax.config import Config
from ser_jax.experiment import setup
from ser_jax.exporting.program import Fused, Member, make_fusion, make_program, named
from ser_jax.models import build
from ser_jax.prediction.ensemble import Ensemble
from ser_jax.runtime import files

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, METADATA = "program", "metadata.json"


class Fusion(NamedTuple):
    """The models of the members of a fusion."""

    ensembles: dict[str, Ensemble]  # by name
    config: Config  # of the fusion
    classes: tuple[str, ...]  # their K classes
    reads: frozenset[str]  # kinds of features that they read together


def lower(found: Ensemble | Fusion, members: Member | Fused) -> export.Exported:
    """Lowers the models for all platforms, for any number of rows and samples.

    Args:
      found: The models and their configuration.
      members: The same models as arrays.

    Returns:
      A program of weights by name, waves [B, S] (of a probe embeddings [B, T, L, D]), lengths [B]
      and, for HSF-CRNN, functionals, embeddings or both [B, D].
    """
    rows, samples = export.symbolic_shape("rows, samples")
    first = (rows, samples)
    if build.uses_embedded_frames(found.config):
        first += _frame_shape(members)
    arguments = [jax.ShapeDtypeStruct(first, jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)]
    if "hsf" in found.reads:
        arguments.append(jax.ShapeDtypeStruct((rows, _width(members)), jnp.float32))
    weights = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in named(members).items()
    }
    if isinstance(found, Fusion):
        assert isinstance(members, Fused)
        configs = {name: one.config for name, one in found.ensembles.items()}
        program = make_fusion(configs, members, len(found.classes))
    else:
        assert isinstance(members, Member)
        program = make_program(found.config, members, len(found.classes))
    with _without_places():
        return export.export(jax.jit(program), platforms=PLATFORMS)(weights, *arguments)


def _width(members: Member | Fused) -> int:
    """Returns the values of the vector that is read of an utterance."""
    parts = members.members.values() if isinstance(members, Fused) else [members]
    return next(part.centre.shape[-1] for part in parts if part.centre is not None)


def _frame_shape(members: Member | Fused) -> tuple[int, ...]:
    """Returns the layers and the width of the embeddings that a probe reads."""
    assert isinstance(members, Member)
    mean: Any = members.statistics.mean
    return mean.shape[1:]


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keeps paths and line numbers of this machine's source files out of the program."""
    key = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, key)
    jax.config.update(key, 0)
    try:
        yield
    finally:
        jax.config.update(key, before)


def write(
    path: Path, found: Ensemble | Fusion, members: Member | Fused, description: dict[str, Any]
) -> None:
    """Writes the file; equal models give equal bytes.

    Args:
      path: The file.
      found: The models and their configuration.
      members: The same models as arrays.
      description: Their metadata for `metadata.json`; inputs, platforms, the version
        of jax and the names of the weights are added.
    """
    program = lower(found, members)
    weights = named(members)
    preparation = setup.mix(found.config).settings()
    preparation.pop("channel", None)
    waves = f"waves [rows, samples] f32{', prepared as preparation says' if preparation else ''}"
    if build.uses_embedded_frames(found.config):
        waves = "embeddings [rows, frames, {}, {}] f32".format(*_frame_shape(members))
    kinds = {
        "functionals": build.uses_functionals(found.config),
        "embeddings": build.uses_embeddings(found.config),
    }
    vector = " then ".join(name for name, used in kinds.items() if used)
    inputs = [waves, "lengths [rows] i32"]
    if "hsf" in found.reads:
        inputs.append(f"{vector} [rows, {_width(members)}] f32")
    metadata = {
        **description,
        "inputs": inputs,
        "preparation": preparation,  # keys of the section features; empty: none
        "platforms": PLATFORMS,
        "jax": jax.__version__,
        "weights": list(weights),
    }
    with files.writing(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            zipfile.ZipInfo(METADATA), json.dumps(files.plain(metadata), indent=2, allow_nan=False)
        )
        archive.writestr(zipfile.ZipInfo(PROGRAM), program.serialize())
        for name, leaf in weights.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(leaf), allow_pickle=False)
