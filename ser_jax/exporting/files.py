"""Which file an export writes, in which format, and what is refused before any work is done."""

import os
from pathlib import Path

from ser_jax import atomic, checks, run_directory
from ser_jax.errors import UserError
from ser_jax.evaluation import finished
from ser_jax.exporting import card, description, stablehlo, weights
from ser_jax.exporting.program import make_members
from ser_jax.prediction import members

STABLEHLO = "stablehlo"
FORMATS = (STABLEHLO, "safetensors")


def check_output(path: Path, kind: str) -> None:
    """Refuses a format or a place for the file.

    Raises:
      UserError: If the format is not known, the name does not end in it, the folder is not there, or nothing can be
        written there.
    """
    if kind not in FORMATS:
        raise UserError(f"format={kind} is not known; choose one of {', '.join(FORMATS)} (docs/export.md)")
    if path.suffix.lower() != f".{kind}":
        raise UserError(f"--output={path}: format={kind} writes a file that ends in .{kind}; name it so")
    if not path.parent.is_dir():
        raise UserError(f"--output={path}: there is no folder {path.parent}; make it, or name another file")
    if path.is_dir() or _card(path).is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--output={path} cannot be written; name another file")


def export(workdir: Path, run: str, kind: str, output: Path) -> str:
    """Writes the models of a run as one file; safetensors get a model card beside it.

    Args:
      workdir: The run directory.
      run: Which of its models: "final", "ensemble", FOLD-SEED, or empty for those that `predict` takes.
      kind: One of `FORMATS`.
      output: The file.

    Returns:
      What was written, in words.

    Raises:
      UserError: If the run is not finished, has no such model or is an SVM, or the file cannot be written.
    """
    config = run_directory.read_config(workdir)
    if config.system == "svm":
        raise UserError(f"{workdir} is an SVM, which has no export; python -m ser_jax.predict uses it")
    checks.check(config)
    found = members.read(workdir, run)
    results = finished.read_results(workdir)
    told = description.describe(found, results)
    try:
        if kind == STABLEHLO:
            stablehlo.write(output, found, make_members(found.models), told)
            return f"{found.description}: {output}, {_size(output)}, for {', '.join(stablehlo.PLATFORMS)}"
        text = card.write_text(found, results, workdir, output.name)
        _write_both(output, found, told, text)
        return f"{found.description}: {output}, {_size(output)}; model card: {_card(output)}"
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}; name another file") from None


def _write_both(output: Path, found: members.Members, told: dict, text: str) -> None:
    with atomic.writing(_card(output)) as file:  # It appears when the weights are there, and an older one goes then.
        file.write(text.encode("utf-8", "backslashreplace"))
        weights.write(output, found, told)


def _card(output: Path) -> Path:
    return output.with_name(f"{output.name}.md")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
