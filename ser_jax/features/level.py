"""Gain to a level: root mean square, or loudness by ITU-R BS.1770-4."""

from typing import Any

import numpy as np

RMS_DBFS = -26.0  # the usual level of speech databases (ITU-T P.56, of the active part)
LUFS = -23.0  # EBU R 128

_BLOCK_SECONDS, _OVERLAP = 0.4, 4  # of blocks, and how many cover a moment
_ABSOLUTE_LUFS, _RELATIVE_LU = -70.0, -10.0  # gates


def gain(samples: np.ndarray, rate: int, level: str) -> float:
    """Returns the factor that gives samples [S] f64, mono and not silent, a level.

    Args:
      samples: At `rate` Hz, in [-1, 1].
      rate: Sampling rate in Hz.
      level: `rms` (`RMS_DBFS`) or `lufs` (`LUFS`).
    """
    if level == "rms":
        return 10 ** (RMS_DBFS / 20) / float(np.sqrt(np.mean(samples**2)))
    return 10 ** ((LUFS - loudness(samples, rate)) / 20)


def loudness(samples: np.ndarray, rate: int) -> float:
    """Returns the integrated loudness of mono samples [S] in LUFS.

    Less than a block, and what lies below the absolute gate, is measured without gates.
    """
    from scipy import signal  # slow to import, and rarely needed

    weighted: Any = signal.sosfilt(_k_weighting(rate), samples)
    size = round(_BLOCK_SECONDS * rate)
    hop = size // _OVERLAP
    power = np.cumsum(np.concatenate([[0.0], weighted**2]))
    starts = np.arange(0, len(samples) - size + 1, hop)
    blocks = (power[starts + size] - power[starts]) / size
    loud = blocks[_lufs(blocks) > _ABSOLUTE_LUFS]
    if not len(loud):
        return float(_lufs(power[-1] / len(samples)))
    kept = loud[_lufs(loud) > _lufs(loud.mean()) + _RELATIVE_LU]
    return float(_lufs(kept.mean()))


def _lufs(power):
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-30))


def _k_weighting(rate: int) -> np.ndarray:
    """Returns the two filters of the standard as second-order sections at any rate.

    The standard has coefficients for 48 kHz; these are its analogue prototypes (as in libebur128).
    """
    k, q = np.tan(np.pi * 1681.974450955533 / rate), 0.7071752369554196  # the shelf
    high = 10 ** (3.999843853973347 / 20)
    band, norm = high**0.4996667741545416, 1 + k / q + k * k
    shelf = [high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]
    shelf += [norm, 2 * (k * k - 1), 1 - k / q + k * k]
    k, q = np.tan(np.pi * 38.13547087602444 / rate), 0.5003270373238773  # the high pass
    low = [1, -2, 1, 1, 2 * (k * k - 1) / (1 + k / q + k * k)]
    low += [(1 - k / q + k * k) / (1 + k / q + k * k)]
    return np.array([np.array(shelf) / norm, low])
