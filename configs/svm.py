"""Baseline.

Z-scored ComParE functionals and linear support vector machines, classes balanced. No system of the
paper.

What readers compare with: features of Schuller et al. 2016, C chosen on the validation part. Needs
openSMILE and scikit-learn (`pip install 'ser_jax[hsf,svm]'`), no accelerator. The seed hardly
matters.

    python -m ser_jax.main --config=configs/svm.py --config.corpus.name=emodb
    --config.corpus.root=/data/emodb

EMO-DB: 4 s on 2 cores with stored functionals, UA 82.2 % (docs/emodb.md).
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "svm"
    config.training.class_weights = "balanced"
    return config
