"""Multi-CRNN: two CRNNs with segments of 315 and 515 ms, joined (paper, section 3.3, figure 3).

What the paper says, as it says it; what it leaves open is marked [D] in ser_jax/config.py.

    python -m ser_jax.main --config=configs/multi_crnn.py --config.corpus.name=emodb
    --config.corpus.root=/data/emodb

EMO-DB, balanced, 40 epochs: 2 minutes a seed on 2 cores, UA 79.0 % (docs/emodb.md).
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "multi_crnn"
    return config
