"""What all readers of releases share: finding the release, reading its lists, checking its rows.

A reader adds each row of a release's lists to a `Listing`, which rejects bad rows and duplicates,
finds out which recordings are missing, and makes the corpus.
"""

import codecs
import collections
import contextlib
import contextvars
import dataclasses
import io
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ser_jax.corpora.findings import Finding
from ser_jax.corpora.labels import means_nothing
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

SHOWN = 3  # examples in a message
LISTED = "listed recording is", "listed recordings are"
GROUPINGS = ("split", "speaker", "session")  # columns that make folds, the preferred first

_DRIVE = re.compile(r"[A-Za-z]:")


class Unusable(UserError):
    """A corpus that cannot be used as it is; `rejected` holds every bad row, for `rejected.csv`."""

    def __init__(self, message: str, rejected: Sequence[Rejection]):
        """Keeps the rejected rows with the sentence for the user."""
        super().__init__(message)
        self.rejected = tuple(rejected)


class BadRow(Exception):
    """A row of a list that cannot be used; `reason` and `detail` are the fields of `Rejection`."""

    def __init__(self, reason: str, detail: str):
        """Keeps both."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


# --- The release and its lists


def release_root(root: Path, is_release: Callable[[Path], bool], inside: str = "") -> Path | None:
    """Returns the release's own folder, so that ids do not depend on how the user named it.

    Args:
      root: Folder the user gave: the release, the folder that holds it, or the release's `wav/`.
      is_release: Whether a folder is a release of this corpus.
      inside: Glob for the release's name in the folder that holds it; empty if the name is free.

    Returns:
      The absolute path of the release, or None if there is none.

    Raises:
      UserError: Several releases are in `root`, or a folder cannot be read.
    """
    # Not resolve(): a release whose wav/ is a link must keep its own root.
    root = Path(os.path.abspath(root))
    try:
        if is_release(root):
            return root
        folders = sorted(root.glob(inside)) if inside else []
        found = [folder for folder in folders if is_release(folder)]
        if len(found) > 1:
            names = ", ".join(folder.name for folder in found)
            raise UserError(
                f"corpus.root={root} holds {len(found)} releases ({names}); name one of them"
            )
        if found:
            return found[0]
        return root.parent if root.name == "wav" and is_release(root.parent) else None
    except OSError as error:  # no permission for a folder, or a name that is too long
        what = f"{os.fspath(error.filename or root)!r} cannot be looked up ({error.strerror})"
        remedy = "check corpus.root and corpus.manifest"
        raise UserError(f"corpus.root={root}: {what}; {remedy}") from None


def read_list(path: Path) -> str:
    """Returns the text of a user's list (UTF-8, or UTF-16 with its mark), line ends unchanged.

    Raises a `UserError` if it cannot be read or is not UTF-8 (with the line).
    """
    data = _read(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # "Unicode text" of Excel
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the list as UTF-8") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a release's list with their numbers from 1, without line ends.

    Bytes that are not UTF-8 become U+FFFD: the comments of raters may hold any, the fields that
    matter are ASCII. Raises a `UserError` if the file cannot be read.
    """
    text = io.StringIO(_read(path).decode("utf-8-sig", errors="replace"), newline=None)
    for number, line in enumerate(text, 1):
        yield number, line.rstrip("\n")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


# --- Paths in lists

_FOLLOW_LINKS = contextvars.ContextVar("follow_links", default=False)


@contextlib.contextmanager
def following_links(follow: bool) -> Iterator[None]:
    """Within it, links may lead out of a corpus if `follow`: for lists that the user trusts."""
    before = _FOLLOW_LINKS.set(follow)
    try:
        yield
    finally:
        _FOLLOW_LINKS.reset(before)


def follows_links() -> bool:
    """Returns whether links may lead out of a corpus here."""
    return _FOLLOW_LINKS.get()


def is_absolute(file: str) -> bool:
    """Returns whether a path begins at the root of a file system or with a drive's letter."""
    return file.startswith(("/", "\\")) or _DRIVE.match(file) is not None


def relative(root: Path, file: str) -> str:
    """Returns the path of a row relative to the root, which absolute paths may lie under.

    Windows' backslashes become forward slashes. What lies elsewhere is left to `refusal`.
    """
    file = file.replace("\\", "/")
    if is_absolute(file):
        path = PurePosixPath(file)
        for base in (os.path.abspath(root), os.path.realpath(root)):
            if path.is_relative_to(base):
                return str(path.relative_to(base))
    return file


def refusal(root: Path, file: str, place: str = "corpus.root") -> str:
    """Returns why a path in a list is refused, or "" if it may be used.

    `place` is what the root is called in the sentence.

    A list may come from someone else, so it must not be a way to read (or to hang on) anything
    outside the corpus. A path to nothing is not refused: the recording is missing.
    """
    if "\0" in file:
        return "NUL character"
    try:
        os.fsencode(file)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON and YAML can spell
        return "not Unicode text"
    if "\\" in file:
        return "backslash; write forward slashes"
    if is_absolute(file):
        return f"absolute, and not below {place}={root}; write it relative to that"
    if ".." in PurePosixPath(file).parts:
        return '".." leads out of its folder'
    base = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base, file))
    if not follows_links() and os.path.commonpath((base, real)) != base:
        return f"link out of {place}, which only follow_links permits"
    try:
        mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def identity(path: Path | str) -> tuple[int, int, int] | None:
    """Returns device, inode and size of a file, equal for all its names; None if unknown."""
    # Links give a file several names, and so do file systems that ignore case or Unicode forms.
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    # Some network file systems have no inode numbers; the size guards against repeated ones.
    return (status.st_dev, status.st_ino, status.st_size) if status.st_ino else None


class NearNames:
    """Finds missing recordings that exist under another spelling; lists every folder once.

    Archives made on macOS hold "ü" as two characters, lists written elsewhere as one; Windows and
    macOS find "A.WAV" for "a.wav", Linux does not. Such a recording stays missing, since a guess
    could take the wrong one, but the message names the file that is there.
    """

    def __init__(self, root: Path):
        """Takes the folder that the paths are relative to."""
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}  # folder under the root → folded name → name

    def find(self, file: str) -> str:
        """Returns the path that differs from a missing `file` in its spelling only, or ""."""
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
    # Normalised twice: folding the case can undo the normal form.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _plain(name: str) -> str:
    """Returns what `F01`, `f1` and `f_01` have in common, and `1`, `01` and `1.0`."""
    words = re.sub(r"[\s_-]+", " ", _folded(name)).strip()
    words = re.sub(r"(?<=[^\W\d_]) (?=\d)", "", words)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"(?<=\d)\.0+$", "", words))


# --- Rows


class Listing:
    """Collects the rows of a corpus while its lists are read."""

    def __init__(self, name: str, root: Path):
        """Starts with no rows."""
        self.name = name  # of the reader
        self.root = root  # folder that the recordings' paths are relative to
        self.rejected: list[Rejection] = []  # in the order of the lists
        self._assumed: dict[tuple[str, str], list[str]] = {}  # what was assumed → where
        self.left_out: dict[str, tuple[str, str]] = {}  # see `Corpus`
        self._rows: dict[str, Utterance] = {}
        self._places: dict[str, str] = {}  # id → list and line
        self._spans: dict[tuple, str] = {}  # (file identity, start, end) → id of its first row

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """The rows accepted so far, sorted by id, whether or not their recordings exist."""
        return tuple(self._rows[key] for key in sorted(self._rows))

    def add(self, utterance: Utterance, source: str, line: int | None) -> None:
        """Adds a row; rejects it if an earlier one has its id or its span of the same file.

        A row that says the same as an earlier one is counted and used once.

        `source` is the path of the list, relative to the root; `line` is None where the release's
        list is the folder itself.
        """
        for column in ("speaker", "session"):
            name = getattr(utterance, column)
            if name and means_nothing(name):
                cell, cells = f"cell of {column} says", f"cells of {column} say"
                self.assume(f"{cell} that it is unknown", f"{cells} that it is unknown", repr(name))
                utterance = dataclasses.replace(utterance, **{column: ""})
        place = source if line is None else f"{source} line {line}"
        what = f"{utterance.id!r} ({utterance.label})"
        if utterance.id in self._rows:
            before, earlier = self._places[utterance.id], self._rows[utterance.id]
            if earlier.label == utterance.label and all(
                _plain(getattr(earlier, name)) == _plain(getattr(utterance, name))
                for name in GROUPINGS
            ):
                one, many = (
                    "row repeats an earlier one and is",
                    "rows repeat an earlier one and are",
                )
                self.assume(f"{one} used once", f"{many} used once", f"{place}: {what}")
                return
            detail = f"{what} is already in {before} ({earlier.label})"
            self.reject(source, line, "duplicate", detail)
            return
        same = self._spans.setdefault(self._span(utterance), utterance.id)
        if same != utterance.id:
            where = f"{same!r} in {self._places[same]} ({self._rows[same].label})"
            detail = f"{what} is the file of {where} under another name"
            self.reject(source, line, "duplicate", detail)
            return
        self._rows[utterance.id] = utterance
        self._places[utterance.id] = place

    def assume(self, one: str, many: str, example: str) -> None:
        """Counts what is read as it is meant; `one` or `many` follows the count in a sentence."""
        self._assumed.setdefault((one, many), []).append(example)

    def _one_spelling(self, rows: tuple[Utterance, ...]) -> tuple[Utterance, ...]:
        """Gives speakers (and sessions) whose names differ in their spelling only one name."""
        for column in ("speaker", "session"):
            counts = collections.Counter(getattr(row, column) for row in rows)
            spellings: dict[str, list[str]] = {}
            for name in sorted(counts, key=lambda name: (-counts[name], name)):
                spellings.setdefault(_plain(name), []).append(name)
            several = [names for names in spellings.values() if len(names) > 1]
            for names in several:
                ways = "spelt in several ways, each of which is taken as one"
                example = " = ".join(map(repr, names))
                self.assume(f"{column} is {ways}", f"{column}s are {ways}", example)
            first = {name: names[0] for names in several for name in names}
            if first:
                rows = tuple(
                    dataclasses.replace(row, **{column: first.get(name, name)})
                    for row in rows
                    for name in (getattr(row, column),)
                )
        return rows

    def _span(self, row: Utterance) -> tuple:
        """Returns the identity of the file with start and end; the id if the file is missing."""
        file = identity(os.path.join(self.root, row.file))
        if file is None:
            return (row.id,)
        return file, round(row.start or 0.0, 3), None if row.end is None else round(row.end, 3)

    def reject(self, source: str, line: int | None, reason: str, detail: str) -> None:
        """Notes a row that cannot be used (the fields of `Rejection`)."""
        self.rejected.append(Rejection(source, line, reason, detail))

    def corpus(
        self,
        *,
        protocol: str,
        label_mapping: Mapping[str, str],
        allow_missing: bool,
        warnings: Sequence[str] = (),
    ) -> Corpus:
        """Checks that the recordings exist and returns the corpus; see the fields of `Corpus`.

        Raises:
          Unusable: Recordings are missing and may not be, or nothing usable is left.
        """
        listed = self._one_spelling(self.utterances)
        sentences = [
            *warnings,
            *(
                f"{self.name}: {counted(len(at), *what)}: {_first(at)}"
                for what, at in self._assumed.items()
            ),
        ]
        if self.rejected:
            sentences.append(f"{self.name}: {_summary(self.rejected)}")
        near = NearNames(self.root)
        missing = {  # id → another spelling of its file, or ""
            row.id: near.find(row.file)
            for row in listed
            if not os.path.isfile(os.path.join(self.root, row.file))
        }
        absent = [row for row in listed if row.id in missing]
        present = tuple(row for row in listed if row.id not in missing)
        spelling = {
            key: f"; the folder has {ascii(name)}, which is spelt otherwise" if name else ""
            for key, name in missing.items()
        }
        where = {row.id: f"listed in {self._places[row.id]}{spelling[row.id]}" for row in absent}
        gone = (Rejection(row.file, None, "missing", where[row.id]) for row in absent)
        rejected = (*self.rejected, *gone)
        if absent:
            names = _first([f"{row.file}{spelling[row.id]}" for row in absent])
            found = (
                f"{self.name}: {len(absent)} of {counted(len(listed), *LISTED)} missing from"
                f" corpus.root={self.root} ({names})"
            )
            if not allow_missing:
                remedy = "set corpus.allow_missing=true to go on without them"
                raise Unusable(f"{found}; complete the release, or {remedy}", rejected)
            sentences.append(f"{found}; going on without them, as a modified corpus")
        if not present:
            what = _summary(rejected) if rejected else "its lists name no recording"
            raise Unusable(
                f"{self.name}: corpus.root={self.root} holds no usable recording: {what}", rejected
            )
        return Corpus(
            name=self.name,
            root=self.root,
            utterances=present,
            protocol=protocol,
            label_mapping=dict(label_mapping),
            rejected=rejected,
            warnings=tuple(sentences),
            modified=bool(absent),
            left_out=self.left_out,
        )


def default_protocol(listing: Listing, source: str) -> tuple[str, list[str]]:
    """Chooses the default protocol of a user's own corpus: by the first column that is filled.

    Returns:
      The name of the protocol, such as "manifest-speaker" (also if no column is filled: it then
      says what it lacks), and warnings about preferred columns that are filled only in part;
      `source` is the name of the list.
    """
    rows = listing.utterances
    filled = {name: sum(1 for row in rows if getattr(row, name)) for name in GROUPINGS}
    warnings = []
    for name, count in filled.items():
        if count == len(rows):
            return f"{listing.name}-{name}", warnings
        if count:
            warnings.append(
                f"{source}: {name} is filled in {count} of {counted(len(rows), 'row')}, so it"
                " makes no folds"
            )
    return f"{listing.name}-speaker", warnings


def check_bad_share(rejected: Sequence[Rejection], kept: int, most: float) -> None:
    """Refuses a corpus with too many rows or recordings that cannot be used.

    Missing recordings do not count: a corpus that has them was refused before, or they are allowed.

    Args:
      rejected: Those that cannot be used.
      kept: Number of those that can be.
      most: Largest fraction of all that may be unusable, in [0, 1] (`features.max_bad_share`).
    """
    bad = [row for row in rejected if row.reason != "missing"]
    listed = len(bad) + kept
    examples = "; ".join(_places(bad[:SHOWN])) or "The corpus is empty"
    if not kept:
        remedy = f" ({Finding(bad[0].reason, '').remedy})" if bad else ""
        raise UserError(
            f"None of {counted(listed, 'listed recording')} is usable. {examples}{remedy}."
        )
    if len(bad) <= most * listed:
        return
    again = [row for row in bad if row.reason == "duplicate"]
    remedy = "Mend or remove them, or raise features.max_bad_share."
    if 2 * len(again) > len(bad):
        examples = "; ".join(_places(again[:SHOWN]))
        remedy = (
            "If a recording has a row per rater, set corpus.raters=majority for the class that most"
            " of them chose; else leave one row of each."
        )
    raise UserError(
        f"{len(bad)} of {counted(listed, *LISTED)} unusable"
        f" ({len(bad) / listed:.2%}; limit {most:.2%}), for example {examples}. {remedy}"
    )


def _summary(rejected: Sequence[Rejection]) -> str:
    """Names how many rows were rejected, why, and where the first few are."""
    counts = collections.Counter(row.reason for row in rejected)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"{counted(len(rejected), 'row')} rejected ({reasons}): {_first(_places(rejected))}"


def _places(rejected: Sequence[Rejection]) -> list[str]:
    return [
        f"{row.file}{'' if row.line is None else f' line {row.line}'}: {row.reason}: {row.detail}"
        for row in rejected
    ]


def _first(items: Sequence[str]) -> str:
    more = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
