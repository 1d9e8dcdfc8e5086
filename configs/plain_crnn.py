"""plain."""

from ser_jax import config as base


def get_config():
    """Returns the configuration."""
    config = base.get_config()
    config.system = "plain_crnn"
    return config
