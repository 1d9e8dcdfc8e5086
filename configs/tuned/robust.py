"""Plain CRNN for recordings made elsewhere: other microphones, rooms and lines, several corpora.

As tuned/plain_crnn, and half of the training utterances hear noise, a third a room, a third the
band of a telephone. It costs points on recordings like those of the training and brings many on
others (docs/robustness.md). Join what corpora there are (docs/several-corpora.md); classes and
corpora are balanced.

    python -m ser_jax.main --config=configs/tuned/robust.py --config.corpus.name=emodb+cremad
    --config.corpus.root=/data/emodb,/data/cremad
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.load_preset("tuned/plain_crnn").unlock()
    config.augment.room = 0.3
    config.augment.noise = 0.5
    config.augment.telephone = 0.3
    return config.lock()
