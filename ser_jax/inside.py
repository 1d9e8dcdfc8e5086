"""Looks into the models of a run for its report: joint representations of the test parts, saliency of a few utterances.

An utterance is only ever shown to the model of the fold that tests on it, which has not been trained on it.
"""

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax import machinery, systems
from ser_jax.arrays.dataset import Dataset
from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import standardise
from ser_jax.config import Config
from ser_jax.evaluation.inside import Example, Inside, Recording, View, choose_examples
from ser_jax.evaluation.predictions import Prediction
from ser_jax.features.extract import Features
from ser_jax.features.logmel import band_edges
from ser_jax.models import build, insight
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import model_files
from ser_jax.training.model_files import Model
from ser_jax.training.runs import Run

MOST_UTTERANCES = 1000  # whose representations are computed, over all folds
ROWS = 16  # of a batch

log = logging.getLogger(__name__)


def look(
    config: Config,
    dataset: Dataset | None,
    protocol: Protocol,
    features: Features,
    root: Path,
    models: Mapping[Run, Path],
    rows: Sequence[Prediction],
) -> Inside:
    """Looks into the first model of every fold.

    Args:
      config: The resolved configuration.
      dataset: The padded features of the protocol; None: the system has no network.
      protocol: The protocol.
      features: Features of its utterances.
      root: Folder that their files are relative to.
      models: Runs that can be used → their folders; only folds with a test part that the page is about.
      rows: Their predictions.

    Returns:
      What the report shows. A system without a network has recordings only.
    """
    recordings = {
        utterance.id: Recording(root / utterance.file, float(seconds), utterance.start, utterance.end)
        for utterance, seconds in zip(features.utterances, features.seconds, strict=True)
    }
    if dataset is None:
        return Inside(recordings, no_views=f"{config.system} has no network to look into.")
    begin = time.monotonic()
    first: dict[str, tuple[Run, Model]] = {}
    for run in sorted(models, key=lambda run: (run.fold.name, run.seed)):
        if run.fold.name not in first:
            first[run.fold.name] = run, model_files.read_model(models[run])
    # The precision is that of the run: `machinery.start` has set it.
    lens = _Lens(config, dataset, len(protocol.classes))
    most = MOST_UTTERANCES // max(len(first), 1)
    views = tuple(_view(lens, protocol, run, model, most) for run, model in first.values())
    examples, no_examples = (), _no_examples(config)
    if not no_examples:
        seeds: dict[str, int] = {}
        for row in rows:
            seeds[row.fold] = min(row.seed, seeds.get(row.fold, row.seed))
        own = [row for row in rows if row.fold in first and row.seed == seeds[row.fold]]
        chosen = choose_examples(own, protocol.classes)
        numbers = {name: number for number, name in enumerate(protocol.ids)}
        examples = tuple(
            Example(row, *lens.saliency(first[row.fold][1], numbers[row.id], protocol.classes.index(row.prediction)))
            for row in chosen
        )
    if first:
        log.info("looked into %d models in %.1f s", len(first), time.monotonic() - begin)
    hertz = band_edges(machinery.logmel_settings(config))[1:-1]
    return Inside(recordings, views, examples, hertz, config.features.hop_seconds, no_examples=no_examples)


def _view(lens: "_Lens", protocol: Protocol, run: Run, model: Model, most: int) -> View:
    test = run.fold.test
    # Of a large part, utterances at even distances in the order of their ids.
    members = test[np.linspace(0, len(test) - 1, min(most, len(test))).round().astype(np.int64)]
    values = lens.representations(model, members)
    kernel, bias = insight.last_layer(model.params)
    return View(
        run.fold.name, run.seed, len(test), tuple(protocol.ids[n] for n in members), values, values @ kernel + bias
    )


def _no_examples(config: Config) -> str:
    if not systems.uses_log_mel(config):
        return f"{config.system} reads the wave: there is no spectrogram to lay a saliency over."
    if config.model.form != "fast":
        return "The literal form cuts the spectrogram into segments; model.form=fast draws the saliency."
    return ""


class _Lens:
    """Programs that look into models of one system; the padded length is that of the middle or of the last bucket.

    A program per bucket would take longer to compile than its padding saves.
    """

    def __init__(self, config: Config, dataset: Dataset, classes: int):
        self._dataset = dataset
        model = build.build_model(config, classes, Arithmetic(machinery.operands(config)))
        self._represent = jax.jit(functools.partial(_represent, model))
        self._salience = jax.jit(functools.partial(_salience, model))

    def representations(self, model: Model, utterances: np.ndarray) -> np.ndarray:
        """Returns the joint representations [n, E] f64 of utterances (numbers in the protocol)."""
        params, statistics = self._on_device(model)
        found: dict[int, np.ndarray] = {}
        middle, last = (len(self._dataset.buckets) - 1) // 2, len(self._dataset.buckets) - 1
        short = self._dataset.bucket[utterances] <= middle
        for size, members in ((middle, utterances[short]), (last, utterances[~short])):
            for start in range(0, len(members), ROWS):
                part = members[start : start + ROWS]
                full = np.append(part, np.repeat(part[-1:], ROWS - len(part)))
                values = jax.device_get(self._represent(params, statistics, self._batch(full, size)))
                found |= zip(part.tolist(), values, strict=False)
        return np.array([found[number] for number in utterances.tolist()], np.float64)

    def saliency(self, model: Model, utterance: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the standardised frames [F, M] of an utterance and its saliency for class `number`; no padding."""
        batch = self._batch(np.array([utterance]), len(self._dataset.buckets) - 1)
        asked = np.array([number], np.int32)
        found = jax.device_get(self._salience(*self._on_device(model), batch, asked))
        # What is left of the last hop is read by no segment, and not all of it need be there.
        held = self._dataset.buckets[self._dataset.bucket[utterance]].frames
        length = min(int(batch.length[0]), held.shape[1])
        return found[0][0, :length], found[1][0, :length]

    def _on_device(self, model: Model) -> Any:
        return jax.device_put((model.params, self._dataset.device_statistics(model.statistics)))

    def _batch(self, utterances: np.ndarray, size: int) -> Inputs:
        """Returns utterances, each in a row that is as long as those of bucket number `size`."""
        longer = self._dataset.buckets[size]

        def one(utterance: int) -> Inputs:
            bucket, row = self._dataset.bucket[utterance], self._dataset.row[utterance]
            inputs = jax.tree.map(lambda leaf: leaf[row : row + 1], self._dataset.buckets[bucket])
            return inputs._replace(
                frames=None if inputs.frames is None else _pad(inputs.frames, longer.frames),
                segments=None if inputs.segments is None else tuple(map(_pad, inputs.segments, longer.segments or ())),
                wave=None if inputs.wave is None else _pad(inputs.wave, longer.wave),
            )

        return jax.tree.map(lambda *rows: np.concatenate(rows), *map(one, utterances.tolist()))


def _pad(values: np.ndarray, like: Any) -> np.ndarray:
    """Returns values [B, T, …] with zeros behind, as many steps as `like` has."""
    behind = [(0, 0)] * values.ndim
    behind[1] = (0, like.shape[1] - values.shape[1])
    return np.pad(values, behind)


def _represent(module: Any, params: Any, statistics: Any, inputs: Inputs) -> jax.Array:
    return insight.representation(module, params, standardise(inputs, statistics, jnp))


def _salience(module: Any, params: Any, statistics: Any, inputs: Inputs, number: jax.Array) -> tuple:
    inputs = standardise(inputs, statistics, jnp)
    return inputs.frames, insight.saliency(module, params, inputs, number)
