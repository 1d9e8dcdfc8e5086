"""From a configuration to devices, padded data and the executor that trains on it."""

import dataclasses
import functools
import hashlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ser_jax.config import Config
from ser_jax.corpora.table import Corpus, Rejection
from ser_jax.data import record_files
from ser_jax.data.dataset import (
    Dataset,
    Source,
    frames_dataset,
    frames_source,
    waves_dataset,
    waves_source,
)
from ser_jax.features import audio, embeddings, preparation
from ser_jax.features.extraction import Features, Variants
from ser_jax.features.logmel import LogMelSettings, mel, silence
from ser_jax.models import build, probe
from ser_jax.protocols import speaker_rule
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime import machine
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted
from ser_jax.training.augmentation import Augmentation
from ser_jax.training.execution import mesh, plan
from ser_jax.training.execution.executor import Executor
from ser_jax.training.execution.per_step import PerStep
from ser_jax.training.execution.program_cache import use_compilation_cache
from ser_jax.training.execution.scanned import Scanned
from ser_jax.training.step import TrainSettings

log = logging.getLogger(__name__)

# Every shape takes seconds to compile, once, beside the first steps; on IEMOCAP 20 shapes instead
# of 6 save 15 % of all frames.
FEW_SHAPES, MOST_SHAPES, MANY_UTTERANCES = 6, 20, 2000

AUTO, RESIDENT, STREAMED = "auto", "resident", "streamed"  # values of training.residence

# Where the limits of a container stand (cgroup v2 and v1).
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def start(config: Config) -> list[Any]:
    """Starts jax as the configuration says; returns the devices."""
    if config.training.compilation_cache:
        use_compilation_cache()
    jax.config.update("jax_default_matmul_precision", matmul_precision(config))
    machine.keep_freed_memory()
    devices = mesh.start_devices(config.training.devices)
    if devices[0].platform == "cpu" and not os.environ.get("JAX_PLATFORMS") and has_nvidia():
        log.warning(
            "note: this machine has an NVIDIA card, and jax computes on the CPU: pip install"
            " 'ser_jax[cuda13]' (drivers below 580: 'ser_jax[cuda12]') uses it; JAX_PLATFORMS=cpu"
            " says that the CPU is meant"
        )
    return devices


def has_nvidia() -> bool:
    """Returns whether the driver of an NVIDIA card runs on this machine."""
    return Path("/proc/driver/nvidia/version").exists()


def matmul_precision(config: Config) -> str:
    """Returns jax's name for the precision of matrix products."""
    # With bf16 the program rounds the factors itself.
    names = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "float32"}
    return names[config.training.precision]


def logmel_settings(config: Config) -> LogMelSettings:
    """Returns the log-mel front end of the configuration."""
    names = (field.name for field in dataclasses.fields(LogMelSettings))
    return LogMelSettings(**{name: config.features[name] for name in names})


def mix(config: Config) -> audio.Mix:
    """Returns how recordings become samples, by the configuration."""
    names = {field.name for field in dataclasses.fields(audio.Mix)} - {"gain"}
    return audio.Mix(**{name: config.features[name] for name in names})


def speaker_gains(config: Config, recorded: Features) -> dict[str, float]:
    """Returns utterance id → gain of its speaker (features.level=speaker), where there is one.

    `recorded` has the levels of all utterances; errors as of `speaker_rule.assign`.
    """
    rule = speaker_rule.rule(config)
    assert rule is not None and recorded.levels is not None
    numbers = speaker_rule.assign(rule, [row.speaker for row in recorded.utterances])
    gains = {}
    for speaker in range(1, numbers.max() + 1):
        members = np.flatnonzero(numbers == speaker)
        if gain := preparation.speaker_gain(recorded.levels[members]):
            gains |= {recorded.utterances[n].id: gain for n in members.tolist()}
    return gains


def _augmentation(config: Config) -> Augmentation:
    f = config.features
    names = [name for name in Augmentation._fields if name in config.augment]
    return Augmentation(
        **{name: config.augment[name] for name in names},
        silence=silence(logmel_settings(config)),
        mel_range=(mel(f.low_hz), mel(f.high_hz)),
        window_seconds=f.window_seconds,
        hop_seconds=f.hop_seconds,
    )


def train_settings(config: Config, steps: int = 0) -> TrainSettings:
    """Returns how the configuration trains, with so many steps an epoch."""
    t = config.training
    augmentation = _augmentation(config)
    return TrainSettings(
        learning_rate=t.learning_rate,
        clip_norm=t.clip_norm,
        patience=t.patience,
        weight_decay=t.weight_decay,
        ema=t.ema,
        label_smoothing=t.label_smoothing,
        augmentation=augmentation if augmentation.draws else None,
        dropout=build.uses_dropout(config),
        optimizer=t.optimizer,
        schedule=t.schedule,
        warmup_updates=round(t.warmup_epochs * steps),
        total_updates=t.epochs * steps,
        equal_weights=t.loss_divisor == "mean",
        front_rate=t.front_rate,
    )


def make_executor(
    config: Config,
    dataset: Dataset,
    protocol: Protocol,
    devices: list[Any],
    trials: int,
    *,
    training: bool = True,
) -> Executor:
    """Plans the execution of so many trials and begins to compile its programs.

    `devices` is what `start` returned. Without `training` only what scores is compiled.
    """
    parts = [dataset.rows(fold.train if training else fold.test) for fold in protocol.folds]
    classes = len(protocol.classes)
    plain = build.build_model(config, classes)
    example = build.shortest(config, dataset.buckets[0])
    parameters = build.count_parameters(plain, example)
    data = plan.data_facts(
        *(dataset, parts, parameters, config.training.batch_size, _augmentation(config))
    )
    facts = plan.device_facts(devices)
    chosen = plan.with_own_kernels(plan.make_plan(config, trials, data, facts), config, facts)
    log.info("execution: %s", chosen)
    executor = PerStep if chosen.per_step else Scanned
    return executor(
        *(chosen, build.build_model(config, classes, chosen.compute), dataset),
        *(train_settings(config, data.steps),),
        # How the network computes changes no initial value, and this program is traced already.
        initial_params=functools.partial(build.initial_params, plain, inputs=example),
        classes=classes,
        devices=devices,
        training=training,
    )


def embeddings_of(
    config: Config, corpus: Corpus, most_bytes: float
) -> tuple[Corpus, embeddings.Embeddings]:
    """Reads the embeddings of a corpus; those that take more than `most_bytes` on access.

    Returns:
      The corpus without the utterances that have none, if `features.embeddings_missing` drops them,
      and the embeddings of the others.

    Raises:
      UserError: If files and corpus do not fit together; see `embeddings.match` and `read`.
    """
    f, m = config.features, config.model
    path = Path(f.embeddings).expanduser()
    matched, without = embeddings.match(
        *(path, corpus.utterances, corpus.root),
        level=f.embeddings_level,
        missing=f.embeddings_missing,
    )
    if without:
        log.warning(
            "note: %d of %s no embedding; these are left out (rejected.csv)",
            *(len(without), counted(len(corpus.utterances), "utterance has", "utterances have")),
        )
    found = embeddings.read(
        path,
        matched,
        level=f.embeddings_level,
        mean=build.uses_embedded_frames(config) and m.probe_pooling == probe.MEAN,
        most_bytes=most_bytes if build.uses_embedded_frames(config) else math.inf,
    )
    made = found.facts["embedder"]
    if made and made["samples"] != mix(config).settings():
        raise UserError(
            f"features.embeddings={path} was made of recordings with {made['samples']}, and the"
            f" configuration has {mix(config).settings()}: set the same keys of features"
        )
    log.info("embeddings: %s of %s", found, path)
    rejected = tuple(Rejection(u.file, None, embeddings.MISSING, u.id) for u in without)
    kept = tuple(row.utterance for row in matched)
    return dataclasses.replace(corpus, utterances=kept, rejected=corpus.rejected + rejected), found


# --- Padded data: in memory, or read from record files batch by batch


def make_dataset(config: Config, protocol: Protocol, features: Features) -> Dataset:
    """Pads the features of a protocol into length buckets: now, or when a batch is read."""
    dataset = _padded(config, protocol, features)
    speakers = speaker_numbers(config, protocol)
    return dataset if speakers is None else dataset.by_speaker(speakers)


def speaker_numbers(config: Config, protocol: Protocol) -> np.ndarray | None:
    """Returns `speaker_rule.assign` of a protocol; None without speaker normalisation."""
    if config.features.normalisation != speaker_rule.SPEAKER:
        return None
    rule = speaker_rule.rule(config)
    assert rule is not None
    return speaker_rule.assign(rule, protocol.speakers)


def _padded(config: Config, protocol: Protocol, features: Features) -> Dataset:
    variants = features.variants
    parts = [features] if variants is None else [features, variants.features]
    deferred = any(part.deferred for part in parts)
    if deferred:
        source = in_shards(config, features)
    elif build.uses_wave(config):
        source = waves_source(joined([part.waves for part in parts]))
    else:
        hsf = [part.hsf for part in parts if part.hsf is not None]
        frames = joined([part.log_mel for part in parts])
        source = frames_source(frames, np.concatenate(hsf) if hsf else None)
    dataset = _lay_out(config, protocol, source, variants)
    if is_resident(config, plan.data_bytes(dataset), deferred=deferred):
        return dataset.loaded()
    if not deferred:
        dataset = _lay_out(config, protocol, in_shards(config, features), variants)
    return dataset


def _lay_out(
    config: Config, protocol: Protocol, source: Source, variants: Variants | None
) -> Dataset:
    source = source._replace(versions=None if variants is None else variants.versions)
    sizes: dict[str, Any] = {
        "shapes": most_shapes(config, len(protocol.ids)),
        "batch_size": config.training.batch_size,
        "train_fraction": max(len(fold.train) / len(protocol.ids) for fold in protocol.folds),
    }
    if build.uses_wave(config):
        return waves_dataset(source, protocol.strata, chunk=config.model.end2you_chunk, **sizes)
    return frames_dataset(
        source,
        protocol.strata,
        segmentations=build.segmentations(config),
        form=config.model.form,
        silence=silence(logmel_settings(config)),
        whole=_augmentation(config).lengthens,
        **sizes,
    )


def most_shapes(config: Config, utterances: int) -> int:
    """Returns how many length buckets there may be."""
    return config.training.shapes or (MOST_SHAPES if utterances >= MANY_UTTERANCES else FEW_SHAPES)


def host_bytes() -> int:
    """Returns the memory of this machine, or of the container if that may use less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):  # Not there, or "max".
            continue
    return min(sizes)


def most_feature_bytes(config: Config) -> float:
    """Returns how many bytes of features extraction may hold in memory."""
    t = config.training
    if build.spec(config).build is None or t.residence == RESIDENT:
        return math.inf  # The SVM needs all functionals at once.
    return 0 if t.residence == STREAMED else t.memory_share * host_bytes()


def is_resident(config: Config, needed: int, *, deferred: bool) -> bool:
    """Returns (and logs) whether padded arrays are to be in memory.

    They would take `needed` bytes; `deferred`: the features were too large for memory already.
    """
    devices: list[Any] = jax.local_devices()
    limit = min([host_bytes(), *filter(None, map(plan.device_memory, devices))])
    share, residence = config.training.memory_share, config.training.residence
    fits = residence == RESIDENT or (residence == AUTO and needed <= share * limit)
    resident = fits and not deferred
    log.info(
        "padded arrays: %.2f GB, %s (training.residence=%s, training.memory_share=%g of %.1f GB)",
        *(needed / 1e9, RESIDENT if resident else STREAMED, residence, share, limit / 1e9),
    )
    return resident


def in_shards(config: Config, features: Features) -> Source:
    """Returns the features from their shards, which are written first if they are not there.

    Raises:
      UserError: If packages are missing, or the shards are damaged or cannot be written.
    """
    record_files.require_packages()
    given = config.features.shards
    root = Path(given).expanduser() if given else machine.cache_folder() / "shards"
    sha256 = features.sha256
    if features.variants is not None:
        both = sha256 + features.variants.features.sha256
        sha256 = hashlib.sha256(both.encode()).hexdigest()
    folder = root / sha256[:32]
    if not (folder / record_files.INDEX).is_file():
        record_files.write(folder, sha256, _arrays(features))
        machine.return_freed_memory()
    source = record_files.open_source(folder, sha256)
    log.info("features are streamed from %s", folder)
    return source


def _arrays(features: Features) -> dict[str, record_files.Arrays]:
    """Returns kind → arrays of all utterances, and those of their variants behind them."""
    kinds = {kind: [one] for kind, one in _own_arrays(features).items()}
    if features.variants is not None:
        for kind, one in _own_arrays(features.variants.features).items():
            kinds[kind].append(one)
    return {
        kind: record_files.Arrays(
            joined([one.values for one in found]), np.concatenate([one.lengths for one in found])
        )
        for kind, found in kinds.items()
    }


def joined(parts: Sequence[Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
    """Returns the arrays of one or two sequences as one, of which nothing is read yet."""
    return parts[0] if len(parts) == 1 else _Both(*parts)


class _Both(Sequence[np.ndarray]):
    """Two sequences, one behind the other."""

    def __init__(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]):
        """Reads nothing yet."""
        self._first, self._second = first, second

    def __len__(self) -> int:
        """Returns how many there are in both."""
        return len(self._first) + len(self._second)

    def __getitem__(self, number):
        """Reads an array."""
        behind = number - len(self._first)
        return self._first[number] if behind < 0 else self._second[behind]


def _own_arrays(features: Features) -> dict[str, record_files.Arrays]:
    if features.deferred:
        return {
            kind: record_files.Arrays(values, values.lengths())
            for kind, values in features.deferred.items()
        }
    values = {"logmel": features.log_mel, "wave": features.waves, "hsf": features.hsf}
    return {
        kind: record_files.Arrays(found, np.array([len(array) for array in found]))
        for kind, found in values.items()
        if found is not None and len(found)
    }
