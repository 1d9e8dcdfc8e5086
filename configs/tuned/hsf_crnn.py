"""HSF-CRNN as a practitioner would train it.

ReLU, dropout, AdamW, averaged parameters, augmentation, a smaller net.

No system of the paper: its parts are, the recipe and the width of the functionals' layers are not.
Chosen on validation speakers of EMO-DB (docs/tuning.md). Needs openSMILE. For the last points let
several trainings predict together: `--config.protocol.ensemble=3`.

    python -m ser_jax.main --config=configs/tuned/hsf_crnn.py --config.corpus.name=emodb
    --config.corpus.root=/d
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "hsf_crnn"
    config.features.remove_dc = True
    config.features.trim = "ends"
    config.features.level = "recording"
    config.model.activation = "relu"
    config.model.dropout = 0.3
    config.model.hsf_dropout = 0.5
    config.model.hsf_dense = (256, 128)
    config.augment.speed = 0.1
    config.training.epochs = 40
    config.training.batch_size = 16
    config.training.weight_decay = 0.1
    config.training.ema = 0.98
    config.training.label_smoothing = 0.1
    config.training.class_weights = "balanced"
    return config
