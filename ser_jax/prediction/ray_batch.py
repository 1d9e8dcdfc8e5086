"""Many recordings on a Ray cluster: cut into blocks, each decoded and scored by a worker that holds the models.

The blocks are those of the list, whoever is there to work, and each is scored by itself: so the table is the same, bit
by bit, for any number of workers of one kind of processor. Features are neither read from the store nor kept there.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from ser_jax import run_directory
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.errors import UserError
from ser_jax.features import audio
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.extract import rejection
from ser_jax.features.ray_cluster import Cluster
from ser_jax.features.ray_pool import Pool
from ser_jax.features.workers import WorkerDied
from ser_jax.prediction.batch import Row
from ser_jax.prediction.network import Values
from ser_jax.prediction.predictor import Predictor
from ser_jax.prediction.rule import Rule
from ser_jax.prediction.sources import Source
from ser_jax.progress import progress

LEAST, MOST, BLOCKS = 32, 256, 16  # recordings of a block; long lists have large ones, short lists so many blocks
_TRIES = 2  # of a block without those recordings that workers die of

Found = tuple[float, np.ndarray] | BadAudio  # length in s and probabilities [K] f64, or why it cannot be used


@dataclasses.dataclass(frozen=True)
class Block:
    """Recordings that are scored together.

    Attributes:
      first: Number of the first in the list.
      recordings: Absolute path, start and end of each, in s or None; None in the place of one to be left out.
    """

    first: int
    recordings: tuple[tuple[str, float | None, float | None] | None, ...]


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a worker says of a block.

    Attributes:
      node: Name of its machine.
      found: For each recording, None for one left out.
    """

    node: str
    found: list[Found | None]


def predict(workdir: Path, sources: Sequence[Source], rule: Rule, cluster: Cluster, workers: int = 0) -> list[Row]:
    """Predicts for many recordings; see `batch.predict`.

    Args:
      workdir: Run directory; every node reads it under the same path.
      sources: The recordings, and rows of lists that name none.
      rule: How probabilities become answers.
      cluster: The cluster that has been joined.
      workers: How many workers; 0: one per core.

    Returns:
      A row for each source, in their order. Shares agree with those of `batch.predict` to rounding.

    Raises:
      UserError: If a node is not like this machine or does not read the same files, or worker after worker dies.
    """
    workdir = workdir.absolute()
    utterances = [source for source in sources if isinstance(source, Utterance)]
    blocks = cut(utterances)
    found: dict[int, Found] = {}
    pool: Pool[Block, Scored] = Pool(prepare, (workdir,), facts(workdir), workers or cluster.cores)
    with progress("predicting", len(utterances), "recordings") as advance, contextlib.closing(pool):

        def score(todo: Sequence[Block]) -> list[Block]:
            """Takes in what the workers say; returns the blocks that they died of."""
            died = []
            for block, scored in pool.run(todo):
                if isinstance(scored, WorkerDied):
                    died.append(block)
                    continue
                for number, answer in enumerate(scored.found, block.first):
                    if answer is not None:
                        _check_there(utterances[number], answer, scored.node)
                        found[number] = answer
                advance(len(block.recordings))
            return died

        died = score(blocks)
        culprits = _culprits(pool, died)
        found |= culprits
        for _ in range(_TRIES):
            died = score([without(block, culprits) for block in died])
        if died:
            paths = [recording[0] for recording in died[0].recordings if recording is not None]
            raise UserError(
                f"Ray: workers died again and again at recordings {died[0].first + 1} to "
                f"{died[0].first + len(paths)} of the list ({paths[0]} …), but at none of them alone: give the nodes "
                f"more memory"
            )
    numbers = {utterance.id: number for number, utterance in enumerate(utterances)}
    return [_row(source, found, numbers, rule) for source in sources]


def cut(utterances: Sequence[Utterance]) -> list[Block]:
    """Cuts recordings into blocks, in their order; by their number alone."""
    size = min(max(-(-len(utterances) // BLOCKS), LEAST), MOST)
    recordings = [(os.path.abspath(u.file), u.start, u.end) for u in utterances]
    return [Block(first, tuple(recordings[first : first + size])) for first in range(0, len(recordings), size)]


def without(block: Block, numbers: Iterable[int]) -> Block:
    """Returns the block with None in the place of these recordings of the list."""
    left_out = set(numbers)
    recordings = (None if n in left_out else recording for n, recording in enumerate(block.recordings, block.first))
    return Block(block.first, tuple(recordings))


def facts(workdir: Path) -> dict[str, str]:
    """Returns what must be the same on all nodes: versions, and the models."""
    models = hashlib.sha256()
    for path in (workdir / "config.json", *sorted((workdir / "models").glob("*/model.json"))):
        models.update(path.read_bytes() if path.is_file() else b"")
    return run_directory.versions() | {f"the digest of {workdir}": models.hexdigest()}


def prepare(workdir: Path) -> tuple[Callable[[Block], Scored], Mapping[str, str]]:
    """In a worker: loads the models; returns the function that scores a block, and the facts of its node.

    Raises:
      UserError: As `Predictor`.
    """
    # A worker has one core, and its threads would be in the way of others. Both are read when jax first computes.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    jax.config.update("jax_platforms", "cpu")
    return functools.partial(score_block, Predictor(workdir)), facts(workdir)


def score_block(predictor: Predictor, block: Block) -> Scored:
    """In a worker: decodes and scores the recordings of a block."""
    found: list[Found | None] = [None] * len(block.recordings)
    kept, seconds, values = [], [], []
    for number, recording in enumerate(block.recordings):
        if recording is None:
            continue
        try:
            heard = audio.decode(*recording, max_seconds=predictor.config.features.max_seconds)
            values.append(predictor.features([heard]))
        except BadAudio as error:
            found[number] = error
        else:
            kept.append(number)
            seconds.append(heard.seconds)
    if kept:
        probabilities = predictor.probabilities(_joined(values))
        for number, length, shares in zip(kept, seconds, probabilities, strict=True):
            found[number] = length, shares
    return Scored(socket.gethostname(), found)


def _joined(values: Sequence[Values]) -> Values:
    return Values(
        log_mel=[frames for value in values for frames in value.log_mel],
        hsf=None if values[0].hsf is None else np.concatenate([value.hsf for value in values if value.hsf is not None]),
        waves=[wave for value in values for wave in value.waves],
    )


def _culprits(pool: "Pool[Block, Scored]", died: Sequence[Block]) -> dict[int, BadAudio]:
    """Finds the recordings that a worker dies of when it has nothing but them."""
    alone = [Block(block.first + n, (one,)) for block in died for n, one in enumerate(block.recordings)]
    detail = "two worker processes died of it: a hostile file, or too little memory"
    return {
        block.first: BadAudio("unreadable", detail)
        for block, scored in pool.run(alone, alone=True)
        if isinstance(scored, WorkerDied)
    }


def _check_there(utterance: Utterance, answer: Found, node: str) -> None:
    if isinstance(answer, BadAudio) and answer.reason == "missing" and os.path.exists(utterance.file):
        raise UserError(
            f"{utterance.file} is on this machine and not on the node {node}: mount the recordings under the same path "
            f"on every node"
        )


def _row(source: Source, found: Mapping[int, Found], numbers: Mapping[str, int], rule: Rule) -> Row:
    if isinstance(source, Rejection):
        return Row(source.file, line=source.line, reason=source.reason, detail=source.detail)
    answer = found[numbers[source.id]]
    if isinstance(answer, BadAudio):
        why = rejection(source, answer)
        return Row(source.file, source.start, source.end, reason=why.reason, detail=why.detail)
    seconds, shares = answer
    return Row(source.file, source.start, source.end, seconds=seconds, answer=rule.answers(shares[None])[0])
