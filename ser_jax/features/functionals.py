"""High-level statistical features (HSF): functionals of openSMILE, such as ComParE_2016.

The licence of openSMILE is non-commercial and extends to models trained on its features: it is an
optional dependency, imported only here and only on use. This module must not import jax: worker
processes load it.
"""

import functools
import importlib.metadata
import importlib.util
import warnings
from typing import Any

import numpy as np

from ser_jax.runtime.errors import UserError

# The sets that openSMILE offers → number of values of each.
WIDTHS = {
    "ComParE_2016": 6373,  # Schuller et al., Interspeech 2016; that of the paper
    "eGeMAPSv02": 88,  # Eyben et al., IEEE Transactions on Affective Computing 7(2), 2016
    "eGeMAPSv01b": 88,
    "eGeMAPS": 88,
    "GeMAPSv01b": 62,
    "GeMAPS": 62,
    "emobase": 988,
    "IS09": 384,
    "IS10": 1582,
    "IS11": 4368,
    "IS12": 6125,
    "IS13": 6373,
}
COMPARE = "ComParE_2016"
SAMPLE_RATE = 16000

# openSMILE multiplies by 32768 and casts to int16 without clipping: +1.0 would become -32768.
_HIGHEST = 32767 / 32768
_MISSING = (
    'The HSF features need openSMILE, which is not installed: pip install "ser_jax[hsf]". Its'
    " licence is non-commercial and extends to models trained on its features. plain_crnn and"
    " multi_crnn run without it."
)


def require_opensmile() -> None:
    """Raises `UserError` with the remedy if openSMILE is not installed; does not import it."""
    try:
        importlib.metadata.version("opensmile")
        found = importlib.util.find_spec("opensmile")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        found = None
    if found is None:
        raise UserError(_MISSING)


def store_settings(feature_set: str = COMPARE) -> dict[str, str]:
    """Returns what the functionals depend on besides the samples, for their key in the store."""
    return {"feature_set": feature_set, "opensmile": importlib.metadata.version("opensmile")}


def functionals(samples: np.ndarray, feature_set: str = COMPARE) -> np.ndarray:
    """Computes the functionals [D] f32 of samples [S] f32, 16 kHz mono, in [-1, 1].

    D is the width of the set in `WIDTHS`. openSMILE gives NaN for less than 60 ms. Values of
    ComParE_2016 reach 1e13, so standardise in float64.

    Raises:
      UserError: If openSMILE is not installed or does not load.
    """
    clipped = np.clip(samples, -1.0, _HIGHEST).astype(np.float32, copy=False)
    values = _smile(feature_set)(clipped, SAMPLE_RATE)
    return values.reshape(WIDTHS[feature_set]).astype(np.float32, copy=False)


def feature_names(feature_set: str = COMPARE) -> tuple[str, ...]:
    """Returns the D names in the order of `functionals`; needs openSMILE."""
    return tuple(_smile(feature_set).feature_names)


@functools.cache
def _smile(feature_set: str) -> Any:
    """One extractor per process and set: making it parses openSMILE's configuration files."""
    require_opensmile()
    try:
        import opensmile

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # There are newer versions of some sets.
            return opensmile.Smile(
                opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals, num_workers=1
            )
    except Exception as error:  # whatever its library or one that it needs raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"openSMILE is installed but does not load ({reason:.300}): install it again for this"
            " machine (pip install --force-reinstall opensmile), or take plain_crnn or multi_crnn,"
            " which run without it"
        ) from error
