"""Plain CRNN.

Log-mel segments of 315 ms, CNN, LSTM, masked max, mean and min (paper, section 3.1, figure 1).

What the paper says, as it says it; what it leaves open is marked [D] in ser_jax/config.py.

    python -m ser_jax.main --config=configs/plain_crnn.py --config.corpus.name=emodb
    --config.corpus.root=/data/emodb

EMO-DB, balanced, 40 epochs: 47 s a seed on 2 cores, UA 77.2 % (docs/emodb.md).
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "plain_crnn"
    return config
