"""The exported function: waves in, probabilities out; front end included, weights as arguments."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, core, lax

from ser_jax.config import Config
from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import Statistics, standardise
from ser_jax.experiment import setup
from ser_jax.features.logmel import LogMelSettings, log_mel, silence
from ser_jax.features.pcm import to_int16
from ser_jax.models import build
from ser_jax.models.layers import ComputeOptions
from ser_jax.models.pooling import length_mask
from ser_jax.training.model_files import Model


class Member(NamedTuple):
    """A model as arrays; those of all members are stacked on a leading axis."""

    params: Any  # parameters
    # standardisation, f32; the mean of the functionals is relative to their centre
    statistics: Statistics
    # [D] f32, the mean of the functionals, rounded; None if the system has no use for them
    centre: Any
    temperature: Any  # [] f32, divides the logits


class Fused(NamedTuple):
    """The members of a fusion as arrays."""

    members: dict[str, Member]  # by name
    weights: Any  # [M] f32, in their order
    temperature: Any  # [] f32, of the weighted mean


def make_members(models: Sequence[Model]) -> Member:
    """Stacks the arrays of R models, one or more, to [R, ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(_member, models))


def _member(model: Model) -> Member:
    statistics, centre = model.statistics, None
    if statistics.hsf_mean is not None:  # Up to 1e13: what float32 cannot hold of it is kept apart.
        centre = statistics.hsf_mean.astype(np.float32)
        statistics = statistics._replace(hsf_mean=statistics.hsf_mean - centre)
    single = Statistics(
        *(None if value is None else value.astype(np.float32) for value in statistics)
    )
    params = jax.tree.map(np.float32, model.params)  # those of an SVM are float64
    return Member(params, single, centre, np.float32(model.description["temperature"] or 1.0))


def named(members: Member | Fused) -> dict[str, np.ndarray]:
    """Returns the arrays of members under flat names such as `params/crnn/lstm_kernel`.

    Those of a fusion's members begin with `members/<name>/`.
    """
    paths, _ = jax.tree.flatten_with_path(members)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def make_program(config: Config, members: Member, classes: int) -> Callable[..., Array]:
    """Makes a pure function of the models that predict together.

    Args:
      config: Configuration that they were trained with.
      members: The models; only their number and the shapes of their arrays are used.
      classes: Number of classes K.

    Returns:
      A function of the arrays as `named` gives them, `waves` [B, S] f32 at 16 kHz in [-1, 1],
      `lengths` [B] i32 (samples that are real; what follows is padding and may hold anything) and,
      for HSF-CRNN and SVM, `functionals` [B, D] f32 as openSMILE gives them, embeddings or both. A
      probe takes `waves` [B, S, L, D], S frames of embeddings, of which `lengths` are real. It
      returns the mean of the members' probabilities, [B, K] f32, each with its own temperature. B
      and S may be symbolic.
    """
    structure, names = jax.tree.structure(members), list(named(members))
    count = len(members.temperature)
    apply = _decision_values
    if build.spec(config).build is not None:
        # Several are computed in a loop, one by one, where XLA's convolution is slow on a CPU.
        options = ComputeOptions(build.operands(config), unfold=count > 1)
        apply = functools.partial(_logits, build.build_model(config, classes, options))
    score = functools.partial(_probabilities, apply, setup.matmul_precision(config))

    def program(
        weights: Mapping[str, Array], waves: Array, lengths: Array, functionals: Array | None = None
    ) -> Array:
        lengths = jnp.minimum(lengths, waves.shape[1])
        if build.uses_embedded_frames(config):
            inputs = Inputs(lengths, frames=waves)
        else:
            inputs = _inputs(config, waves, lengths)._replace(hsf=functionals)
        stacked = jax.tree.unflatten(structure, [weights[name] for name in names])
        if count == 1:
            return score(inputs, jax.tree.map(lambda leaf: leaf[0], stacked))
        return jnp.mean(lax.map(functools.partial(score, inputs), stacked), axis=0)

    return program


def make_fusion(configs: Mapping[str, Config], fused: Fused, classes: int) -> Callable[..., Array]:
    """Makes a pure function of the members of a fusion, which takes and returns what they do.

    Args:
      configs: Name of a member → the configuration that it was trained with.
      fused: The members; only the shapes of their arrays are used.
      classes: Number of classes K.
    """
    programs = {
        name: make_program(config, fused.members[name], classes) for name, config in configs.items()
    }

    def program(
        weights: Mapping[str, Array], waves: Array, lengths: Array, functionals: Array | None = None
    ) -> Array:
        shares = []
        for name, score in programs.items():
            prefix = f"members/{name}/"
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            hsf = functionals if build.uses_hsf(configs[name]) else None
            shares.append(score(own, waves, lengths, hsf))
        mean = jnp.tensordot(weights["weights"], jnp.stack(shares), 1, precision="highest")
        logits = jnp.log(jnp.maximum(mean, jnp.finfo(jnp.float32).tiny))
        return jax.nn.softmax(logits / weights["temperature"], axis=-1)

    return program


def _logits(module: Any, params: Any, inputs: Inputs) -> Array:
    return module.apply({"params": params}, inputs)


def _decision_values(params: Any, inputs: Inputs) -> Array:
    """Decision values [B, K] of an SVM."""
    return inputs.hsf @ params["coefficients"].T + params["intercept"]


def _probabilities(
    apply: Callable[[Any, Inputs], Array], precision: str, inputs: Inputs, member: Member
) -> Array:
    """Probabilities [B, K] of one member."""
    if inputs.hsf is not None:
        # The barrier keeps the compiler from adding up the two means, which float32 cannot hold
        # together.
        inputs = inputs._replace(hsf=lax.optimization_barrier(inputs.hsf - member.centre[None, :]))
    with jax.default_matmul_precision(precision):
        logits = apply(member.params, standardise(inputs, member.statistics, jnp))
    return jax.nn.softmax(logits / member.temperature, axis=-1)


def _inputs(config: Config, waves: Array, lengths: Array) -> Inputs:
    """Inputs from waves [B, S] with lengths [B], not standardised and without functionals."""
    waves = jnp.where(length_mask(lengths, waves.shape[1]), jnp.clip(waves, -1, 1), 0)
    if build.uses_wave(config):
        return _chunks(waves, lengths, config.model.end2you_chunk)
    if not build.uses_log_mel(config):
        return Inputs(lengths)
    longest = max(segmentation.window for segmentation in build.segmentations(config))
    return _frames(waves, lengths, setup.logmel_settings(config), longest)


def _frames(waves: Array, lengths: Array, settings: LogMelSettings, least: int) -> Inputs:
    """Log-mel of each row's whole windows, then silence up to `least` frames or the longest row."""
    shortest = (least - 1) * settings.hop + settings.window
    missing = core.max_dim(waves.shape[1], shortest) - waves.shape[1]
    with jax.default_matmul_precision("highest"):
        frames = log_mel(jnp.pad(waves, ((0, 0), (0, missing))), settings, jnp)
    real = jnp.maximum((lengths - settings.window) // settings.hop + 1, 0)
    mask = length_mask(real, frames.shape[1])[:, :, None]
    if settings.normalisation == "utterance":
        total = jnp.sum(jnp.where(mask, frames, 0), axis=1, keepdims=True)
        frames = frames - total / jnp.maximum(real, 1)[:, None, None]
    return Inputs(real, frames=jnp.where(mask, frames, silence(settings)))


def _chunks(waves: Array, lengths: Array, size: int) -> Inputs:
    """Waves as 16 bits hold them, cut into chunks; zeros fill the last one."""
    rows, samples = waves.shape
    count = (samples + size - 1) // size
    chunks = jnp.pad(to_int16(waves, jnp), ((0, 0), (0, count * size - samples))).reshape(
        rows, count, size
    )
    return Inputs(jnp.maximum((lengths + size - 1) // size, 1), wave=chunks)
