"""What an exported model computes: waves in, probabilities out, the front end inside, the weights beside it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, core, lax

from ser_jax import machinery
from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import Statistics, standardise
from ser_jax.config import Config
from ser_jax.features.logmel import LogMelSettings, log_mel, silence
from ser_jax.features.wave import to_int16
from ser_jax.models import build
from ser_jax.models.arithmetic import Arithmetic
from ser_jax.models.pooling import length_mask
from ser_jax.training.model_files import Model


class Member(NamedTuple):
    """A model as arrays; those of all members are stacked on a leading axis.

    Attributes:
      params: Parameters.
      statistics: Standardisation, f32; the mean of the functionals is relative to their centre.
      centre: [D] f32, the mean of the functionals, rounded; None if the system has no use for them.
      temperature: [] f32, divides the logits.
    """

    params: Any
    statistics: Statistics
    centre: Any
    temperature: Any


def make_members(models: Sequence[Model]) -> Member:
    """Stacks the models that predict together.

    Args:
      models: One or more, R.

    Returns:
      Their arrays [R, ...].
    """
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(_member, models))


def _member(model: Model) -> Member:
    statistics, centre = model.statistics, None
    if statistics.hsf_mean is not None:  # Up to 1e13: what float32 cannot hold of it is kept apart.
        centre = statistics.hsf_mean.astype(np.float32)
        statistics = statistics._replace(hsf_mean=statistics.hsf_mean - centre)
    single = Statistics(*(None if value is None else value.astype(np.float32) for value in statistics))
    return Member(model.params, single, centre, np.float32(model.description["temperature"] or 1.0))


def named(members: Member) -> dict[str, np.ndarray]:
    """Returns the arrays of members under flat names such as `params/crnn/lstm_kernel`."""
    paths, _ = jax.tree.flatten_with_path(members)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def make_program(config: Config, members: Member, classes: int) -> Callable[..., Array]:
    """Makes a pure function of the models that predict together.

    Args:
      config: Configuration that they were trained with.
      members: The models; only their number and the shapes of their arrays are used.
      classes: Number of classes K.

    Returns:
      A function of the arrays as `named` gives them, `waves` [B, S] f32 at 16 kHz in [-1, 1], `lengths` [B] i32
      (samples that are real; what follows is padding and may hold anything) and, for HSF-CRNN, `functionals`
      [B, 6373] f32 as openSMILE gives them. It returns the mean of the members' probabilities, [B, K] f32, each with
      its own temperature. B and S may be symbolic.
    """
    structure, count, names = jax.tree.structure(members), len(members.temperature), list(named(members))
    # Several are computed one after the other in a loop, where XLA's convolution is slow on a CPU.
    module = build.build_model(config, classes, Arithmetic(machinery.operands(config), unfold=count > 1))
    score = functools.partial(_probabilities, module, machinery.matmul_precision(config))

    def program(weights: Mapping[str, Array], waves: Array, lengths: Array, functionals: Array | None = None) -> Array:
        inputs = _inputs(config, waves, jnp.minimum(lengths, waves.shape[1]))._replace(hsf=functionals)
        stacked = jax.tree.unflatten(structure, [weights[name] for name in names])
        if count == 1:
            return score(inputs, jax.tree.map(lambda leaf: leaf[0], stacked))
        return jnp.mean(lax.map(functools.partial(score, inputs), stacked), axis=0)

    return program


def _probabilities(module: Any, precision: str, inputs: Inputs, member: Member) -> Array:
    """Probabilities [B, K] of one member."""
    if inputs.hsf is not None:
        # The barrier keeps the compiler from adding up the two means, which float32 cannot hold together.
        inputs = inputs._replace(hsf=lax.optimization_barrier(inputs.hsf - member.centre[None, :]))
    with jax.default_matmul_precision(precision):
        logits = module.apply({"params": member.params}, standardise(inputs, member.statistics, jnp))
    return jax.nn.softmax(logits / member.temperature, axis=-1)


def _inputs(config: Config, waves: Array, lengths: Array) -> Inputs:
    """What the models read of waves [B, S] with lengths [B], before standardisation; without functionals."""
    waves = jnp.where(length_mask(lengths, waves.shape[1]), jnp.clip(waves, -1, 1), 0)
    if build.uses_wave(config):
        return _chunks(waves, lengths, config.model.end2you_chunk)
    longest = max(channel.window for channel in build.channels(config))
    return _frames(waves, lengths, machinery.logmel_settings(config), longest)


def _frames(waves: Array, lengths: Array, settings: LogMelSettings, least: int) -> Inputs:
    """Log-mel of the whole windows in each row; behind them silence, up to `least` frames or the longest row."""
    shortest = (least - 1) * settings.hop + settings.window
    missing = core.max_dim(waves.shape[1], shortest) - waves.shape[1]
    with jax.default_matmul_precision("highest"):
        frames = log_mel(jnp.pad(waves, ((0, 0), (0, missing))), settings, jnp)
    real = jnp.maximum((lengths - settings.window) // settings.hop + 1, 0)
    heard = length_mask(real, frames.shape[1])[:, :, None]
    return Inputs(real, frames=jnp.where(heard, frames, silence(settings)))


def _chunks(waves: Array, lengths: Array, size: int) -> Inputs:
    """Waves as 16 bits hold them, cut into chunks; zeros fill the last one."""
    rows, samples = waves.shape
    count = (samples + size - 1) // size
    chunks = jnp.pad(to_int16(waves, jnp), ((0, 0), (0, count * size - samples))).reshape(rows, count, size)
    return Inputs(jnp.maximum((lengths + size - 1) // size, 1), wave=chunks)
