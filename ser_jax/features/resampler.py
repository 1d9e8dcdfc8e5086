"""Resamples a stream of audio to 16 kHz mono, with the same samples as `audio.from_samples`."""

import numpy as np
import soxr

from ser_jax.features import audio, pcm
from ser_jax.features.pcm import BadAudio
from ser_jax.features.preparation import Sound


class StreamResampler:
    """Checks, averages and resamples pieces of any size; keeps only the resampler's delay."""

    def __init__(self, rate: int, channel: str = pcm.MEAN):
        """Raises `BadAudio` "over the limits" for a sampling rate in Hz that is not supported."""
        audio.check_stream(rate, 1)
        self.rate = rate
        self._channels = 0  # unknown before the first sample
        self._frames = 0
        self._mixer, self._sound = pcm.Mixer(channel), Sound()
        self._resampler = None
        if rate != audio.SAMPLE_RATE:
            self._resampler = soxr.ResampleStream(
                rate, audio.SAMPLE_RATE, 1, dtype="float32", quality=audio.QUALITY
            )

    @property
    def seconds(self) -> float:
        """Length of what was received, in s."""
        return self._frames / self.rate

    @property
    def flags(self) -> tuple[str, ...]:
        """Peculiarities of what was received, of `pcm.FLAGS`."""
        channels = max(self._channels, 1)
        return self._mixer.flags(self.rate, channels, sound=self._sound.present)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes the next piece.

        Args:
          samples: [S] or [S, channels], floats in [-1, 1] or int16; S may be 0. Always as many
            channels as before.

        Returns:
          [S'] f32 in [-1, 1], 16 kHz: what is finished by now.

        Raises:
          BadAudio: "unreadable", "non-finite" or "over the limits"; the piece is then dropped.
        """
        values = pcm.as_frames(samples)
        if not len(values):
            return np.zeros(0, np.float32)
        count = values.shape[1]
        audio.check_stream(self.rate, count)
        if self._channels not in (0, count):
            detail = f"{count} channels after {self._channels}; a stream keeps its channels"
            raise BadAudio("unreadable", detail)
        frames = pcm.to_float(values)
        mono = self._mixer.add(frames)
        self._channels, self._frames = count, self._frames + len(frames)
        return self._resampled(mono, last=False)

    def end(self) -> np.ndarray:
        """Returns [S'] f32, the rest of the samples; nothing may be pushed afterwards."""
        return self._resampled(np.zeros(0, np.float32), last=True)

    def check_usable(self) -> None:
        """Raises `BadAudio` if what was received is too short, or its channels cancel out."""
        audio.check_length(self.seconds, np.inf)
        self._mixer.check_audible(silent=True)

    def _resampled(self, mono: np.ndarray, last: bool) -> np.ndarray:
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono, last=last)
        mono = np.clip(mono, -1.0, 1.0)  # the resampling filter overshoots at steep edges
        self._sound.push(mono)
        return mono
