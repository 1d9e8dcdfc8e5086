"""Reading the text files that list a corpus."""

import io
from collections.abc import Iterator
from pathlib import Path

from ser_jax.errors import UserError


def read_list(path: Path) -> str:
    """Returns the text of a user's list (UTF-8, byte order mark or not), line ends as they are.

    Raises:
      UserError: The file cannot be read or is not UTF-8 (with the line).
    """
    data = _read(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the list as UTF-8") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a release's list with their numbers from 1, without line ends.

    Bytes that are not UTF-8 become U+FFFD: the comments of raters may hold any, the fields that matter are ASCII.

    Raises:
      UserError: The file cannot be read.
    """
    text = io.StringIO(_read(path).decode("utf-8-sig", errors="replace"), newline=None)
    for number, line in enumerate(text, 1):
        yield number, line.rstrip("\n")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
