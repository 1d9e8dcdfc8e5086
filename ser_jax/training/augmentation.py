"""Random variants of a training batch: speed, loudness and noise of the log-mel, masks on it, noise on functionals.

Everything is drawn per row from the row's key, in the compiled step; scoring never comes here. Masks follow Park et al.
2019 (SpecAugment, without time warping), speed follows Ko et al. 2015, applied to the log-mel instead of the wave.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ser_jax.arrays.inputs import Inputs
from ser_jax.arrays.standardise import Statistics

DECIBEL = np.log(10) / 10  # of energy, in natural logarithms


class Augmentation(NamedTuple):
    """How much a batch is varied; 0 turns a variation off.

    Attributes:
      speed: Largest change of speed, as a share: 0.1 plays between 0.9 and 1.1 times as fast, pitch and tempo together.
      gain_db: Largest change of loudness in dB.
      time_masks: Masks over time.
      time_mask_frames: Longest mask over time, in frames.
      band_masks: Masks over bands.
      band_mask_bands: Widest mask over bands.
      hsf_noise: Standard deviation of Gaussian noise on the standardised functionals.
      silence: Log-mel value of digital silence.
      mel_range: Lower and upper edge of the log-mel in mel.
    """

    speed: float = 0.0
    gain_db: float = 0.0
    time_masks: int = 0
    time_mask_frames: int = 0
    band_masks: int = 0
    band_mask_bands: int = 0
    hsf_noise: float = 0.0
    silence: float = 0.0
    mel_range: tuple[float, float] = (0.0, 2840.0)

    @property
    def draws(self) -> bool:
        """Whether anything is varied."""
        return any((self.speed, self.gain_db, self.time_masks, self.band_masks, self.hsf_noise))


def vary_frames(inputs: Inputs, keys: Array, statistics: Statistics, settings: Augmentation) -> Inputs:
    """Varies raw log-mel frames.

    Args:
      inputs: A batch of raw features with frames [B, F, M].
      keys: [B, 2] u32, see `step.row_keys`.
      statistics: Of the training part; masks hold its mean.
      settings: How much.

    Returns:
      The batch; speed changes its lengths, which stay within F.
    """
    if inputs.frames is None:
        return inputs

    filling = jnp.asarray(statistics.mean)

    def vary(frames: Array, length: Array, data: Array) -> tuple[Array, Array]:
        speed, gain, *masks = jax.random.split(
            jax.random.fold_in(jax.random.wrap_key_data(data, impl="threefry2x32"), 1),
            2 + settings.time_masks + settings.band_masks,
        )
        if settings.speed:
            factor = 1 + settings.speed * jax.random.uniform(speed, minval=-1, maxval=1)
            frames, length = play(frames, length, factor, settings)
        if settings.gain_db:
            louder = settings.gain_db * DECIBEL * jax.random.uniform(gain, minval=-1, maxval=1)
            frames = jnp.maximum(frames + louder, settings.silence)
        for key in masks[: settings.time_masks]:
            hidden = _span(key, settings.time_mask_frames, length, len(frames))
            frames = jnp.where(hidden[:, None], filling, frames)
        for key in masks[settings.time_masks :]:
            hidden = _span(key, settings.band_mask_bands, frames.shape[1], frames.shape[1])
            frames = jnp.where(hidden[None, :], filling, frames)
        return frames, length

    frames, length = jax.vmap(vary)(inputs.frames, inputs.length, keys)
    return inputs._replace(frames=frames, length=length)


def vary_hsf(inputs: Inputs, keys: Array, settings: Augmentation) -> Inputs:
    """Adds noise to standardised functionals [B, D]; see `vary_frames`."""
    hsf = inputs.hsf
    if hsf is None or not settings.hsf_noise:
        return inputs

    def noise(data: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(data, impl="threefry2x32"), 2)
        return settings.hsf_noise * jax.random.normal(key, hsf.shape[1:])

    return inputs._replace(hsf=hsf + jax.vmap(noise)(keys))


def play(frames: Array, length: Array, factor: Array, settings: Augmentation) -> tuple[Array, Array]:
    """Plays one utterance `factor` times as fast: frames [F, M] are read along time and bands between their neighbours.

    Args:
      frames: [F, M], of which `length` are real.
      length: [] i32.
      factor: [] f32, above 0.
      settings: Silence and range of the bands.

    Returns:
      frames [F, M] and their number, at most F: what would be longer is cut.
    """
    size, bands = frames.shape
    low, high = settings.mel_range
    # Band m is at the mel frequency of its centre; played faster, what was at f / factor is heard at f.
    centres = low + (high - low) * (jnp.arange(bands) + 1) / (bands + 1)
    hertz = 700 * (10 ** (centres / 2595) - 1) / factor
    source = (2595 * jnp.log10(1 + hertz / 700) - low) / (high - low) * (bands + 1) - 1
    source = jnp.clip(source, 0, bands - 1)
    frames = frames @ jnp.maximum(1 - jnp.abs(jnp.arange(bands)[:, None] - source[None, :]), 0)
    time = jnp.clip(jnp.arange(size) * factor, 0, length - 1)
    before = jnp.floor(time).astype(jnp.int32)
    share = (time - before)[:, None]
    frames = (1 - share) * frames[before] + share * frames[jnp.minimum(before + 1, length - 1)]
    shorter = jnp.clip(jnp.round(length / factor).astype(jnp.int32), 1, size)
    return jnp.where((jnp.arange(size) < shorter)[:, None], frames, settings.silence), shorter


def _span(key: Array, longest: int, available: Array | int, size: int) -> Array:
    """Returns [size] bool: a random span of at most `longest` within the first `available`."""
    width, start = jax.random.uniform(key, (2,))
    width = jnp.minimum(jnp.floor(width * (longest + 1)), available)
    start = jnp.floor(start * (available - width + 1))
    place = jnp.arange(size)
    return (place >= start) & (place < start + width)
