"""A program and its weights as one file: a ZIP that `numpy.load` opens, with a StableHLO program and a description.

It needs jax alone. The program has no weights inside: an ensemble of large models would be too much for it (2 GB), and
compiling it would take minutes.
"""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ser_jax import atomic
from ser_jax.exporting.program import Member, make_program, named
from ser_jax.features import hsf
from ser_jax.models import build
from ser_jax.prediction.members import Members

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, METADATA = "program", "metadata.json"


def lower(found: Members, members: Member) -> export.Exported:
    """Lowers the models for all platforms, for any number of rows and samples.

    Args:
      found: The models and their configuration.
      members: The same models as arrays.

    Returns:
      A program of weights by name, waves [B, S], lengths [B] and, for HSF-CRNN, functionals [B, 6373].
    """
    rows, samples = export.symbolic_shape("rows, samples")
    arguments = [jax.ShapeDtypeStruct((rows, samples), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)]
    if build.uses_hsf(found.config):
        arguments.append(jax.ShapeDtypeStruct((rows, hsf.DIMENSION), jnp.float32))
    weights = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in named(members).items()}
    program = jax.jit(make_program(found.config, members, len(found.classes)))
    with _without_places():
        return export.export(program, platforms=PLATFORMS)(weights, *arguments)


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


def write(path: Path, found: Members, members: Member, description: dict[str, Any]) -> None:
    """Writes the file; equal models give equal bytes.

    Args:
      path: The file.
      found: The models and their configuration.
      members: The same models as arrays.
      description: What is said of them in `metadata.json`; inputs, platforms, the version
        of jax and the names of the weights are added.
    """
    program = lower(found, members)
    weights = named(members)
    inputs = ["waves [rows, samples] f32", "lengths [rows] i32", f"functionals [rows, {hsf.DIMENSION}] f32"]
    metadata = {
        **description,
        "inputs": inputs[: 3 if build.uses_hsf(found.config) else 2],
        "platforms": PLATFORMS,
        "jax": jax.__version__,
        "weights": list(weights),
    }
    with atomic.writing(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(METADATA), json.dumps(atomic.plain(metadata), indent=2, allow_nan=False))
        archive.writestr(zipfile.ZipInfo(PROGRAM), program.serialize())
        for name, leaf in weights.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(leaf), allow_pickle=False)
