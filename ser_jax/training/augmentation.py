"""Augmentation of a batch on log-mel, and noise on functionals.

The log-mel is changed in the order in which a recording is made: speed, silence around, a room,
noise, the band of a telephone, loudness; masks come last. Energies of noise and reverberation are
added to those of the speech, without their phases.

Everything is drawn per row from the row's key, in the compiled step; scoring never comes here.
Masks follow Park et al. 2019 (SpecAugment, without time warping), speed follows Ko et al. 2015,
applied to the log-mel instead of the wave. What becomes of a row follows from its own frames and
key, whatever bucket it lies in: with speed or silence, buckets hold whole utterances, and a batch
gets room for the longest draw.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ser_jax.data.inputs import Inputs
from ser_jax.data.standardise import Statistics, of_rows

DECIBEL = np.log(10) / 10  # of energy, in natural logarithms
# Of a room: dB, range of direct over reverberant energy.
DIRECT_DB = (0.0, 12.0)
# Of a telephone: Hz, ranges of both edges; dB per octave beyond them; dB, range of the attenuation.
LOW_HZ, HIGH_HZ, EDGE_DB, DEPTH_DB = (200.0, 400.0), (3000.0, 3800.0), 48.0, (30.0, 70.0)
QUIET_DB = 30.0  # below the mean power of the speech: the loudest "silence" around it


class Augmentation(NamedTuple):
    """How much a batch is varied; 0 turns a variation off."""

    speed: float = 0.0  # largest relative change of speed, of pitch and tempo together
    gain_db: float = 0.0  # largest change of loudness in dB
    time_masks: int = 0  # masks over time
    time_mask_frames: int = 0  # longest mask over time, in frames
    band_masks: int = 0  # masks over bands
    band_mask_bands: int = 0  # widest mask over bands
    silence_frames: int = 0  # longest silence before, and behind, an utterance, in frames
    room: float = 0.0  # fraction of utterances that are put into a room
    room_seconds: tuple[float, float] = (0.2, 0.8)  # s, range of its reverberation time
    noise: float = 0.0  # fraction of utterances to which coloured noise is added
    noise_snr_db: tuple[float, float] = (0.0, 30.0)  # dB, range of its signal-to-noise ratio
    noise_slope_db: float = 6.0  # dB per octave that its density falls by, at most
    telephone: float = 0.0  # fraction of utterances of which the band of a telephone is left
    hsf_noise: float = 0.0  # standard deviation of Gaussian noise on the standardised functionals
    silence: float = 0.0  # log-mel value of digital silence
    mel_range: tuple[float, float] = (0.0, 2840.0)  # lower and upper edge of the log-mel in mel
    window_seconds: float = 0.025  # s, length of a window
    hop_seconds: float = 0.010  # s, distance of two

    @property
    def draws(self) -> bool:
        """Whether anything is varied."""
        return bool(
            self.speed
            or self.gain_db
            or self.time_masks
            or self.band_masks
            or self.silence_frames
            or self.room
            or self.noise
            or self.telephone
            or self.hsf_noise
        )

    @property
    def lengthens(self) -> bool:
        """Whether utterances may become longer: buckets must hold all their frames."""
        return bool(self.speed or self.silence_frames)

    def room_for(self, frames: int) -> int:
        """Returns how many frames the longest draw needs for so many."""
        return longest(frames, self.speed) + 2 * self.silence_frames


def vary_frames(
    inputs: Inputs, keys: Array, statistics: Statistics, settings: Augmentation
) -> Inputs:
    """Varies raw log-mel frames.

    Args:
      inputs: A batch of raw features with frames [B, F, M]; F becomes `room_for(F)`.
      keys: [B, 2] u32, see `step.row_keys`.
      statistics: Of the training part or the speakers; masks hold their means.
      settings: How much.
    """
    if inputs.frames is None:
        return inputs

    count, _, *bands = inputs.frames.shape
    means = of_rows(statistics, inputs).mean
    assert means is not None
    fillings = jnp.broadcast_to(means, (count, *bands))

    def vary(frames: Array, length: Array, data: Array, filling: Array) -> tuple[Array, Array]:
        own = jax.random.wrap_key_data(data, impl="threefry2x32")
        speed, gain, *masks = jax.random.split(
            jax.random.fold_in(own, 1), 2 + settings.time_masks + settings.band_masks
        )
        around, room, noise, line = jax.random.split(jax.random.fold_in(own, 3), 4)
        if settings.speed:
            factor = 1 + settings.speed * jax.random.uniform(speed, minval=-1, maxval=1)
            frames, length = play(frames, length, factor, settings)
        if settings.silence_frames:
            frames, length = surround(frames, length, around, settings)
        if settings.room:
            frames = reverberate(frames, room, settings)
        if settings.noise:
            frames = add_noise(frames, length, noise, settings)
        if settings.telephone:
            frames = limit_band(frames, line, settings)
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

    frames, length = jax.vmap(vary)(inputs.frames, inputs.length, keys, fillings)
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


def longest(frames: int, speed: float) -> int:
    """Returns the room that `frames` need at the largest change of speed, rounding included."""
    return math.floor((frames - 1) / (1 - speed)) + 2 if speed else frames


def play(
    frames: Array, length: Array, factor: Array, settings: Augmentation
) -> tuple[Array, Array]:
    """Plays one utterance `factor` times as fast, by linear interpolation over time and bands.

    Args:
      frames: [F, M], of which `length` are real.
      length: [] i32; of an utterance that is cut off, F frames are taken for real.
      factor: [] f32, above 0.
      settings: Largest change of speed, silence and range of the bands.

    Returns:
      Frames [`longest`(F), M], each between two real ones, then silence; and the number of the
      former. What would be longer, at a factor below 1 − speed, is cut.
    """
    size, bands = frames.shape
    length = jnp.minimum(length, size)
    low, high = settings.mel_range
    # Band m is at the mel frequency of its centre; faster, f / factor moves to f.
    hertz = _edges(bands, settings)[1:-1] / factor
    source = (2595 * jnp.log10(1 + hertz / 700) - low) / (high - low) * (bands + 1) - 1
    source = jnp.clip(source, 0, bands - 1)
    frames = frames @ jnp.maximum(1 - jnp.abs(jnp.arange(bands)[:, None] - source[None, :]), 0)
    places = jnp.arange(longest(size, settings.speed))
    time = jnp.clip(places * factor, 0, length - 1)
    before = jnp.floor(time).astype(jnp.int32)
    fraction = (time - before)[:, None]
    frames = (1 - fraction) * frames[before] + fraction * frames[
        jnp.minimum(before + 1, length - 1)
    ]
    count = jnp.floor((length - 1) / factor).astype(jnp.int32) + 1  # up to the last real frame
    count = jnp.minimum(count, len(places))
    return jnp.where((places < count)[:, None], frames, settings.silence), count


def surround(
    frames: Array, length: Array, key: Array, settings: Augmentation
) -> tuple[Array, Array]:
    """Puts silence before and behind one utterance, of a level between none and `QUIET_DB`.

    Args:
      frames: [F, M], of which `length` are real; of an utterance that is cut off, all are.
      length: [] i32.
      key: Key of its draws.
      settings: Longest silence.

    Returns:
      Frames [F + 2 · `silence_frames`, M] and how many are real.
    """
    size, most = len(frames), settings.silence_frames
    length = jnp.minimum(length, size)
    drawn = jax.random.uniform(key, (3,))
    before, behind = jnp.floor(drawn[:2] * (most + 1)).astype(jnp.int32)
    loudest = jnp.log(_mean_power(frames, length) / frames.shape[1]) - QUIET_DB * DECIBEL
    quiet = settings.silence + drawn[2] * jnp.maximum(loudest - settings.silence, 0)
    source = jnp.arange(size + 2 * most) - before
    inside = (source >= 0) & (source < length)
    shifted = frames[jnp.clip(source, 0, size - 1)]
    return jnp.where(inside[:, None], shifted, quiet), before + length + behind


def reverberate(frames: Array, key: Array, settings: Augmentation) -> Array:
    """Lets the energies [F, M] of an utterance decay as in a room; mean power stays about the same.

    What a frame leaves behind falls by 60 dB in the reverberation time.
    """
    chosen, seconds, ratio = jax.random.uniform(key, (3,))
    decay = 10 ** (-6 * settings.hop_seconds / _between(settings.room_seconds, seconds))
    share = 10 ** (-_between(DIRECT_DB, ratio) / 10)  # reverberant over direct energy

    def step(tail: Array, energy: Array) -> tuple[Array, Array]:
        return decay * (tail + energy), tail

    energies = jnp.exp(frames)
    _, tails = jax.lax.scan(step, jnp.zeros_like(energies[0]), energies)
    # Delays up to half a hop are heard in the frame itself; the weights add up to 1 + share.
    half = jnp.sqrt(decay)
    reverberant = (1 + share * (1 - half)) * energies + share * (1 - decay) / half * tails
    reverberant = reverberant / (1 + share)
    return jnp.where(chosen < settings.room, _log(reverberant, settings), frames)


def add_noise(frames: Array, length: Array, key: Array, settings: Augmentation) -> Array:
    """Adds the energies of coloured noise to those of an utterance [F, M].

    Its density falls by 0 (white) to `noise_slope_db` per octave (pink: 3, brown: 6); it is at a
    signal-to-noise ratio of mean powers, and varies from frame to frame as the energies of Gaussian
    noise do: a gamma distribution, by the cube of a normal one (Wilson and Hilferty 1931).
    """
    bands = frames.shape[1]
    of_row, of_frames = jax.random.split(key)
    chosen, ratio, fall = jax.random.uniform(of_row, (3,))
    edges = _edges(bands, settings)
    width = (edges[2:] - edges[:-2]) / 2  # Hz, area of a filter
    octaves = np.log2(edges[1:-1] / 1000)
    colour = width * 10 ** (-fall * settings.noise_slope_db * octaves / 10)
    snr = 10 ** (_between(settings.noise_snr_db, ratio) / 10)
    power = _mean_power(frames, length) / snr * colour / jnp.sum(colour)
    # Half the degrees of freedom: a triangle is as good as 1.5 of its area, and a Hamming window
    # tells apart frequencies that are 1.36 / its length away.
    shape = np.maximum(1.5 * width * settings.window_seconds / 1.36, 1)[None, :]
    normal = jax.random.normal(of_frames, frames.shape)
    cube_root = 1 - 1 / (9 * shape) + normal / (3 * np.sqrt(shape))
    noisy = _log(jnp.exp(frames) + power[None, :] * jnp.maximum(cube_root, 0) ** 3, settings)
    return jnp.where(chosen < settings.noise, noisy, frames)


def limit_band(frames: Array, key: Array, settings: Augmentation) -> Array:
    """Leaves the band of a telephone of an utterance [F, M]."""
    chosen, low, high, depth = jax.random.uniform(key, (4,))
    hertz = _edges(frames.shape[1], settings)[1:-1]
    below = jnp.log2(_between(LOW_HZ, low) / hertz)
    above = jnp.log2(hertz / _between(HIGH_HZ, high))
    beyond = jnp.maximum(jnp.maximum(below, above), 0)  # octaves
    attenuation = DECIBEL * jnp.minimum(EDGE_DB * beyond, _between(DEPTH_DB, depth))
    limited = jnp.maximum(frames - attenuation[None, :], settings.silence)
    return jnp.where(chosen < settings.telephone, limited, frames)


def _edges(bands: int, settings: Augmentation) -> np.ndarray:
    """Returns [bands + 2] f32 in Hz: lower edge of the first band, all centres, the last edge."""
    mels = np.linspace(*settings.mel_range, bands + 2)
    return (700 * (10 ** (mels / 2595) - 1)).astype(np.float32)


def _mean_power(frames: Array, length: Array) -> Array:
    """Returns [] f32, the energy of all bands [F, M], averaged over the `length` real frames."""
    length = jnp.minimum(length, len(frames))
    real = (jnp.arange(len(frames)) < length)[:, None]
    return jnp.sum(jnp.exp(jnp.where(real, frames, -jnp.inf))) / length


def _between(limits: tuple[float, float], share: Array) -> Array:
    return limits[0] + (limits[1] - limits[0]) * share


def _log(energies: Array, settings: Augmentation) -> Array:
    return jnp.log(jnp.maximum(energies, math.exp(settings.silence)))


def _span(key: Array, longest: int, available: Array | int, size: int) -> Array:
    """Returns [size] bool: a random span of at most `longest` within the first `available`."""
    width, start = jax.random.uniform(key, (2,))
    width = jnp.minimum(jnp.floor(width * (longest + 1)), available)
    start = jnp.floor(start * (available - width + 1))
    place = jnp.arange(size)
    return (place >= start) & (place < start + width)
