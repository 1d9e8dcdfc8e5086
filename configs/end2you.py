"""End2You.

Convolutions and a recurrent net on the raw wave, end to end; baseline [20] of the paper's table 2.

What the published code does (as of March 2018), but for two defects: nothing is dropped when scores
are computed, and the last real step is read, not the last padded one. What it leaves open is marked
[D] in ser_jax/config.py. `--config.model.end2you_cell=gru` is the cell that the published code
could run.

    python -m ser_jax.main --config=configs/end2you.py --config.corpus.name=emodb
    --config.corpus.root=/data/emodb

EMO-DB on 2 cores: 55 s for an epoch of two runs side by side, about 4 hours in all; docs/emodb.md
has it shortened.
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "end2you"
    config.training.epochs = 50
    config.training.batch_size = 2
    config.training.learning_rate = 1e-4
    return config
