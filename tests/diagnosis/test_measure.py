"""Measurements of recordings, bad recordings, and files that kill their process."""

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import defects
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.diagnosis import measure
from ser_jax.diagnosis.measure import FullScale, Job, Measured, examine
from ser_jax.features import audio
from ser_jax.features.pcm import BadAudio

ROOT = Path(__file__).parents[2]


def job(path: Path, *spans: tuple[float | None, float | None]) -> Job:
    ids = {utterance_id(path.name, *span): span for span in spans or [(None, None)]}
    return Job(path, tuple(Utterance(key, path.name, *span) for key, span in ids.items()))


def measured(path: Path) -> Measured:
    (result,) = examine(job(path), 120.0).values()
    assert isinstance(result, Measured)
    return result


# --- Samples at full scale


def test_samples_at_full_scale_by_hand():
    counted = FullScale()
    left, right = [1.0, -1.0, 0.5, 1.0], [0.0, 0.0, 0.0, 32767 / 32768]
    counted.add(np.array([left, right], np.float32).T)
    # The left run goes on, the right one ends.
    counted.add(np.array([[1.0, 0.0], [32766 / 32768, 0.0]], np.float32))
    assert (counted.samples, counted.full, counted.longest) == (12, 5, 2)


@given(
    full=arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 3))),
    cuts=st.lists(st.integers(1, 39), max_size=5),
)
def test_runs_do_not_depend_on_the_blocks(full, cuts):
    counted = FullScale()
    samples = np.where(full, -1.0, 0.25).astype(np.float32)
    for block in np.split(samples, sorted({cut for cut in cuts if cut < len(full)})):
        counted.add(block)
    longest = max(
        len(list(run)) * at_full_scale
        for channel in full.T
        for at_full_scale, run in itertools.groupby(channel)
    )
    assert (counted.samples, counted.full, counted.longest) == (full.size, full.sum(), longest)


# --- One file


def test_a_recording_by_hand(tmp_path):
    values = np.resize(np.array([0, 16384, -8192, 8192], np.int16), 1600)
    values[:4] = 32767
    soundfile.write(tmp_path / "a.wav", values, 16000)
    assert measured(tmp_path / "a.wav") == Measured(
        file_sha256=hashlib.sha256((tmp_path / "a.wav").read_bytes()).hexdigest(),
        speech_sha256=hashlib.sha256(
            (values / np.float32(32768)).astype("<f4").tobytes()
        ).hexdigest(),
        samples=1600,
        seconds=0.1,
        rate=16000,
        channels=1,
        encoding="PCM_16",
        peak=32767 / 32768,
        offset=(4 * 32767 + 399 * 16384) / 32768 / 1600,
        flags=("clipped",),
        full_scale=4 / 1600,
        longest_run=4,
    )


def test_level_and_offset_are_those_of_the_mean_over_the_channels(tmp_path):
    stereo = np.stack([np.full(8000, 1.0), np.full(8000, -0.5)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000, subtype="FLOAT")
    found = measured(tmp_path / "a.wav")
    assert (found.samples, found.seconds, found.rate) == (16000, 1.0, 8000)
    assert (found.channels, found.encoding) == (2, "FLOAT")
    assert (found.full_scale, found.longest_run) == (0.5, 8000)
    assert found.offset == pytest.approx(0.25, abs=1e-3)
    assert found.peak == pytest.approx(0.25, abs=0.05)


def test_the_same_speech_in_other_bytes(tmp_path):
    samples = np.random.default_rng(0).integers(-3000, 3000, 8000, dtype=np.int16)
    for name in ("a.wav", "b.wav", "c.flac"):
        soundfile.write(tmp_path / name, samples, 16000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, samples], axis=1), 16000)
    soundfile.write(tmp_path / "other.wav", samples[::-1], 16000)
    found = {path.name: measured(path) for path in tmp_path.iterdir()}
    assert found["a.wav"] == found["b.wav"]
    assert len({sound.file_sha256 for sound in found.values()}) == 4
    speech = {name: sound.speech_sha256 for name, sound in found.items()}
    assert speech["a.wav"] == speech["c.flac"] == speech["stereo.wav"] != speech["other.wav"]


def test_spans_are_examined_one_by_one(tmp_path):
    samples = np.repeat(np.array([0.1, 0.2, 0.0], np.float32), 16000)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    found = examine(job(tmp_path / "a.wav", (0.0, 1.0), (1.0, 2.0), (2.0, None), (2.0, 9.0)), 120.0)
    quiet, loud, silent, outside = found.values()
    assert list(found) == ["a#0.000-1.000", "a#1.000-2.000", "a#2.000-end", "a#2.000-9.000"]
    assert isinstance(quiet, Measured) and isinstance(loud, Measured)
    assert quiet.file_sha256 == loud.file_sha256
    assert (quiet.peak, loud.peak) == pytest.approx((0.1, 0.2)) and quiet.seconds == 1.0
    assert isinstance(silent, BadAudio) and silent.reason == "silent"
    assert isinstance(outside, BadAudio) and outside.reason == "span outside the file"


def test_what_is_bad_here_is_bad_in_extraction(tmp_path):
    root = defects.write_broken(tmp_path)
    paths = [*sorted((root / "bad").iterdir()), root / "bad/missing.wav", root / "odd"]
    for path in paths:
        (found,) = examine(job(path), defects.MAX_SECONDS).values()
        if path.name == "span.wav":  # only a span of it is bad
            assert isinstance(found, Measured)
            continue
        assert isinstance(found, BadAudio)
        with pytest.raises(BadAudio) as info:
            audio.decode(path, max_seconds=defects.MAX_SECONDS)
        assert (found.reason, found.detail) == (info.value.reason, info.value.detail)


# --- A corpus


def corpus(root: Path, *names: str) -> Corpus:
    rows = tuple(Utterance(utterance_id(name), name, label="sad") for name in names)
    return Corpus("test", root, rows, "none", {})


def test_a_corpus_is_examined_in_its_order_by_any_number_of_workers(tmp_path):
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", defects.noise(seed=number), 16000)
    (tmp_path / "3.wav").write_bytes(b"")
    names = [f"{number}.wav" for number in (5, 3, 1, 0, 2, 4)]
    one, two = (
        measure.examine_corpus(corpus(tmp_path, *names), max_seconds=120.0, workers=n)
        for n in (1, 2)
    )
    assert list(one) == list(two) == ["5", "3", "1", "0", "2", "4"]
    bad = [name for name, result in one.items() if isinstance(result, BadAudio)]
    assert bad == ["3"] and {name: two[name] for name in one if name != "3"} == {
        name: measured(tmp_path / f"{name}.wav") for name in one if name != "3"
    }


def dies_at_a_crash(wanted: Job) -> dict[str, Measured | BadAudio]:
    """`examine` with a decoder that ends the process; module-level, so that workers find it."""
    if wanted.path.name.startswith("crash"):
        os._exit(9)
    return examine(wanted, 120.0)


def test_a_file_that_kills_its_process_is_named_and_the_others_are_examined(tmp_path):
    names = ["a.wav", "b.wav", "crash1.wav", "c.wav", "d.wav", "crash2.wav", "e.wav"]
    for number, name in enumerate(names):
        soundfile.write(tmp_path / name, defects.noise(seed=number), 16000)
    results = measure._in_processes(
        dies_at_a_crash, tuple(job(tmp_path / name) for name in names), 2
    )
    found = [pair for result in results for pair in result.items()]
    assert sorted(name for name, _ in found) == ["a", "b", "c", "crash1", "crash2", "d", "e"]
    bad = {name: result for name, result in found if isinstance(result, BadAudio)}
    assert sorted(bad) == ["crash1", "crash2"]
    assert all(error.reason == "unreadable" and "process" in error.detail for error in bad.values())


def test_workers_do_not_import_jax():
    code = "import sys, ser_jax.diagnosis.measure; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
