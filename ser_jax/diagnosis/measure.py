"""Measures length, level, format and hashes of every recording of a corpus.

Recordings are decoded and checked as in feature extraction (features/audio.py), so both reject the
same. This module must not import jax: worker processes load it.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.features import audio, pcm
from ser_jax.features.header import content_sha256
from ser_jax.features.pcm import BadAudio
from ser_jax.runtime.machine import available_cores
from ser_jax.runtime.progress import progress
from ser_jax.runtime.workers import WorkerDied, run


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Properties of a usable recording or span."""

    file_sha256: str  # SHA-256 of the bytes of its file
    speech_sha256: str  # SHA-256 of its samples at 16 kHz mono: copies in other files have the same
    samples: int  # how many samples it has at 16 kHz
    seconds: float  # its length at the original rate
    rate: int  # original sampling rate in Hz
    channels: int  # original number of channels
    encoding: str  # how the file holds its samples ("PCM_16", "FLOAT", …)
    peak: float  # largest magnitude at 16 kHz mono, in (0, 1]
    offset: float  # mean of the samples at 16 kHz mono, in [-1, 1]
    flags: tuple[str, ...]  # its peculiarities, of `pcm.FLAGS`
    full_scale: float  # fraction of the samples of all channels that are at full scale
    longest_run: int  # longest sequence of samples of one channel at full scale


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A recording and the utterances (one, or several spans) in it."""

    path: Path
    utterances: tuple[Utterance, ...]


class FullScale:
    """Counts samples at full scale, block by block."""

    def __init__(self):
        """Starts before the first block."""
        self.samples = self.full = 0  # samples of all channels; how many were at full scale
        self.longest = 0  # longest sequence of them in one channel
        self._runs: list[int] = []  # per channel: samples at full scale at the end of the block

    def add(self, block: np.ndarray) -> None:
        """Counts the next block, [samples, channels] f32, with at least one sample."""
        self.samples += block.size
        full = np.abs(block) >= pcm.FULL_SCALE
        count = int(np.count_nonzero(full))
        runs = self._runs or [0] * block.shape[1]
        self._runs = [0] * block.shape[1]
        if not count and not any(runs):
            return
        self.full += count
        for channel, before in enumerate(runs):
            below = np.flatnonzero(~full[:, channel])
            lengths = np.diff(below, prepend=-1 - before, append=len(full)) - 1
            self.longest = max(self.longest, int(lengths.max()))
            self._runs[channel] = int(lengths[-1])


def examine_corpus(
    corpus: Corpus, *, max_seconds: float, workers: int, mix: audio.Mix = audio.USUAL
) -> dict[str, Measured | BadAudio]:
    """Reads, hashes and decodes every recording of a corpus once, in processes.

    A file that kills the process that reads it is reported as "unreadable". Recordings or spans
    longer than `max_seconds` are bad; `workers=0` takes one process per available core. `mix`:
    channel of the samples.

    Returns:
      Utterance id → its properties, or why it cannot be used; in the corpus's order.
    """
    files: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances:
        files.setdefault(utterance.file, []).append(utterance)
    jobs = tuple(Job(corpus.root / file, tuple(rows)) for file, rows in files.items())
    work = functools.partial(examine, max_seconds=max_seconds, mix=mix)
    found: dict[str, Measured | BadAudio] = {}
    with progress("examining", len(jobs), "files") as advance:
        for results in _in_processes(work, jobs, workers or available_cores()):
            found.update(results)
            advance()
    return {utterance.id: found[utterance.id] for utterance in corpus.utterances}


def examine(
    job: Job, max_seconds: float, mix: audio.Mix = audio.USUAL
) -> dict[str, Measured | BadAudio]:
    """Examines one file in a worker process; returns as `examine_corpus` does."""
    try:
        digest, _ = content_sha256(job.path)
    except BadAudio as error:
        return dict.fromkeys((row.id for row in job.utterances), error)
    rows = job.utterances
    return {row.id: _examine_one(job.path, row, digest, max_seconds, mix) for row in rows}


def _examine_one(
    path: Path, utterance: Utterance, digest: str, max_seconds: float, mix: audio.Mix
) -> Measured | BadAudio:
    full_scale = FullScale()
    try:
        recording = audio.decode(
            *(path, utterance.start, utterance.end),
            max_seconds=max_seconds,
            mix=mix,
            observe=full_scale.add,
        )
    except BadAudio as error:
        return error
    samples = recording.samples
    return Measured(
        file_sha256=digest,
        speech_sha256=hashlib.sha256(samples.tobytes()).hexdigest(),
        samples=len(samples),
        seconds=recording.seconds,
        rate=recording.rate,
        channels=recording.channels,
        encoding=recording.encoding,
        peak=float(np.max(np.abs(samples))),
        offset=float(np.mean(samples, dtype=np.float64)),
        flags=recording.flags,
        full_scale=full_scale.full / full_scale.samples,
        longest_run=full_scale.longest,
    )


def _in_processes(
    work: Callable[[Job], dict[str, Measured | BadAudio]], jobs: tuple[Job, ...], cores: int
) -> Iterator[dict[str, Measured | BadAudio]]:
    """Yields the results of all jobs; retries the jobs of a worker that died, one per process."""
    remaining = {job.path: job for job in jobs}
    while remaining:
        suspects: tuple[Job, ...] = ()
        queue = tuple(remaining.values())
        try:
            results = run(work, queue, min(cores, len(queue)), processes=True)
            with contextlib.closing(results):
                for job, result in results:
                    del remaining[job.path]
                    yield result
        except WorkerDied as death:
            suspects = death.jobs
        for job in suspects:
            del remaining[job.path]
            yield _alone(work, job)


def _alone(
    work: Callable[[Job], dict[str, Measured | BadAudio]], job: Job
) -> dict[str, Measured | BadAudio]:
    try:
        ((_, result),) = run(work, (job,), 1, processes=True)
        return result
    except WorkerDied:
        crash = BadAudio(
            "unreadable", "the process that decodes it dies; a damaged file, or too little memory"
        )
        return dict.fromkeys((utterance.id for utterance in job.utterances), crash)
