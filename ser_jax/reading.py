"""From a configuration to a corpus table, and the list of what cannot be used; without jax."""

from collections.abc import Sequence
from pathlib import Path

from ser_jax.config import Config
from ser_jax.corpora.listing import Unusable
from ser_jax.corpora.registry import read_corpus
from ser_jax.corpora.table import Corpus, Rejection
from ser_jax.errors import UserError
from ser_jax.evaluation.rejected import write_rejected


def read(config: Config, rejected: Path) -> Corpus:
    """Reads the corpus table that a configuration names.

    Args:
      config: The resolved configuration.
      rejected: File for the rows that cannot be used, if the corpus is refused for them.

    Returns:
      The corpus; its own list of rejected rows is left to the caller.

    Raises:
      UserError: If the corpus cannot be used; all rows that it is refused for are in the file.
    """
    c = config.corpus
    try:
        return read_corpus(c.name, c.root, manifest=c.manifest, allow_missing=c.allow_missing)
    except Unusable as error:
        if not error.rejected:
            raise
        try:
            list_rejected(rejected, error.rejected)
        except UserError as failure:
            raise UserError(f"{error}; {failure}") from None
        raise UserError(f"{error}; all {len(error.rejected)} are listed in {rejected}") from None


def list_rejected(path: Path, rows: Sequence[Rejection]) -> None:
    """Writes the list of what cannot be used, in a folder that need not be there yet.

    Raises:
      UserError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rejected(path, rows)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
