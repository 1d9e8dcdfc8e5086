"""Fusion: the mean of the calibrated probabilities of SVM, tuned Plain CRNN and tuned HSF-CRNN.

No system of the paper. Its members see the recordings in different ways and err on different ones
(docs/fusion.md). Needs openSMILE and scikit-learn (`pip install 'ser_jax[hsf,svm]'`).

    python -m ser_jax.main --config=configs/tuned/fusion.py --config.corpus.name=emodb
    --config.corpus.root=/d
"""

from ser_jax import config as base


def get_config() -> base.Config:
    """Returns the configuration."""
    config = base.get_config()
    config.system = "fusion"
    config.features.remove_dc = True
    config.features.trim = "ends"
    config.features.level = "recording"
    return config
