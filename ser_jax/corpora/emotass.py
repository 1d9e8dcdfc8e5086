"""EmotAsS, the Atypical Affect sub-challenge of ComParE 2018 (Schuller et al. 2018)."""

import dataclasses
import os
import re
from pathlib import Path

from ser_jax.corpora import release_files
from ser_jax.corpora.release_files import Listing, release_root
from ser_jax.corpora.table import CANONICAL_CLASSES, Corpus, Utterance, utterance_id
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

PROTOCOL = "emotass-official"
PROTOCOL_WITHOUT_TEST = "emotass-devel"
LABEL_MAPPING = {label: label for label in CANONICAL_CLASSES}

_NAME = "ComParE2018_AtypicalAffect"
_LIST = f"lab/{_NAME}.tsv"
_COLUMNS = ("file_name", "emotion")
_WITHHELD = ("", "?")
_RECORDING = re.compile(r"(train|devel|test)_\w+\.wav", re.ASCII)


def read(root: Path, *, allow_missing: bool) -> Corpus:
    """Reads the challenge's list; the file name begins with the partition, speakers are unknown.

    The organisers withheld the labels of the test part: its recordings in `wav/` that the list does
    not name, or names without a label, become utterances with an empty label.

    Args:
      root: `ComParE2018_AtypicalAffect*`, the folder that holds it, or its `wav/`.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus; its default protocol is `emotass-official`, or `emotass-devel` where no test
      recording is there.

    Raises:
      UserError: The list is absent or has other columns, or recordings are missing.
    """
    release = release_root(root, lambda folder: (folder / _LIST).is_file(), inside=f"{_NAME}*")
    if release is None:
        raise UserError(f"corpus.root={root} holds no {_LIST}; expected {_NAME}*/{{wav,lab,arff}}")
    listing = Listing("emotass", release)
    named = _read_list(listing)
    unlisted = sorted(_recordings(release / "wav") - named)
    for name in unlisted:
        if _partition(name) == "test":
            listing.add(_utterance(name, label=""), "wav", None)
    unlabelled = [name for name in unlisted if _partition(name) != "test"]
    warnings = []
    if unlabelled:
        warnings.append(
            f"emotass: {counted(len(unlabelled), 'recording')} of train and devel in wav/, not in"
            f" {_LIST}, left out (first: {unlabelled[0]})"
        )
    corpus = listing.corpus(
        protocol=PROTOCOL,
        label_mapping=LABEL_MAPPING,
        allow_missing=allow_missing,
        warnings=warnings,
    )
    tested = any(row.split == "test" for row in corpus.utterances)
    return corpus if tested else dataclasses.replace(corpus, protocol=PROTOCOL_WITHOUT_TEST)


def _read_list(listing: Listing) -> set[str]:
    """Adds the rows of the list and returns every recording that it names, usable or not."""
    path = listing.root / _LIST
    lines = release_files.numbered_lines(path)
    header = [cell.strip() for cell in next(lines, (1, ""))[1].split("\t")]
    if not set(_COLUMNS) <= set(header):
        raise UserError(f"{path}: columns {header}; expected {list(_COLUMNS)}, tab-separated")
    file_column, label_column = (header.index(column) for column in _COLUMNS)
    named = set()
    for number, line in lines:
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        # Rows of the withheld test labels may end after the file name.
        padded = [*cells, *[""] * (len(header) - len(cells))]
        name, label = padded[file_column], padded[label_column]
        if len(padded) > len(header) or not _RECORDING.fullmatch(name):
            listing.reject(_LIST, number, "bad line", f"{line[:80]!r}")
            continue
        named.add(name)
        if _partition(name) == "test" and label in _WITHHELD:
            label = ""
        elif label not in LABEL_MAPPING:
            known = ", ".join(LABEL_MAPPING)
            listing.reject(_LIST, number, "unknown label", f"{label!r} of {name}; known: {known}")
            continue
        listing.add(_utterance(name, label), _LIST, number)
    return named


def _utterance(name: str, label: str) -> Utterance:
    file = f"wav/{name}"
    return Utterance(id=utterance_id(file), file=file, label=label, split=_partition(name))


def _partition(name: str) -> str:
    return name.split("_", 1)[0]


def _recordings(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {name for name in os.listdir(folder) if _RECORDING.fullmatch(name)}
