"""The built-in demo corpus: speech-like utterances that the project renders itself.

Six speakers say the same ten nonsense sentences in four emotions, as in corpora of acted speech
(Banse and Scherer 1996; Burkhardt et al. 2005). The same sentences in every emotion leave only the
manner of speaking to tell them apart. Nothing here was recorded from a person: scores on this
corpus say that the program works, not how well it will do on speech.

How the emotions differ follows the reviews and syntheses below in direction; the sizes are set so
that a recogniser finds the task learnable across speakers but not trivial. Anger is loud, fast,
high, tense and wide in pitch; happiness high, wide, fairly loud and fast, rather breathy, with
spread lips; sadness quiet, slow, low, narrow in pitch and breathy.

Sources:
  Murray, I. R. and Arnott, J. L. (1993), "Toward the simulation of emotion in synthetic speech",
    JASA 93.
  Banse, R. and Scherer, K. R. (1996), "Acoustic profiles in vocal emotion expression",
    J. Pers. Soc. Psychol. 70.
  Burkhardt, F. and Sendlmeier, W. F. (2000), "Verification of acoustical correlates of emotional
    speech using formant synthesis", ISCA Workshop on Speech and Emotion.
  Juslin, P. N. and Laukka, P. (2003), "Communication of emotions in vocal expression and music
    performance", Psychol. Bull. 129.
  Burkhardt, F. et al. (2005), "A database of German emotional speech", Interspeech.
"""

import dataclasses
import io
import itertools
import os
import wave
from pathlib import Path

import numpy as np

from ser_jax.corpora import speech_synthesis
from ser_jax.corpora.speech_synthesis import Manner, Voice
from ser_jax.corpora.table import CANONICAL_CLASSES, Corpus, Utterance
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.machine import cache_folder

NAME = "demo"
PROTOCOL = "demo-speaker"
# Part of the cache folder's name and of every random key: raise it whenever a rendering changes.
VERSION = 1

SENTENCES = (
    "hA 'tun sI 'dEl mO 'ri kA",
    "'bu lA 'mi sE rO 'gA nI",
    "dI 'wE lu , 'SA mi 'tO",
    "'ki nA fu 'zE lI 'mA dO nE",
    "su 'pA li 'gO , nE 'ri",
    "'mE lO nA , 'vi du 'kAs",
    "tI 'rA nE 'bO lu 'hi sA",
    "'gE mI , wA 'tO zi 'lu nE dA",
    "fA 'ni kO 'dE ru 'SIk",
    "'lA vu 'bE ti sO 'mI gA",
)

# fmt: off
VOICES = (
    #     pitch  tract  rate  gain  noise colour reverberation style
    Voice(205.0, 1.16, 1.02,  0.0, -73.0,  0.10, -14.0, 1.00),
    Voice(118.0, 1.00, 0.97,  1.0, -69.0,  0.00, -10.0, 0.90),
    Voice(184.0, 1.12, 1.08, -2.0, -67.0, -0.15, -12.0, 0.85),
    Voice( 98.0, 0.95, 1.05, -1.0, -65.0,  0.15, -15.0, 1.10),
    Voice(228.0, 1.20, 0.94,  1.5, -71.0, -0.05,  -9.0, 1.10),
    Voice(135.0, 1.04, 0.93, -1.5, -66.0, -0.10, -13.0, 1.00),
)

# pitch, pitch_range, final, rate, pause, level, accent, tilt, open_quotient, breath, jitter,
# shimmer, spread
NEUTRAL = Manner(0, 3.0, -2.5, 0, 0.14, -32, 2.5, 11, 0.60, -26, 0.008, 0.04, 0)
# Differences from neutral at full strength.
EMOTIONS = {
    "angry": Manner( 3.5,  2.0, -1.5,  0.20, -0.05,  7,  3.0, -7, -0.12, -4, 0.008, 0.04, 0.00),
    "happy": Manner( 5.5,  3.5,  3.5,  0.16, -0.04,  4,  1.5, -4,  0.00,  6, 0.002, 0.01, 0.09),
    "neutral": Manner(*[0.0] * len(dataclasses.fields(Manner))),
    "sad":   Manner(-1.5, -1.6,  0.5, -0.32,  0.15, -4, -1.0,  6,  0.10,  8, 0.005, 0.02, 0.00),
}
# Standard deviations from one utterance to the next, whatever the emotion.
SPREAD = Manner(1.0, 0.5, 0.7, 0.07, 0.02, 1.2, 0.5, 1.2, 0.025, 1.7, 0.0015, 0.007, 0.015)
# fmt: on
# How strongly an utterance expresses its emotion: uniform between these.
STRENGTH = (0.85, 1.4)
# Standard deviation of a factor around 1 on the table, drawn per speaker, emotion and attribute.
STYLE_SPREAD = 0.2
# This fraction of the utterances is moved towards the emotion that people confuse most with the one
# meant, by a fraction of the distance drawn uniformly from BLEND.
AMBIGUOUS = 0.1
BLEND = (0.3, 0.6)
NEIGHBOUR = {"angry": "happy", "happy": "angry", "neutral": "sad", "sad": "neutral"}

_HEADER_BYTES = 44  # of a WAV file as the standard library writes it


def read(root: Path | None) -> Corpus:
    """Renders missing recordings and returns the corpus: 240 utterances, 16 kHz mono 16 bit.

    Args:
      root: Folder for the recordings; None for `ser_jax/demo-v1` in the user's cache folder.

    Raises:
      UserError: The folder cannot be written to, or holds other recordings of the same names.
    """
    folder = cache_folder() / f"demo-v{VERSION}" if root is None else root
    utterances = []
    for speaker, label, index in itertools.product(
        range(len(VOICES)), CANONICAL_CLASSES, range(len(SENTENCES))
    ):
        who = f"speaker{speaker + 1:02d}"
        name = f"{who}/{label}-{index + 1:02d}"
        _render_if_missing(folder / f"{name}.wav", speaker, label, index)
        utterances.append(Utterance(name, f"{name}.wav", label=label, speaker=who))
    rows = tuple(sorted(utterances, key=lambda row: row.id))
    return Corpus(NAME, folder, rows, PROTOCOL, {label: label for label in CANONICAL_CLASSES})


def manner_of(speaker: int, label: str, index: int) -> Manner:
    """Draws how a speaker (of `VOICES`) says a sentence (of `SENTENCES`) in an emotion."""
    rng = _generator(speaker, label, index, purpose=0)
    offset = _emotion_of(speaker, label)
    if rng.random() < AMBIGUOUS:
        offset += rng.uniform(*BLEND) * (_emotion_of(speaker, NEIGHBOUR[label]) - offset)
    offset *= VOICES[speaker].style * rng.uniform(*STRENGTH)
    varied = _values(SPREAD) * rng.normal(size=len(offset)).clip(-2.5, 2.5)
    return Manner(*(_values(NEUTRAL) + offset + varied))


def render(speaker: int, label: str, index: int) -> bytes:
    """Returns an utterance (see `manner_of`) as the bytes of a WAV file."""
    manner, voice, plan, rng = _plan(speaker, label, index)
    speech = speech_synthesis.speak(plan, manner, voice, rng)
    recorded = speech_synthesis.record(speech, voice, _generator(speaker, purpose=2), rng)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(speech_synthesis.RATE)
        file.writeframes(np.round(recorded * 32767.0).astype("<i2").tobytes())
    return buffer.getvalue()


def _plan(
    speaker: int, label: str, index: int
) -> tuple[Manner, Voice, speech_synthesis.Score, np.random.Generator]:
    """Everything but the sound; cheap, so that the length is known before rendering."""
    manner, voice = manner_of(speaker, label, index), VOICES[speaker]
    rng = _generator(speaker, label, index, purpose=1)
    tempo = voice.rate * 2.0**manner.rate
    plan = speech_synthesis.score(SENTENCES[index], rng, tempo=tempo, pause=manner.pause)
    return manner, voice, plan, rng


def _emotion_of(speaker: int, label: str) -> np.ndarray:
    """The emotion's differences from neutral in the style of this speaker."""
    table = _values(EMOTIONS[label])
    style = _generator(speaker, label, purpose=3).normal(1.0, STYLE_SPREAD, size=len(table))
    return table * style.clip(0.0, 2.0)


def _values(manner: Manner) -> np.ndarray:
    return np.array(dataclasses.astuple(manner))


def _generator(
    speaker: int, label: str | None = None, index: int | None = None, *, purpose: int
) -> np.random.Generator:
    """A generator of its own for each utterance, or each speaker, and purpose."""
    emotion = 0 if label is None else 1 + CANONICAL_CLASSES.index(label)
    utterance = 0 if index is None else 1 + index
    key = [VERSION * 1000 + purpose, (speaker * 1000 + emotion) * 1000 + utterance]
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))


def _render_if_missing(path: Path, speaker: int, label: str, index: int) -> None:
    """Renders an utterance unless its file has the expected size; replaces a truncated file."""
    size = _HEADER_BYTES + 2 * _plan(speaker, label, index)[2].samples
    # The name is unique to the process: two that render at once replace each other's equal files.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        present = path.stat().st_size if path.is_file() else 0
        if present == size:
            return
        if present > size:
            raise UserError(
                f"{path} has {present} bytes, the demo corpus {size}: it is another recording and"
                " is not overwritten; set corpus.root to an empty folder"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(render(speaker, label, index))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"The demo corpus cannot be written to {path}: {error.strerror}; "
            "set corpus.root to a folder with write permission and 20 MB of free space"
        ) from error
