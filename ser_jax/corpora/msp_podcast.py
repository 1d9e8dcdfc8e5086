"""MSP-Podcast (Lotfian and Busso 2019): `Audios/` and `Labels/labels_consensus.csv`."""

import csv
import os
from pathlib import Path

from ser_jax.corpora import release_files
from ser_jax.corpora.release_files import Listing, refusal
from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.runtime.errors import UserError

PROTOCOL = "msp_podcast-test1"
LIST = "labels_consensus.csv"
LABEL_MAPPING = {
    **{"A": "angry", "C": "contempt", "D": "disgust", "F": "fear", "H": "happy"},
    **{"N": "neutral", "S": "sad", "U": "surprise", "O": "other", "X": "no agreement"},
}
SPLITS = {
    **{"train": "train", "development": "devel", "validation": "devel"},
    **{"test1": "test1", "test2": "test2", "test3": "test3"},
}
_GENDERS = ("female", "male")
_COLUMNS = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set")


def read(root: Path, *, allow_missing: bool) -> Corpus:
    """Reads the consensus classes with speakers and official parts.

    Args:
      root: The release, the folder that holds it, or its `Audios/`.
      allow_missing: Whether listed recordings may be missing.

    Returns:
      The corpus; its default protocol is `msp_podcast-test1`. Ids are the names of the recordings.
      No protocol uses the labels `other` and `no agreement`. Speakers called Unknown are unknown.

    Raises:
      UserError: The list is absent or cannot be used, or recordings are missing.
    """
    root = Path(os.path.abspath(root))
    places = (root, root / "Labels", root.parent / "Labels", *sorted(root.glob("*/Labels")))
    path = next((place / LIST for place in places if (place / LIST).is_file()), None)
    if path is None:
        raise UserError(
            f"corpus.root={root} holds no Labels/{LIST}: set it to the folder of the MSP-Podcast"
            " release, which holds Audios and Labels"
        )
    release = path.parent.parent if path.parent.name == "Labels" else path.parent
    folder = next((n for n in ("Audios", "Audio") if (release / n).is_dir()), "")
    listing = Listing("msp_podcast", release)
    source = path.relative_to(release).as_posix()
    rows = csv.DictReader(release_files.read_list(path).splitlines(keepends=True))
    absent = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
    if absent:
        raise UserError(
            f"{path}: column {absent[0]} is missing; found {', '.join(rows.fieldnames or ())}"
        )
    for row in rows:
        name, code, speaker, gender, split = ((row[column] or "").strip() for column in _COLUMNS)
        file = f"{folder}/{name}" if folder else name
        if why := refusal(release, file):
            listing.reject(source, rows.line_num, "refused path", f"{file[:80]!r}: {why}")
        elif code not in LABEL_MAPPING:
            detail = f"{code!r} of {name}; known: {', '.join(LABEL_MAPPING)}"
            listing.reject(source, rows.line_num, "unknown label", detail)
        elif split.lower() not in SPLITS:
            detail = f"Split_Set {split!r} of {name}; known: {', '.join(SPLITS)}"
            listing.reject(source, rows.line_num, "bad line", detail)
        else:
            attributes = (("gender", gender.lower()),) if gender.lower() in _GENDERS else ()
            listing.add(
                Utterance(
                    *(utterance_id(name), file),
                    label=LABEL_MAPPING[code],
                    speaker=speaker,
                    split=SPLITS[split.lower()],
                    attributes=attributes,
                ),
                *(source, rows.line_num),
            )
    return listing.corpus(
        protocol=PROTOCOL, label_mapping=LABEL_MAPPING, allow_missing=allow_missing
    )
