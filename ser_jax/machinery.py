"""From a configuration to devices, padded data and compiled programs."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp

from ser_jax import cache, residence
from ser_jax.arrays import plans
from ser_jax.arrays.dataset import Dataset, lay_out_frames, lay_out_waves
from ser_jax.arrays.source import Source, of_frames, of_waves
from ser_jax.config import CRNN_SYSTEMS, Config
from ser_jax.errors import UserError
from ser_jax.features.extract import Features
from ser_jax.features.logmel import LogMelSettings, mel, silence
from ser_jax.models import build, kernel_parity
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.models.native_library import UnavailableError
from ser_jax.protocols.protocol import Protocol
from ser_jax.training import capacity, factored, memory, mesh
from ser_jax.training.augmentation import Augmentation
from ser_jax.training.functions import Recipe
from ser_jax.training.programs import Programs, use_compilation_cache

log = logging.getLogger(__name__)

# Every shape takes seconds to compile, once, beside the first steps; on IEMOCAP 20, not 6, save 15 % of all frames.
FEW_SHAPES, MOST_SHAPES, MANY_UTTERANCES = 6, 20, 2000
MOST_STEPS = 64  # of one dispatch on an accelerator: enough to hide the host, few enough to stop within a second or so


def start(config: Config) -> list[Any]:
    """Starts jax as the configuration says; returns the devices."""
    if config.training.compilation_cache:
        use_compilation_cache(cache.cache_folder() / "xla")
    jax.config.update("jax_default_matmul_precision", matmul_precision(config))
    memory.keep_freed_memory()
    return mesh.start_devices(config.training.devices)


def make_dataset(config: Config, protocol: Protocol, features: Features) -> Dataset:
    """Pads the features of a protocol into length buckets: now, or from shards whenever a batch is asked for."""
    if features.deferred:
        source = residence.in_shards(config, features)
    elif build.uses_wave(config):
        source = of_waves(features.waves)
    else:
        source = of_frames(features.log_mel, features.hsf)
    dataset = _lay_out(config, protocol, source)
    if residence.is_resident(config, capacity.data_bytes(dataset), deferred=bool(features.deferred)):
        return dataset.loaded()
    return dataset if features.deferred else _lay_out(config, protocol, residence.in_shards(config, features))


def _lay_out(config: Config, protocol: Protocol, source: Source) -> Dataset:
    sizes: dict[str, Any] = {
        "shapes": most_shapes(config, len(protocol.ids)),
        "batch_size": config.training.batch_size,
        "train_share": max(len(fold.train) / len(protocol.ids) for fold in protocol.folds),
    }
    if build.uses_wave(config):
        return lay_out_waves(source, protocol.targets, chunk=config.model.end2you_chunk, **sizes)
    return lay_out_frames(
        source,
        protocol.targets,
        channels=build.channels(config),
        form=config.model.form,
        silence=silence(logmel_settings(config)),
        **sizes,
    )


def most_shapes(config: Config, utterances: int) -> int:
    """Returns how many length buckets there may be."""
    return config.training.shapes or (MOST_SHAPES if utterances >= MANY_UTTERANCES else FEW_SHAPES)


def logmel_settings(config: Config) -> LogMelSettings:
    """Returns the log-mel front end of the configuration."""
    names = (field.name for field in dataclasses.fields(LogMelSettings))
    return LogMelSettings(**{name: config.features[name] for name in names})


def make_programs(
    config: Config, dataset: Dataset, protocol: Protocol, devices: list[Any], runs: int, *, training: bool = True
) -> Programs:
    """Compiles the programs of a group of runs; without `training`, only those that score."""
    t = config.training
    cpu = devices[0].platform == "cpu"
    by_step = t.dispatch == "step" or (t.dispatch == "auto" and cpu) or dataset.streamed
    parts = [dataset.rows(fold.train if training else fold.test) for fold in protocol.folds]
    steps = int(plans.steps_per_bucket(parts, t.batch_size).sum())
    native = native_kernels(config, cpu, by_step)
    pallas = recurrence_as_one_program(config, devices[0])
    arithmetic = Arithmetic(operands(config), unfold=not by_step, native=native, pallas=pallas)
    model = build.build_model(config, len(protocol.classes), arithmetic)
    automatic = min(runs, len(devices))
    if not cpu:
        automatic = capacity.largest_group(
            runs,
            devices=len(devices),
            limit=capacity.memory_limit(devices[0]),
            data=0 if dataset.streamed else capacity.data_bytes(dataset),
            run=capacity.run_bytes(dataset, build.count_parameters(model, dataset.buckets[0]), t.batch_size),
        )
    return Programs(
        model,
        dataset,
        make_recipe(config),
        classes=len(protocol.classes),
        batch_size=t.batch_size,
        devices=devices,
        size=t.group or automatic,
        chunk=0 if by_step else plans.even_chunk(steps, MOST_STEPS),
        training=training,
        split_rows=not cpu or t.devices > 0,  # Measured: on a CPU one device with all threads is as fast as two.
        long_steps=build.uses_wave(config),
    )


def native_kernels(config: Config, cpu: bool, by_step: bool) -> bool:
    """Returns whether training uses the kernels of this package; compiles them where that has not been done.

    Raises:
      UserError: If the configuration asks for them and they cannot be used.
    """
    wanted = config.training.kernels
    if wanted == "xla" or config.system not in CRNN_SYSTEMS:
        return False
    try:
        if not (cpu and by_step) or config.training.precision == "bf16":
            raise UnavailableError("they are for training step by step on a CPU, in float32")
        log.info("convolution and recurrence: kernels compiled by %s", kernel_parity.prepare(factored.differences))
        return True
    except UnavailableError as error:
        if wanted == "native":
            raise UserError(
                f"training.kernels=native cannot be: {error}; training.kernels=auto takes what there is"
            ) from error
        log.info("convolution and recurrence: XLA's (%s)", error)
        return False


def recurrence_as_one_program(config: Config, device: Any) -> bool:
    """Returns whether the recurrence is one program of the GPU; compares it with XLA's loop first.

    Raises:
      UserError: If the configuration asks for it and it cannot be used.
    """
    if config.training.recurrence != "pallas":
        return False  # "auto" would take it where it has been timed and was faster: nowhere yet.
    from ser_jax.models import recurrence_gpu  # Pallas takes long to import, and hardly anybody needs it.

    units = config.model.lstm_units
    try:
        if config.system not in CRNN_SYSTEMS:
            raise UnavailableError(f"it is for {', '.join(CRNN_SYSTEMS)}, not for {config.system}")
        if "NVIDIA" not in device.device_kind:
            raise UnavailableError(f"it is for GPUs of NVIDIA, not for {device.device_kind}")
        if not recurrence_gpu.fits(units):
            raise UnavailableError(f"the LSTM has {units} units, and it takes powers of two from {recurrence_gpu.ROWS}")
        kernel_parity.compare_recurrence(recurrence_gpu.recur, units)
    except UnavailableError as error:
        raise UserError(f"training.recurrence=pallas cannot be: {error}; use training.recurrence=auto") from error
    log.info("recurrence: one program, which gives the results of XLA's loop")
    return True


def make_recipe(config: Config) -> Recipe:
    """Returns how the configuration trains."""
    t, f = config.training, config.features
    augmentation = Augmentation(
        **config.augment, silence=silence(logmel_settings(config)), mel_range=(mel(f.low_hz), mel(f.high_hz))
    )
    return Recipe(
        learning_rate=t.learning_rate,
        clip_norm=t.clip_norm,
        patience=t.patience,
        weight_decay=t.weight_decay,
        ema=t.ema,
        label_smoothing=t.label_smoothing,
        augmentation=augmentation if augmentation.draws else None,
        dropout=build.uses_dropout(config),
    )


def operands(config: Config) -> Any:
    """Returns the type of the factors of matrix products, None for that of the arrays; see `Arithmetic`."""
    return jnp.bfloat16 if config.training.precision == "bf16" else None


def matmul_precision(config: Config) -> str:
    """Returns jax's name for the precision of matrix products."""
    names = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "float32"}  # bf16 rounds the factors itself
    return names[config.training.precision]
