"""Refuses configuration values that cannot be trained with, before anything expensive happens."""

import math
from typing import Any

from ser_jax.config import Config
from ser_jax.experiment import run_directory
from ser_jax.features import embeddings, functionals, pcm, preparation
from ser_jax.models import build, end2you, probe
from ser_jax.protocols import folds, speaker_rule
from ser_jax.runtime.errors import UserError
from ser_jax.training import tracking
from ser_jax.training.step import OPTIMIZERS, SCHEDULES

_LEAST = {
    **dict.fromkeys(("protocol.seeds", "protocol.ensemble", "svm.iterations"), 1),
    **dict.fromkeys(("training.epochs", "training.batch_size"), 1),
    **dict.fromkeys(("model.filters", "model.lstm_units", "model.short_hop", "model.long_hop"), 1),
    **dict.fromkeys(("model.end2you_filters", "model.end2you_units", "model.end2you_layers"), 1),
    **dict.fromkeys(("features.workers", "svm.workers", "training.devices", "training.group"), 0),
    "features.speaker_minimum": 2,
    **dict.fromkeys(("training.shapes", "training.patience", "model.attention_units"), 0),
    **dict.fromkeys(("augment.variants", "augment.variants_seed"), 0),
}
# Keys of augment that need the energies of bands, and those that say how, not how much.
_OF_ENERGIES = tuple(f"augment.{name}" for name in ("silence_frames", "room", "noise", "telephone"))
_HOW = ("room_seconds", "noise_snr_db", "noise_slope_db")
_FOLDERS = ("noise_folder", "room_folder")


def check(config: Config) -> None:
    """Checks all values; raises a UserError that names the key, the value and what is possible."""
    t, m = config.training, config.model
    choices = (
        ("training.class_weights", t.class_weights, ("none", "balanced")),
        ("training.loss_divisor", t.loss_divisor, ("mean", "own")),
        ("training.optimizer", t.optimizer, OPTIMIZERS),
        ("training.schedule", t.schedule, SCHEDULES),
        ("training.refit", t.refit, (folds.NO_REFIT, folds.REFIT)),
        ("training.precision", t.precision, ("float32", "tf32", "bf16")),
        ("training.dispatch", t.dispatch, ("auto", "step", "chunk")),
        ("training.residence", t.residence, ("auto", "resident", "streamed")),
        ("training.kernels", t.kernels, ("auto", "xla", "native")),
        ("training.recurrence", t.recurrence, ("auto", "scan", "pallas")),
        ("training.track", t.track, (tracking.NONE, *tracking.TRACKERS)),
        ("features.level", config.features.level, preparation.LEVELS),
        ("features.trim", config.features.trim, preparation.TRIMS),
        ("features.normalisation", config.features.normalisation, preparation.NORMALISATIONS),
        ("fusion.weights", config.fusion.weights, ("equal", "validation")),
        ("features.speaker_few", config.features.speaker_few, speaker_rule.FEW),
        ("features.functionals", config.features.functionals, tuple(functionals.WIDTHS)),
        ("model.form", m.form, ("fast", "literal")),
        ("model.activation", m.activation, tuple(build.ACTIVATIONS)),
        ("model.end2you_cell", m.end2you_cell, tuple(end2you.CELLS)),
        ("model.probe_pooling", m.probe_pooling, probe.POOLINGS),
        ("features.embeddings_level", config.features.embeddings_level, embeddings.LEVELS),
        (
            "features.embeddings_missing",
            config.features.embeddings_missing,
            (embeddings.REFUSE, embeddings.DROP),
        ),
    )
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
    try:
        pcm.channel_number(config.features.channel)
    except ValueError:
        raise _wrong(config, "features.channel", "mean, left, right or a number from 1") from None
    if len(m.widths) != 2 or min(m.widths) < 1:
        raise UserError(
            f"model.widths={tuple(m.widths)}; it must be two widths of at least 1, such as (5,3)"
        )
    if build.spec(config).build is not None:
        build.build_model(config, 2)
    # Leaves one row after both convolutions and max-pools.
    window = m.widths[0] + 2 * m.widths[1] + 4
    limits = _LEAST | {"model.short_window": window, "model.long_window": window}
    for key, least in limits.items():
        if _value(config, key) < least:
            raise _wrong(config, key, f"at least {least}")
    for key in ("training.learning_rate", "training.clip_norm", "svm.tolerance"):
        if not _value(config, key) > 0:
            raise _wrong(config, key, "above 0")
    if not 0 <= t.warmup_epochs < t.epochs:
        needed = f"it must be at least 0 and below training.epochs={t.epochs}"
        raise UserError(f"training.warmup_epochs={t.warmup_epochs}; {needed}")
    if t.learning_rate == math.inf:
        raise _wrong(config, "training.learning_rate", "finite, such as 1e-3")
    if not 0 <= t.front_rate < math.inf:
        raise _wrong(config, "training.front_rate", "at least 0 and finite")
    if not t.front_rate and not t.init_from:
        raise UserError(
            "training.front_rate=0 without training.init_from: all layers but the last would stay"
            " random; name a run to start from, or set a rate above 0"
        )
    if t.init_from and build.spec(config).build is None:
        raise UserError(
            f"training.init_from={t.init_from} with system={config.system!r}: only networks start"
            " from trained parameters; leave it empty"
        )
    if not 0 <= t.checkpoint_seconds < math.inf:
        raise _wrong(config, "training.checkpoint_seconds", "at least 0 and finite")
    if not 0 < t.memory_share <= 1:
        raise _wrong(config, "training.memory_share", "above 0 and at most 1, such as 0.4")
    if t.residence == "streamed" and t.dispatch == "chunk":
        raise UserError(
            "training.residence=streamed with training.dispatch=chunk: streamed batches are"
            " dispatched step by step; set training.dispatch=auto"
        )
    if not 1 <= t.preemption_exit_code <= 255:
        raise _wrong(config, "training.preemption_exit_code", "from 1 to 255")
    if not config.svm.c or not all(0 < c < math.inf for c in config.svm.c):
        raise UserError(
            f"svm.c={tuple(config.svm.c)}; it must be one or more values above 0, such as"
            " (1e-5,1e-4)"
        )
    _check_embeddings(config)
    names = [run_directory.member_name(text) for text in config.fusion.members]
    if config.system == run_directory.FUSION and not 2 <= len(set(names)) == len(names):
        raise UserError(
            f"fusion.members={tuple(config.fusion.members)}; it must be two or more presets whose"
            " files have different names, such as ('svm','tuned/plain_crnn')"
        )
    if config.fusion.weights != "equal" and t.refit != folds.NO_REFIT:
        raise UserError(
            f"fusion.weights={config.fusion.weights} with training.refit={t.refit}: the members"
            " would have been trained on the part that weights are fitted on; set"
            " fusion.weights=equal"
        )
    if config.features.normalisation == speaker_rule.SPEAKER and build.uses_wave(config):
        raise UserError(
            f"features.normalisation=speaker is not for system={config.system!r}, which reads the"
            " wave as it is: set features.normalisation=training"
        )
    _check_end2you(config)
    _check_regularisation(config)
    _check_variants(config)


def _check_variants(config: Config) -> None:
    a = config.augment
    for name in _FOLDERS:
        if a[name] and not a.variants:
            raise UserError(
                f"augment.{name}={a[name]} is for variants: set augment.variants, such as 3, too"
            )
    if a.variants and build.spec(config).build is None:
        raise UserError(
            f"augment.variants={a.variants} with system={config.system!r}: only networks train on"
            " variants; leave it out"
        )
    if a.variants and build.uses_embeddings(config):
        raise UserError(
            f"augment.variants={a.variants} with features.embeddings: embeddings are those of the"
            " recordings as they are; leave one of them out"
        )


def _check_embeddings(config: Config) -> None:
    if config.system == run_directory.FUSION:
        return  # Its members are checked.
    f, reads = config.features, build.spec(config).reads
    takers = [name for name, one in build.REGISTRY.items() if {"hsf", "embeddings"} & {*one.reads}]
    if f.embeddings and config.system not in takers:
        raise UserError(
            f"features.embeddings is for system={', '.join(takers)}, not for {config.system}: leave"
            " it out, or take one of these"
        )
    if "embeddings" in reads and not f.embeddings:
        raise UserError(
            f"system={config.system} reads embeddings: name their files by features.embeddings"
            " (docs/embeddings.md)"
        )
    if f.embeddings and "hsf" in reads and f.embeddings_level != "utterance":
        raise UserError(
            f"system={config.system} reads one vector per utterance, not"
            f" features.embeddings_level={f.embeddings_level}: take their mean over time first, or"
            " system=probe"
        )
    if f.embeddings_beside and not f.embeddings:
        raise UserError("features.embeddings_beside=true needs features.embeddings: name the files")
    if "embeddings" in reads and config.model.form == "literal":
        raise UserError("model.form=literal is for CRNNs; the probe needs model.form=fast")


def _check_end2you(config: Config) -> None:
    m = config.model
    for key, shape in (("widths", m.end2you_widths), ("pools", m.end2you_pools)):
        if len(shape) != 2 or min(shape) < 1:
            raise UserError(
                f"model.end2you_{key}={tuple(shape)}; it must be two numbers of at least 1, such as"
                " (20,40)"
            )
    over_time, across_channels = m.end2you_pools
    for key, size, pool in (
        ("chunk", m.end2you_chunk, over_time),
        ("filters", m.end2you_filters, across_channels),
    ):
        if size < 1 or size % pool:
            needed = f"a multiple of {pool}, its model.end2you_pools"
            raise _wrong(config, f"model.end2you_{key}", needed)
    if not 0 <= m.end2you_dropout < 1:
        raise _wrong(config, "model.end2you_dropout", "at least 0 and below 1")


def _wrong(config: Config, key: str, needed: str) -> UserError:
    return UserError(f"{key}={_value(config, key)}; it must be {needed}")


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return config[section][name]


def _check_regularisation(config: Config) -> None:
    """Refuses fractions out of range, and augmentation of what the system does not read."""
    for key in (
        *("model.dropout", "model.hsf_dropout", "training.ema", "training.label_smoothing"),
        "augment.speed",
    ):
        if not 0 <= _value(config, key) < 1:
            raise _wrong(config, key, "at least 0 and below 1")
    of_variants = [f"variants_{name}" for name in ("noise", "room", "telephone", "codec")]
    for key in (f"augment.{name}" for name in ("room", "noise", "telephone", *of_variants)):
        if not 0 <= _value(config, key) <= 1:
            raise _wrong(config, key, "a fraction in [0, 1]")
    for key, least, example in (
        ("augment.room_seconds", 0.01, "(0.2,0.8)"),
        ("augment.noise_snr_db", -100.0, "(0,30)"),
    ):
        limits = _value(config, key)
        if len(limits) != 2 or not least <= limits[0] <= limits[1] < math.inf:
            raise _wrong(config, key, f"two ascending numbers from {least:g}, such as {example}")
    numbers = {
        name: value
        for name, value in config.augment.items()
        if name not in (*_HOW, *_FOLDERS) and not name.startswith("variants")
    }
    for key in (
        "training.weight_decay",
        *("augment.noise_slope_db", "augment.variants_gain_db"),
        *(f"augment.{name}" for name in numbers),
    ):
        if not 0 <= _value(config, key) < math.inf:
            raise _wrong(config, key, "at least 0 and finite")
    varied = [f"augment.{name}={value}" for name, value in numbers.items() if value]
    of_frames = [text for text in varied if "hsf_noise" not in text]
    of_energies = [text for text in of_frames if text.split("=")[0] in _OF_ENERGIES]
    if of_energies and config.features.normalisation == "utterance":
        raise UserError(
            f"{of_energies[0]} adds energies, which features.normalisation=utterance has taken off:"
            " choose one of them"
        )
    if varied and not build.spec(config).own_kernels:
        raise UserError(
            f"{varied[0]} is not for system={config.system!r}: only log-mel and functionals are"
            " varied"
        )
    if of_frames and config.model.form == "literal":
        raise UserError(
            f"{of_frames[0]} needs model.form=fast: segments that are cut already are not varied"
        )
