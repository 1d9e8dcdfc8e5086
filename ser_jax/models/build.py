"""Configuration → Flax module. A ConfigDict stops here: the modules take plain arguments."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax

from ser_jax.arrays.inputs import Channel, Inputs
from ser_jax.config import SYSTEMS, Config
from ser_jax.errors import UserError
from ser_jax.models import end2end, systems
from ser_jax.models.arithmetic import DEFAULT, Arithmetic

ACTIVATIONS = {"sigmoid": nn.sigmoid, "relu": nn.relu}  # of dense layers


def channels(config: Config) -> tuple[Channel, ...]:
    """Returns the segmentations that the system reads, short before long."""
    short = Channel(config.model.short_window, config.model.short_hop)
    long = Channel(config.model.long_window, config.model.long_hop)
    return (short, long) if config.system == "multi_crnn" else (short,)


def uses_hsf(config: Config) -> bool:
    """Returns whether the system reads openSMILE functionals."""
    return config.system == "hsf_crnn"


def uses_wave(config: Config) -> bool:
    """Returns whether the system reads the wave, and then neither frames nor functionals."""
    return config.system == "end2you"


def uses_dropout(config: Config) -> bool:
    """Returns whether the system drops values in training."""
    m = config.model
    if config.system == "end2you":
        return m.end2you_dropout > 0
    return m.dropout > 0 or (uses_hsf(config) and m.hsf_dropout > 0)


def build_model(
    config: Config, classes: int, arithmetic: Arithmetic = DEFAULT
) -> systems.PlainCRNN | systems.HSFCRNN | systems.MultiCRNN | end2end.End2You:
    """Builds the system that `config.system` names.

    Args:
      config: Configuration.
      classes: Size K of the softmax.
      arithmetic: How products are computed.

    Returns:
      A module with `apply({"params": params}, inputs) -> logits [B, K]`.

    Raises:
      UserError: If there is no such system.
    """
    m = config.model
    crnns = [
        systems.CRNN(channel, m.filters, tuple(m.widths), m.lstm_units, arithmetic) for channel in channels(config)
    ]
    dense = functools.partial(
        systems.Dense, activation=ACTIVATIONS[m.activation], dropout=m.dropout, arithmetic=arithmetic
    )
    if config.system == "plain_crnn":
        return systems.PlainCRNN(crnns[0], dense(m.plain_head), classes, arithmetic)
    if config.system == "hsf_crnn":
        hsf_dense = dense(m.hsf_dense, first_dropout=m.hsf_dropout, tapped=True)
        return systems.HSFCRNN(crnns[0], dense(m.hsf_crnn_dense), hsf_dense, dense(m.hsf_head), classes, arithmetic)
    if config.system == "multi_crnn":
        return systems.MultiCRNN(
            crnns[0], crnns[1], dense(m.multi_short_dense), dense(m.multi_head), classes, arithmetic
        )
    if config.system == "end2you":
        return end2end.End2You(
            filters=m.end2you_filters,
            widths=tuple(m.end2you_widths),
            pools=tuple(m.end2you_pools),
            cell=m.end2you_cell,
            units=m.end2you_units,
            layers=m.end2you_layers,
            dropout=m.end2you_dropout,
            classes=classes,
            arithmetic=arithmetic,
        )
    raise UserError(f"system={config.system!r} is not known; choose one of {', '.join(SYSTEMS)}")


def count_parameters(model: Any, inputs: Inputs) -> int:
    """Returns how many parameters a system has for inputs of this kind."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.tree.map(lambda leaf: leaf[:1], inputs))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
