"""Damaged recordings (mutants), each a function of a seed and a number, and what all must obey."""

import functools
import io
import os
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from ser_jax.features import audio
from ser_jax.features.pcm import REASONS, BadAudio
from ser_jax.runtime.workers import WorkerDied, run

MAX_SECONDS = 5.0
CPU_SECONDS = 5.0  # after which the process that decodes a mutant is ended
BATCH = 100  # mutants per job

_FIELDS = (0, 1, 2, 3, 0x11, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_FIELDS += (2**24, 2**31 - 1, 2**31, 2**32 - 1)
_HEADER = 160  # half of the damage is done to the first bytes, which steer the decoders
_MOST_BYTES = 200_000


class Batch(NamedTuple):
    """Mutants `first` to `first + count - 1` of a seed."""

    seed: int
    first: int
    count: int


class Outcome(NamedTuple):
    """The results of some mutants."""

    ends: Counter[str]  # "audio" or the reason → number of mutants
    failures: dict[int, str]  # number of a mutant → what it did that none may do


@functools.cache
def originals() -> tuple[bytes, ...]:
    """Returns whole recordings in every form that passes the gate."""
    rng = np.random.default_rng(0)
    mono = (0.2 * rng.standard_normal(4000)).astype(np.float32)
    stereo = np.stack([mono, np.roll(mono, 7)], axis=1)
    forms: list[tuple[np.ndarray, int, dict[str, Any]]] = [
        (mono, 16000, {"format": "WAV", "subtype": "PCM_16"}),
        (stereo, 44100, {"format": "WAV", "subtype": "PCM_24"}),
        (mono, 8000, {"format": "WAV", "subtype": "PCM_U8"}),
        (mono, 16000, {"format": "WAV", "subtype": "FLOAT"}),
        (mono, 16000, {"format": "WAV", "subtype": "DOUBLE"}),
        (stereo, 16000, {"format": "WAVEX", "subtype": "PCM_16"}),
        (mono, 16000, {"format": "WAV", "subtype": "PCM_16", "endian": "BIG"}),
        (mono, 8000, {"format": "WAV", "subtype": "ALAW"}),
        (mono, 16000, {"format": "RF64", "subtype": "PCM_16"}),
        (stereo, 16000, {"format": "W64", "subtype": "PCM_24"}),
        (mono, 16000, {"format": "FLAC", "subtype": "PCM_16"}),
        (stereo, 44100, {"format": "FLAC", "subtype": "PCM_24"}),
        (mono, 16000, {"format": "OGG", "subtype": "VORBIS"}),
        (stereo, 44100, {"format": "OGG", "subtype": "VORBIS"}),
        (mono, 16000, {"format": "OGG", "subtype": "OPUS"}),
        (mono, 16000, {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ]
    made = []
    for samples, rate, options in forms:
        file = io.BytesIO()
        soundfile.write(file, samples, rate, **options)
        made.append(_without_chance(file.getvalue()))
    return tuple(made)


def _without_chance(content: bytes) -> bytes:
    """Sets to 0 what libsndfile draws at random: the time in a PEAK chunk, an Ogg stream number."""
    if content.startswith(b"OggS"):
        pages = [page[:10] + bytes(4) + page[14:] for page in content.split(b"OggS")[1:]]
        return mended(b"".join(b"OggS" + page for page in pages))
    peak = content.find(b"PEAK")
    return content if peak < 0 else content[: peak + 12] + bytes(4) + content[peak + 16 :]


def mutant(seed: int, number: int) -> bytes:
    """Returns a recording with one to eight injuries; equal arguments give equal bytes."""
    rng = np.random.default_rng([seed, number])
    sources = originals()
    blob = bytearray(sources[rng.integers(len(sources))])
    for _ in range(rng.integers(1, 9)):
        _injure(blob, rng, sources[rng.integers(len(sources))])
    del blob[_MOST_BYTES:]
    # With mended checksums damaged Ogg pages reach the decoder; else the gate would stop them all.
    return mended(bytes(blob)) if rng.integers(2) else bytes(blob)


def _injure(blob: bytearray, rng: np.random.Generator, other: bytes) -> None:
    if not blob:
        return
    near = min(len(blob), _HEADER if rng.integers(2) else len(blob))
    place, length = int(rng.integers(near)), int(rng.integers(1, 64))
    kind = rng.integers(9)
    if kind == 0:
        blob[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        blob[place] = int(rng.integers(256))
    elif kind in (2, 3):
        order = "<>"[rng.integers(2)]
        value = _FIELDS[rng.integers(len(_FIELDS))]
        field = struct.pack(order + "I", value)
        if kind == 3:
            field = struct.pack(order + "H", value & 0xFFFF)
        blob[place : place + len(field)] = field
    elif kind == 4:
        blob[place : place + length] = bytes(length)
    elif kind == 5:
        del blob[place : place + length]
    elif kind == 6:
        blob[place:place] = blob[place : place + length * 16]
    elif kind == 7:
        begin = int(rng.integers(len(other)))
        blob[place : place + length] = other[begin : begin + length]
    elif place:
        del blob[int(rng.integers(place)) + len(blob) // 2 :]


def mended(blob: bytes) -> bytes:
    """Returns an Ogg file with the checksum of every page set right; other files as they are."""
    parts = blob.split(b"OggS")
    pages = [_mended_page(b"OggS" + part) for part in parts[1:]] if not parts[0] else []
    return b"".join(pages) if pages else blob


def _mended_page(page: bytes) -> bytes:
    if len(page) < 27:
        return page
    end = 27 + page[26] + sum(page[27 : 27 + page[26]])
    blank = page[:22] + bytes(4) + page[26:end]
    return page[:22] + struct.pack("<I", ogg_checksum(blank)) + page[26:]


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = value << 1 ^ (0x104C11DB7 if value & 0x80000000 else 0)
        table.append(value)
    return tuple(table)


def ogg_checksum(page: bytes) -> int:
    """Returns the checksum of a page as RFC 3533 defines it, byte for byte."""
    table, value = _table(), 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ table[value >> 24 ^ byte]
    return value


Decode = Callable[..., audio.Recording]


def judge(path: Path, decode: Decode) -> str:
    """Decodes a file; returns "audio" or the reason, or raises what no file may do."""
    try:
        samples = decode(path, max_seconds=MAX_SECONDS).samples
    except BadAudio as error:
        assert error.reason in REASONS, f"unknown reason {error.reason!r}"
        return error.reason
    assert samples.dtype == np.float32 and np.isfinite(samples).all(), "samples that are no numbers"
    assert np.abs(samples).max() <= 1, "samples beyond 1"
    shortest, longest = (s * audio.SAMPLE_RATE for s in (audio.MIN_SECONDS, MAX_SECONDS))
    assert shortest <= len(samples) <= longest + 1, "its length"
    return "audio"


def examine(batch: Batch, decode: Decode) -> Outcome:
    """Decodes a batch in a worker process, each mutant within `CPU_SECONDS`."""
    ends, failures = Counter(), {}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the MP3 decoder has a lot to say about them
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant"
        for number in range(batch.first, batch.first + batch.count):
            path.write_bytes(mutant(batch.seed, number))
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            try:
                ends[judge(path, decode)] += 1
            except Exception as error:
                failures[number] = f"{type(error).__name__}: {error}"
            signal.setitimer(signal.ITIMER_PROF, 0)
    return Outcome(ends, failures)


def outcomes(
    batches: list[Batch], workers: int, decode: Decode = audio.decode
) -> Iterator[Outcome]:
    """Yields the result of every batch; one that kills its process is halved to find the mutant."""
    remaining = set(batches)
    work = functools.partial(examine, decode=decode)
    try:
        for batch, outcome in run(work, batches, workers, processes=True):
            remaining.discard(batch)
            yield outcome
        return
    except WorkerDied as death:
        suspects = death.jobs
    remaining -= set(suspects)
    for seed, first, count in suspects:
        if count == 1 and len(batches) == 1:
            what = "it ends its process, by a crash or after too much computing"
            yield Outcome(Counter(), {first: what})
        elif count == 1 or len(batches) > 1:
            yield from outcomes([Batch(seed, first, count)], 1, decode)
        else:
            half = count // 2
            yield from outcomes([Batch(seed, first, half)], 1, decode)
            yield from outcomes([Batch(seed, first + half, count - half)], 1, decode)
    if remaining:
        yield from outcomes(sorted(remaining), workers, decode)
