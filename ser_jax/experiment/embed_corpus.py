"""Embeds a corpus by a speech model in an ONNX file: an array per utterance, which stays."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from ser_jax.config import Config
from ser_jax.corpora import from_config
from ser_jax.corpora.table import Corpus
from ser_jax.experiment import setup
from ser_jax.features import audio, embedder
from ser_jax.features.embedding_files import EMBEDDER, made_by
from ser_jax.features.extraction import extract
from ser_jax.features.pcm import INT16_SCALE
from ser_jax.runtime import files, machine, strict_json
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import progress


def embed(
    config: Config,
    corpus: Corpus,
    model: Path,
    folder: Path,
    *,
    outputs: list[str],
    normalise: bool = False,
) -> tuple[int, int]:
    """Writes `<folder>/<utterance id>.npy` for every utterance that has none there yet.

    Utterances of equal length are computed together: nothing is padded.

    Args:
      config: Its sections `corpus` and `features` say how recordings become samples.
      corpus: The utterances.
      model: The ONNX file.
      folder: Where to write; `embedder.json` there says what made its files.
      outputs: Outputs of the model to keep; see `embedder.Embedder`.
      normalise: Whether waves are brought to mean 0 and variance 1.

    Returns:
      How many embeddings there are now, and how many of them are new.

    Raises:
      UserError: If the model cannot be used, the folder holds embeddings of another one or cannot
        be written, or too many recordings cannot be used.
    """
    network = embedder.Embedder(model, outputs, normalise)
    facts = {
        "model": model.name,
        "sha256": embedder.digest(model),
        "outputs": network.outputs,
        "normalise": normalise,
        "samples": setup.mix(config).settings(),
    }
    before = made_by(folder)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if before is None and there - {"rejected.csv"}:
        raise UserError(f"--output={folder} is not empty and holds no embeddings: name another")
    if before is not None and {key: before.get(key) for key in facts} != facts:
        other = ", ".join(key for key, value in facts.items() if before.get(key) != value)
        raise UserError(
            f"--output={folder} holds embeddings that were made otherwise ({other}): name another"
            " folder, or delete this one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strict_json.write(folder / EMBEDDER, facts)
    except OSError as error:
        raise UserError(f"--output={folder} cannot be written: {error.strerror}") from None
    f = config.features
    features = extract(
        corpus,
        setup.logmel_settings(config),
        log_mel=False,
        hsf=False,
        waves=True,
        most_bytes=0,
        store_root=Path(f.store).expanduser() if f.store else machine.feature_folder(),
        max_seconds=f.max_seconds,
        max_bad_share=f.max_bad_share,
        workers=f.workers,
        mix=setup.mix(config),
        on_rejected=lambda rejected: from_config.list_rejected(folder / "rejected.csv", rejected),
    )
    waves = features.deferred["wave"]
    by_length: dict[int, list[int]] = defaultdict(list)
    paths = [folder / f"{utterance.id}.npy" for utterance in features.utterances]
    for number, length in enumerate(waves.lengths().tolist()):
        if not paths[number].is_file():
            by_length[length].append(number)
    todo = sum(map(len, by_length.values()))
    with progress("embedding", len(paths), "utterances", len(paths) - todo) as advance:
        for length in sorted(by_length):
            for first in range(0, len(by_length[length]), network.rows):
                part = by_length[length][first : first + network.rows]
                arrays = network([waves[n].astype(np.float32) / INT16_SCALE for n in part])
                for number, values in zip(part, arrays, strict=True):
                    _write(paths[number], values)
                advance(len(part), f"({length / audio.SAMPLE_RATE:.1f} s)")
    return len(paths), todo


def _write(path: Path, values: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.writing(path) as file:
            np.save(file, values, allow_pickle=False)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free space or mend the permissions, and"
            " run the same command again; what is finished stays"
        ) from None
