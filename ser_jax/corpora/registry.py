"""From the name of a corpus to its reader."""

import os
from pathlib import Path

from ser_jax.config import DEFAULT_MANIFEST
from ser_jax.corpora import audb_root, audformat_database, emobox, emodb, emotass, iemocap
from ser_jax.corpora import manifest as manifest_reader
from ser_jax.corpora.table import Corpus
from ser_jax.errors import UserError

CORPORA = ("audformat", "demo", "emobox", "emodb", "emotass", "iemocap", "manifest")


def read_corpus(name: str, root: str, *, manifest: str, allow_missing: bool) -> Corpus:
    """Reads a corpus from disk.

    Args:
      name: Name of the reader (`corpus.name`).
      root: Folder of the release (`corpus.root`), `~` allowed; may be empty for the demo corpus, and
        `audb:NAME==VERSION` for an audformat database.
      manifest: What the labels stand in (`corpus.manifest`): the list of a "manifest", the folder of an "emobox"
        dataset's lists, the "table/column" of an "audformat" database. Other readers do not ask.
      allow_missing: Whether listed recordings may be missing (`corpus.allow_missing`).

    Returns:
      The corpus, sorted by utterance id.

    Raises:
      UserError: The name or the folder is unknown, or the release cannot be used.
    """
    if name not in CORPORA:
        raise UserError(f"corpus.name={name!r} is unknown; known: {', '.join(CORPORA)}")
    if not root and name != "demo":
        raise UserError(f"corpus.root is empty; set it to the folder of the {name} release")
    if root.startswith(audb_root.PREFIX):
        if name != "audformat":
            raise UserError(f"corpus.root={root} is an audformat database; set corpus.name=audformat")
        root = str(audb_root.fetch(root))
    folder = Path(os.path.expanduser(root)) if root else None  # as it is, if there is no such user
    if name == "demo":
        # Imported here: the demo corpus synthesises its recordings, which the readers of releases need not load.
        from ser_jax.corpora import demo

        return demo.read(folder)
    if folder is None or not os.path.isdir(folder):
        raise UserError(f"corpus.root={root} is not a folder; set it to the folder of the {name} release")
    if name == "manifest":
        return manifest_reader.read(folder, manifest=manifest, allow_missing=allow_missing)
    if name == "emobox":
        return emobox.read(folder, lists=manifest, allow_missing=allow_missing)
    if name == "audformat":
        labels = "" if manifest == DEFAULT_MANIFEST else manifest
        return audformat_database.read(folder, labels=labels, allow_missing=allow_missing)
    reader = {"emodb": emodb, "emotass": emotass, "iemocap": iemocap}[name]
    return reader.read(folder, allow_missing=allow_missing)
