"""The built-in demo corpus: speech-like utterances that the project renders itself, for users without recordings.

Six speakers say the same ten nonsense sentences in four emotions, as in corpora of acted speech (Banse and Scherer
1996; Burkhardt et al. 2005). The same sentences in every emotion leave only the manner of speaking to tell them apart.
Nothing here was recorded from a person: scores on this corpus say that the program works, not how well it will do on
speech.

How the emotions differ follows the reviews and syntheses below in direction; the sizes are set so that a recogniser
finds the task learnable across speakers but not trivial. Anger is loud, fast, high, tense and wide in pitch; happiness
high, wide, fairly loud and fast, rather breathy, with spread lips; sadness quiet, slow, low, narrow in pitch and
breathy.

Sources:
  Murray, I. R. and Arnott, J. L. (1993), "Toward the simulation of emotion in synthetic speech", JASA 93.
  Banse, R. and Scherer, K. R. (1996), "Acoustic profiles in vocal emotion expression", J. Pers. Soc. Psychol. 70.
  Burkhardt, F. and Sendlmeier, W. F. (2000), "Verification of acoustical correlates of emotional speech using formant
    synthesis", ISCA Workshop on Speech and Emotion.
  Juslin, P. N. and Laukka, P. (2003), "Communication of emotions in vocal expression and music performance", Psychol.
    Bull. 129.
  Burkhardt, F. et al. (2005), "A database of German emotional speech", Interspeech.
"""

import dataclasses
import io
import os
import wave
from pathlib import Path

import numpy as np

from ser_jax.cache import cache_folder
from ser_jax.corpora import syllables, synthesis
from ser_jax.corpora.synthesis import Manner, Voice
from ser_jax.corpora.table import CANONICAL_CLASSES, Corpus, Utterance
from ser_jax.errors import UserError

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

VOICES = (
    Voice(pitch=205, tract=1.16, rate=1.02, gain=0.0, noise=-73, colour=0.10, reverberation=-14, style=1.0),
    Voice(pitch=118, tract=1.00, rate=0.97, gain=1.0, noise=-69, colour=0.00, reverberation=-10, style=0.9),
    Voice(pitch=184, tract=1.12, rate=1.08, gain=-2.0, noise=-67, colour=-0.15, reverberation=-12, style=0.85),
    Voice(pitch=98, tract=0.95, rate=1.05, gain=-1.0, noise=-65, colour=0.15, reverberation=-15, style=1.1),
    Voice(pitch=228, tract=1.20, rate=0.94, gain=1.5, noise=-71, colour=-0.05, reverberation=-9, style=1.1),
    Voice(pitch=135, tract=1.04, rate=0.93, gain=-1.5, noise=-66, colour=-0.10, reverberation=-13, style=1.0),
)

NEUTRAL = Manner(
    pitch=0.0,
    pitch_range=3.0,
    final=-2.5,
    rate=0.0,
    pause=0.14,
    level=-32.0,
    accent=2.5,
    tilt=11.0,
    open_quotient=0.60,
    breath=-26.0,
    jitter=0.008,
    shimmer=0.04,
    spread=0.0,
)
# Differences from neutral at full strength.
EMOTIONS = {
    "angry": Manner(
        pitch=3.5,
        pitch_range=2.0,
        final=-1.5,
        rate=0.20,
        pause=-0.05,
        level=7.0,
        accent=3.0,
        tilt=-7.0,
        open_quotient=-0.12,
        breath=-4.0,
        jitter=0.008,
        shimmer=0.04,
        spread=0.0,
    ),
    "happy": Manner(
        pitch=5.5,
        pitch_range=3.5,
        final=3.5,
        rate=0.16,
        pause=-0.04,
        level=4.0,
        accent=1.5,
        tilt=-4.0,
        open_quotient=0.0,
        breath=6.0,
        jitter=0.002,
        shimmer=0.01,
        spread=0.09,
    ),
    "neutral": Manner(*[0.0] * len(dataclasses.fields(Manner))),
    "sad": Manner(
        pitch=-1.5,
        pitch_range=-1.6,
        final=0.5,
        rate=-0.32,
        pause=0.15,
        level=-4.0,
        accent=-1.0,
        tilt=6.0,
        open_quotient=0.10,
        breath=8.0,
        jitter=0.005,
        shimmer=0.02,
        spread=0.0,
    ),
}
# Standard deviations from one utterance to the next, whatever the emotion.
SPREAD = Manner(
    pitch=1.0,
    pitch_range=0.5,
    final=0.7,
    rate=0.07,
    pause=0.02,
    level=1.2,
    accent=0.5,
    tilt=1.2,
    open_quotient=0.025,
    breath=1.7,
    jitter=0.0015,
    shimmer=0.007,
    spread=0.015,
)
# How strongly an utterance expresses its emotion: uniform between these.
STRENGTH = (0.85, 1.4)
# Per speaker, emotion and attribute, how much more or less than the table: standard deviation of a factor around 1.
STYLE_SPREAD = 0.2
# This share of the utterances leans towards the emotion that people confuse most with the one meant, by a part of the
# way drawn uniformly from BLEND.
AMBIGUOUS = 0.1
BLEND = (0.3, 0.6)
NEIGHBOUR = {"angry": "happy", "happy": "angry", "neutral": "sad", "sad": "neutral"}

_HEADER_BYTES = 44  # of a WAV file as the standard library writes it


def read(root: Path | None) -> Corpus:
    """Renders what is missing of the corpus and returns its table.

    Args:
      root: Folder for the recordings, made if need be; None for `ser_jax/demo-v1` in the user's cache folder.

    Returns:
      The corpus: 240 utterances, 16 kHz mono 16 bit, all with label and speaker.

    Raises:
      UserError: The recordings cannot be written there, or the folder holds others of the same name.
    """
    folder = cache_folder() / f"demo-v{VERSION}" if root is None else root
    utterances = []
    for speaker in range(len(VOICES)):
        for label in CANONICAL_CLASSES:
            for index in range(len(SENTENCES)):
                name = f"speaker{speaker + 1:02d}/{label}-{index + 1:02d}"
                _keep(folder / f"{name}.wav", speaker, label, index)
                utterances.append(Utterance(name, f"{name}.wav", label=label, speaker=f"speaker{speaker + 1:02d}"))
    identity = {label: label for label in CANONICAL_CLASSES}
    return Corpus(NAME, folder, tuple(sorted(utterances, key=lambda row: row.id)), PROTOCOL, identity)


def manner_of(speaker: int, label: str, index: int) -> Manner:
    """Returns how an utterance is spoken: neutral, plus the emotion as this speaker shows it, plus chance.

    Args:
      speaker: Index into `VOICES`.
      label: Emotion.
      index: Index into `SENTENCES`.
    """
    chance = _generator(speaker, label, index, purpose=0)
    offset = _as_shown(speaker, label)
    if chance.random() < AMBIGUOUS:
        offset += chance.uniform(*BLEND) * (_as_shown(speaker, NEIGHBOUR[label]) - offset)
    offset *= VOICES[speaker].style * chance.uniform(*STRENGTH)
    return Manner(*(_values(NEUTRAL) + offset + _values(SPREAD) * chance.normal(size=len(offset)).clip(-2.5, 2.5)))


def render(speaker: int, label: str, index: int) -> bytes:
    """Returns an utterance as the bytes of a WAV file; arguments as for `manner_of`."""
    manner, voice, plan, chance = _plan(speaker, label, index)
    speech = synthesis.speak(plan, manner, voice, chance)
    heard = synthesis.record(speech, voice, _generator(speaker, purpose=2), chance)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(syllables.RATE)
        file.writeframes(np.round(heard * 32767.0).astype("<i2").tobytes())
    return buffer.getvalue()


def _plan(speaker: int, label: str, index: int) -> tuple[Manner, Voice, syllables.Score, np.random.Generator]:
    """Everything but the sound; cheap, so that the length is known before rendering."""
    manner, voice = manner_of(speaker, label, index), VOICES[speaker]
    chance = _generator(speaker, label, index, purpose=1)
    tempo = voice.rate * 2.0**manner.rate
    return manner, voice, syllables.score(SENTENCES[index], chance, tempo=tempo, pause=manner.pause), chance


def _as_shown(speaker: int, label: str) -> np.ndarray:
    """The emotion's differences from neutral as this speaker shows them."""
    style = _generator(speaker, label, purpose=3).normal(1.0, STYLE_SPREAD, size=len(dataclasses.fields(Manner)))
    return _values(EMOTIONS[label]) * style.clip(0.0, 2.0)


def _values(manner: Manner) -> np.ndarray:
    return np.array(dataclasses.astuple(manner))


def _generator(
    speaker: int, label: str | None = None, index: int | None = None, *, purpose: int
) -> np.random.Generator:
    """A generator of its own for each utterance, or each speaker, and purpose."""
    emotion = 0 if label is None else 1 + CANONICAL_CLASSES.index(label)
    utterance = 0 if index is None else 1 + index
    place = (speaker * 1000 + emotion) * 1000 + utterance
    return np.random.Generator(np.random.Philox(key=np.array([VERSION * 1000 + purpose, place], np.uint64)))


def _keep(path: Path, speaker: int, label: str, index: int) -> None:
    """Renders an utterance unless its file is there with the expected size; a cut file is rendered again."""
    size = _HEADER_BYTES + 2 * _plan(speaker, label, index)[2].samples
    # The name is unique to the process: two that render at the same time replace each other's files by equal ones.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        present = path.stat().st_size if path.is_file() else 0
        if present == size:
            return
        if present > size:
            raise UserError(
                f"{path} has {present} bytes, the demo corpus {size}: it is another recording and is not overwritten; "
                "set corpus.root to an empty folder"
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
