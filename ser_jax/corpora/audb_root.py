"""A corpus root that is no folder but the name of a published database: `audb:emodb==1.4.1`."""

import re
from pathlib import Path
from typing import Any

from ser_jax.errors import UserError

PREFIX = "audb:"

_NAMED = re.compile(r"audb:([\w.-]+)==([\w.+-]+)", re.ASCII)


def fetch(root: str) -> Path:
    """Downloads a database with audb, or finds it in audb's cache.

    The library reads the header and the tables of a repository as its own; which repositories it asks, and where its
    cache lies, is said in its own configuration (`~/.config/audb.yaml`, `AUDB_CACHE_ROOT`).

    Args:
      root: `audb:NAME==VERSION`; the version is part of what a protocol is about, so there is no default.

    Returns:
      The folder of the database in the cache.

    Raises:
      UserError: audb is not installed, the name is not of that form, or the database cannot be loaded.
    """
    match = _NAMED.fullmatch(root)
    if match is None:
        raise UserError(f"corpus.root={root}: write it as audb:NAME==VERSION, for example audb:emodb==1.4.1")
    try:
        import audb
    except ImportError:
        raise UserError(f"corpus.root={root} needs audb: pip install 'ser_jax[data]'") from None
    library: Any = audb  # Type checkers take audb.load for the module of that name.
    try:
        database = library.load(match[1], version=match[2], full_path=False, pickle_tables=False)
    except Exception as error:  # Whatever audb, its storage or the network make of it.
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"corpus.root={root} cannot be loaded ({type(error).__name__}: {reason}); check name, version, the "
            f"connection and the repositories in ~/.config/audb.yaml"
        ) from None
    if database is None or database.root is None:
        raise UserError(f"corpus.root={root}: another process holds audb's cache; try again when it has finished")
    return Path(database.root)
