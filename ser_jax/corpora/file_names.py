r"""Corpora whose file names say everything: a pattern takes the place of a list.

A pattern describes the end of a path. It is written with fields, `{speaker}_{label}_*.wav` or
`{label}/{speaker}-{text}.wav`, or as a regular expression with named groups,
`(?P<speaker>\d+)(?P<label>[a-z]+)\.wav`. Folders are listed, no recording is opened.
"""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ser_jax.corpora import findings, manifest
from ser_jax.corpora.release_files import SHOWN, Listing, default_protocol, read_list
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

NAME = "files"  # the reader of patterns that users write
FIELDS = ("label", "speaker", "session", "text", "split")  # fields of other names are attributes

# Of a recording that is there in several forms the first is read.
SUFFIXES = (".wav", ".flac", ".w64", ".rf64", ".aif", ".aiff", ".ogg", ".oga", ".opus", ".mp3")
SUFFIXES += (".m4a", ".aac", ".wma", ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".flv")
SUFFIXES += (".amr", ".au", ".sph")
_RANK = {suffix: rank for rank, suffix in enumerate(SUFFIXES)}

OTHERS = (
    "recording of the release is another task (song, video) and is not read",
    "recordings of the release are another task (songs, video) and are not read",
)
ELSEWHERE = (
    "recording lies in another folder and is not read",
    "recordings lie in other folders and are not read",
)
TWICE = (
    "file holds a recording that is there already and is not read",
    "files hold a recording that is there already and are not read",
)

_BLOCK = 1 << 16  # bytes in the middle of two files by which copies are known

Fields = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Release:
    """A published corpus whose file names say everything."""

    title: str  # what people call it
    # regular expression with named groups of the end of a path, without the suffix of the file
    pattern: str
    example: str  # a path that it matches
    labels: Mapping[str, str]  # label in the names, in any case → class
    counts: Mapping[str, int]  # class → recordings of a whole release
    speakers: int  # how many there are
    texts: int  # how many texts are said by several speakers in several classes; 0: unknown
    licence: str  # in a few words
    source: str  # where to get it
    # what else follows from the named groups: session, text, split and attributes
    also: Callable[[Fields], Fields] = lambda fields: {}
    # regular expression of file names of the release that are another task, such as songs
    others: str = "(?!)"
    # The id of a recording, from the named groups and `stem`, the name of the file; empty: its path
    # below the folder that holds `inside`.
    id: str = "{stem}"
    inside: str = ""
    people: str = ""  # file beside the recordings with a row per speaker: its name, then attributes
    protocol: str = ""  # the default protocol, if it is not by speaker
    # the default protocol of a release with more recordings, and a sentence about that
    larger: tuple[str, str] = ("", "")


# --- Folders


def recordings(root: Path) -> list[str]:
    """Returns the paths of all recordings below a folder, relative to it, in no order.

    Hidden files (such as AppleDouble "._" files) and folders, and `__MACOSX`, are passed over; a
    link to a folder is followed once. Raises a `UserError` if a folder cannot be read.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    folders = [""]
    while folders:
        folder = folders.pop()
        path = os.path.join(root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if entry.is_dir():
                        folders.append(name)
                    elif os.path.splitext(name)[1].lower() in _RANK:
                        found.append(name)
        except OSError as error:
            raise UserError(f"{path} cannot be listed ({error.strerror}); check corpus.root") from (
                None
            )
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts paths so that the one to be read comes before copies of it."""

    def rank(name: str) -> tuple[int, int, str]:
        return _RANK[os.path.splitext(name)[1].lower()], name.count("/"), name

    return sorted(names, key=rank)


# --- Patterns


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A pattern of a user's own."""

    expression: re.Pattern[str]  # of a path below the root
    example: str  # what it describes, in words


def parse(text: str) -> Pattern:
    """Reads a pattern; a `UserError` says what is wrong with it."""
    if "(?P<" in text:
        flags = re.match(r"\(\?[aiLmsux]+\)", text)
        try:
            given = re.compile(text)
            body = text[flags.end() :] if flags else text
            expression = re.compile(f"(?:.*/)?(?:{body})", given.flags)
        except re.error as error:
            raise UserError(f"corpus.pattern={text!r}: not a regular expression ({error})") from (
                None
            )
        example = f"paths that end in {text}"
    else:
        expression = re.compile(f"(?:.*/)?{_expression(text)}", re.IGNORECASE)
        shown = re.sub(r"\{(\w+)(:\d+)?\}", lambda match: match[1].upper(), text)
        example = f"names such as {shown.replace('*', '…')}"
    if "label" not in expression.groupindex:
        what = f"corpus.pattern={text!r} has no field {{label}}"
        raise UserError(f"{what}: write it where the class is, as in {{speaker}}_{{label}}_*.wav")
    return Pattern(expression, example)


def _expression(text: str) -> str:
    """Returns the regular expression of a pattern with fields."""
    tokens = re.findall(r"\{[^{}]*\}|\*|[^{}*]+|[{}]", text.removeprefix("./").lstrip("/"))
    made, seen = [], set()
    for token, after in zip(tokens, [*tokens[1:], ""], strict=True):
        field = re.fullmatch(r"\{([A-Za-z]\w*)(?::(\d+))?\}", token, re.ASCII)
        if field and field[1] in seen:
            made.append(f"(?P={field[1]})")
        elif field:
            name, length = field.groups()
            seen.add(name)
            if not length and after[:1] in ("{", "*"):
                raise UserError(
                    f"corpus.pattern={text!r}: nothing says where {token} ends: write a sign behind"
                    f" it, its length as in {{{name}:2}}, or a regular expression"
                )
            # A field ends where the sign behind it begins, so that a path is read in one way only.
            stop = "" if after[:1] in ("", ".", "/") else re.escape(after[0])
            made.append(f"(?P<{name}>[^/{stop}]{f'{{{length}}}' if length else '+'})")
        elif "{" in token or "}" in token:
            raise UserError(
                f"corpus.pattern={text!r}: {token!r} is no field; a field is a name in braces, such"
                " as {speaker} or {gender}"
            )
        else:
            made.append("[^/]*" if token == "*" else re.escape(token))
    if not os.path.splitext(text)[1]:
        made.append(r"\.[^/.]+")
    return "".join(made)


# --- Reading


def read(root: Path, *, pattern: str, allow_missing: bool) -> Corpus:
    """Reads a user's own corpus by a pattern.

    Args:
      root: Folder of the recordings.
      pattern: The pattern (`corpus.pattern`), of paths below the root.
      allow_missing: Whether a recording may be a link to nothing.

    Returns:
      The corpus; ids are paths below the root. Its default protocol is `files-split`,
      `files-speaker` or `files-session`: the first whose field the pattern has.

    Raises:
      UserError: There is no pattern, it is wrong, or it matches no recording.
    """
    guess = f"ser-jax corpora --guess --config.corpus.root={root} proposes one"
    if not pattern:
        raise UserError(
            f"corpus.pattern is empty; write it as {{speaker}}_{{label}}_*.wav; {guess}"
        )
    parsed = parse(pattern)
    root = Path(os.path.abspath(root))
    names = in_order(recordings(root))
    found = {name: match for name in names if (match := parsed.expression.fullmatch(name))}
    if not found:
        raise UserError(
            f"corpus.pattern={pattern!r} matches none of {seen(root, names)}; expected"
            f" {parsed.example}; {guess}"
        )
    listing = Listing(NAME, root)
    first: dict[tuple, str] = {}
    for name, match in found.items():
        fields = {key: value or "" for key, value in match.groupdict().items()}
        split = fields.get("split", "").lower()
        same = first.setdefault((*match.groups(), name.rpartition("/")[2]), name)
        if split and split not in manifest.SPLITS:
            known = ", ".join(manifest.SPLITS)
            listing.reject(name, None, "bad name", f"unknown split {split!r}; known: {known}")
        elif same != name and _are_same(root / same, root / name):
            listing.assume(*TWICE, f"{name} = {same}")
            listing.left_out[name] = findings.READ_ONCE, f"the same as {same}"
        else:
            fields |= {"split": manifest.SPLITS[split]} if split else {}
            _add(listing, os.path.splitext(name)[0], name, fields)
    _reject_others(listing, names, found, parsed.example)
    protocol, _ = default_protocol(listing, pattern)
    return listing.corpus(
        protocol=protocol,
        label_mapping={label: label for label in sorted({u.label for u in listing.utterances})},
        allow_missing=allow_missing,
    )


def read_release(root: Path, *, name: str, release: Release, allow_missing: bool) -> Corpus:
    """Reads a published corpus.

    Args:
      root: The release, a folder above it or a folder in it.
      name: Name of the reader.
      release: What its file names say.
      allow_missing: Whether a recording may be a link to nothing.

    Returns:
      The corpus. Ids depend neither on the root nor on the form of the recordings (wav, flac) or on
      copies of them.

    Raises:
      UserError: The folder holds no recording of the corpus.
    """
    root = Path(os.path.abspath(root))
    names = in_order(recordings(root))
    matches = release_matches(release, root, names)
    if not matches:
        raise UserError(
            f"corpus.root={root}: {seen(root, names)}, none named as in {release.title}"
            f" ({release.example})"
        )
    # A recording is the same whether or not its folder says in which part it is.
    said = {
        found: tuple(v for k, v in fields.items() if k != "split")
        for found, fields in matches.items()
    }
    first: dict[tuple, str] = {}
    for found in matches:
        first.setdefault(said[found], found)
    base = Path(os.path.commonpath({os.path.dirname(root / found) for found in first.values()}))
    base = base.parent if release.inside and base.name == release.inside else base
    listing = Listing(name, base)
    below = {found: os.path.relpath(root / found, base) for found in names}
    classes = {code.lower(): label for code, label in release.labels.items()}
    people = _people(release, (root, base, base.parent))
    for found, fields in matches.items():
        file, original = below[found], first[said[found]]
        if original != found:
            listing.assume(*TWICE, f"{file} = {below[original]}")
            listing.left_out[file] = findings.READ_ONCE, f"the same as {below[original]}"
            continue
        known = {key: value for key, value in fields.items() if key in FIELDS}
        known |= {**release.also(fields), "label": classes[fields["label"].lower()]}
        known |= people.get(known["speaker"], {})
        path = os.path.splitext(file)[0]
        stem = os.path.basename(path)
        own = release.id.format(stem=stem, **fields) if release.id else path
        _add(listing, own, file, known)
    rest = []
    for found in (found for found in names if found not in matches):
        if re.fullmatch(release.others, os.path.splitext(os.path.basename(found))[0]):
            listing.assume(*OTHERS, below[found])
            listing.left_out[below[found]] = findings.ANOTHER_TASK, "named as songs or video"
        else:
            rest.append(below[found])
    _reject_others(listing, rest, {below[found] for found in matches}, release.example)
    protocol, note = release.protocol or f"{name}-speaker", ""
    if len(listing.utterances) > sum(release.counts.values()) and release.larger[0]:
        protocol, note = release.larger
    return listing.corpus(
        protocol=protocol,
        label_mapping=release.labels,
        allow_missing=allow_missing,
        warnings=[f"{name}: {note}"] if note else [],
    )


def release_matches(
    release: Release, root: Path, names: Iterable[str]
) -> dict[str, dict[str, str]]:
    """Returns path below the root → the fields of its name, of recordings named as in a release."""
    expression = re.compile(f"(?:.*/)?(?:{release.pattern})", re.ASCII)
    # The folders above the root are read as well: the user may name a folder of the release.
    paths = {name: f"{root.as_posix()}/{os.path.splitext(name)[0]}" for name in names}
    found = {name: expression.fullmatch(path) for name, path in paths.items()}
    return {name: match.groupdict("") for name, match in found.items() if match}


def seen(root: Path, names: Sequence[str]) -> str:
    """Describes the recordings of a folder by their number and three names."""
    shown = ", ".join(sorted(names)[:SHOWN]) + ", …" * (len(names) > SHOWN)
    return f"{counted(len(names), 'recording')} in {root}" + (f" ({shown})" if names else "")


def _add(listing: Listing, name: str, file: str, fields: Fields) -> None:
    label, speaker, session, text, split = (fields.get(field, "") for field in FIELDS)
    if not label:
        listing.reject(file, None, "bad name", "empty label")
        return
    others = sorted((k, v) for k, v in fields.items() if k not in FIELDS and v)
    folder = os.path.dirname(file) or listing.root.name
    utterance = Utterance(
        *(name, file, None, None, label, speaker, session, split),
        text=text,
        attributes=tuple(others),
    )
    listing.add(utterance, folder, None)


def _reject_others(
    listing: Listing, names: Iterable[str], matched: Collection[str], expected: str
) -> None:
    """Rejects recordings with other names beside those that match; names those elsewhere."""
    folders = {os.path.dirname(name) for name in matched}
    for name in sorted(set(names).difference(matched)):
        if os.path.dirname(name) in folders:
            listing.reject(name, None, "bad name", f"not as in {expected}")
        else:
            listing.assume(*ELSEWHERE, name)


def _are_same(one: Path, other: Path) -> bool:
    """Returns whether two files have the same size and the same bytes in the middle."""

    def middle(path: Path) -> tuple[int, bytes]:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, (size - _BLOCK) // 2))
            return size, file.read(_BLOCK)

    return one.is_file() and other.is_file() and middle(one) == middle(other)


def _people(release: Release, folders: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Returns speaker → attributes, from the list of speakers that some releases have."""
    paths = [folder / release.people for folder in folders if release.people]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        return {}
    header, *rows = list(csv.reader(io.StringIO(read_list(path)))) or [[]]
    columns = [name.strip().lower().replace("sex", "gender") for name in header]
    return {
        row[0].strip(): {k: v.strip().lower() for k, v in zip(columns[1:], row[1:], strict=False)}
        for row in rows
        if row
    }
