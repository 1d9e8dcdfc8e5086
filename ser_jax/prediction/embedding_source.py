"""The embeddings of new recordings: by the model that made those of the training, or from files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ser_jax.corpora.table import Utterance
from ser_jax.features import embedder, embeddings
from ser_jax.features.embedding_files import entries
from ser_jax.features.pcm import INT16_SCALE
from ser_jax.runtime.errors import UserError


class Source(Protocol):
    """Gives the embeddings of recordings."""

    needs_waves: bool  # whether it computes them, from the samples

    def of(self, waves: Sequence[np.ndarray], utterances: Sequence[Utterance]) -> list[np.ndarray]:
        """Returns [T, L, D] f32 of N recordings: their waves [S] i16, or which files they are."""
        ...


def make(
    facts: Mapping[str, Any], description: str, *, embedder: str, embeddings: str, mean: bool
) -> Source:
    """Returns the source that the user names.

    Args:
      facts: What `model.json` says of the embeddings of the training.
      description: Which models predict, in words.
      embedder: The ONNX file that made them; or
      embeddings: files of embeddings.
      mean: Whether the system reads means over time only.

    Raises:
      UserError: If none is named, or it is not the one that the models were trained with.
    """
    if embedder:
        return _Computed(facts, description, Path(embedder), mean)
    if embeddings:
        return _Brought(facts, Path(embeddings), mean)
    raise UserError(
        f"{description} reads embeddings of another model: name the file that made them,"
        " --embedder=FILE.onnx, or bring those of the recordings, --embeddings=PATH"
    )


class _Computed:
    needs_waves = True

    def __init__(self, facts: Mapping[str, Any], description: str, path: Path, mean: bool):
        made = facts["embedder"]
        if made is None:
            raise UserError(
                f"{description} does not know what made its embeddings (only ser-jax embed writes"
                " that down): bring those of the recordings, --embeddings=PATH"
            )
        if (digest := embedder.digest(path)) != made["sha256"]:
            raise UserError(
                f"{path} is another model (SHA-256 {digest[:12]}…) than the one that made the"
                f" embeddings of {description} ({made['sha256'][:12]}…): name that one"
            )
        self._embedder = embedder.Embedder(path, made["outputs"], made["normalise"])
        self._level, self._mean = facts["level"], mean

    def of(self, waves: Sequence[np.ndarray], utterances: Sequence[Utterance]) -> list[np.ndarray]:
        del utterances
        found = []
        for wave in waves:
            (array,) = self._embedder([wave.astype(np.float32) / INT16_SCALE])
            values = embeddings.canonical(array, self._level)
            assert not isinstance(values, str), values
            found.append(embeddings.mean_over_time(values) if self._mean else values)
        return found


class _Brought:
    needs_waves = False

    def __init__(self, facts: Mapping[str, Any], path: Path, mean: bool):
        self._path, self._listed = path, entries(path)
        self._facts, self._mean = facts, mean
        self._used: dict[str, str] = {}  # place of an embedding → the recording that has it

    def of(self, waves: Sequence[np.ndarray], utterances: Sequence[Utterance]) -> list[np.ndarray]:
        del waves
        if not utterances:
            raise UserError(
                "samples and windows of a recording have no embeddings of their own in files: name"
                " the model that made those of the training, --embedder=FILE.onnx"
            )
        level = self._facts["level"]
        matched, _ = embeddings.match(
            self._path, utterances, Path(), level=level, listed=self._listed
        )
        for utterance, rows in matched:
            other = self._used.setdefault(rows[0].place, utterance.file)
            if other != utterance.file:  # They were not in one call.
                raise UserError(
                    f"{rows[0].place} may be of {other} and of {utterance.file}: name the"
                    " embeddings by the paths of the recordings"
                )
        found = embeddings.read(self._path, matched, level=level, mean=self._mean)
        embeddings.check_alike(self._path, found.facts, self._facts)
        return list(found)
