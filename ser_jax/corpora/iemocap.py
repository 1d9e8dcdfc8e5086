"""IEMOCAP (Busso et al. 2008): five sessions of acted dialogs, labelled per turn.

Four classes are read; excited is read as happy.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ser_jax.corpora import release_files
from ser_jax.corpora.release_files import Listing, release_root
from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.runtime.errors import UserError

FOLDER = "IEMOCAP_full_release"
PROTOCOL = "iemocap-5531-session5"
LABEL_MAPPING = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
OTHER_LABELS = frozenset({"xxx", "fru", "sur", "fea", "oth", "dis"})

_SESSIONS = range(1, 6)
_EVALUATIONS = "dialog/EmoEvaluation"
_RATER_OR_HEADER = ("%", "C-", "A-")
_TURN = re.compile(r"Ses0([1-5])[FM]_\w+_([FM])[0-9A-Z]{3}", re.ASCII)
_TURN_LINE = re.compile(rf"\[\d+\.\d+ - \d+\.\d+\]\t({_TURN.pattern})\t(\w+)(?:\t.*)?", re.ASCII)


def read(root: Path, *, allow_missing: bool) -> Corpus:
    """Reads the turns of the four classes from the summaries in `Session*/dialog/EmoEvaluation`.

    Turns of other emotions, or without agreement of the raters (`xxx`), are left out and not
    counted as rejected. The speaker is the session with the gender of the turn: the letter in the
    dialog's name says who wore the markers.

    Args:
      root: `IEMOCAP_full_release` or the folder that holds it; any of its sessions may be absent.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus; its default protocol is `iemocap-5531-session5`.

    Raises:
      UserError: The folder holds no dialog, or recordings are missing.
    """
    release = release_root(root, lambda folder: any(_summaries(folder)), inside=FOLDER)
    if release is None:
        raise UserError(
            f"corpus.root={root} holds no Session*/{_EVALUATIONS}/*.txt; expected"
            f" {FOLDER}/Session1…Session5"
        )
    listing = Listing("iemocap", release)
    for session, path in _summaries(release):
        _read_summary(listing, session, path)
    return listing.corpus(
        protocol=PROTOCOL, label_mapping=LABEL_MAPPING, allow_missing=allow_missing
    )


def speaker_of(turn: str) -> str:
    """Returns who speaks a turn, `Ses01F_impro01_M000` → `Ses01M`, or "" if it is no turn."""
    match = _TURN.fullmatch(turn)
    return f"Ses0{match[1]}{match[2]}" if match else ""


def _summaries(root: Path) -> Iterator[tuple[int, Path]]:
    """Yields (session, file) of every dialog, without single raters and "._" files of macOS."""
    for session in _SESSIONS:
        for path in sorted((root / f"Session{session}" / _EVALUATIONS).glob("*.txt")):
            if not path.name.startswith(".") and path.is_file():
                yield session, path


def _read_summary(listing: Listing, session: int, path: Path) -> None:
    source = path.relative_to(listing.root).as_posix()
    for number, line in release_files.numbered_lines(path):
        # A line that names a turn but does not start as one has lost its beginning: reject it.
        if line.startswith(_RATER_OR_HEADER) or not (line.startswith("[") or _TURN.search(line)):
            continue
        match = _TURN_LINE.fullmatch(line.rstrip())
        if match is None:
            listing.reject(source, number, "bad line", f"{line[:80]!r}")
            continue
        turn, turn_session, _, label = match.groups()
        if int(turn_session) != session:
            detail = f"{turn} of session {turn_session} in Session{session}"
            listing.reject(source, number, "bad line", detail)
        elif label in LABEL_MAPPING:
            dialog = turn[: -len("_F000")]
            file = f"Session{session}/sentences/wav/{dialog}/{turn}.wav"
            utterance = Utterance(
                id=utterance_id(file),
                file=file,
                label=LABEL_MAPPING[label],
                speaker=speaker_of(turn),
                session=f"Session{session}",
            )
            listing.add(utterance, source, number)
        elif label not in OTHER_LABELS:
            known = ", ".join(sorted({*LABEL_MAPPING, *OTHER_LABELS}))
            listing.reject(source, number, "unknown label", f"{label!r} of {turn}; known: {known}")
