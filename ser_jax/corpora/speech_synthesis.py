"""Source-filter synthesis of speech-like utterances in a given manner and voice.

`score` lays a text out in time, as postures of the articulators. `speak` passes glottal pulses
(Rosenberg 1971) and aspiration noise through a cascade of formant resonators, the cascade branch of
Klatt's (1980) synthesizer; bursts and frication, plain noise bands, join behind it. `record` adds
the room and the microphone. Rhythm, pitch and loudness follow the manner of speaking, so that a
listener (or a classifier) finds the cues of emotional speech: pitch, rate, energy, voice quality.

Sources:
  Peterson, G. E. and Barney, H. L. (1952), "Control methods used in a study of the vowels",
    JASA 24: vowel formants.
  Rosenberg, A. E. (1971), "Effect of glottal pulse shape on the quality of natural vowels",
    JASA 49.
  Klatt, D. H. (1980), "Software for a cascade/parallel formant synthesizer", JASA 67: consonant
    targets and the cascade branch.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import ndimage, signal

RATE = 16000
FRAME = 80  # samples between control points: 5 ms

VOWEL_SECONDS = 0.145
STRESSED = 1.25  # a stressed vowel's length over an unstressed one's
PHRASE_FINAL = 1.35  # lengthening of the last vowel
SECONDS = (1.2, 3.5)  # shortest and longest utterance; others are stretched or compressed

NOISE_BANDS = ((800, 7500), (1800, 4500), (3800, 7600))  # Hz
LABIAL, PALATAL, ALVEOLAR = range(len(NOISE_BANDS))


class Step(NamedTuple):
    """A posture of the articulators: a vowel, a part of a consonant, or silence."""

    seconds: float  # length at the normal tempo
    voicing: float  # amplitude of the voice; 1 in a vowel
    aspiration: float  # amplitude of noise from the glottis; 1 is 24 dB below the voice
    formants: tuple[int, int, int]  # F1, F2, F3 of an average man, Hz
    noise: float = -np.inf  # noise from a narrow place in the mouth, dB re a vowel
    band: int = 0  # index into `NOISE_BANDS`


# The letters are SAMPA's.
VOWELS = {
    letter: Step(VOWEL_SECONDS, 1.0, 0.0, formants)
    for letter, formants in {
        "i": (270, 2290, 3010),
        "I": (390, 1990, 2550),
        "E": (530, 1840, 2480),
        "A": (730, 1090, 2440),
        "O": (570, 840, 2410),
        "u": (300, 870, 2240),
    }.items()
}


_Triple = tuple[float, float, float]


def _stop(
    closure: _Triple, burst: _Triple, formants: tuple[int, int, int], noise: tuple[int, int]
) -> tuple[Step, ...]:
    """A closure and a burst, each (seconds, voicing, aspiration), at one place in the mouth."""
    return Step(*closure, formants), Step(*burst, formants, *noise)


CONSONANTS: dict[str, tuple[Step, ...]] = {
    "p": _stop((0.07, 0.0, 0.0), (0.03, 0.0, 1.5), (400, 1100, 2150), (-22, LABIAL)),
    "t": _stop((0.06, 0.0, 0.0), (0.03, 0.0, 1.5), (400, 1600, 2600), (-12, ALVEOLAR)),
    "k": _stop((0.06, 0.0, 0.0), (0.04, 0.0, 1.5), (300, 1990, 2850), (-14, PALATAL)),
    "b": _stop((0.06, 0.12, 0.0), (0.01, 0.4, 0.0), (200, 1100, 2150), (-22, LABIAL)),
    "d": _stop((0.05, 0.12, 0.0), (0.01, 0.4, 0.0), (200, 1600, 2600), (-16, ALVEOLAR)),
    "g": _stop((0.05, 0.12, 0.0), (0.02, 0.4, 0.0), (200, 1990, 2850), (-16, PALATAL)),
    "f": (Step(0.09, 0.0, 0.0, (340, 1100, 2080), -26, LABIAL),),
    "s": (Step(0.10, 0.0, 0.0, (320, 1390, 2530), -14, ALVEOLAR),),
    "S": (Step(0.10, 0.0, 0.0, (300, 1840, 2750), -12, PALATAL),),
    "v": (Step(0.06, 0.4, 0.0, (220, 1100, 2080), -32, LABIAL),),
    "z": (Step(0.07, 0.4, 0.0, (240, 1390, 2530), -20, ALVEOLAR),),
    "h": (Step(0.06, 0.0, 3.0, (500, 1500, 2500)),),
    "m": (Step(0.07, 0.5, 0.0, (480, 1270, 2130)),),
    "n": (Step(0.06, 0.5, 0.0, (480, 1340, 2470)),),
    "l": (Step(0.06, 0.6, 0.0, (310, 1050, 2880)),),
    "r": (Step(0.06, 0.6, 0.0, (310, 1060, 1380)),),
    "w": (Step(0.06, 0.6, 0.0, (290, 610, 2150)),),
}
SILENCE = Step(0.1, 0.0, 0.0, (500, 1500, 2500))


@dataclasses.dataclass(frozen=True)
class Score:
    """What the articulators do, laid out in time."""

    steps: tuple[Step, ...]  # the postures; their `seconds` are those of the table
    ends: np.ndarray  # end of each step in frames of 5 ms
    stress: np.ndarray  # per step: 1.0 in a stressed vowel, 0.0 elsewhere
    vowels: tuple[int, ...]  # indices of the steps that are vowels, in order

    @property
    def samples(self) -> int:
        """Length of the utterance in samples, silence at both ends included."""
        return int(self.ends[-1]) * FRAME


def score(text: str, rng: np.random.Generator, *, tempo: float, pause: float) -> Score:
    """Lays a text out in time.

    Args:
      text: Syllables separated by spaces, letters from `CONSONANTS` and `VOWELS`; `'` marks a
        stressed syllable and a lone `,` a pause.
      rng: Source of the small irregularities of rhythm.
      tempo: Speaking rate over the normal one, as a factor.
      pause: Length of a pause, seconds.

    Returns:
      The steps of the utterance; its length is a multiple of 5 ms within `SECONDS`.
    """
    steps, seconds, stress, vowels = [SILENCE], [SILENCE.seconds * rng.uniform(0.6, 1.4)], [0.0], []
    for syllable in text.split():
        if syllable == ",":
            steps.append(SILENCE)
            seconds.append(max(pause, 0.0))
            stress.append(0.0)
            continue
        stressed = syllable.startswith("'")
        for letter in syllable.removeprefix("'"):
            vowel = letter in VOWELS
            if vowel:
                vowels.append(len(steps))
            for step in (VOWELS[letter],) if vowel else CONSONANTS[letter]:
                # Consonants give way less than vowels when the tempo changes.
                stretch = (STRESSED if stressed else 1.0) / tempo if vowel else tempo**-0.6
                steps.append(step)
                seconds.append(step.seconds * stretch * rng.uniform(0.85, 1.15))
                stress.append(float(vowel and stressed))
    seconds[vowels[-1]] *= PHRASE_FINAL
    steps.append(SILENCE)
    seconds.append(SILENCE.seconds * rng.uniform(0.6, 1.4))
    stress.append(0.0)

    total = sum(seconds)
    fit = min(max(total, SECONDS[0]), SECONDS[1]) / total
    # The small addend keeps a length of exactly SECONDS from losing its last frame to rounding.
    ends = np.floor(np.cumsum(seconds) * fit * RATE / FRAME + 1e-6).astype(int)
    return Score(tuple(steps), ends, np.array(stress), tuple(vowels))


# Above F3 the resonances of a uniform tube, one per kHz: a schwa's, nearly the same in all sounds.
UPPER_FORMANTS = (3500, 4500, 5500)
BANDWIDTHS = np.array([70.0, 90, 120, 175, 280, 350])  # Hz
ASPIRATION = 10.0 ** (-24.0 / 20.0)  # amplitude of `Step.aspiration` = 1 re the voice source
DRIFT = 0.25  # standard deviation of the pitch around its contour, semitones
DECLINE = 4.0  # dB by which the voice weakens from the first to the last frame


@dataclasses.dataclass(frozen=True, slots=True)
class Manner:
    """How an utterance is spoken; also differences between, and spreads of, such values."""

    pitch: float  # mean pitch over the voice's own, semitones
    pitch_range: float  # height of a typical accent, semitones
    final: float  # pitch movement on the last syllable, semitones; negative falls
    rate: float  # speaking rate over the normal one, in octaves (log2), so that it may be added
    pause: float  # length of a pause between phrases, seconds
    level: float  # loudness of the voiced parts, dB re full scale
    accent: float  # how much louder stressed syllables are, dB
    # attenuation of the source at 3 kHz, dB (Klatt's TL); a pressed voice has little, a lax voice
    # much
    tilt: float
    open_quotient: float  # part of the glottal period during which the glottis is open
    breath: float  # aspiration noise re the voice source, dB
    jitter: float  # standard deviation of the period's relative length
    shimmer: float  # standard deviation of the pulse's relative height
    spread: float  # formant shift by spread lips, in octaves (log2)


@dataclasses.dataclass(frozen=True, slots=True)
class Voice:
    """A speaker and the place where they were recorded."""

    pitch: float  # mean pitch of neutral speech, Hz
    # formant frequencies over those of an average man; about 1.17 for an average woman
    tract: float
    rate: float  # speaking rate over the normal one, as a factor
    gain: float  # recording gain, dB
    noise: float  # background noise, dB re full scale before the gain
    # coefficient of a first difference that brightens (> 0) or dulls (< 0) the recording
    colour: float
    reverberation: float  # energy of the room's answer re the direct sound, dB
    style: float  # multiplier on how strongly emotions show


def pitch_contour(
    plan: Score, manner: Manner, voice: Voice, rng: np.random.Generator
) -> np.ndarray:
    """Returns the pitch in Hz per 5 ms frame: a falling line, accents and a final movement."""
    frames = np.arange(plan.ends[-1])
    starts = np.concatenate([[0], plan.ends[:-1]])
    first, last = starts[plan.vowels[0]], plan.ends[plan.vowels[-1]]
    reach = max(manner.pitch_range, 0.3)
    falling = 0.5 - np.clip((frames - first) / (last - first), 0.0, 1.0)
    semitones = manner.pitch + 0.5 * reach * falling
    for step in plan.vowels:
        height = reach * rng.uniform(0.7, 1.3) if plan.stress[step] else 0.15 * reach * rng.normal()
        middle = (starts[step] + plan.ends[step]) / 2
        width = 0.6 * (plan.ends[step] - starts[step]) + 4
        semitones += height * np.exp(-0.5 * ((frames - middle) / width) ** 2)
    start = starts[plan.vowels[-1]]
    semitones += manner.final * np.clip((frames - start) / (last - start), 0.0, 1.0)
    # A slow wander; smoothing white noise over 6 frames leaves 1/(12 √π) of its variance.
    wander = ndimage.gaussian_filter1d(rng.normal(size=len(frames)), 6.0)
    semitones += DRIFT * np.sqrt(12.0 * np.sqrt(np.pi)) * wander
    return np.clip(voice.pitch * 2.0 ** (semitones / 12.0), 60.0, 600.0)


def glottal_source(
    pitch: np.ndarray, manner: Manner, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Renders the glottal pulses of a pitch in Hz per sample.

    Returns:
      The derivative of the glottal flow (the flow as radiated by the lips), tilted, with root mean
      square 1, and the flow itself, from 0 to about 1; one value per sample.
    """
    # The periods are counted once without jitter, so that each has one factor from start to end.
    period = (np.cumsum(pitch) / RATE).astype(int)
    irregular = rng.normal(size=(2, period[-1] + 2)).clip(-2.5, 2.5)
    phase = np.cumsum(pitch * (1.0 + max(manner.jitter, 0.0) * irregular[0, period])) / RATE
    height = (
        1.0 + max(manner.shimmer, 0.0) * irregular[1, np.minimum(phase.astype(int), period[-1] + 1)]
    )
    phase %= 1.0
    # Rosenberg's trigonometric pulse; his rise takes about 70 % of the open time.
    opened = min(max(manner.open_quotient, 0.35), 0.85)
    rise, fall = 0.7 * opened, 0.3 * opened
    opening = 0.5 * (1.0 - np.cos(np.pi * phase / rise))
    closing = np.cos(0.5 * np.pi * (phase - rise) / fall)
    flow = height * np.where(phase < rise, opening, np.where(phase < opened, closing, 0.0))
    # The difference of samples is the derivative averaged over a sample: little aliasing.
    source = _tilt(np.diff(flow, prepend=0.0), max(manner.tilt, 1.0))
    return source / np.sqrt(np.mean(source**2)), flow


def speak(plan: Score, manner: Manner, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Renders a score as sound, before the microphone: 16 kHz, float64; 1.0 is full scale."""
    frames = int(plan.ends[-1])
    lengths = np.diff(plan.ends, prepend=0)
    # Formants glide over some 40 ms; the gates of voice and noise open and close within 10 ms.
    formants = np.repeat(np.array([step.formants for step in plan.steps], float), lengths, axis=0)
    formants = ndimage.gaussian_filter1d(formants, 4.0, axis=0, mode="nearest")
    gates = np.zeros((len(plan.steps), 2 + len(NOISE_BANDS)))
    for row, step in zip(gates, plan.steps, strict=True):
        row[:2] = step.voicing, step.aspiration
        row[2 + step.band] = 10.0 ** (step.noise / 20.0)
    gates = np.repeat(gates, lengths, axis=0)
    gates = ndimage.gaussian_filter1d(gates, 1.0, axis=0, mode="nearest")
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
        gate[:, 2 + band] * _band_noise(limits, rng, len(source))
        for band, limits in enumerate(NOISE_BANDS)
    )
    return 10.0 ** (manner.level / 20.0) * (voiced + frication)


def record(
    speech: np.ndarray, voice: Voice, room: np.random.Generator, rng: np.random.Generator
) -> np.ndarray:
    """Adds room, background noise, microphone colour and gain, at most 0.95 of full scale.

    `room` draws the room's impulse response: the same seed for every recording of a speaker.
    """
    tail = room.normal(size=RATE // 4) * np.exp(-np.arange(RATE // 4) / (0.04 * RATE))
    tail[: RATE // 400] = 0.0
    tail *= 10.0 ** (voice.reverberation / 20.0) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    wet = signal.fftconvolve(speech, tail)[: len(speech)]
    hiss = np.asarray(signal.lfilter([1.0], [1.0, -0.9], rng.normal(size=len(speech))))
    wet += 10.0 ** (voice.noise / 20.0) * hiss / np.sqrt(np.mean(hiss**2))
    recorded = 10.0 ** (voice.gain / 20.0) * signal.lfilter([1.0, -voice.colour], [1.0], wet)
    return recorded * min(1.0, 0.95 / np.abs(recorded).max())


def _tilt(wave: np.ndarray, attenuation: float) -> np.ndarray:
    """One-pole low-pass with gain 1 at 0 Hz and the given attenuation in dB at 3 kHz."""
    power = 10.0 ** (-attenuation / 10.0)
    middle = (1.0 - power * np.cos(2.0 * np.pi * 3000.0 / RATE)) / (1.0 - power)
    pole = middle - np.sqrt(middle**2 - 1.0)
    return np.asarray(signal.lfilter([1.0 - pole], [1.0, -pole], wave))


def _vocal_tract(excitation: np.ndarray, formants: np.ndarray, tract: float) -> np.ndarray:
    """Filters through the cascade of resonators, whose frequencies move every 5 ms."""
    upper = np.broadcast_to(np.array(UPPER_FORMANTS, float), (len(formants), len(UPPER_FORMANTS)))
    centres = np.minimum(tract * np.concatenate([formants, upper], axis=1), 0.9 * RATE / 2)
    c = np.broadcast_to(-np.exp(-2.0 * np.pi * BANDWIDTHS / RATE), centres.shape)
    b = 2.0 * np.exp(-np.pi * BANDWIDTHS / RATE) * np.cos(2.0 * np.pi * centres / RATE)
    zero, one = np.zeros_like(b), np.ones_like(b)
    sections = np.stack([1.0 - b - c, zero, zero, one, -b, -c], axis=-1)
    # sosfilt's state holds past outputs times coefficients. With the coefficients of the new frame
    # it carries the outputs themselves, as in Klatt's difference equation; else formants click.
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
