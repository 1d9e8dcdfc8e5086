"""Which paths of a manifest may be opened (relative, inside the corpus root, regular files), and which are one file."""

import os
import re
import stat
from pathlib import Path, PurePosixPath

_DRIVE = re.compile(r"[A-Za-z]:")


def refusal(root: Path, file: str) -> str:
    """Returns why a manifest's path is refused, or "" if it may be used; a path to nothing may, and is missing later.

    A manifest may come from someone else, so it must not be a way to read (or to hang on) anything outside the corpus.

    Args:
      root: Folder that the manifest's paths are relative to.
      file: The path as the manifest has it.
    """
    if "\0" in file:
        return "NUL character"
    try:
        os.fsencode(file)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON and YAML can spell
        return "not Unicode text"
    if "\\" in file:
        return "backslash; write forward slashes"
    if file.startswith("/") or _DRIVE.match(file):
        return "absolute; write it relative to corpus.root"
    if ".." in PurePosixPath(file).parts:
        return '".." leads out of its folder'
    base = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base, file))
    if os.path.commonpath((base, real)) != base:
        return "link out of corpus.root"
    try:
        mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def identity(path: Path) -> tuple[int, int, int] | None:
    """Returns what tells a file from every other, whatever it is called; None if it cannot be told.

    Links give one file several names, and so do file systems that ignore case or Unicode normal forms.

    Args:
      path: The recording.

    Returns:
      Its device, its number there and its size.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    # Some network file systems number nothing; the size guards against those that give a number twice.
    return (status.st_dev, status.st_ino, status.st_size) if status.st_ino else None
