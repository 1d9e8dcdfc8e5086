"""High-level statistical features: the 6373 ComParE_2016 functionals of openSMILE (Schuller et al. 2016).

openSMILE's licence is non-commercial and extends to models trained on its features: it is an extra, imported only here
and only when asked for. This module must not import jax: it runs in worker processes.
"""

import functools
import importlib.metadata
import importlib.util
from typing import Any

import numpy as np

from ser_jax.errors import UserError

DIMENSION = 6373
SAMPLE_RATE = 16000

# openSMILE multiplies by 32768 and casts to int16 without clipping: +1.0 would become -32768.
_HIGHEST = 32767 / 32768
_MISSING = (
    'The HSF features need openSMILE, which is not installed: pip install "ser_jax[hsf]". Its licence is '
    "non-commercial and extends to models trained on its features. plain_crnn and multi_crnn run without it."
)


def require_opensmile() -> None:
    """Raises `UserError` with the remedy if openSMILE is not installed; does not import it."""
    if importlib.util.find_spec("opensmile") is None:
        raise UserError(_MISSING)


def store_settings() -> dict[str, str]:
    """Returns what the functionals depend on besides the samples: part of their key in the feature store."""
    return {"feature_set": "ComParE_2016", "opensmile": importlib.metadata.version("opensmile")}


def functionals(samples: np.ndarray) -> np.ndarray:
    """Computes the ComParE_2016 functionals of a recording.

    Args:
      samples: [S] f32, 16 kHz mono, in [-1, 1]. At least 60 ms: openSMILE gives NaN for less.

    Returns:
      [6373] f32; values reach 1e13, so standardise in float64.

    Raises:
      UserError: If openSMILE is not installed.
    """
    clipped = np.clip(samples, -1.0, _HIGHEST).astype(np.float32, copy=False)
    return _smile()(clipped, SAMPLE_RATE).reshape(DIMENSION).astype(np.float32, copy=False)


def feature_names() -> tuple[str, ...]:
    """Returns the 6373 names in the order of `functionals`.

    Raises:
      UserError: If openSMILE is not installed.
    """
    return tuple(_smile().feature_names)


@functools.cache
def _smile() -> Any:
    """One extractor per process: making it parses openSMILE's configuration files."""
    try:
        import opensmile
    except ImportError as error:
        raise UserError(_MISSING) from error
    return opensmile.Smile(opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel.Functionals, num_workers=1)
