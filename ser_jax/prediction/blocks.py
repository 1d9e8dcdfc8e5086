"""Predictions block by block, each decoded and scored at once: nothing is stored.

The blocks depend on the list alone and each is scored by itself, so shares do not depend on who
computes them.
"""

import dataclasses
import os
import socket
from collections.abc import Mapping, Sequence

import numpy as np

from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.features import audio
from ser_jax.features.extraction import rejection
from ser_jax.features.pcm import NO_SPEECH, BadAudio
from ser_jax.prediction.batch import Row, Source, refused
from ser_jax.prediction.ensemble import Decision
from ser_jax.prediction.network import Values
from ser_jax.prediction.predictor import Predictor
from ser_jax.runtime.progress import progress

LEAST, MOST = 32, 256  # recordings of a block
BLOCKS = 16  # of a list whose blocks are of neither size

# Length in s, flags and probabilities [K] f64, or why it cannot be used.
Found = tuple[float, tuple[str, ...], np.ndarray] | BadAudio


@dataclasses.dataclass(frozen=True)
class Block:
    """Recordings that are scored together."""

    first: int  # number of the first in the list
    # absolute path, start and end of each, in s or None; None in the place of one to be left out
    recordings: tuple[tuple[str, float | None, float | None] | None, ...]


@dataclasses.dataclass(frozen=True)
class Scored:
    """The result of a block."""

    node: str  # name of its machine
    found: list[Found | None]  # for each recording, None for one left out


def predict(predictor: Predictor, sources: Sequence[Source], decision: Decision) -> list[Row]:
    """Does what `batch.predict` does and keeps no features; shares agree to rounding."""
    utterances = [source for source in sources if isinstance(source, Utterance)]
    found: dict[int, Found] = {}
    with progress("predicting", len(utterances), "recordings") as advance:
        for block in cut(utterances):
            scored = score_block(predictor, block).found
            found |= {n: one for n, one in enumerate(scored, block.first) if one is not None}
            advance(len(block.recordings))
    numbers = {utterance.id: number for number, utterance in enumerate(utterances)}
    return [row(source, found, numbers, decision) for source in sources]


def cut(utterances: Sequence[Utterance]) -> list[Block]:
    """Cuts recordings into blocks, in their order; by their number alone."""
    size = min(max(-(-len(utterances) // BLOCKS), LEAST), MOST)
    recordings = [(os.path.abspath(u.file), u.start, u.end) for u in utterances]
    return [
        Block(first, tuple(recordings[first : first + size]))
        for first in range(0, len(recordings), size)
    ]


def score_block(predictor: Predictor, block: Block) -> Scored:
    """Decodes and scores the recordings of a block; nothing of them is stored."""
    found: list[Found | None] = [None] * len(block.recordings)
    kept, values, utterances = [], [], []
    for number, span in enumerate(block.recordings):
        if span is None:
            continue
        try:
            limit = predictor.config.features.max_seconds
            recording = predictor.check_speech(
                audio.decode(*span, max_seconds=limit, mix=predictor.mix, silent=True)
            )
            if NO_SPEECH in recording.flags:
                nothing = np.zeros(len(predictor.classes))
                found[number] = recording.seconds, recording.flags, nothing
                continue
            value, facts = predictor.features([recording]), np.array(recording.facts)
            [outside] = predictor.outside(value, [(facts, recording.seconds)])
            values.append(value)
        except BadAudio as error:
            found[number] = error
        else:
            kept.append((number, recording.seconds, recording.flags + outside))
            utterances.append(Utterance("", *span))
    if kept:
        probabilities = predictor.probabilities(_joined(values), utterances=utterances)
        for (number, seconds, flags), shares in zip(kept, probabilities, strict=True):
            found[number] = seconds, flags, shares
    return Scored(socket.gethostname(), found)


def _joined(values: Sequence[Values]) -> Values:
    return Values(
        log_mel=[frames for value in values for frames in value.log_mel],
        hsf=(
            None
            if values[0].hsf is None
            else np.concatenate([value.hsf for value in values if value.hsf is not None])
        ),
        waves=[wave for value in values for wave in value.waves],
    )


def row(
    source: Source, found: Mapping[int, Found], numbers: Mapping[str, int], decision: Decision
) -> Row:
    """Returns the row of a source, given what was found for each number of the list."""
    if isinstance(source, Rejection):
        return Row(source.file, line=source.line, reason=source.reason, detail=source.detail)
    answer = found[numbers[source.id]]
    if isinstance(answer, BadAudio):
        return refused(source, rejection(source, answer))
    seconds, flags, shares = answer
    return Row(
        source.file,
        source.start,
        source.end,
        seconds=seconds,
        flags=flags,
        answer=decision.answers(shares[None], [flags])[0],
    )
