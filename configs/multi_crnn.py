"""multi."""

from ser_jax import config as base


def get_config():
    """Returns the configuration."""
    config = base.get_config()
    config.system = "multi_crnn"
    return config
