"""Values that no run can be made with, refused before anything expensive happens."""

import math

from ser_jax.config import CRNN_SYSTEMS, Config
from ser_jax.errors import UserError
from ser_jax.models import build, end2end
from ser_jax.protocols import folds

_LEAST = {
    **dict.fromkeys(
        ("protocol.seeds", "protocol.ensemble", "training.epochs", "training.batch_size", "svm.iterations"), 1
    ),
    **dict.fromkeys(("model.filters", "model.lstm_units", "model.short_hop", "model.long_hop"), 1),
    **dict.fromkeys(("model.end2you_filters", "model.end2you_units", "model.end2you_layers"), 1),
    **dict.fromkeys(
        (
            "features.workers",
            "svm.workers",
            "training.devices",
            "training.group",
            "training.shapes",
            "training.patience",
        ),
        0,
    ),
}


def check(config: Config) -> None:
    """Refuses values that no run can be made with, before anything expensive happens.

    Raises:
      UserError: Names the key, the value and what is possible.
    """
    t, m = config.training, config.model
    choices = (
        ("training.class_weights", t.class_weights, ("none", "balanced")),
        ("training.refit", t.refit, (folds.NO_REFIT, folds.REFIT)),
        ("training.precision", t.precision, ("float32", "tf32", "bf16")),
        ("training.dispatch", t.dispatch, ("auto", "step", "chunk")),
        ("training.residence", t.residence, ("auto", "resident", "streamed")),
        ("training.kernels", t.kernels, ("auto", "xla", "native")),
        ("training.recurrence", t.recurrence, ("auto", "scan", "pallas")),
        ("model.form", m.form, ("fast", "literal")),
        ("model.activation", m.activation, tuple(build.ACTIVATIONS)),
        ("model.end2you_cell", m.end2you_cell, tuple(end2end.CELLS)),
    )
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
    if len(m.widths) != 2 or min(m.widths) < 1:
        raise UserError(f"model.widths={tuple(m.widths)}; it must be two widths of at least 1, such as (5,3)")
    if config.system != "svm":
        build.build_model(config, 2)
    window = m.widths[0] + 2 * m.widths[1] + 4  # leaves one row after both convolutions and max-pools
    for key, least in (_LEAST | {"model.short_window": window, "model.long_window": window}).items():
        section, _, name = key.partition(".")
        if config[section][name] < least:
            raise UserError(f"{key}={config[section][name]}; it must be at least {least}")
    for key in ("training.learning_rate", "training.clip_norm", "svm.tolerance"):
        section, _, name = key.partition(".")
        if not config[section][name] > 0:
            raise UserError(f"{key}={config[section][name]}; it must be above 0")
    if t.learning_rate == math.inf:
        raise UserError("training.learning_rate=inf; it must be finite, such as 1e-3")
    if not 0 <= t.checkpoint_seconds < math.inf:
        raise UserError(f"training.checkpoint_seconds={t.checkpoint_seconds}; it must be at least 0 and finite")
    if not 0 < t.memory_share <= 1:
        raise UserError(f"training.memory_share={t.memory_share}; it must be above 0 and at most 1, such as 0.4")
    if t.residence == "streamed" and t.dispatch == "chunk":
        raise UserError(
            "training.residence=streamed with training.dispatch=chunk: what is streamed is handed over step by step; "
            "set training.dispatch=auto"
        )
    if not 1 <= t.preemption_exit_code <= 255:
        raise UserError(f"training.preemption_exit_code={t.preemption_exit_code}; it must be from 1 to 255")
    if not config.svm.c or not all(0 < c < math.inf for c in config.svm.c):
        raise UserError(f"svm.c={tuple(config.svm.c)}; it must be one or more values above 0, such as (1e-5,1e-4)")
    _check_end2you(m)
    _check_recipe(config)


def _check_end2you(m: Config) -> None:
    for key, shape in (("widths", m.end2you_widths), ("pools", m.end2you_pools)):
        if len(shape) != 2 or min(shape) < 1:
            raise UserError(
                f"model.end2you_{key}={tuple(shape)}; it must be two numbers of at least 1, such as (20,40)"
            )
    over_time, across_channels = m.end2you_pools
    for key, size, pool in (("chunk", m.end2you_chunk, over_time), ("filters", m.end2you_filters, across_channels)):
        if size < 1 or size % pool:
            raise UserError(f"model.end2you_{key}={size}; it must be a multiple of {pool}, its model.end2you_pools")
    if not 0 <= m.end2you_dropout < 1:
        raise UserError(f"model.end2you_dropout={m.end2you_dropout}; it must be at least 0 and below 1")


def _check_recipe(config: Config) -> None:
    """Refuses shares out of range, and augmentation where there is nothing to vary."""
    for key in ("model.dropout", "model.hsf_dropout", "training.ema", "training.label_smoothing", "augment.speed"):
        section, _, name = key.partition(".")
        if not 0 <= config[section][name] < 1:
            raise UserError(f"{key}={config[section][name]}; it must be at least 0 and below 1")
    for key in ("training.weight_decay", *(f"augment.{name}" for name in config.augment)):
        section, _, name = key.partition(".")
        if not 0 <= config[section][name] < math.inf:
            raise UserError(f"{key}={config[section][name]}; it must be at least 0 and finite")
    varied = [f"augment.{name}={value}" for name, value in config.augment.items() if value]
    of_frames = [text for text in varied if "hsf_noise" not in text]
    if varied and config.system not in CRNN_SYSTEMS:
        raise UserError(f"{varied[0]} is not for system={config.system!r}: only log-mel and functionals are varied")
    if of_frames and config.model.form == "literal":
        raise UserError(f"{of_frames[0]} needs model.form=fast: segments that are cut already are not varied")
