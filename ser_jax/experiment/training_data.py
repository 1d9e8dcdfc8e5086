"""What the models of a run were trained on, and what of another corpus they have seen thereby."""

import dataclasses
import itertools
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ser_jax.config import Config
from ser_jax.corpora import joined
from ser_jax.corpora.registry import READERS
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.experiment import run_directory
from ser_jax.protocols.protocol import TRAIN, VALIDATION
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

INIT_FROM = "init_from.json"  # which models the trials of a run started from, and their own data
SEEN = {TRAIN, VALIDATION}  # parts of a fold that make its model

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What models were trained on, or what chose their epochs."""

    recordings: frozenset[str]  # SHA-256 of files; in runs too old to have them, ids
    speakers: frozenset[str]  # known names
    corpus: tuple[str, ...]  # see `corpus_keys`

    def to_json(self) -> dict[str, list[str]]:
        """Returns an entry of `init_from.json`."""
        return {
            "corpus": list(self.corpus),
            "recordings": sorted(self.recordings),
            "speakers": sorted(self.speakers),
        }


Keys = Mapping[str, tuple[str, ...]]  # see `corpus_keys`


def corpus_keys(config: Config) -> Keys:
    """Returns, by prefix of ids and speakers, a key of the corpus, or of each that is joined.

    Keys are equal for two corpora in which a speaker's name means the same person: a release is one
    corpus wherever it lies; corpora of one's own are told apart by their place.
    """
    keys = {}
    for part in joined.parts(config.corpus.name, config.corpus.root, config.corpus.manifest):
        keys[part.prefix] = (part.name,)
        reader = READERS[part.name]
        if reader.takes_manifest or reader.takes_pattern:
            place = os.path.realpath(os.path.expanduser(part.root))
            keys[part.prefix] += (place, part.manifest)
    return keys


def trained_on(protocol: Mapping[str, Any], folds: Collection[str], keys: Keys) -> list[TrainedOn]:
    """Returns what the models of some folds were trained on, given the `protocol.json` of a run.

    `keys` are those of its corpora; every one has an entry.
    """
    by_name = {fold["name"]: fold for fold in protocol["folds"]}
    used = {*folds, *(by_name[name].get("epochs_from", name) for name in folds)}
    parts = [by_name[name]["parts"] for name in used]
    numbers = [n for n, letters in enumerate(zip(*parts, strict=True)) if {*letters} & SEEN]
    utterances = protocol["utterances"]
    recordings = protocol.get("recordings") or [row[0] for row in utterances]
    found = []
    for prefix, key in keys.items():
        own = [number for number in numbers if utterances[number][0].startswith(prefix)]
        speakers = (utterances[number][2].removeprefix(prefix) for number in own)
        digests = frozenset(recordings[number] for number in own)
        found.append(TrainedOn(digests, frozenset(speakers) - {""}, key))
    return found


def of_models(
    workdir: Path, protocol: Mapping[str, Any], folds: Collection[str]
) -> list[TrainedOn]:
    """Returns what the models of some folds of a run were trained on, one entry per corpus.

    With what the models were that they started from, and those before them.

    Raises:
      UserError: If the run lacks its record of these.
    """
    config = run_directory.read_config(workdir)
    if members := run_directory.member_folders(workdir, config).values():
        return [one for member in members for one in of_models(member, protocol, folds)]
    found = trained_on(protocol, folds, corpus_keys(config))
    if config.training.init_from:
        record = read_record(workdir)
        for name in {record["folds"][fold] for fold in folds}:
            found += [
                TrainedOn(
                    frozenset(one["recordings"]), frozenset(one["speakers"]), (*one["corpus"],)
                )
                for one in record["models"][name]["trained_on"]
            ]
    return found


def warn_without_digests(workdir: Path, protocol: Mapping[str, Any]) -> None:
    """Warns that an older run, given its `protocol.json`, knows recordings by their ids only."""
    if not protocol.get("recordings"):
        log.warning(
            "note: %s does not know the digests of its recordings, as older runs do not: copies"
            " under other names are not recognised; ser-jax evaluate --model=%s adds them",
            *(workdir, workdir),
        )


def read_record(workdir: Path) -> dict[str, Any]:
    """Returns the content of `init_from.json`; a UserError if it is absent or damaged."""
    path = workdir / INIT_FROM
    if not path.is_file():
        raise UserError(
            f"{path} is missing, which says what models the run started from and what these were"
            " trained on: put it back, or train in another --workdir"
        )
    return strict_json.read(path, remedy="put it back as it was, or train in another --workdir")


def seen_ids(
    utterances: Collection[Utterance],
    recordings: Mapping[str, str],
    seen: Collection[TrainedOn],
    keys: Keys,
) -> set[str]:
    """Returns the ids of what models have seen of a corpus: recordings, and their whole speakers.

    Args:
      utterances: Those of the corpus.
      recordings: Utterance id → SHA-256 of its file.
      seen: What the models were trained on.
      keys: The keys of its corpora. Speaker names are those of an entry of `seen` with the same
        key, and of one that has any of the recordings.
    """
    found: set[str] = set()
    for (prefix, key), one in itertools.product(keys.items(), seen):
        own, same = [u for u in utterances if u.id.startswith(prefix)], one.corpus == key
        known = {
            u.id
            for u in own
            if recordings[u.id] in one.recordings or (same and u.id in one.recordings)
        }
        if same or known:
            known |= {u.id for u in own if u.speaker.removeprefix(prefix) in one.speakers}
        found |= known
    speakers = {u.speaker for u in utterances if u.id in found} - {""}
    return found | {u.id for u in utterances if u.speaker in speakers}


def unseen(
    corpus: Corpus, recordings: Mapping[str, str], seen: Collection[TrainedOn], keys: Keys
) -> tuple[Corpus, tuple[Utterance, ...]]:
    """Leaves out what models have seen; arguments as for `seen_ids`.

    Returns:
      The rest of the corpus, and what was left out.
    """
    known = seen_ids(corpus.utterances, recordings, seen, keys)
    kept, left_out = (
        tuple(u for u in corpus.utterances if (u.id in known) == part) for part in (False, True)
    )
    return dataclasses.replace(corpus, utterances=kept), left_out
