"""Exports the models of a run to one file; refuses formats and places before any work is done."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ser_jax.evaluation import finished_run
from ser_jax.experiment import config_checks, fusion, run_directory
from ser_jax.exporting import card, stablehlo
from ser_jax.exporting.program import Fused, make_members
from ser_jax.models import build
from ser_jax.prediction import ensemble, weights
from ser_jax.runtime import files
from ser_jax.runtime.errors import UserError

STABLEHLO = "stablehlo"
FORMATS = (STABLEHLO, "safetensors")


def check_output(path: Path, kind: str, licence: str = "", about: str = "") -> None:
    """Refuses a format, a licence, a file about the data, or a place for the output.

    Raises:
      UserError: If the format is not known, the name does not end in it, the folder is not there,
        nothing can be written there, the licence is none, the file `about` the data is not there,
        or there is no card for these two.
    """
    if kind not in FORMATS:
        raise UserError(
            f"format={kind} is not known; choose one of {', '.join(FORMATS)} (docs/export.md)"
        )
    for flag, value in (("licence", licence), ("about", about)):
        if value and kind == STABLEHLO:
            raise UserError(
                f"--{flag} is for the model card: add --format=safetensors, or leave it out"
            )
    if about and not Path(about).is_file():
        raise UserError(f"--about={about}: there is no such file; write it, or leave the flag out")
    if not re.fullmatch(r"[\w.+-]*", licence, re.ASCII):
        raise UserError(
            f"--licence={licence!r}: give the SPDX name of a licence, such as cc-by-4.0"
        )
    if path.suffix.lower() != f".{kind}":
        raise UserError(
            f"--output={path}: format={kind} writes a file that ends in .{kind}; name it so"
        )
    if not path.parent.is_dir():
        raise UserError(
            f"--output={path}: there is no folder {path.parent}; make it, or name another file"
        )
    if path.is_dir() or card.beside(path).is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--output={path} cannot be written; name another file")


def export(
    workdir: Path, run: str, kind: str, output: Path, licence: str = "", about: str = ""
) -> str:
    """Writes the models of a run as one file; safetensors get a model card beside it.

    Args:
      workdir: The run directory.
      run: Which of its models: "final", "ensemble", FOLD-SEED, or empty for those that `predict`
        takes.
      kind: One of `FORMATS`.
      output: The file.
      licence: Licence of the weights for the model card; empty: none chosen yet.
      about: Markdown file whose text stands in the card: speakers, recordings, uses; empty: none.

    Returns:
      What was written, in words.

    Raises:
      UserError: If the run is not finished, has no such model, is of a system that the format does
        not know, or the file cannot be written.
    """
    config = run_directory.read_config(workdir)
    if config.system in ("svm", run_directory.FUSION) and kind != STABLEHLO:
        raise UserError(
            f"{workdir} is of system={config.system}, of which --format={kind} cannot be written;"
            f" --format={STABLEHLO} can"
        )
    config_checks.check(config)
    fused = fusion.read(workdir)
    if fused:
        found, arrays, metadata, described = _fusion(workdir, fused, run)
    else:
        found = ensemble.read_ensemble(workdir, run)
        arrays, described = make_members(found.models), found.description
        metadata = card.describe(found, finished_run.read_results(workdir))
    try:
        if kind == STABLEHLO:
            stablehlo.write(output, found, arrays, metadata)
            platforms = ", ".join(stablehlo.PLATFORMS)
            return f"{described}: {output}, {_size(output)}, for {platforms}"
        assert isinstance(found, ensemble.Ensemble)
        results = finished_run.read_results(workdir)
        description = Path(about).read_text("utf-8").strip() if about else ""
        text = card.write_text(found, results, workdir, output.name, licence, description)
        _write_both(output, found, metadata, text)
        return f"{described}: {output}, {_size(output)}; model card: {card.beside(output)}"
    except OSError as error:
        raise UserError(
            f"--output={output} cannot be written: {error.strerror}; name another file"
        ) from None


def _fusion(
    workdir: Path, fused: fusion.Together, run: str
) -> tuple[stablehlo.Fusion, Fused, dict[str, Any], str]:
    """Returns the models of a fusion, their arrays, metadata and description."""
    if run:
        raise UserError(f"--run={run}: a fusion is exported whole; leave it out")
    if build.uses_embeddings(fused.config):
        raise UserError(f"{workdir} reads embeddings, of which a fusion has no export")
    results = finished_run.read_results(workdir)
    ensembles = {name: ensemble.read_ensemble(one) for name, one in fused.folders.items()}
    described = {name: card.describe(one, results) for name, one in ensembles.items()}
    models = [
        {"member": name, "system": one["system"], **model}
        for name, one in described.items()
        for model in one["models"]
    ]
    fullest = max(described.values(), key=lambda one: len(one["licence"]))  # with functionals
    found = stablehlo.Fusion(
        *(ensembles, fused.config, tuple(results["classes"])),
        frozenset().union(*(one.reads for one in ensembles.values())),
    )
    arrays = Fused(
        {name: make_members(one.models) for name, one in ensembles.items()},
        fused.weights.astype(np.float32),
        np.float32(fused.temperature or 1.0),
    )
    metadata = {**fullest, "system": fused.config.system, "models": models}
    return found, arrays, metadata, f"the fusion of {workdir} ({', '.join(ensembles)})"


def _write_both(output: Path, found: ensemble.Ensemble, metadata: dict, text: str) -> None:
    # Replaces an older card when the weights are there.
    with files.writing(card.beside(output)) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        weights.write(output, found, metadata)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
