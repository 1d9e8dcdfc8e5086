"""Finds the reader of a corpus by name.

A new corpus whose file names say everything is a row of `named_releases.RELEASES`; another one is a
module here and a line of `READERS`.
"""

import difflib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ser_jax.corpora import (
    audformat_database,
    emobox,
    emotass,
    file_names,
    iemocap,
    manifest,
    meld,
    msp_podcast,
)
from ser_jax.corpora.named_releases import RELEASES
from ser_jax.corpora.table import Corpus
from ser_jax.runtime.errors import UserError


class Reader(NamedTuple):
    """How a corpus is read."""

    # takes the folder of the release and, by name, `allow_missing` (and `manifest`, `pattern`)
    read: Callable[..., Corpus]
    takes_manifest: bool = False  # whether `corpus.manifest` says where the labels are
    takes_pattern: bool = False  # whether `corpus.pattern` says what file names mean
    takes_raters: bool = False  # whether its list may have a row per rater
    # whether it renders its recordings itself, so that no folder need exist
    makes_recordings: bool = False
    # whether predictions of unlabelled test recordings go to its organisers
    has_submissions: bool = False


def _read_demo(root: Path | None, *, allow_missing: bool) -> Corpus:
    del allow_missing  # what is missing is rendered
    from ser_jax.corpora import demo  # loads scipy, which the readers of releases do not need

    return demo.read(root)


READERS: dict[str, Reader] = {
    "audformat": Reader(audformat_database.read, takes_manifest=True),
    "demo": Reader(_read_demo, makes_recordings=True),
    "emobox": Reader(emobox.read, takes_manifest=True),
    "emotass": Reader(emotass.read, has_submissions=True),
    file_names.NAME: Reader(file_names.read, takes_pattern=True),
    "iemocap": Reader(iemocap.read),
    "manifest": Reader(manifest.read, takes_manifest=True, takes_raters=True),
    "meld": Reader(meld.read),
    "msp_podcast": Reader(msp_podcast.read),
    **{
        name: Reader(functools.partial(file_names.read_release, name=name, release=release))
        for name, release in RELEASES.items()
    },
}


def read_corpus(
    name: str,
    root: str,
    *,
    manifest: str,
    allow_missing: bool,
    pattern: str = "",
    raters: Mapping[str, str] | None = None,
) -> Corpus:
    """Reads a corpus from disk.

    Args:
      name: Name of the reader (`corpus.name`).
      root: Folder of the release (`corpus.root`), `~` allowed; may be empty for the demo corpus,
        and `audb:NAME==VERSION` for an audformat database.
      manifest: Where the labels are (`corpus.manifest`): the list of a "manifest", the folder of an
        "emobox" dataset's lists, the "table/column" of an "audformat" database.
      allow_missing: Whether listed recordings may be missing (`corpus.allow_missing`).
      pattern: What the file names of "files" mean (`corpus.pattern`).
      raters: The rows of a recording are its raters' answers, and the most frequent class is its
        label (`corpus.raters`): label → class (`corpus.labels`); None: a row per recording.

    Returns:
      The corpus, sorted by utterance id.

    Raises:
      UserError: The name or the folder is unknown, or the release cannot be used.
    """
    if name not in READERS:
        near = difflib.get_close_matches(name.lower().replace("-", ""), READERS)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        known = ", ".join(sorted(READERS))
        raise UserError(f"corpus.name={name!r} is unknown; {meant}known: {known}")
    reader = READERS[name]
    remedy = f"set it to the folder of the {name} release"
    if not root and not reader.makes_recordings:
        raise UserError(f"corpus.root is empty; {remedy}")
    if root.startswith(audformat_database.PREFIX):
        if name != "audformat":
            own = "set corpus.name=audformat"
            raise UserError(f"corpus.root={root} is an audformat database; {own}")
        root = str(audformat_database.fetch(root))
    folder = Path(os.path.expanduser(root)) if root else None  # unchanged if there is no such user
    if not reader.makes_recordings and not (folder and os.path.isdir(folder)):
        raise UserError(f"corpus.root={root} is not a folder; {remedy}")
    options: dict[str, Any] = {"manifest": manifest} if reader.takes_manifest else {}
    if reader.takes_pattern:
        options["pattern"] = pattern
    elif pattern:
        raise UserError(
            f"corpus.pattern={pattern!r} is for corpus.name={file_names.NAME}; {name} is read"
            " without: leave it out"
        )
    if raters is not None:
        if not reader.takes_raters:
            raise UserError(
                f"corpus.raters=majority is for corpus.name=manifest; {name} has a label per"
                " recording: set corpus.raters=none"
            )
        options["raters"] = raters
    return reader.read(folder, allow_missing=allow_missing, **options)
