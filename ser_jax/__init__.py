"""Speech emotion recognition in JAX: plain CRNN, HSF-CRNN and Multi-CRNN (Luo, Zou and Huang, Interspeech 2018)."""

from __future__ import annotations

import os
import typing

from ser_jax import xla_guard

if typing.TYPE_CHECKING:
    from ser_jax.prediction.predictor import Predictor

__version__ = "0.1.0"

xla_guard.install()


def load(model: str | os.PathLike[str]) -> Predictor:
    """Loads a trained run: `ser_jax.load("runs/x").predict("a.wav").label`.

    Args:
      model: Run directory that `python -m ser_jax.main` has written. Its final model predicts if it has one, otherwise
        those of all its folds together.

    Returns:
      A `Predictor`; its method `predict` takes files or samples of any rate.

    Raises:
      ser_jax.errors.UserError: If it is no finished run or a file is damaged; the sentence says what to do.
    """
    from ser_jax.prediction.predictor import Predictor  # jax is loaded by those who predict

    return Predictor(model)
