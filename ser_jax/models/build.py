"""The registry of systems: what each reads, and how a configuration becomes its Flax module.

A ConfigDict stops here: the modules take plain arguments.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ser_jax.config import Config
from ser_jax.data.inputs import Inputs, Segmentation
from ser_jax.features import functionals
from ser_jax.models import crnn, end2you, probe
from ser_jax.models.layers import DEFAULT_COMPUTE, ComputeOptions
from ser_jax.runtime.errors import UserError

ACTIVATIONS = {"sigmoid": nn.sigmoid, "relu": nn.relu}  # of dense layers


@dataclasses.dataclass(frozen=True)
class SystemSpec:
    """What the rest of the package asks of a system."""

    title: str  # its name in print
    # kinds of features it reads: "logmel", "hsf" (functionals or embeddings of whole utterances),
    # "wave", "embeddings" (frames of embeddings)
    reads: tuple[str, ...]
    # configuration, number of classes, compute options → Flax module; None: no network
    build: Callable[[Config, int, ComputeOptions], nn.Module] | None
    # prefixes of the keys of its segmentations, `model.<prefix>_window` and `…_hop`
    windows: tuple[str, ...] = ()
    # CRNNs of the module that can follow a stream; empty: it needs the whole utterance
    streams: tuple[str, ...] = ()
    # whether convolution and recurrence may be the package's own kernels, and whether its batches
    # can be augmented
    own_kernels: bool = False


def _crnns(config: Config, compute: ComputeOptions) -> list[crnn.CRNN]:
    m = config.model
    return [
        crnn.CRNN(
            *(segmentation, m.filters, tuple(m.widths), m.lstm_units, compute, m.lstm_residual),
            attention=crnn.Attention(m.attention_units, compute) if m.attention_units else None,
        )
        for segmentation in segmentations(config)
    ]


def _dense(config: Config, widths: Any, compute: ComputeOptions, **options: Any) -> crnn.Dense:
    m = config.model
    return crnn.Dense(
        *(widths, ACTIVATIONS[m.activation]), dropout=m.dropout, compute=compute, **options
    )


def _plain_crnn(config: Config, classes: int, compute: ComputeOptions) -> nn.Module:
    (short,) = _crnns(config, compute)
    return crnn.PlainCRNN(short, _dense(config, config.model.plain_head, compute), classes, compute)


def _hsf_crnn(config: Config, classes: int, compute: ComputeOptions) -> nn.Module:
    m, (short,) = config.model, _crnns(config, compute)
    hsf_dense = _dense(config, m.hsf_dense, compute, first_dropout=m.hsf_dropout, tapped=True)
    return crnn.HSFCRNN(
        *(short, _dense(config, m.hsf_crnn_dense, compute), hsf_dense),
        *(_dense(config, m.hsf_head, compute), classes, compute, m.hsf_skip),
    )


def _multi_crnn(config: Config, classes: int, compute: ComputeOptions) -> nn.Module:
    m, (short, long) = config.model, _crnns(config, compute)
    short_dense = _dense(config, m.multi_short_dense, compute)
    head = _dense(config, m.multi_head, compute)
    return crnn.MultiCRNN(short, long, short_dense, head, classes, compute)


def _end2you(config: Config, classes: int, compute: ComputeOptions) -> nn.Module:
    m = config.model
    return end2you.End2You(
        filters=m.end2you_filters,
        widths=tuple(m.end2you_widths),
        pools=tuple(m.end2you_pools),
        cell=m.end2you_cell,
        units=m.end2you_units,
        layers=m.end2you_layers,
        dropout=m.end2you_dropout,
        classes=classes,
        compute=compute,
    )


def _probe(config: Config, classes: int, compute: ComputeOptions) -> nn.Module:
    m = config.model
    dense = _dense(config, m.probe_dense, compute)
    return probe.Probe(m.probe_pooling, m.lstm_units, dense, classes, compute)


# The registry of systems: a new one is a line here and its module.
REGISTRY = {
    "plain_crnn": SystemSpec(
        *("Plain CRNN", ("logmel",), _plain_crnn, ("short",), ("crnn",)), own_kernels=True
    ),
    "hsf_crnn": SystemSpec(
        *("HSF-CRNN", ("logmel", "hsf"), _hsf_crnn, ("short",)), own_kernels=True
    ),
    "multi_crnn": SystemSpec(
        *("Multi-CRNN", ("logmel",), _multi_crnn, ("short", "long"), ("short", "long")),
        own_kernels=True,
    ),
    "end2you": SystemSpec("End2You", ("wave",), _end2you),
    "probe": SystemSpec("Probe on embeddings", ("embeddings",), _probe),
    "svm": SystemSpec("SVM on functionals", ("hsf",), None),
    "fusion": SystemSpec("Fusion", ("logmel", "hsf"), None),  # what the default members read
}


def spec(config: Config) -> SystemSpec:
    """Returns what is known of the system that `config.system` names.

    Raises:
      UserError: If there is no such system.
    """
    if config.system not in REGISTRY:
        known = ", ".join(REGISTRY)
        raise UserError(f"system={config.system!r} is not known; choose one of {known}")
    return REGISTRY[config.system]


def segmentations(config: Config) -> tuple[Segmentation, ...]:
    """Returns the segmentations that the system reads, short before long; frames of embeddings."""
    m = config.model
    if "embeddings" in spec(config).reads:
        return (Segmentation(1, 1),)
    return tuple(
        Segmentation(m[f"{prefix}_window"], m[f"{prefix}_hop"]) for prefix in spec(config).windows
    )


def uses_log_mel(config: Config) -> bool:
    """Returns whether the system reads log-mel frames."""
    return "logmel" in spec(config).reads


def uses_hsf(config: Config) -> bool:
    """Returns whether the system reads a vector per utterance: functionals, embeddings or both."""
    return "hsf" in spec(config).reads


def uses_functionals(config: Config) -> bool:
    """Returns whether the system reads openSMILE functionals."""
    f = config.features
    return uses_hsf(config) and (not f.embeddings or f.embeddings_beside)


def uses_embeddings(config: Config) -> bool:
    """Returns whether the system reads embeddings of other models, as vectors or as frames."""
    return bool(config.features.embeddings)


def uses_embedded_frames(config: Config) -> bool:
    """Returns whether the system reads frames of embeddings in the place of log-mel."""
    return "embeddings" in spec(config).reads


def uses_wave(config: Config) -> bool:
    """Returns whether the system reads the wave, and then neither frames nor functionals."""
    return "wave" in spec(config).reads


def uses_dropout(config: Config) -> bool:
    """Returns whether the system drops values in training."""
    m = config.model
    if uses_wave(config):
        return m.end2you_dropout > 0
    return m.dropout > 0 or (uses_hsf(config) and m.hsf_dropout > 0)


def operands(config: Config) -> Any:
    """Returns the type of the factors of matrix products; None: as they come."""
    return jnp.bfloat16 if config.training.precision == "bf16" else None


def build_model(
    config: Config, classes: int, compute: ComputeOptions = DEFAULT_COMPUTE
) -> nn.Module:
    """Builds the network that `config.system` names, with K = `classes`.

    Returns:
      A module with `apply({"params": params}, inputs) -> logits [B, K]`.

    Raises:
      UserError: If there is no such system.
    """
    make = spec(config).build
    assert make is not None, f"{config.system} has no network"
    return make(config, classes, compute)


def example(config: Config, embedded: tuple[int, int] = (0, 0)) -> Inputs:
    """Returns what the system reads of one short utterance, all zeros.

    `embedded` are the layers L and the width D of its embeddings, if it reads such.
    """
    length = np.ones(1, np.int32)
    if uses_wave(config):
        return Inputs(length, wave=np.zeros((1, 1, config.model.end2you_chunk), np.float32))
    frames = max((window for window, _ in segmentations(config)), default=1)
    return Inputs(
        length,
        frames=np.zeros((1, frames, *frame_shape(config, embedded)), np.float32),
        hsf=np.zeros((1, vector_width(config, embedded)), np.float32) if uses_hsf(config) else None,
    )


def frame_shape(config: Config, embedded: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    """Returns the shape of one frame: [M] of log-mel, [L, D] of embeddings."""
    return embedded if uses_embedded_frames(config) else (config.features.bands,)


def vector_width(config: Config, embedded: tuple[int, int] = (0, 0)) -> int:
    """Returns the values of the vector of an utterance: functionals, then embeddings."""
    own = functionals.WIDTHS[config.features.functionals]
    return own * uses_functionals(config) + embedded[1] * uses_embeddings(config)


def shortest(config: Config, inputs: Inputs) -> Inputs:
    """Returns inputs of the same kind for one utterance as short as can be, all zeros.

    Parameters depend on no length: drawn for this, they are those of one program for all corpora.
    """
    short, one = example(config), jax.tree.map(lambda leaf: np.zeros_like(leaf[:1]), inputs)
    if one.wave is not None and short.wave is not None:
        one = one._replace(wave=one.wave[:, : short.wave.shape[1]])
    if one.frames is not None and short.frames is not None:
        one = one._replace(frames=one.frames[:, : short.frames.shape[1]])
    return one


@functools.partial(jax.jit, static_argnums=0)
def initial_params(model: nn.Module, key: Any, inputs: Inputs) -> Any:
    """Returns the initial parameters of a system, for inputs of this kind.

    Called within other programs and for shapes, it is traced once per system and kind of inputs.
    """
    return model.init(key, inputs)["params"]


def parameter_shapes(model: nn.Module, inputs: Inputs) -> Any:
    """Returns the parameters of a system for inputs of this kind, as shapes."""
    return jax.eval_shape(functools.partial(initial_params, model), jax.random.key(0), inputs)


def count_parameters(model: nn.Module, inputs: Inputs) -> int:
    """Returns how many parameters a system has for inputs of this kind."""
    leaves = jax.tree.leaves(parameter_shapes(model, inputs))
    return sum(math.prod(leaf.shape) for leaf in leaves)
