"""Plain CRNN as a practitioner would train it.

ReLU, dropout, AdamW, averaged parameters, augmentation by speed.

No system of the paper: layers and front end are, the recipe is not. Chosen on validation speakers
of EMO-DB (docs/tuning.md). For the last points let several trainings predict together:
`--config.protocol.ensemble=3`.

    python -m ser_jax.main --config=configs/tuned/plain_crnn.py --config.corpus.name=emodb
    --config.corpus.root=/d
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "plain_crnn"
    config.features.remove_dc = True
    config.features.trim = "ends"
    config.features.level = "recording"
    config.model.activation = "relu"
    config.model.dropout = 0.3
    config.augment.speed = 0.1
    config.training.epochs = 60
    config.training.batch_size = 16
    config.training.weight_decay = 0.1
    config.training.ema = 0.98
    config.training.class_weights = "balanced"
    return config
