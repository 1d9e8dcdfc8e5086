"""HSF-CRNN.

Plain CRNN joined with the 6373 ComParE functionals (paper, section 3.2, figure 2). Needs openSMILE.

What the paper says, as it says it; what it leaves open is marked [D] in ser_jax/config.py.

    python -m ser_jax.main --config=configs/hsf_crnn.py --config.corpus.name=emodb
    --config.corpus.root=/data/emodb

EMO-DB, balanced, 40 epochs: 3 minutes a seed on 2 cores, UA 83.1 % (docs/emodb.md).
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "hsf_crnn"
    return config
