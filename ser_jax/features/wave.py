"""The wave itself as a feature: 16 kHz mono in 16 bits, half the memory of float32 and exact for 16-bit recordings.

This module must not import jax: worker processes load it.
"""

from types import ModuleType
from typing import Any

import numpy as np

INT16_SCALE = 32768  # the 16-bit number of amplitude 1; the arrays divide by it


def to_int16(samples: Any, xp: ModuleType = np) -> Any:
    """Rounds samples to 16 bits.

    Args:
      samples: [..., S] f32, in [-1, 1].
      xp: The array library of the samples: numpy or jax.numpy.

    Returns:
      [..., S] i16, the nearest multiples of 1/32768, in these units; amplitude 1 becomes 32767.
    """
    return xp.clip(xp.rint(samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(xp.int16)
