"""Speech emotion recognition in JAX: plain CRNN, HSF-CRNN and Multi-CRNN (Luo, Zou and Huang, Interspeech 2018)."""

from ser_jax import xla_guard

__version__ = "0.1.0"

xla_guard.install()
