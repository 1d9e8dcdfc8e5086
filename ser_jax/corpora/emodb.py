"""EMO-DB, the Berlin Database of Emotional Speech (Burkhardt et al. 2005): the file names say all (03a01Fa)."""

import os
import re
from pathlib import Path

from ser_jax.corpora.listing import Listing
from ser_jax.corpora.release_root import release_root
from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.errors import UserError

PROTOCOL = "emodb4-speaker10"
LABEL_MAPPING = {
    "W": "angry",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}

# Speaker, text, emotion, version (absent where a text was spoken once).
_RECORDING = re.compile(r"(\d\d)([abc]\d\d)([WLEAFTN])([a-f])?\.wav", re.ASCII)
_EXAMPLE = "03a01Fa.wav"


def read(root: Path, *, allow_missing: bool) -> Corpus:
    """Reads all seven emotions; the protocol chooses among them.

    Args:
      root: The release with its `wav/`, that `wav/` itself, or any folder that holds the recordings directly.
      allow_missing: Whether a recording may be a link to nothing; the release has no other list than the folder.

    Returns:
      The corpus; its default protocol is `emodb4-speaker10`. Ids are `wav/03a01Fa` for a release, and `03a01Fa` for a
      folder of recordings that is not called `wav`.

    Raises:
      UserError: The folder holds no recording of EMO-DB.
    """
    release = release_root(root, lambda folder: (folder / "wav").is_dir())
    folder = Path(os.path.abspath(root)) if release is None else release / "wav"
    listing = Listing("emodb", release or folder)
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".wav") and not name.startswith("."))
    if not any(_RECORDING.fullmatch(name) for name in names):
        raise UserError(f"corpus.root={root}: {len(names)} wav files in {folder}, none named as in EMO-DB ({_EXAMPLE})")
    for name in names:
        file = (folder / name).relative_to(listing.root).as_posix()
        match = _RECORDING.fullmatch(name)
        if match is None:
            listing.reject(file, None, "bad name", f"not speaker, text, emotion, version as in {_EXAMPLE}")
            continue
        speaker, _, emotion, _ = match.groups()
        utterance = Utterance(id=utterance_id(file), file=file, label=LABEL_MAPPING[emotion], speaker=speaker)
        listing.add(utterance, folder.name, None)
    return listing.corpus(protocol=PROTOCOL, label_mapping=LABEL_MAPPING, allow_missing=allow_missing)
