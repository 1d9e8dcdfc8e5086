"""Explains the test predictions of a run: joint representations and saliency, for its report.

Every utterance is evaluated only by the model of the fold that tests on it; what the functionals
are worth is measured on the validation part of the fold.
"""

import functools
import logging
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.baselines.svm_system import SVM
from ser_jax.config import Config
from ser_jax.data.dataset import Dataset
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import standardise
from ser_jax.evaluation import importance
from ser_jax.evaluation.examples import (
    Example,
    Explanation,
    Recording,
    Representations,
    choose_examples,
)
from ser_jax.evaluation.importance import Importances
from ser_jax.evaluation.predictions import Prediction
from ser_jax.experiment import setup
from ser_jax.experiment.systems import System
from ser_jax.features import functionals
from ser_jax.features.extraction import Features
from ser_jax.features.logmel import band_edges
from ser_jax.models import build, introspection
from ser_jax.models.layers import ComputeOptions
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime.progress import counted
from ser_jax.training import model_files
from ser_jax.training.model_files import Model
from ser_jax.training.trials import Trial

MOST_UTTERANCES = 1000  # whose representations are computed, over all folds
ROWS = 16  # of a batch
MOST_SHUFFLED = 300  # utterances of validation parts whose functionals are shuffled, over all folds

log = logging.getLogger(__name__)


def explain(
    config: Config,
    system: System,
    protocol: Protocol,
    features: Features,
    root: Path,
    models: Mapping[Trial, Path],
    rows: Sequence[Prediction],
) -> Explanation:
    """Explains the test predictions by the first usable model of every fold.

    Args:
      config: The resolved configuration; its precision has been set for the process.
      system: The system, with the features of the protocol.
      protocol: The protocol.
      features: Features of its utterances.
      root: Folder that their files are relative to.
      models: Trials that can be used → their model directories; only pooled folds with a test part.
      rows: Their predictions.

    Returns:
      The explanation. A system without a network has no representations and no saliency.
    """
    recordings = {
        row.id: Recording(root / row.file, float(seconds), row.start, row.end)
        for row, seconds in zip(features.utterances, features.seconds, strict=True)
    }
    begin = time.monotonic()
    first: dict[str, tuple[Trial, Model]] = {}
    for trial in sorted(models, key=lambda trial: (trial.fold.name, trial.seed)):
        if trial.fold.name not in first:
            first[trial.fold.name] = trial, model_files.read_model(models[trial])
    dataset = system.dataset
    if dataset is None:
        why = f"{config.system} is no network: it has no joint representation."
        svm = typing.cast(SVM, system)
        readers = [(*one, _svm_reader(svm, one[1])) for one in first.values()]
        found = _importance(config, protocol, readers)
        return Explanation(recordings, importance=found, no_representations=why)
    probe = _ModelProbe(config, dataset, len(protocol.classes))
    found = None
    if build.uses_hsf(config):
        readers = [(*one, probe.reader(one[1])) for one in first.values()]
        found = _importance(config, protocol, readers)
    most = MOST_UTTERANCES // max(len(first), 1)
    representations = tuple(
        _representations(probe, protocol, trial, model, most) for trial, model in first.values()
    )
    examples, no_examples = (), _no_examples(config)
    if not no_examples:
        seeds: dict[str, int] = {}
        for row in rows:
            seeds[row.fold] = min(row.seed, seeds.get(row.fold, row.seed))
        own = [row for row in rows if row.fold in first and row.seed == seeds[row.fold]]
        index = {name: number for number, name in enumerate(protocol.ids)}
        examples = tuple(
            Example(
                row,
                *probe.saliency(
                    first[row.fold][1], index[row.id], protocol.classes.index(row.prediction)
                ),
            )
            for row in choose_examples(own, protocol.classes)
        )
    if first:
        count = counted(len(first), "model")
        log.info("explained %s in %.1f s", count, time.monotonic() - begin)
    hertz = band_edges(setup.logmel_settings(config))[1:-1]
    hop = config.features.hop_seconds
    return Explanation(
        recordings, representations, examples, hertz, hop, no_examples=no_examples, importance=found
    )


def _representations(
    probe: "_ModelProbe", protocol: Protocol, trial: Trial, model: Model, most: int
) -> Representations:
    test = trial.fold.test
    members = _spread(test, most)
    values, logits = probe.representations(model, members)
    ids = tuple(protocol.ids[n] for n in members)
    return Representations(trial.fold.name, trial.seed, len(test), ids, values, logits)


# Of utterances: functionals [n, D] as the model reads them, and the function to logits that
# `importance.confusions` wants.
_Reader = Callable[[np.ndarray], tuple[np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]]


def _svm_reader(system: SVM, model: Model) -> _Reader:
    def read(utterances: np.ndarray) -> tuple[np.ndarray, Any]:
        weights, bias = model.params["coefficients"].T, model.params["intercept"]
        return system.functionals(model, utterances), lambda values, _: values @ weights + bias

    return read


def _importance(
    config: Config, protocol: Protocol, readers: Sequence[tuple[Trial, Model, _Reader]]
) -> Importances | None:
    """Shuffles functionals among the utterances of validation parts; None where there are none."""
    if not readers or not build.uses_functionals(config):
        return None
    feature_set = config.features.functionals
    names = functionals.feature_names(feature_set)
    embedded = _width(readers[0][1]) - len(names)  # behind the functionals, if any
    names += ("embedding",) * embedded
    groups = [*importance.contours(names), *importance.singles(names)]
    classes, pooled = len(protocol.classes), []
    for trial, _, read in readers:
        labelled = trial.fold.validation[protocol.targets[trial.fold.validation] >= 0]
        members = _spread(labelled, MOST_SHUFFLED // len(readers))
        if len(members):
            values, logits = read(members)
            generator = np.random.default_rng(trial.seed)
            found = *(values, protocol.targets[members], classes), groups, logits, generator
            pooled.append(importance.confusions(*found))
    return importance.summarise(feature_set, names, np.sum(pooled, axis=0)) if pooled else None


def _width(model: Model) -> int:
    """Returns D, the number of values that a model reads beside the frames."""
    assert model.statistics.hsf_mean is not None
    return model.statistics.hsf_mean.size


def _spread(members: np.ndarray, most: int) -> np.ndarray:
    """Returns at most so many utterances, at even distances in the order of their ids."""
    places = np.linspace(0, len(members) - 1, min(max(most, 1), len(members)))
    return members[places.round().astype(np.int64)]


def _no_examples(config: Config) -> str:
    """Returns why the system has no saliency, as a sentence; empty if it has."""
    if not build.uses_log_mel(config):
        return f"{config.system} reads the waveform: there is no spectrogram to show saliency on."
    if config.model.form != "fast":
        cut = "The literal form cuts the spectrogram into segments"
        return f"{cut}; model.form=fast draws the saliency."
    return ""


class _ModelProbe:
    """Compiled representations and saliency of a system's models.

    Utterances are padded to the length of the middle or of the last bucket: a program per bucket
    would take longer to compile than its padding saves.
    """

    def __init__(self, config: Config, dataset: Dataset, classes: int):
        self._dataset, self._classes = dataset, classes
        model = build.build_model(config, classes, ComputeOptions(build.operands(config)))
        self._represent = jax.jit(functools.partial(_represent, model))
        self._saliency = jax.jit(functools.partial(_saliency, model))
        self._pool = jax.jit(functools.partial(_pool, model))
        self._answer = jax.jit(functools.partial(_answer, model))

    def representations(self, model: Model, utterances: np.ndarray) -> list[np.ndarray]:
        """Returns joint representations [n, E] and logits [n, K] f64 of the protocol's utterances.

        `utterances` are their indices.
        """
        both = self._of_each(self._represent, model, utterances)
        return np.split(both, [-self._classes], axis=1)

    def reader(self, model: Model) -> _Reader:
        """Returns what reads and scores functionals beside the states of the CRNN, HSF-CRNN only.

        The CRNN, which costs most, is run once.
        """

        def read(utterances: np.ndarray) -> tuple[np.ndarray, Any]:
            both = self._of_each(self._pool, model, utterances).astype(np.float32)
            pooled, values = np.split(both, [-_width(model)], axis=1)
            params = jax.device_put(model.params)
            return values, lambda hsf, rows: np.asarray(
                jax.device_get(self._answer(params, *jax.device_put((pooled[rows], hsf))))
            )

        return read

    def _of_each(self, function: Any, model: Model, utterances: np.ndarray) -> np.ndarray:
        """Returns [n, …] f64, one row of a compiled function for every utterance."""
        params, statistics = self._on_device(model)
        found: dict[int, np.ndarray] = {}
        middle, last = (len(self._dataset.buckets) - 1) // 2, len(self._dataset.buckets) - 1
        short = self._dataset.bucket[utterances] <= middle
        for size, members in ((middle, utterances[short]), (last, utterances[~short])):
            for start in range(0, len(members), ROWS):
                part = members[start : start + ROWS]
                full = np.append(part, np.repeat(part[-1:], ROWS - len(part)))
                values = jax.device_get(function(params, statistics, self._batch(full, size)))
                found |= zip(part.tolist(), values, strict=False)
        return np.array([found[number] for number in utterances.tolist()], np.float64)

    def saliency(self, model: Model, utterance: int, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the standardised frames [F, M] of an utterance and their saliency, unpadded."""
        batch = self._batch(np.array([utterance]), len(self._dataset.buckets) - 1)
        target = np.array([label], np.int32)
        frames, saliency = jax.device_get(self._saliency(*self._on_device(model), batch, target))
        # The rest of the last hop is read by no segment, and not all of it need be stored.
        stored = self._dataset.buckets[self._dataset.bucket[utterance]].frames
        length = min(int(batch.length[0]), stored.shape[1])
        return frames[0, :length], saliency[0, :length]

    def _on_device(self, model: Model) -> Any:
        return jax.device_put((model.params, self._dataset.device_statistics(model.statistics)))

    def _batch(self, utterances: np.ndarray, size: int) -> Inputs:
        """Returns a batch of utterances, each padded to the length of bucket number `size`."""
        longer = self._dataset.buckets[size]

        def one(utterance: int) -> Inputs:
            bucket, row = self._dataset.bucket[utterance], self._dataset.row[utterance]
            inputs = jax.tree.map(lambda leaf: leaf[row : row + 1], self._dataset.buckets[bucket])
            segments = inputs.segments
            if segments is not None:
                segments = tuple(map(_pad, segments, longer.segments or ()))
            return inputs._replace(
                frames=None if inputs.frames is None else _pad(inputs.frames, longer.frames),
                segments=segments,
                wave=None if inputs.wave is None else _pad(inputs.wave, longer.wave),
            )

        return jax.tree.map(lambda *rows: np.concatenate(rows), *map(one, utterances.tolist()))


def _pad(values: np.ndarray, like: Any) -> np.ndarray:
    """Returns values [B, T, …] padded with zeros to as many steps as `like` has."""
    widths = [(0, 0)] * values.ndim
    widths[1] = (0, like.shape[1] - values.shape[1])
    return np.pad(values, widths)


def _represent(module: Any, params: Any, statistics: Any, inputs: Inputs) -> jax.Array:
    """Returns [B, E + K], joint representations and logits."""
    inputs = standardise(inputs, statistics, jnp)
    representation = introspection.representation(module, params, inputs)
    logits = module.apply({"params": params}, inputs)
    return jnp.concatenate([representation, logits], axis=1)


def _pool(module: Any, params: Any, statistics: Any, inputs: Inputs) -> jax.Array:
    """Returns [B, 3 H + D], the pooled states of the CRNN and the standardised functionals."""
    inputs = standardise(inputs, statistics, jnp)
    pooled = module.apply({"params": params}, inputs, method="pool")
    assert inputs.hsf is not None
    return jnp.concatenate([pooled, inputs.hsf], axis=1)


def _answer(module: Any, params: Any, pooled: jax.Array, hsf: jax.Array) -> jax.Array:
    return module.apply({"params": params}, pooled, hsf, method="answer")


def _saliency(
    module: Any, params: Any, statistics: Any, inputs: Inputs, labels: jax.Array
) -> tuple:
    inputs = standardise(inputs, statistics, jnp)
    return inputs.frames, introspection.saliency(module, params, inputs, labels)
