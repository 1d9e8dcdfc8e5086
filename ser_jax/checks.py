"""Values that no run can be made with, refused before anything expensive happens."""

from ser_jax.config import Config
from ser_jax.errors import UserError
from ser_jax.models import build

_LEAST = {
    **dict.fromkeys(("protocol.seeds", "training.epochs", "training.batch_size"), 1),
    **dict.fromkeys(("model.filters", "model.lstm_units", "model.short_hop", "model.long_hop"), 1),
    **dict.fromkeys(("features.workers", "training.devices", "training.group", "training.shapes"), 0),
}


def check(config: Config) -> None:
    """Refuses values that no run can be made with, before anything expensive happens.

    Raises:
      UserError: Names the key, the value and what is possible.
    """
    t, m = config.training, config.model
    if len(m.widths) != 2 or min(m.widths) < 1:
        raise UserError(f"model.widths={tuple(m.widths)}; it must be two widths of at least 1, such as (5,3)")
    build.build_model(config, 2)
    window = m.widths[0] + 2 * m.widths[1] + 4  # leaves one row after both convolutions and max-pools
    for key, least in (_LEAST | {"model.short_window": window, "model.long_window": window}).items():
        section, _, name = key.partition(".")
        if config[section][name] < least:
            raise UserError(f"{key}={config[section][name]}; it must be at least {least}")
    for name, value in (("learning_rate", t.learning_rate), ("clip_norm", t.clip_norm)):
        if not value > 0:
            raise UserError(f"training.{name}={value}; it must be above 0")
    choices = (
        ("training.class_weights", t.class_weights, ("none", "balanced")),
        ("training.precision", t.precision, ("float32", "tf32", "bf16")),
        ("training.dispatch", t.dispatch, ("auto", "step", "chunk")),
        ("model.form", m.form, ("fast", "literal")),
    )
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
