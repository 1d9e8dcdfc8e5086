"""Variants of a recording: how its wave is changed before features are computed, drawn by digest.

A recipe follows from the bytes of the recording, the number of the variant and a seed, whatever
else is in the corpus. It holds all that the changed samples depend on, and so names the features
in the store. Noise is coloured or from a folder, never made of other recordings of the corpus:
features are stored once for all folds, and babble made of a fold's training speakers would hold
test speakers of another. This module must not import jax: worker processes load it.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from ser_jax.features import audio, changes
from ser_jax.features.header import Changed, digest_of_state, reading, state
from ser_jax.features.pcm import BadAudio

VERSION = 1  # of what recipes do: raise it whenever the same recipe would give other samples
LOW_HZ, HIGH_HZ = (200.0, 400.0), (3000.0, 3800.0)  # ranges of both edges of a telephone's band
MP3_KBITS = (16, 24, 32, 48, 64)  # bit rates of the low-rate codec


class Settings(NamedTuple):
    """How variants are drawn; see `augment` in config.py for units."""

    seed: int  # of all draws
    gain_db: float  # dB, largest change of loudness
    noise: float  # fraction of variants with noise
    noise_snr_db: tuple[float, float]  # dB, range of its signal-to-noise ratio
    noise_slope_db: float  # dB per octave that coloured noise falls by, at most
    room: float  # fraction of variants in a room
    room_seconds: tuple[float, float]  # s, range of the reverberation time
    telephone: float  # fraction of variants through a telephone
    codec: float  # fraction of variants through MP3; none where libsndfile cannot write it


@dataclasses.dataclass(frozen=True, slots=True)
class Sound:
    """A file of noise or an impulse response, or a part of one; its channels are averaged."""

    path: Path  # the file, absolute
    sha256: str  # of its bytes
    seconds: float  # its length
    start: float | None = None  # start of the part in s, or None
    end: float | None = None  # its end in s, or None

    def part(self, seconds: float, place: float) -> "Sound":
        """Returns so many seconds of it, at `place` (0: its beginning, 1: its end); or all."""
        spare = self.seconds - seconds
        if spare <= 0:
            return self
        start = round(place * spare, 3)
        return dataclasses.replace(self, start=start, end=round(start + seconds, 3))

    def read(self) -> np.ndarray:
        """Returns its samples [S] f32 at 16 kHz; raises `Changed` if it is not what it was."""
        try:
            with reading(self.path) as file:
                if digest_of_state(state(file), file) != self.sha256:
                    raise Changed(self.path)
                span = self.start, self.end
                return audio.decode(file, *span, max_seconds=math.inf, silent=True).samples
        except BadAudio:  # It could be read when it was hashed.
            raise Changed(self.path) from None

    def settings(self) -> list[Any]:
        """Returns what its samples depend on."""
        return [self.sha256, self.start, self.end]


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How a recording is changed, in the order in which it comes to a model.

    A room, noise in it, the level of the recorder, which clips, then the line and the codec.
    """

    seed: int  # of the random numbers of noise and synthetic rooms
    room: Sound | float | None  # impulse response, or reverberation time in s
    noise: Sound | float | None  # recorded, or how many dB per octave it falls by
    snr_db: float | None  # signal-to-noise ratio in dB (mean powers)
    gain_db: float  # dB
    telephone_hz: tuple[float, float] | None  # band of a telephone that ends in A-law at 8 kHz
    mp3_kbits: int | None  # bit rate in kbit/s

    def settings(self) -> dict[str, str]:
        """Returns what names the changed features in the store."""
        values = {
            name: value.settings() if isinstance(value, Sound) else value
            for name in self.__slots__
            if (value := getattr(self, name)) is not None
        }
        text = json.dumps({"version": VERSION, **values}, sort_keys=True, separators=(",", ":"))
        return {"variant": text}

    def apply(self, wave: np.ndarray) -> np.ndarray:
        """Changes samples [S] f32 at 16 kHz; errors as of `Sound.read`."""
        change = functools.partial(_changed, rate=audio.SAMPLE_RATE, seed=self.seed)
        if isinstance(self.room, Sound):
            wave = change(wave, changes.in_room, response=self.room.read())
        elif self.room is not None:
            wave = change(wave, changes.reverberation, seconds=self.room)
        if self.noise is not None:
            if isinstance(self.noise, Sound):
                noise = functools.partial(changes.recorded, noise=self.noise.read())
            else:
                noise = functools.partial(changes.coloured, slope_db=self.noise)
            wave = change(wave, changes.add_noise, noise=noise, snr_db=self.snr_db)
        wave = np.clip(change(wave, changes.gain, decibels=self.gain_db), -1, 1)
        if self.telephone_hz is not None:
            low, high = self.telephone_hz
            wave = change(wave, changes.band, low_hz=low, high_hz=high)
            wave = change(wave, changes.a_law)
        if self.mp3_kbits is not None:
            wave = change(wave, changes.mp3, kbits=self.mp3_kbits)
        return wave


def _changed(wave: np.ndarray, change: Any, *, rate: int, seed: int, **how: Any) -> np.ndarray:
    return np.asarray(change(wave, rate, seed, **how), np.float32)


def draw(
    settings: Settings,
    recording: tuple[str, float | None, float | None],
    number: int,
    seconds: float,
    noises: Sequence[Sound] = (),
    rooms: Sequence[Sound] = (),
) -> Recipe:
    """Draws how variant `number` (from 1) of a recording is made.

    Every value has its own draw: another fraction or range changes nothing of the others.

    Args:
      settings: Fractions and ranges.
      recording: SHA-256 of its bytes, start and end of the span in s or None.
      number: Of the variant.
      seconds: Length of the recording.
      noises: Recorded noise, sorted by digest; empty: coloured noise.
      rooms: Impulse responses, sorted by digest; empty: rooms whose echo decays exponentially.
    """
    key = hashlib.sha256(json.dumps([*recording, number, settings.seed]).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(key[:16], "little"))
    seed = int(rng.integers(2**32))
    has_room, room, has_noise, noise, place, snr, gain, *rest = rng.random(12).tolist()
    has_line, low, high, has_codec, rate = rest
    coded = has_codec < settings.codec and writes_mp3()
    line = _between(LOW_HZ, low), _between(HIGH_HZ, high)
    response = _one(rooms, room) or _between(settings.room_seconds, room)
    recorded = _one(noises, noise)
    added = recorded.part(seconds, place) if recorded else noise * settings.noise_slope_db
    noisy = has_noise < settings.noise
    return Recipe(
        seed=seed,
        room=response if has_room < settings.room else None,
        noise=added if noisy else None,
        snr_db=_between(settings.noise_snr_db, snr) if noisy else None,
        gain_db=(2 * gain - 1) * settings.gain_db,
        telephone_hz=line if has_line < settings.telephone else None,
        mp3_kbits=MP3_KBITS[int(rate * len(MP3_KBITS))] if coded else None,
    )


def writes_mp3() -> bool:
    """Returns whether libsndfile can write MP3 here."""
    return "MP3" in soundfile.available_formats()


def _one(sounds: Sequence[Sound], place: float) -> Sound | None:
    return sounds[int(place * len(sounds))] if sounds else None


def _between(limits: tuple[float, float], place: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * place
