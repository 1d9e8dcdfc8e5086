"""What every recording of a corpus is like: its length, level, format, and what tells copies from each other.

Recordings pass the same gate as on their way to features (audio.py), so what is rejected here is rejected there. This
module must not import jax: worker processes load it.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ser_jax.cores import available_cores
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.features import audio, pcm
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.header import content_sha256
from ser_jax.features.workers import WorkerDied, run
from ser_jax.progress import progress


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What a usable recording or span is like.

    Attributes:
      file_sha256: SHA-256 of the bytes of its file.
      speech_sha256: SHA-256 of its samples at 16 kHz mono: equal ones give equal features, whatever the file.
      samples: How many samples it has at 16 kHz.
      seconds: Its length at the original rate.
      rate: Original sampling rate in Hz.
      channels: Original number of channels.
      encoding: How the file holds its samples ("PCM_16", "FLOAT", …).
      peak: Largest magnitude at 16 kHz mono, in (0, 1].
      offset: Mean of the samples at 16 kHz mono, in [-1, 1].
      clipped: Whether it stays at full scale for some samples, or exceeds it.
      full_scale: Share of the samples of all channels that are at full scale, in [0, 1].
      longest_run: Most samples of one channel that are at full scale one after the other.
    """

    file_sha256: str
    speech_sha256: str
    samples: int
    seconds: float
    rate: int
    channels: int
    encoding: str
    peak: float
    offset: float
    clipped: bool
    full_scale: float
    longest_run: int


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A file, and what is wanted of it.

    Attributes:
      path: The file.
      utterances: The rows that name it: one, or several spans.
    """

    path: Path
    utterances: tuple[Utterance, ...]


class FullScale:
    """Counts samples at full scale, block by block.

    Attributes:
      samples: Samples seen, of all channels.
      full: How many of them were at full scale.
      longest: Most of one channel in a row.
    """

    def __init__(self):
        """Starts before the first block."""
        self.samples = self.full = self.longest = 0
        self._runs: list[int] = []  # for each channel, how many samples up to the last one were at full scale

    def add(self, block: np.ndarray) -> None:
        """Takes the next block, [S, channels] f32 with S ≥ 1."""
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


def examine_corpus(corpus: Corpus, *, max_seconds: float, workers: int) -> dict[str, Measured | BadAudio]:
    """Reads, hashes and decodes every recording of a corpus once, in processes.

    A file that kills the process that reads it is found out and reported as "unreadable".

    Args:
      corpus: The utterances.
      max_seconds: Longer recordings or spans are bad.
      workers: Processes; 0 for one per available core.

    Returns:
      Utterance id → what it is like, or why it cannot be used; in the corpus's order.
    """
    files: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances:
        files.setdefault(utterance.file, []).append(utterance)
    jobs = tuple(Job(corpus.root / file, tuple(rows)) for file, rows in files.items())
    work = functools.partial(examine, max_seconds=max_seconds)
    found: dict[str, Measured | BadAudio] = {}
    with progress("examining", len(jobs), "files") as advance:
        for results in _in_processes(work, jobs, workers or available_cores()):
            found.update(results)
            advance()
    return {utterance.id: found[utterance.id] for utterance in corpus.utterances}


def examine(job: Job, max_seconds: float) -> dict[str, Measured | BadAudio]:
    """Examines one file; runs in a worker process.

    Args:
      job: The file and its utterances.
      max_seconds: Longest recording or span that is read.

    Returns:
      Utterance id → what it is like, or why it cannot be used.
    """
    try:
        digest, _ = content_sha256(job.path)
    except BadAudio as error:
        return dict.fromkeys((utterance.id for utterance in job.utterances), error)
    return {utterance.id: _examine_one(job.path, utterance, digest, max_seconds) for utterance in job.utterances}


def _examine_one(path: Path, utterance: Utterance, digest: str, max_seconds: float) -> Measured | BadAudio:
    full_scale = FullScale()
    try:
        recording = audio.decode(path, utterance.start, utterance.end, max_seconds=max_seconds, observe=full_scale.add)
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
        clipped="clipped" in recording.flags,
        full_scale=full_scale.full / full_scale.samples,
        longest_run=full_scale.longest,
    )


def _in_processes(
    work: Callable[[Job], dict[str, Measured | BadAudio]], jobs: tuple[Job, ...], cores: int
) -> Iterator[dict[str, Measured | BadAudio]]:
    """Yields the results of all jobs; those under way when a worker died are tried again, each in its own process."""
    remaining = {job.path: job for job in jobs}
    while remaining:
        suspects: tuple[Job, ...] = ()
        queue = tuple(remaining.values())
        try:
            with contextlib.closing(run(work, queue, min(cores, len(queue)), processes=True)) as results:
                for job, result in results:
                    del remaining[job.path]
                    yield result
        except WorkerDied as death:
            suspects = death.jobs
        for job in suspects:
            del remaining[job.path]
            yield _alone(work, job)


def _alone(work: Callable[[Job], dict[str, Measured | BadAudio]], job: Job) -> dict[str, Measured | BadAudio]:
    try:
        ((_, result),) = run(work, (job,), 1, processes=True)
        return result
    except WorkerDied:
        crash = BadAudio("unreadable", "the process that decodes it dies; a damaged file, or too little memory")
        return dict.fromkeys((utterance.id for utterance in job.utterances), crash)
