"""Adds stored variants to the features of a training: degraded versions of what it trains on."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ser_jax.config import Config
from ser_jax.corpora import from_config
from ser_jax.corpora.table import Corpus, Rejection, Utterance
from ser_jax.features import audio, media, variants
from ser_jax.features.extraction import Features, Variants
from ser_jax.features.variants import Sound
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training.trials import Trial, folds_of_phases

REJECTED = "rejected-variants.csv"
LONGEST = 3600.0  # s, of a file of noise; parts of it are read

log = logging.getLogger(__name__)

Extract = Callable[..., Features]  # `extraction.extract` with store and limits, given a corpus


def trained_on(config: Config, protocol: Protocol, trials: Sequence[Trial]) -> np.ndarray:
    """Returns the numbers of the utterances that any of the trials trains on, in any phase."""
    names = {trial.fold.name for trial in trials}
    phases = folds_of_phases(protocol, config.training.refit).values()
    parts = [fold.train for folds in phases for name, fold in folds.items() if name in names]
    return np.unique(np.concatenate(parts))


def add(
    config: Config,
    corpus: Corpus,
    features: Features,
    utterances: np.ndarray,
    folder: Path | None,
    extract: Extract,
    most_bytes: float,
) -> Features:
    """Returns the features with `augment.variants` variants of some of their utterances.

    A variant that cannot be used is left out, and training takes the recording as it is.

    Args:
      config: The resolved configuration.
      corpus: The corpus.
      features: The features of its recordings as they are.
      utterances: Numbers of those that are trained on.
      folder: Folder for `rejected-variants.csv`: files of noise and impulse responses that cannot
        be used, and variants; None: no list.
      extract: Computes features of a corpus, or reads them from the store.
      most_bytes: Features that take more, both together, stay in the store.

    Raises:
      UserError: If a folder holds nothing that can be used, or a recording of the corpus.
    """
    count, size = config.augment.variants, len(features.utterances)
    sounds, bad = {}, []
    for key in ("noise_folder", "room_folder"):
        sounds[key], rejected = _sounds(config, f"augment.{key}", features, folder, extract)
        bad += rejected
    of_variant, recipes, gains, rows = [], {}, {}, []
    for n in utterances.tolist():
        one, digest = features.utterances[n], features.digests[n]
        for number in range(1, count + 1):
            name = f"{one.id}~{number}"
            recipes[name] = variants.draw(
                *(_settings(config), (digest, one.start, one.end), number),
                *(float(features.seconds[n]), sounds["noise_folder"], sounds["room_folder"]),
            )
            of_variant.append(dataclasses.replace(one, id=name))
            gains |= {name: features.gains[one.id]} if one.id in features.gains else {}
            rows.append((name, number, n))
    if config.augment.variants_codec and not variants.writes_mp3():
        log.warning("note: this libsndfile writes no MP3: no variant goes through a codec")
    what = counted(len(utterances), "training recording")
    log.info("%s of each of %s", counted(count, "variant"), what)
    found = extract(
        dataclasses.replace(corpus, utterances=tuple(of_variant), rejected=()),
        gains=gains,
        recipes=recipes,
        max_seconds=np.inf,  # A little longer than the recording is no reason to refuse it.
        max_bad_share=1.0,
        most_bytes=0 if features.deferred else most_bytes - _bytes(features),
    )
    versions = np.tile(np.arange(size), (count + 1, 1))
    place = {row.id: size + number for number, row in enumerate(found.utterances)}
    for name, number, n in rows:
        versions[number, n] = place[name] if name in place else n
    bad += found.rejected
    if folder is not None:
        from_config.list_rejected(folder / REJECTED, bad)
    if bad:
        where = folder / REJECTED if folder else REJECTED
        log.warning(
            "note: %s cannot be used for variants, see %s", counted(len(bad), "sound"), where
        )
    facts = {"count": count} | {
        name.removesuffix("_folder") + "_sha256": _digest([one.sha256 for one in known])
        for name, known in sounds.items()
        if known
    }
    facts["sha256"] = _digest([found.sha256, versions.tolist(), facts])
    return dataclasses.replace(features, variants=Variants(found, versions, facts))


def _settings(config: Config) -> variants.Settings:
    a = config.augment
    return variants.Settings(
        seed=a.variants_seed,
        gain_db=a.variants_gain_db,
        noise=a.variants_noise,
        noise_snr_db=tuple(a.noise_snr_db),
        noise_slope_db=a.noise_slope_db,
        room=a.variants_room,
        room_seconds=tuple(a.room_seconds),
        telephone=a.variants_telephone,
        codec=a.variants_codec,
    )


def _sounds(
    config: Config, key: str, features: Features, folder: Path | None, extract: Extract
) -> tuple[list[Sound], list[Rejection]]:
    """Returns the files of a folder, one for each digest and sorted by it, and those that are bad.

    Every file is decoded, once for all trainings: the store keeps how long it is.
    """
    given = config.augment[key.removeprefix("augment.")]
    if not given:
        return [], []
    root = Path(os.path.abspath(os.path.expanduser(given)))
    known = media.AUDIO + (media.SUFFIXES if media.installed() else ())
    paths = [path for path in root.rglob("*") if path.name.lower().endswith(known)]
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    names = [name for name in names if not any(part[0] == "." for part in name.split("/"))]
    if not names:
        what = "holds no recording, nor do its folders" if root.is_dir() else "is not a folder"
        raise UserError(f"{key}={given} {what}; files that end in {', '.join(known)} are read")
    rejected: list[Rejection] = []
    try:
        found = extract(
            Corpus(key, root, tuple(Utterance(name, name) for name in names), "", {}),
            log_mel=False,
            hsf=False,
            waves=False,
            mix=audio.USUAL,
            max_seconds=LONGEST,
            max_bad_share=1.0,
            on_rejected=lambda rows: rejected.extend(_with_folder(root, row) for row in rows),
        )
    except UserError as error:
        if folder is not None and rejected:
            from_config.list_rejected(folder / REJECTED, rejected)
        raise UserError(f"{key}={given}: {error}") from None
    own = dict(zip(features.digests, features.utterances, strict=True))
    rows = zip(found.utterances, found.digests, found.seconds.tolist(), strict=True)
    sounds = {}
    for row, digest, seconds in rows:
        if digest in own:
            raise UserError(
                f"{key}={given}: {row.file} is the recording {own[digest].file} of the corpus, and"
                " would be heard in the training of folds that test on it: take it out"
            )
        sounds[digest] = Sound(root / row.file, digest, seconds)
    log.info("%s: %s of %s", key, counted(len(sounds), "sound"), root)
    return [sounds[digest] for digest in sorted(sounds)], rejected


def _with_folder(root: Path, row: Rejection) -> Rejection:
    return dataclasses.replace(row, file=str(root / row.file))


def _bytes(features: Features) -> int:
    arrays = [*features.log_mel, *features.waves]
    return sum(one.nbytes for one in arrays) + (0 if features.hsf is None else features.hsf.nbytes)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
