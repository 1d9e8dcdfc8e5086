"""Source-filter synthesis of speech-like utterances: made-up syllables, spoken in a given manner by a given voice.

Glottal pulses (Rosenberg 1971) and aspiration noise pass through a cascade of formant resonators, the cascade
branch of Klatt's (1980) synthesizer; bursts and frication, plain noise bands, join behind it.
Rhythm, pitch and loudness follow the manner of speaking, so that what a listener (or a classifier) can use is what
emotional speech offers: pitch, rate, energy and voice quality.

Sources:
  Rosenberg, A. E. (1971), "Effect of glottal pulse shape on the quality of natural vowels", JASA 49.
  Klatt, D. H. (1980), "Software for a cascade/parallel formant synthesizer", JASA 67: the cascade branch.
"""

import dataclasses

import numpy as np
from scipy import ndimage, signal

from ser_jax.corpora.syllables import FRAME, NOISE_BANDS, RATE, Score

# Above F3 the resonances of a uniform tube, one per kHz: a schwa's, and nearly the same in every sound.
UPPER_FORMANTS = (3500, 4500, 5500)
BANDWIDTHS = np.array([70.0, 90, 120, 175, 280, 350])  # Hz
ASPIRATION = 10.0 ** (-24.0 / 20.0)  # amplitude of `Step.aspiration` = 1 re the voice source
DRIFT = 0.25  # standard deviation of the pitch around its contour, semitones
DECLINE = 4.0  # dB by which the voice weakens from the first to the last frame


@dataclasses.dataclass(frozen=True, slots=True)
class Manner:
    """How an utterance is spoken; also differences between, and spreads of, such values.

    Attributes:
      pitch: Mean pitch over the voice's own, semitones.
      pitch_range: Height of a typical accent, semitones.
      final: Pitch movement on the last syllable, semitones; negative falls.
      rate: Speaking rate over the normal one, in octaves (log2), so that it may be added.
      pause: Length of a pause between phrases, seconds.
      level: Loudness of the voiced parts, dB re full scale.
      accent: How much louder stressed syllables are, dB.
      tilt: Attenuation of the source at 3 kHz, dB (Klatt's TL); a pressed voice has little, a lax voice much.
      open_quotient: Part of the glottal period during which the glottis is open.
      breath: Aspiration noise re the voice source, dB.
      jitter: Standard deviation of the period's relative length.
      shimmer: Standard deviation of the pulse's relative height.
      spread: Formant shift by spread lips, in octaves (log2).
    """

    pitch: float
    pitch_range: float
    final: float
    rate: float
    pause: float
    level: float
    accent: float
    tilt: float
    open_quotient: float
    breath: float
    jitter: float
    shimmer: float
    spread: float


@dataclasses.dataclass(frozen=True, slots=True)
class Voice:
    """A speaker and the place where they were recorded.

    Attributes:
      pitch: Mean pitch of neutral speech, Hz.
      tract: Formant frequencies over those of an average man; about 1.17 for an average woman.
      rate: Speaking rate over the normal one, as a factor.
      gain: Recording gain, dB.
      noise: Background noise, dB re full scale before the gain.
      colour: Coefficient of a first difference that brightens (> 0) or dulls (< 0) the recording.
      reverberation: Energy of the room's answer re the direct sound, dB.
      style: Multiplier on how strongly emotions show.
    """

    pitch: float
    tract: float
    rate: float
    gain: float
    noise: float
    colour: float
    reverberation: float
    style: float


def pitch_contour(plan: Score, manner: Manner, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Returns the pitch in Hz per 5 ms frame: a falling line, an accent per stressed syllable, a final movement."""
    frames = np.arange(plan.ends[-1])
    starts = np.concatenate([[0], plan.ends[:-1]])
    first, last = starts[plan.vowels[0]], plan.ends[plan.vowels[-1]]
    reach = max(manner.pitch_range, 0.3)
    semitones = manner.pitch + 0.5 * reach * (0.5 - np.clip((frames - first) / (last - first), 0.0, 1.0))
    for step in plan.vowels:
        height = reach * rng.uniform(0.7, 1.3) if plan.stress[step] else 0.15 * reach * rng.normal()
        middle, width = (starts[step] + plan.ends[step]) / 2, 0.6 * (plan.ends[step] - starts[step]) + 4
        semitones += height * np.exp(-0.5 * ((frames - middle) / width) ** 2)
    start = starts[plan.vowels[-1]]
    semitones += manner.final * np.clip((frames - start) / (last - start), 0.0, 1.0)
    # A slow wander; smoothing white noise over 6 frames leaves 1/(12 √π) of its variance.
    semitones += DRIFT * np.sqrt(12.0 * np.sqrt(np.pi)) * ndimage.gaussian_filter1d(rng.normal(size=len(frames)), 6.0)
    return np.clip(voice.pitch * 2.0 ** (semitones / 12.0), 60.0, 600.0)


def glottal_source(pitch: np.ndarray, manner: Manner, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Renders the glottal pulses.

    Args:
      pitch: Fundamental frequency in Hz per sample.
      manner: Gives jitter, shimmer, open quotient and tilt.
      rng: Source of jitter and shimmer.

    Returns:
      The derivative of the glottal flow (the flow as radiated by the lips), tilted, with root mean square 1, and the
      flow itself, from 0 to about 1; one value per sample.
    """
    # The periods are counted once without jitter, so that each has one factor from beginning to end.
    period = (np.cumsum(pitch) / RATE).astype(int)
    irregular = rng.normal(size=(2, period[-1] + 2)).clip(-2.5, 2.5)
    phase = np.cumsum(pitch * (1.0 + max(manner.jitter, 0.0) * irregular[0, period])) / RATE
    height = 1.0 + max(manner.shimmer, 0.0) * irregular[1, np.minimum(phase.astype(int), period[-1] + 1)]
    phase %= 1.0
    # Rosenberg's trigonometric pulse; his rise takes about 70 % of the open time.
    opened = min(max(manner.open_quotient, 0.35), 0.85)
    rise, fall = 0.7 * opened, 0.3 * opened
    opening = 0.5 * (1.0 - np.cos(np.pi * phase / rise))
    closing = np.cos(0.5 * np.pi * (phase - rise) / fall)
    flow = height * np.where(phase < rise, opening, np.where(phase < opened, closing, 0.0))
    # The difference of samples is the derivative averaged over a sample, which keeps aliasing of the closure low.
    source = _tilt(np.diff(flow, prepend=0.0), max(manner.tilt, 1.0))
    return source / np.sqrt(np.mean(source**2)), flow


def speak(plan: Score, manner: Manner, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Renders a score as sound, before the microphone.

    Args:
      plan: The text, laid out in time.
      manner: How it is spoken.
      voice: Who speaks.
      rng: Source of noise and irregularity.

    Returns:
      Samples at 16 kHz, float64; 1.0 is full scale.
    """
    frames = int(plan.ends[-1])
    lengths = np.diff(plan.ends, prepend=0)
    # Formants glide over some 40 ms; the gates of voice and noise open and close within 10 ms.
    formants = np.repeat(np.array([step.formants for step in plan.steps], float), lengths, axis=0)
    formants = ndimage.gaussian_filter1d(formants, 4.0, axis=0, mode="nearest")
    gates = np.zeros((len(plan.steps), 2 + len(NOISE_BANDS)))
    for row, step in zip(gates, plan.steps, strict=True):
        row[:2] = step.voicing, step.aspiration
        row[2 + step.band] = 10.0 ** (step.noise / 20.0)
    gates = ndimage.gaussian_filter1d(np.repeat(gates, lengths, axis=0), 1.0, axis=0, mode="nearest")
    loud = np.repeat(plan.stress * manner.accent, lengths) - np.linspace(0.0, DECLINE, frames)
    gates *= 10.0 ** (ndimage.gaussian_filter1d(loud, 5.0, mode="nearest")[:, None] / 20.0)

    pitch = _per_sample(pitch_contour(plan, manner, voice, rng))
    source, flow = glottal_source(pitch, manner, rng)
    gate = _per_sample(gates)
    noise = rng.normal(size=len(source))
    # Aspiration is strongest while the glottis is open.
    breath = 10.0 ** (manner.breath / 20.0) * noise * (0.4 + flow)
    excitation = gate[:, 0] * (source + breath) + gate[:, 1] * ASPIRATION * noise
    voiced = _vocal_tract(excitation, formants, voice.tract * 2.0**manner.spread)

    in_vowel = np.repeat(np.isin(np.arange(len(plan.steps)), plan.vowels), lengths * FRAME)
    voiced /= np.sqrt(np.mean(voiced[in_vowel] ** 2))
    frication = sum(
        gate[:, 2 + band] * _band_noise(limits, rng, len(source)) for band, limits in enumerate(NOISE_BANDS)
    )
    return 10.0 ** (manner.level / 20.0) * (voiced + frication)


def record(speech: np.ndarray, voice: Voice, room: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    """Adds room, background noise, microphone colour and gain; the result never exceeds 0.95 of full scale.

    Args:
      speech: Samples at 16 kHz.
      voice: Gives the recording conditions.
      room: Source of the room's impulse response: the same seed for every recording of a speaker.
      rng: Source of the background noise.

    Returns:
      As many samples as `speech`.
    """
    tail = room.normal(size=RATE // 4) * np.exp(-np.arange(RATE // 4) / (0.04 * RATE))
    tail[: RATE // 400] = 0.0
    tail *= 10.0 ** (voice.reverberation / 20.0) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    wet = signal.fftconvolve(speech, tail)[: len(speech)]
    hiss = np.asarray(signal.lfilter([1.0], [1.0, -0.9], rng.normal(size=len(speech))))
    wet += 10.0 ** (voice.noise / 20.0) * hiss / np.sqrt(np.mean(hiss**2))
    heard = 10.0 ** (voice.gain / 20.0) * signal.lfilter([1.0, -voice.colour], [1.0], wet)
    return heard * min(1.0, 0.95 / np.abs(heard).max())


def _tilt(wave: np.ndarray, attenuation: float) -> np.ndarray:
    """One-pole low-pass with gain 1 at 0 Hz and the given attenuation in dB at 3 kHz."""
    power = 10.0 ** (-attenuation / 10.0)
    middle = (1.0 - power * np.cos(2.0 * np.pi * 3000.0 / RATE)) / (1.0 - power)
    pole = middle - np.sqrt(middle**2 - 1.0)
    return np.asarray(signal.lfilter([1.0 - pole], [1.0, -pole], wave))


def _vocal_tract(excitation: np.ndarray, formants: np.ndarray, tract: float) -> np.ndarray:
    """Filters through the cascade of resonators, whose frequencies move every 5 ms; the state carries over."""
    upper = np.broadcast_to(np.array(UPPER_FORMANTS, float), (len(formants), len(UPPER_FORMANTS)))
    centres = np.minimum(tract * np.concatenate([formants, upper], axis=1), 0.9 * RATE / 2)
    c = np.broadcast_to(-np.exp(-2.0 * np.pi * BANDWIDTHS / RATE), centres.shape)
    b = 2.0 * np.exp(-np.pi * BANDWIDTHS / RATE) * np.cos(2.0 * np.pi * centres / RATE)
    zero, one = np.zeros_like(b), np.ones_like(b)
    sections = np.stack([1.0 - b - c, zero, zero, one, -b, -c], axis=-1)
    # sosfilt's state holds past outputs times coefficients. Restated with the new frame's coefficients it carries the
    # outputs themselves, as Klatt's difference equation does; otherwise a moving formant clicks.
    restate = np.diff(b, axis=0, prepend=b[:1]) / c
    state = np.zeros((centres.shape[1], 2))
    out = np.empty_like(excitation)
    for frame, sos in enumerate(sections):
        state[:, 0] += restate[frame] * state[:, 1]
        span = slice(frame * FRAME, (frame + 1) * FRAME)
        out[span], state = signal.sosfilt(sos, excitation[span], zi=state)
    return out


def _band_noise(limits: tuple[int, int], rng: np.random.Generator, samples: int) -> np.ndarray:
    """White noise through a band-pass, with root mean square 1."""
    sections = signal.butter(2, limits, "bandpass", fs=RATE, output="sos")
    noise = np.asarray(signal.sosfilt(sections, rng.normal(size=samples)))
    return noise / np.sqrt(np.mean(noise**2))


def _per_sample(track: np.ndarray) -> np.ndarray:
    """Interpolates values per frame linearly to values per sample."""
    times = np.arange(len(track) * FRAME) / FRAME - 0.5
    if track.ndim == 1:
        return np.interp(times, np.arange(len(track)), track)
    return np.stack([_per_sample(column) for column in track.T], axis=1)
