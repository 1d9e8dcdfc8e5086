"""Samples that arrive piece by piece, as 16 kHz mono: the pieces add up to what `audio.from_samples` makes of all.

This module must not import jax.
"""

import numpy as np
import soxr

from ser_jax.features import audio, pcm
from ser_jax.features.bad_audio import BadAudio


class Listener:
    """Checks, averages and resamples pieces of any size; it keeps no more than the resampler's delay.

    Attributes:
      rate: Sampling rate of the pieces in Hz.
    """

    def __init__(self, rate: int):
        """Starts to listen.

        Args:
          rate: Sampling rate of the pieces in Hz.

        Raises:
          BadAudio: "over the limits".
        """
        audio.check_stream(rate, 1)
        self.rate = rate
        self._channels = 0  # unknown before the first sample
        self._heard = 0  # frames
        self._clipped, self._silent = False, True
        self._last = np.zeros((0, 1), np.float32)  # a flat top may begin in one piece and end in the next
        self._resampler = None
        if rate != audio.SAMPLE_RATE:
            self._resampler = soxr.ResampleStream(rate, audio.SAMPLE_RATE, 1, dtype="float32", quality=audio.QUALITY)

    @property
    def seconds(self) -> float:
        """Length of what was heard, in s."""
        return self._heard / self.rate

    @property
    def flags(self) -> tuple[str, ...]:
        """What is odd about it; see `audio.flags`."""
        return audio.flags(self.rate, max(self._channels, 1), self._clipped)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes the next piece.

        Args:
          samples: [S] or [S, channels], floats in [-1, 1] or int16; S may be 0. Always as many channels as before.

        Returns:
          [S'] f32 in [-1, 1], 16 kHz: what is finished by now.

        Raises:
          BadAudio: "unreadable", "non-finite" or "over the limits"; nothing of the piece is taken then.
        """
        values = pcm.as_frames(samples)
        if not len(values):
            return np.zeros(0, np.float32)
        count = values.shape[1]
        audio.check_stream(self.rate, count)
        if self._channels not in (0, count):
            raise BadAudio("unreadable", f"{count} channels after {self._channels}; a stream keeps its channels")
        frames = pcm.to_float(values)
        before = self._last if self._channels else np.zeros((0, count), np.float32)
        together = np.concatenate([before, frames])
        self._clipped = pcm.check_block(together) or self._clipped
        self._last = together[len(together) - min(len(together), pcm.CLIPPED_RUN - 1) :].copy()
        self._channels, self._heard = count, self._heard + len(frames)
        return self._resampled(pcm.mix_down(frames), last=False)

    def end(self) -> np.ndarray:
        """Returns [S'] f32, the samples that the resampler still held; nothing may be pushed afterwards."""
        return self._resampled(np.zeros(0, np.float32), last=True)

    def check_usable(self) -> None:
        """Raises `BadAudio` "too short" or "silent" if what was heard is no recording."""
        audio.check_length(self.seconds, np.inf)
        if self._silent:
            raise BadAudio("silent", "every sample is zero")

    def _resampled(self, mono: np.ndarray, last: bool) -> np.ndarray:
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono, last=last)
        samples = np.clip(mono, -1.0, 1.0)  # the resampling filter overshoots at steep edges
        self._silent = self._silent and not samples.any()
        return samples
