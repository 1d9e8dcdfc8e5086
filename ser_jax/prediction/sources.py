"""From the arguments of the command to recordings: files, all those of a folder, or the rows of a CSV list."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ser_jax.corpora import manifest
from ser_jax.corpora.listing import BadRow
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.errors import UserError

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
LISTS = (".csv", ".tsv")

Source = Utterance | Rejection  # a recording, or a row of a list that names none


def find(arguments: Sequence[str]) -> list[Source]:
    """Lists what is to be predicted, in the order of the arguments and, within a folder, of the names.

    A recording that is named twice stands there once. Hidden files are left out of folders. The paths of a list are
    relative to its folder and may not lead out of it.

    Args:
      arguments: Files, folders, and lists with the column `file` and, if there are such, `start` and `end` (seconds).

    Returns:
      Recordings, whose `file` is a path as it is opened, and rows that name none.

    Raises:
      UserError: If an argument does not exist, a folder or list holds no recording, or a list is none.
    """
    if not arguments:
        raise UserError("nothing to predict: name recordings, folders, or CSV lists with the column file")
    found: dict[object, Source] = {}
    for argument in arguments:
        for source in _of_argument(Path(argument)):
            found.setdefault(source.id if isinstance(source, Utterance) else source, source)
    return list(found.values())


def _of_argument(path: Path) -> Iterator[Source]:
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file or folder; name recordings, folders, or CSV lists")
    if path.is_dir():
        yield from _in_folder(path)
    elif path.suffix.lower() in LISTS:
        yield from _in_list(path)
    else:
        yield _recording(path)


def _in_folder(folder: Path) -> Iterator[Source]:
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(AUDIO) and not name.startswith("."):
                count += 1
                yield _recording(Path(place) / name)
    if not count:
        raise UserError(
            f"{folder} holds no recording, nor do its folders; files that end in {', '.join(AUDIO)} are read"
        )


def _in_list(path: Path) -> Iterator[Source]:
    count = 0
    for number, cells in manifest.rows(path, ("file",)):
        count += 1
        try:
            file, start, end = manifest.place(path.parent, cells)
        except BadRow as bad:
            yield Rejection(str(path), number, bad.reason, bad.detail)
        else:
            yield _recording(path.parent / file, start, end)
    if not count:
        raise UserError(f"{path} lists no recording; expected a row for each below the header")


def _recording(path: Path, start: float | None = None, end: float | None = None) -> Utterance:
    name = os.fspath(path)
    return Utterance(id=f"{name}#{start}-{end}", file=name, start=start, end=end)
