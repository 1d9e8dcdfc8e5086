"""Trained models that come with the package: NAME.safetensors, and its card NAME.safetensors.md.

`make emodb-plain EMODB=/data/emodb` makes the first of them again.
"""

import os
from pathlib import Path

from ser_jax.runtime.errors import UserError

FOLDER = Path(__file__).parent
DEFAULT = "emodb-plain"


def names() -> list[str]:
    """Returns the names of the packaged models."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def card(name: str) -> Path:
    """Returns the file of a packaged model's card, Markdown."""
    return FOLDER / f"{name}.safetensors.md"


def find(model: str | os.PathLike[str]) -> Path:
    """Returns where a model lies: a file or folder of that path, or the packaged model so named.

    Raises:
      UserError: If it is neither.
    """
    if os.path.lexists(model):
        return Path(model)
    if os.fspath(model) in names():
        return FOLDER / f"{os.fspath(model)}.safetensors"
    raise UserError(
        f"{os.fspath(model)} is not a run directory, nor an exported file: there is nothing of that"
        f" name; models that come with the package: {', '.join(names())}"
    )
