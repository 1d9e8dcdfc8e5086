"""What happens to recordings on their way to a model: level, silence, noise, channel, room, speed.

Each change is a pure function of samples [S] f32 in [-1, 1], their rate in Hz and a seed, and
returns samples [S'], which a recorder would clip at full scale. The stress test (stressed.py) and
the variants that training hears (variants.py) are made of them. This module must not import jax:
worker processes load it.
"""

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr

from ser_jax.features import audio, pcm
from ser_jax.features.header import Source

Change = Callable[[np.ndarray, int, int], np.ndarray]  # samples, rate, seed → samples

UNCHANGED = "unchanged"
VOICES = 6  # speakers of a babble
LOWEST = 20.0  # Hz, below which coloured noise has no energy
OCTAVE_DB = 20 * math.log10(2)  # dB per octave by which 1 / frequency falls, as an amplitude
_QUIET_BLOCK = 0.02  # s, where silence between words is looked for


def changes(voices: Sequence[np.ndarray] = ()) -> dict[str, Change]:
    """Returns all changes by name, in the order of tables; the first changes nothing.

    Babble is made of `voices` [S] f32 at the rate of the recording, other people's; without any it
    is left out, as is MP3 where libsndfile cannot write it.
    """
    found: dict[str, Change] = {UNCHANGED: lambda wave, rate, seed: wave}
    for sign, word in ((1, "louder"), (-1, "quieter")):
        for decibels in (10, 20, 40):
            found[f"{decibels} dB {word}"] = functools.partial(gain, decibels=sign * decibels)
    found["DC offset 0.01"] = functools.partial(offset, value=0.01)
    for place in ("before", "behind", "between"):
        found[f"1 s silence {place}"] = functools.partial(silence, place=place, seconds=1.0)
    found["faint noise around"] = functools.partial(
        silence, place="around", seconds=1.0, noise_dbfs=-70.0
    )
    noises: dict[str, Change] = {"white noise": white, "pink noise": pink}
    if voices:
        noises["babble"] = functools.partial(babble, voices=voices)
    for name, noise in noises.items():
        for snr in (20, 10, 0):
            found[f"{name}, {snr} dB"] = functools.partial(add_noise, noise=noise, snr_db=snr)
    found["telephone band"] = functools.partial(band, low_hz=300.0, high_hz=3400.0)
    found["A-law, 8 kHz"] = a_law
    if "MP3" in soundfile.available_formats():
        found["MP3, 32 kbit/s"] = functools.partial(mp3, kbits=32)
    for seconds in (0.3, 0.8):
        found[f"reverberation {seconds} s"] = functools.partial(reverberation, seconds=seconds)
    found["clipped"] = functools.partial(clip, fraction=0.25)
    found["8 bits"] = eight_bits
    for factor in (0.9, 1.1):
        found[f"speed {factor}"] = functools.partial(speed, factor=factor)
    return found


def gain(wave: np.ndarray, rate: int, seed: int, *, decibels: float) -> np.ndarray:
    """Makes it louder or quieter."""
    return wave * np.float32(10 ** (decibels / 20))


def offset(wave: np.ndarray, rate: int, seed: int, *, value: float) -> np.ndarray:
    """Adds a constant, as cheap recorders do."""
    return wave + np.float32(value)


def silence(
    wave: np.ndarray,
    rate: int,
    seed: int,
    *,
    place: str,
    seconds: float,
    noise_dbfs: float = -math.inf,
) -> np.ndarray:
    """Adds silence, or white noise of that level (root mean square re full scale).

    `place` is before, behind, around (both), or between: where the middle half is quietest.
    """
    count = round(seconds * rate)
    level = 10 ** (noise_dbfs / 20)
    rng = np.random.default_rng(seed)
    pieces = [(level * rng.standard_normal(count)).astype(np.float32) for _ in range(2)]
    if place == "between":
        cut = _quietest(wave, rate)
        return np.concatenate([wave[:cut], pieces[0], wave[cut:]])
    first = pieces[:1] if place in ("before", "around") else []
    last = pieces[1:] if place in ("behind", "around") else []
    return np.concatenate([*first, wave, *last])


def _quietest(wave: np.ndarray, rate: int) -> int:
    """Returns the first sample of the quietest block in the middle half."""
    size, first = max(round(_QUIET_BLOCK * rate), 1), len(wave) // 4
    middle = wave[first : len(wave) - first]
    count = len(middle) // size
    if not count:
        return len(wave) // 2
    energies = np.square(middle[: count * size].reshape(count, size)).sum(axis=1)
    return first + size * int(energies.argmin())


def add_noise(
    wave: np.ndarray, rate: int, seed: int, *, noise: Change, snr_db: float
) -> np.ndarray:
    """Adds noise at a signal-to-noise ratio in dB: mean power of the recording over that of it.

    `noise` is given the recording and returns as many samples at any level; zeros change nothing.
    """
    added = noise(wave, rate, seed).astype(np.float64)
    if not added.any():
        return wave
    ratio = np.mean(np.square(wave, dtype=np.float64)) / np.mean(added**2)
    return wave + (math.sqrt(ratio) * 10 ** (-snr_db / 20) * added).astype(np.float32)


def white(wave: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """White noise."""
    return np.random.default_rng(seed).standard_normal(len(wave))


def pink(wave: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """Pink noise: power falls with 1 / frequency."""
    return _shaped(wave, rate, seed, lambda hertz: 1 / np.sqrt(hertz))


def coloured(wave: np.ndarray, rate: int, seed: int, *, slope_db: float) -> np.ndarray:
    """Noise whose power falls by so many dB per octave: white 0, pink 3, brown 6."""
    return _shaped(wave, rate, seed, lambda hertz: hertz ** (-slope_db / OCTAVE_DB))


def _shaped(
    wave: np.ndarray, rate: int, seed: int, amplitude: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Returns noise of amplitudes that follow from the frequency in Hz."""
    spectrum = np.fft.rfft(white(wave, rate, seed))
    hertz = np.fft.rfftfreq(len(wave), 1 / rate)
    shape = np.where(hertz >= LOWEST, amplitude(np.maximum(hertz, LOWEST)), 0.0)
    return np.fft.irfft(spectrum * shape, len(wave))


def recorded(wave: np.ndarray, rate: int, seed: int, *, noise: np.ndarray) -> np.ndarray:
    """A recording of noise from its beginning, repeated to the length."""
    return np.resize(noise, len(wave))


def babble(wave: np.ndarray, rate: int, seed: int, *, voices: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of voices at one level, each repeated to the length, from a random sample on."""
    rng = np.random.default_rng(seed)
    total = np.zeros(len(wave))
    for voice in voices:
        first = int(rng.integers(len(voice)))
        turned = np.concatenate([voice[first:], voice[:first]]).astype(np.float64)
        total += np.resize(turned, len(wave)) / np.sqrt(np.mean(turned**2))
    return total


def band(wave: np.ndarray, rate: int, seed: int, *, low_hz: float, high_hz: float) -> np.ndarray:
    """Keeps a band of frequencies (Butterworth, 8th order)."""
    from scipy import signal  # slow to import

    filters = signal.butter(4, (low_hz, high_hz), "bandpass", fs=rate, output="sos")
    return np.asarray(signal.sosfilt(filters, wave), np.float32)


def a_law(wave: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """What a telephone line leaves: 8 kHz, A-law (ITU-T G.711)."""
    narrow = soxr.resample(wave, rate, 8000, quality=audio.QUALITY)
    return soxr.resample(_coded(narrow, 8000, "WAV", "ALAW"), 8000, rate, quality=audio.QUALITY)


def mp3(wave: np.ndarray, rate: int, seed: int, *, kbits: float) -> np.ndarray:
    """Through MP3 at a constant bit rate in kbit/s; the rate is from 16,000 Hz to below 32,000."""
    # libsndfile takes a position between the lowest and the highest bit rate of MPEG-2.
    lowest, highest = 8, 160
    position = (highest - kbits) / (highest - lowest)
    options: dict[str, Any] = {"bitrate_mode": "CONSTANT", "compression_level": position}
    return _coded(wave, rate, "MP3", "MPEG_LAYER_III", **options)


def _coded(wave: np.ndarray, rate: int, form: str, subtype: str, **options: Any) -> np.ndarray:
    """Writes samples as libsndfile does and reads them back."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(wave, -1, 1), rate, format=form, subtype=subtype, **options)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def reverberation(wave: np.ndarray, rate: int, seed: int, *, seconds: float) -> np.ndarray:
    """Puts it into a room: noise that falls by 60 dB in so many seconds follows every sample.

    Direct and reverberant sound have the same energy (the critical distance); length and root mean
    square stay.
    """
    time = np.arange(1, round(seconds * rate)) / rate
    tail = np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = np.concatenate([[1.0], tail / np.sqrt(np.sum(tail**2))])
    return in_room(wave, rate, seed, response=response)


def in_room(wave: np.ndarray, rate: int, seed: int, *, response: np.ndarray) -> np.ndarray:
    """Puts it into the room of an impulse response, whose largest sample is the direct sound.

    Length and root mean square stay, and nothing is late.
    """
    from scipy import signal  # slow to import

    first = int(np.abs(response).argmax())
    reverberant = signal.fftconvolve(wave.astype(np.float64), response)[first : first + len(wave)]
    return reverberant * np.sqrt(np.sum(np.square(wave, dtype=np.float64)) / np.sum(reverberant**2))


def clip(wave: np.ndarray, rate: int, seed: int, *, fraction: float) -> np.ndarray:
    """Cuts all samples at a fraction of the largest."""
    limit = fraction * np.abs(wave).max()
    return np.clip(wave, -limit, limit)


def eight_bits(wave: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """Rounds to 8 bits."""
    return np.clip(np.rint(wave * 128), -128, 127) / np.float32(128)


def speed(wave: np.ndarray, rate: int, seed: int, *, factor: float) -> np.ndarray:
    """Plays it so many times as fast, pitch and tempo together."""
    return soxr.resample(wave, rate * factor, rate, quality=audio.QUALITY)


# --- Before and behind a change


def decode(
    source: Source, start: float | None, end: float | None, mix: audio.Mix, max_seconds: float
) -> np.ndarray:
    """Returns the samples [S] f32 of a recording at 16 kHz, of the requested channel, as they are.

    Raises:
      BadAudio: If it cannot be used.
    """
    plain = audio.Mix(channel=mix.channel)
    return audio.decode(source, start, end, max_seconds=max_seconds, mix=plain).samples


def as_recorded(samples: np.ndarray, mix: audio.Mix) -> audio.Recording:
    """Returns changed samples [S] at 16 kHz as a file that holds them is read, prepared by `mix`.

    Raises:
      BadAudio: If they cannot be used.
    """
    own = dataclasses.replace(mix, channel=pcm.MEAN)  # What is changed has one channel.
    clipped = np.clip(samples, -1, 1).astype(np.float32)
    # A little longer than the limit is no reason to refuse it.
    return audio.from_samples(clipped, audio.SAMPLE_RATE, max_seconds=math.inf, mix=own)
