"""Probe on embeddings.

Softmax-weighted layers of a frozen speech model, max, mean and min over time, dense layers; no
system of the paper. It needs files of embeddings (docs/embeddings.md):

    python -m ser_jax.main --config=configs/probe.py --config.corpus.name=emodb
    --config.corpus.root=/data/emodb --config.features.embeddings=/data/emodb-hubert
    --config.features.embeddings_level=layers

model.probe_pooling=mean is the head of SUPERB and EmoBox, and the fastest: arrays are pooled when
they are read.
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "probe"
    config.model.activation = "relu"
    return config
