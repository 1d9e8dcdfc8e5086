"""The user's cache folder: features, rendered demo corpus, compiled programs. Deleting it costs time, nothing else."""

import os
from pathlib import Path

from ser_jax.errors import UserError


def cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/ser_jax`, by default `~/.cache/ser_jax`.

    Raises:
      UserError: If neither that variable nor a home folder is known.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ser_jax"
    except RuntimeError as error:
        raise UserError("the home folder is unknown: set XDG_CACHE_HOME to a folder for cached files") from error
