"""Predictions on a Ray cluster: workers that hold the models decode and score blocks of the list.

The blocks depend on the list alone and each is scored by itself, so the table is the same, bit by
bit, for any number of workers of one kind of processor. The feature store is not used.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ser_jax import pretrained
from ser_jax.corpora.table import Utterance
from ser_jax.experiment import run_directory
from ser_jax.features.pcm import BadAudio
from ser_jax.prediction.batch import Row, Source
from ser_jax.prediction.blocks import Block, Found, Scored, cut, row, score_block
from ser_jax.prediction.ensemble import Decision
from ser_jax.prediction.predictor import Predictor
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import progress
from ser_jax.runtime.ray_workers import Cluster, Pool
from ser_jax.runtime.workers import WorkerDied

_TRIES = 2  # of a block without those recordings that workers die of


def predict(
    workdir: Path,
    sources: Sequence[Source],
    decision: Decision,
    cluster: Cluster,
    workers: int = 0,
    **given: Any,
) -> list[Row]:
    """Predicts for many recordings; see `batch.predict`.

    Args:
      workdir: The models, as `Predictor` takes them; every node reads them under the same path.
      sources: The recordings, and rows of lists that name none.
      decision: How probabilities become answers.
      cluster: The cluster that has been joined.
      workers: How many workers; 0: one per core.
      **given: Keywords of `Predictor`: `channel`, `vad`, `embedder`. Not `embeddings`: each worker
        would only see whether two of its own recordings have the same one.

    Returns:
      A row for each source, in their order. Shares agree with those of `batch.predict` to rounding.

    Raises:
      UserError: If a node is not like this machine or does not read the same files, or worker after
        worker dies.
    """
    workdir = workdir.absolute() if workdir.exists() else workdir  # A packaged model is a name.
    utterances = [source for source in sources if isinstance(source, Utterance)]
    blocks = cut(utterances)
    found: dict[int, Found] = {}
    pool: Pool[Block, Scored] = Pool(
        prepare, (workdir, given), facts(workdir), workers or cluster.cores
    )
    with progress("predicting", len(utterances), "recordings") as advance, contextlib.closing(pool):

        def score(todo: Sequence[Block]) -> list[Block]:
            """Collects results; returns the blocks that workers died of."""
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
                f"Ray: workers died again and again at recordings {died[0].first + 1} to"
                f" {died[0].first + len(paths)} of the list ({paths[0]} …), but at none of them"
                " alone: give the nodes more memory"
            )
    numbers = {utterance.id: number for number, utterance in enumerate(utterances)}
    return [row(source, found, numbers, decision) for source in sources]


def without(block: Block, numbers: Iterable[int]) -> Block:
    """Returns the block with None in the place of these recordings of the list."""
    left_out = set(numbers)
    recordings = (
        None if n in left_out else recording
        for n, recording in enumerate(block.recordings, block.first)
    )
    return Block(block.first, tuple(recordings))


def facts(workdir: Path) -> dict[str, str]:
    """Returns what must be the same on all nodes: versions, and the models."""
    place, models = pretrained.find(workdir), hashlib.sha256()
    for path in (place, place / "config.json", *sorted(place.rglob("models/*/model.json"))):
        models.update(path.read_bytes() if path.is_file() else b"")
    return run_directory.versions() | {f"the digest of {workdir}": models.hexdigest()}


def prepare(
    workdir: Path, given: Mapping[str, Any]
) -> tuple[Callable[[Block], Scored], Mapping[str, str]]:
    """In a worker: loads the models; returns what scores a block, and the facts of the node.

    Raises:
      UserError: As `Predictor`.
    """
    # A worker has one core, and its threads would be in the way of others. Both are read when jax
    # first computes.
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    )
    jax.config.update("jax_platforms", "cpu")
    return functools.partial(score_block, Predictor(workdir, **given)), facts(workdir)


def _culprits(pool: "Pool[Block, Scored]", died: Sequence[Block]) -> dict[int, BadAudio]:
    """Finds the recordings that a worker dies of when it has nothing but them."""
    alone = [
        Block(block.first + n, (one,)) for block in died for n, one in enumerate(block.recordings)
    ]
    detail = "two worker processes died of it: a hostile file, or too little memory"
    return {
        block.first: BadAudio("unreadable", detail)
        for block, scored in pool.run(alone, alone=True)
        if isinstance(scored, WorkerDied)
    }


def _check_there(utterance: Utterance, answer: Found, node: str) -> None:
    if (
        isinstance(answer, BadAudio)
        and answer.reason == "missing"
        and os.path.exists(utterance.file)
    ):
        raise UserError(
            f"{utterance.file} is on this machine and not on the node {node}: mount the recordings"
            " under the same path on every node"
        )
