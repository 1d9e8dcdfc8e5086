"""Configuration → Flax module. A ConfigDict stops here: the modules take plain arguments."""

from ser_jax.arrays.inputs import Channel
from ser_jax.config import SYSTEMS, Config
from ser_jax.errors import UserError
from ser_jax.models import systems


def channels(config: Config) -> tuple[Channel, ...]:
    """Returns the segmentations that the system reads, short before long."""
    short = Channel(config.model.short_window, config.model.short_hop)
    long = Channel(config.model.long_window, config.model.long_hop)
    return (short, long) if config.system == "multi_crnn" else (short,)


def uses_hsf(config: Config) -> bool:
    """Returns whether the system reads openSMILE functionals."""
    return config.system == "hsf_crnn"


def build_model(config: Config, classes: int) -> systems.PlainCRNN | systems.HSFCRNN | systems.MultiCRNN:
    """Builds the system that `config.system` names.

    Args:
      config: Configuration.
      classes: Size K of the softmax.

    Returns:
      A module with `apply({"params": params}, inputs) -> logits [B, K]`.

    Raises:
      UserError: If there is no such system.
    """
    m = config.model
    crnns = [systems.CRNN(channel, m.filters, tuple(m.widths), m.lstm_units) for channel in channels(config)]
    if config.system == "plain_crnn":
        return systems.PlainCRNN(crnns[0], systems.Dense(m.plain_head), classes)
    if config.system == "hsf_crnn":
        return systems.HSFCRNN(
            crnns[0], systems.Dense(m.hsf_crnn_dense), systems.Dense(m.hsf_dense), systems.Dense(m.hsf_head), classes
        )
    if config.system == "multi_crnn":
        return systems.MultiCRNN(
            crnns[0], crnns[1], systems.Dense(m.multi_short_dense), systems.Dense(m.multi_head), classes
        )
    raise UserError(f"system={config.system!r} is not known; choose one of {', '.join(SYSTEMS)}")
