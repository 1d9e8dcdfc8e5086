"""Which folder is the release, when a user may name the folder above it or the `wav/` inside it."""

import os
from collections.abc import Callable
from pathlib import Path

from ser_jax.errors import UserError


def release_root(root: Path, is_release: Callable[[Path], bool], inside: str = "") -> Path | None:
    """Returns the release's own folder, so that ids do not depend on how the user named it.

    Args:
      root: Folder the user gave: the release, the folder that holds it, or the release's `wav/`.
      is_release: Whether a folder is a release of this corpus.
      inside: Glob for the release's name in the folder that holds it; empty if the name is free.

    Returns:
      The absolute path of the release, or None if there is none.

    Raises:
      UserError: Several releases lie in `root`, or it cannot be looked into.
    """
    # The lexical absolute path, not resolve(): a release whose wav/ is a link must keep its own root.
    root = Path(os.path.abspath(root))
    try:
        return _find(root, is_release, inside)
    except OSError as error:  # no right to look into a folder, a name that is too long
        what = f"{os.fspath(error.filename or root)!r} cannot be looked up ({error.strerror})"
        raise UserError(f"corpus.root={root}: {what}; check corpus.root and corpus.manifest") from None


def _find(root: Path, is_release: Callable[[Path], bool], inside: str) -> Path | None:
    if is_release(root):
        return root
    found = sorted(folder for folder in root.glob(inside) if is_release(folder)) if inside else []
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise UserError(f"corpus.root={root} holds {len(found)} releases ({names}); name one of them")
    if found:
        return found[0]
    return root.parent if root.name == "wav" and is_release(root.parent) else None
