"""Text → what the articulators do, and when: the score from which speech is synthesised.

Sources:
  Peterson, G. E. and Barney, H. L. (1952), "Control methods used in a study of the vowels", JASA 24: vowel formants.
  Klatt, D. H. (1980), "Software for a cascade/parallel formant synthesizer", JASA 67: consonant targets.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

RATE = 16000
FRAME = 80  # samples between control points: 5 ms

VOWEL_SECONDS = 0.145
STRESSED = 1.25  # a stressed vowel's length over an unstressed one's
PHRASE_FINAL = 1.35  # lengthening of the last vowel
SECONDS = (1.2, 3.5)  # shortest and longest utterance; a shorter or longer one is stretched or squeezed

NOISE_BANDS = ((800, 7500), (1800, 4500), (3800, 7600))  # Hz
LABIAL, PALATAL, ALVEOLAR = range(len(NOISE_BANDS))


class Step(NamedTuple):
    """A posture of the articulators: a vowel, a part of a consonant, or silence.

    Attributes:
      seconds: Length at the normal tempo.
      voicing: Amplitude of the voice; 1 in a vowel.
      aspiration: Amplitude of noise from the glottis; 1 is 24 dB below the voice.
      formants: F1, F2, F3 of an average man, Hz.
      noise: Noise from a narrow place in the mouth, dB re a vowel.
      band: Index into `NOISE_BANDS`.
    """

    seconds: float
    voicing: float
    aspiration: float
    formants: tuple[int, int, int]
    noise: float = -np.inf
    band: int = 0


# The letters are SAMPA's.
VOWELS = {
    "i": Step(VOWEL_SECONDS, 1.0, 0.0, (270, 2290, 3010)),
    "I": Step(VOWEL_SECONDS, 1.0, 0.0, (390, 1990, 2550)),
    "E": Step(VOWEL_SECONDS, 1.0, 0.0, (530, 1840, 2480)),
    "A": Step(VOWEL_SECONDS, 1.0, 0.0, (730, 1090, 2440)),
    "O": Step(VOWEL_SECONDS, 1.0, 0.0, (570, 840, 2410)),
    "u": Step(VOWEL_SECONDS, 1.0, 0.0, (300, 870, 2240)),
}
# Stops are a closure and a burst.
CONSONANTS = {
    "p": (Step(0.07, 0.0, 0.0, (400, 1100, 2150)), Step(0.03, 0.0, 1.5, (400, 1100, 2150), -22, LABIAL)),
    "t": (Step(0.06, 0.0, 0.0, (400, 1600, 2600)), Step(0.03, 0.0, 1.5, (400, 1600, 2600), -12, ALVEOLAR)),
    "k": (Step(0.06, 0.0, 0.0, (300, 1990, 2850)), Step(0.04, 0.0, 1.5, (300, 1990, 2850), -14, PALATAL)),
    "b": (Step(0.06, 0.12, 0.0, (200, 1100, 2150)), Step(0.01, 0.4, 0.0, (200, 1100, 2150), -22, LABIAL)),
    "d": (Step(0.05, 0.12, 0.0, (200, 1600, 2600)), Step(0.01, 0.4, 0.0, (200, 1600, 2600), -16, ALVEOLAR)),
    "g": (Step(0.05, 0.12, 0.0, (200, 1990, 2850)), Step(0.02, 0.4, 0.0, (200, 1990, 2850), -16, PALATAL)),
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
    """What the articulators do, laid out in time.

    Attributes:
      steps: The postures; their `seconds` are those of the table.
      ends: End of each step in frames of 5 ms.
      stress: Per step: 1.0 in a stressed vowel, 0.0 elsewhere.
      vowels: Indices of the steps that are vowels, in order.
    """

    steps: tuple[Step, ...]
    ends: np.ndarray
    stress: np.ndarray
    vowels: tuple[int, ...]

    @property
    def samples(self) -> int:
        """Length of the utterance in samples, silence at both ends included."""
        return int(self.ends[-1]) * FRAME


def score(text: str, rng: np.random.Generator, *, tempo: float, pause: float) -> Score:
    """Lays a text out in time.

    Args:
      text: Syllables separated by spaces, letters from `CONSONANTS` and `VOWELS`; `'` marks a stressed syllable and a
        lone `,` a pause.
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
