"""Listed recordings that are there under another spelling: other case, or another Unicode normal form.

Archives made on macOS hold "ü" as two characters, lists written elsewhere as one; Windows and macOS find "A.WAV" for
"a.wav", Linux does not. Such a recording is missing, since a guess could take the wrong one; but the user is told.
"""

import os
import unicodedata
from pathlib import Path, PurePosixPath


class NearNames:
    """Finds spellings; lists every folder once."""

    def __init__(self, root: Path):
        """Takes the folder that the paths are relative to."""
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}  # folder under the root → folded name → name

    def find(self, file: str) -> str:
        """Returns the path that is there in place of `file` and differs in its spelling only, or "".

        Args:
          file: Path under the root that is not there.
        """
        folder = ""
        parts = PurePosixPath(file).parts
        for part in parts:
            name = self._names(folder).get(_folded(part), "")
            if not name:
                return ""
            folder = f"{folder}/{name}" if folder else name
        return folder if PurePosixPath(folder).parts != parts else ""  # a link to nothing, a folder

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._folders:
            try:
                names = os.listdir(self._root / folder)
            except (OSError, ValueError):
                names = []
            self._folders[folder] = {_folded(name): name for name in sorted(names, reverse=True)}
        return self._folders[folder]


def _folded(name: str) -> str:
    # Twice: folding the case can undo the normal form.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
