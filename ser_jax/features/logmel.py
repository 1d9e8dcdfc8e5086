"""Log-mel frames: one function for NumPy (extraction) and jax.numpy (exported models).

This module must not import jax: worker processes load it.
"""

import dataclasses
import functools
import math
from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import as_strided

from ser_jax.runtime.errors import UserError

# Products of this many multiplications are shared among BLAS threads, whose number then decides
# the last bits of a feature; two threads also cost 5 times as much on a busy machine. Source:
# OpenBLAS, interface/gemm.c: a thread gets SMP_THRESHOLD_MIN * GEMM_MULTITHREAD_THRESHOLD.
_SHARED_PRODUCT = 2 * 4 * 65536


@dataclasses.dataclass(frozen=True, slots=True)
class LogMelSettings:
    """The front end's settings (paper, section 4.2; values in config.py)."""

    sample_rate: int  # sampling rate in Hz
    window_seconds: float  # length of the Hamming window
    hop_seconds: float  # distance between the starts of windows
    fft: int  # points of the FFT; the window comes first, zeros follow
    bands: int  # mel bands
    low_hz: float  # lower edge of the lowest band
    high_hz: float  # upper edge of the highest band
    floor: float  # smallest band energy that enters the logarithm
    normalisation: str = "training"  # of the frames, see preparation.py; `log_mel` leaves them raw

    def __post_init__(self):
        """Raises `UserError` for settings that describe no front end."""
        if not 1 <= self.hop:
            found = f"hop_seconds={self.hop_seconds:g}"
            raise UserError(f"{found} is less than one sample at {self.sample_rate} Hz")
        if not 2 <= self.window <= self.fft:
            found = f"window_seconds={self.window_seconds:g} is {self.window} samples"
            raise UserError(f"{found}: 2 to fft={self.fft} fit")
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            found = f"bands from low_hz={self.low_hz:g} to high_hz={self.high_hz:g}"
            raise UserError(f"{found} must lie in 0 … {self.sample_rate // 2}")
        if self.bands < 1 or not self.floor > 0:
            raise UserError(f"bands={self.bands} and floor={self.floor:g} must be greater than 0")

    def named(self) -> dict[str, str | int | float]:
        """Returns what frames depend on: names them in the store, as before there was a choice."""
        settings = dataclasses.asdict(self)
        if self.normalisation != "utterance":
            del settings["normalisation"]
        return settings

    @property
    def window(self) -> int:
        """Length of the window in samples."""
        return round(self.sample_rate * self.window_seconds)

    @property
    def hop(self) -> int:
        """Distance between windows in samples."""
        return round(self.sample_rate * self.hop_seconds)


def frame_count(samples: int, settings: LogMelSettings) -> int:
    """Returns F, the whole windows in so many samples: 1 + (samples - window) // hop, or 0."""
    if samples < settings.window:
        return 0
    return 1 + (samples - settings.window) // settings.hop


def silence(settings: LogMelSettings) -> float:
    """Returns the log-mel value of digital silence, log(floor), as float32 arithmetic gives it."""
    return float(np.log(np.float32(settings.floor)))


def energy_of(power: float, settings: LogMelSettings) -> float:
    """Returns the sum of the band energies of a frame of sound with this mean square.

    By Parseval's theorem, for sound between the centres of the outer bands.
    """
    return power * settings.fft / 2 * float(np.sum(_hamming(settings.window) ** 2))


@functools.lru_cache(maxsize=8)
def mel_filterbank(settings: LogMelSettings) -> np.ndarray:
    """Returns triangular filters, equally wide on the HTK mel scale, each with peak 1.

    The filters are not normalised by their area. Source: HTK Book, section 5.4: mel(f) = 2595
    log10(1 + f / 700).

    Returns:
      [fft // 2 + 1, bands] f32, read-only: power spectrum @ filterbank = band energies.

    Raises:
      UserError: If a band is so narrow that it contains no frequency of the FFT.
    """
    edges = band_edges(settings)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.arange(settings.fft // 2 + 1)[:, None] * (settings.sample_rate / settings.fft)
    rising, falling = (hertz - left) / (centre - left), (right - hertz) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    if not filters.any(axis=0).all():
        raise UserError(
            f"bands={settings.bands} are too many for fft={settings.fft}: a band holds no frequency"
        )
    filters.setflags(write=False)
    return filters


def band_edges(settings: LogMelSettings) -> np.ndarray:
    """Returns [bands + 2] f64 in Hz: band m starts at edge m, peaks at m + 1 and ends at m + 2."""
    edges = np.linspace(mel(settings.low_hz), mel(settings.high_hz), settings.bands + 2)
    return 700.0 * (10.0 ** (edges / 2595.0) - 1.0)


def log_mel(wave: Any, settings: LogMelSettings, xp: ModuleType = np) -> Any:
    """Computes log-mel frames in float32, without padding at either end.

    Window k covers samples k·hop … k·hop + window - 1: symmetric Hamming window, power spectrum,
    `mel_filterbank`, natural logarithm of max(energy, floor).

    Args:
      wave: [S] f32 at `settings.sample_rate`, in [-1, 1]; in jax.numpy also [B, S].
      settings: The front end.
      xp: The array library of `wave`: numpy or jax.numpy. For jax.export with a symbolic S, state
        the constraint S >= window. On accelerators trace under
        `jax.default_matmul_precision("highest")`: the default rounds the spectrum to fewer bits
        than float32.

    Returns:
      [F, M] f32 with F = `frame_count(S, settings)`; [B, F, M] of [B, S].
    """
    frames, window, hop = frame_count(wave.shape[-1], settings), settings.window, settings.hop
    if xp is not np:
        index = xp.arange(frames)[:, None] * hop + xp.arange(window)[None, :]
        return _frames(wave[..., index], settings, xp, xp.fft)
    # Overlapping windows in place: gathering them costs a fifth of the time.
    strides = (hop * wave.strides[0], wave.strides[0])
    windows = as_strided(wave, (frames, window), strides, writeable=False)
    out = np.empty((frames, settings.bands), np.float32)
    rows = max(1, (_SHARED_PRODUCT - 1) // mel_filterbank(settings).size)
    rows -= rows % 8 if rows > 8 else 0  # whole tiles of the product
    for begin in range(0, frames, rows):
        block = slice(begin, begin + rows)
        # scipy.fft is 1.6 times as fast as numpy.fft.
        out[block] = _frames(windows[block], settings, np, scipy.fft)
    return out


def _frames(windows: Any, settings: LogMelSettings, xp: ModuleType, fft: ModuleType) -> Any:
    """Log-mel of windows of samples [..., F, window] → [..., F, M]."""
    hamming = _hamming(settings.window).reshape((1,) * (windows.ndim - 1) + (-1,))
    spectrum = fft.rfft(windows * hamming, settings.fft)
    energies = (spectrum.real**2 + spectrum.imag**2) @ mel_filterbank(settings)
    return xp.log(xp.maximum(energies, np.float32(settings.floor)))


@functools.lru_cache(maxsize=8)
def _hamming(window: int) -> np.ndarray:
    return np.hamming(window).astype(np.float32)  # NumPy's is the symmetric one


def mel(hertz: float) -> float:
    """Returns a frequency in Hz on the HTK mel scale."""
    return 2595.0 * math.log10(1.0 + hertz / 700.0)
