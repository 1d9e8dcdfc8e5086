"""A short form of `make fuzz`: mutants become audio or get a reason; the fuzzer sees all faults."""

import hashlib
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mutants import BATCH, Batch, Outcome, mutant, originals, outcomes

from ser_jax.features import audio
from ser_jax.features.pcm import BadAudio
from ser_jax.runtime.workers import run

SEED = 20261123


def together(found) -> Outcome:
    ends, failures = Counter(), {}
    for outcome in found:
        ends += outcome.ends
        failures |= outcome.failures
    return Outcome(ends, failures)


@pytest.mark.parametrize("count", [2500, pytest.param(30_000, marks=pytest.mark.long)])
def test_mutants_are_audio_or_have_a_reason(count, record_property):
    batches = [Batch(SEED + count, first, BATCH) for first in range(0, count, BATCH)]
    ends, failures = together(outcomes(batches, 2))
    command = f"tests/reliability/fuzz_audio.py --seed={SEED + count} --write=NUMBER"
    assert not failures, f"write them with {command}"
    assert ends.total() == count
    # The damage is neither so great that nothing is decoded nor so small that nothing is refused.
    good = ends["audio"]
    assert count // 10 < good < count * 9 // 10
    assert ends.keys() >= {"truncated", "unreadable", "non-finite"}
    record_property("measured", f"{count:,} mutants: {good:,} audio, {count - good:,} refused")


def digest(_: int) -> str:
    return hashlib.sha256(b"".join(mutant(1, number) for number in range(300))).hexdigest()


def test_a_mutant_is_a_function_of_seed_and_number():
    ((_, elsewhere),) = run(digest, [0], 1, processes=True)
    assert elsewhere == digest(0)
    assert len({mutant(1, number) for number in range(50)}) == 50 and mutant(2, 2) != mutant(1, 2)


def test_the_originals_are_whole(tmp_path):
    for content in originals():
        path = tmp_path / "whole"
        path.write_bytes(content)
        assert len(audio.decode(path, max_seconds=1.0).samples) > 1000


FAULTS = {3: "ends its process", 5: "ZeroDivisionError", 6: "unknown reason", 7: "no numbers"}
FAULTS |= {8: "beyond 1", 9: "its length", 10: "its length"}


def misbehaving(path: Path, *, max_seconds: float) -> audio.Recording:
    """A decoder with a fault for some mutants; at module level, so that workers can import it."""
    content = path.read_bytes()
    fault = next((number for number in FAULTS if content == mutant(3, number)), 0)
    if fault == 3:
        os.abort()
    if fault == 5:
        raise ZeroDivisionError
    if fault == 6:
        raise BadAudio("odd", "a reason that is none")
    count = {9: 500, 10: round(max_seconds * 16000) + 2}.get(fault, 1000)
    samples = np.full(count, {7: np.nan, 8: 1.5}.get(fault, 0.5), np.float32)
    return audio.Recording(samples, count / 16000, 16000, 1, "PCM_16", ())


def test_the_fuzzer_sees_every_fault():
    ends, failures = together(outcomes([Batch(3, 2, 2), Batch(3, 4, 8)], 2, misbehaving))
    assert failures.keys() == FAULTS.keys() and ends == Counter(audio=10 - len(FAULTS))
    assert all(FAULTS[number] in what for number, what in failures.items())


def spinning(path: Path, *, max_seconds: float) -> audio.Recording:
    """Computes for ever on one mutant; the time that it may take is shortened first."""
    if path.read_bytes() == mutant(4, 16):
        signal.setitimer(signal.ITIMER_PROF, signal.getitimer(signal.ITIMER_PROF)[0] / 50)
        while True:
            pass
    return audio.Recording(np.full(1000, 0.5, np.float32), 1000 / 16000, 16000, 1, "PCM_16", ())


def test_endless_computing_is_ended_and_named():
    ends, failures = together(outcomes([Batch(4, 16, 2)], 1, spinning))
    assert (ends, list(failures)) == (Counter(audio=1), [16])
