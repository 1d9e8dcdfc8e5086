"""MELD (Poria et al. 2019): clips of a television series, one list per official part.

`train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv` name dialogue, utterance, speaker
and emotion; the clips are `dia0_utt0.mp4` in a folder per part, whose name differs from copy to
copy. Their sound is read through the extra `[media]`; a wav of the same name is preferred.
"""

import csv
import os
import re
from pathlib import Path

from ser_jax.corpora import file_names, release_files
from ser_jax.corpora.release_files import Listing
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.runtime.errors import UserError

PROTOCOL = "meld-split"
LISTS = {"train": "train_sent_emo.csv", "devel": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
LABEL_MAPPING = {
    **{"anger": "angry", "disgust": "disgust", "fear": "fear", "joy": "happy"},
    **{"neutral": "neutral", "sadness": "sad", "surprise": "surprise"},
}
_COLUMNS = ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
# Listed clips that the published archives lack or hold in a damaged form.
KNOWN_BROKEN = {"train/dia125_utt3", "devel/dia110_utt7"}
_CLIP = re.compile(r"dia(\d+)_utt(\d+)", re.ASCII)
# A folder of every part in the release: train_splits, dev_splits_complete,
# output_repeated_splits_test.
_PART = re.compile(r"(?:^|[^a-z])(train|dev|test)", re.IGNORECASE)


def read(root: Path, *, allow_missing: bool) -> Corpus:
    """Reads the seven emotions of the three parts; the default protocol is `meld-split`.

    Args:
      root: The release: lists and clips lie anywhere below it.
      allow_missing: Whether listed clips may be missing. The two that every copy of the release
        lacks may be in any case.

    Returns:
      The corpus. Ids are `train/dia0_utt0`; the names of roles are the speakers.

    Raises:
      UserError: A list is absent or cannot be used, or clips are missing.
    """
    root = Path(os.path.abspath(root))
    listing = Listing("meld", root)
    clips = _clips(root)
    for part, name in LISTS.items():
        path = _find(root, name)
        source = os.path.relpath(path, root)
        text = "".join(f"{line}\n" for _, line in release_files.numbered_lines(path))
        rows = csv.DictReader(text.splitlines(keepends=True))
        absent = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if absent:
            raise UserError(
                f"{path}: column {absent[0]} is missing; found {', '.join(rows.fieldnames or ())}"
            )
        for row in rows:
            speaker, emotion, dialogue, number = ((row[name] or "").strip() for name in _COLUMNS)
            key = f"{part}/dia{dialogue}_utt{number}"
            if emotion.lower() not in LABEL_MAPPING:
                detail = f"{emotion!r} of {key}; known: {', '.join(LABEL_MAPPING)}"
                listing.reject(source, rows.line_num, "unknown label", detail)
                continue
            if not _CLIP.fullmatch(key.partition("/")[2]):
                detail = f"Dialogue_ID {dialogue!r}, Utterance_ID {number!r}"
                listing.reject(source, rows.line_num, "bad line", detail)
                continue
            if key not in clips and key in KNOWN_BROKEN:
                missing = "missing in every copy of the release"
                listing.assume(f"clip is {missing}", f"clips are {missing}", key)
                continue
            file = clips.get(key, f"{key}.mp4")
            label = LABEL_MAPPING[emotion.lower()]
            session = f"{part}/dia{dialogue}"
            listing.add(
                Utterance(key, file, None, None, label, speaker, session, part),
                *(source, rows.line_num),
            )
    return listing.corpus(
        protocol=PROTOCOL, label_mapping=LABEL_MAPPING, allow_missing=allow_missing
    )


def _find(root: Path, name: str) -> Path:
    """Returns the list of that name at the shallowest place below the root or beside it."""
    found = sorted(root.rglob(name), key=lambda path: (len(path.parts), path))
    found += [folder / name for folder in (root.parent,) if (folder / name).is_file()]
    if not found:
        raise UserError(
            f"corpus.root={root} holds no {name}: set it to the folder of the MELD release, with"
            f" its lists {', '.join(LISTS.values())}"
        )
    return found[0]


def _clips(root: Path) -> dict[str, str]:
    """Returns id → path of every clip; the part is in the name of a folder."""
    found: dict[str, str] = {}
    for name in file_names.in_order(file_names.recordings(root)):
        folder, stem = os.path.split(os.path.splitext(name)[0])
        parts = _PART.findall(folder)
        if parts and _CLIP.fullmatch(stem):
            part = parts[-1].lower().replace("dev", "devel")
            found.setdefault(f"{part}/{stem}", name)
    return found
