"""Bad files on every way into the program: decoder, limited decoder, extraction and doctor."""

from pathlib import Path

import bad_recordings
import numpy as np
import pytest
import releases

from ser_jax.config import get_config
from ser_jax.corpora import manifest
from ser_jax.corpora.from_config import read_rejected, write_rejected
from ser_jax.diagnosis.diagnose import diagnose
from ser_jax.features import audio, extraction
from ser_jax.features.limited_decoder import LimitedDecoder
from ser_jax.features.logmel import LogMelSettings
from ser_jax.features.pcm import REASONS, BadAudio

FILES = bad_recordings.bad_files()
MAX_SECONDS = bad_recordings.MAX_SECONDS
MEGABYTE = 1024**2


def written(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(FILES[name][0])
    return path


def reason_of(decode, path: Path, **options) -> tuple[str, str]:
    with pytest.raises(BadAudio) as info:
        decode(path, **options)
    return info.value.reason, info.value.detail


def test_the_set_is_large_and_has_every_reason_of_a_file():
    assert len(FILES) >= 34
    not_of_a_file = {"missing", "span outside the file"}
    assert {reason for _, reason in FILES.values()} == {*REASONS} - not_of_a_file


def test_each_has_its_reason_for_which_one_second_and_100_megabytes_are_enough(tmp_path):
    """R19: the kernel ends a limited decoder that needs more, and the reason would be another."""
    limits = {"max_seconds": MAX_SECONDS, "cpu_seconds": 1, "memory_bytes": 100 * MEGABYTE}
    with LimitedDecoder(**limits) as decoder:
        for name in FILES:
            path = written(tmp_path, name)
            reason, detail = reason_of(audio.decode, path, max_seconds=MAX_SECONDS)
            assert reason == FILES[name][1] and detail and str(tmp_path) not in detail, name
            if detail == "every sample is zero":  # For the page silence is an answer.
                assert "no speech" in decoder.decode(path).flags
                continue
            assert reason_of(decoder.decode, path) == (reason, detail), name


def test_50_megabytes_are_enough_to_refuse_a_bomb(tmp_path):
    """R21, with the length that training allows by default."""
    limit = get_config().features.max_seconds
    with LimitedDecoder(max_seconds=limit, cpu_seconds=1, memory_bytes=50 * MEGABYTE) as decoder:
        for name, (content, reason) in bad_recordings.bombs().items():
            assert len(content) < 300_000
            assert reason_of(decoder.decode, written(tmp_path, name))[0] == reason


@pytest.fixture(scope="module")
def corpus_root(tmp_path_factory) -> Path:
    """A clean corpus of 32 recordings whose manifest lists every bad file as well."""
    root = tmp_path_factory.mktemp("corpus")
    rows = releases.manifest_rows()
    releases.write_manifest(root, rows)
    (root / "bad").mkdir()
    for name in FILES:
        written(root / "bad", name)
    bad = [{"file": f"bad/{name}", "label": "sad", "speaker": "s0"} for name in FILES]
    releases.write_manifest(root, [*rows, *bad], seconds=None)
    return root


def test_extraction_lists_each_and_does_the_rest(corpus_root, tmp_path):
    corpus = manifest.read(corpus_root, manifest="manifest.csv", allow_missing=False)
    f = get_config().features
    path = tmp_path / "rejected.csv"
    features = extraction.extract(
        corpus,
        LogMelSettings(**{name: f[name] for name in LogMelSettings.__dataclass_fields__}),
        hsf=False,
        store_root=tmp_path / "store",
        max_seconds=MAX_SECONDS,
        max_bad_share=1.0,
        workers=2,
        on_rejected=lambda rejected: write_rejected(path, rejected),
    )
    listed = {row.file: row.reason for row in read_rejected(path)}
    assert listed == {f"bad/{name}": reason for name, (_, reason) in FILES.items()}
    assert len(features.utterances) == 32 == len(corpus.utterances) - len(listed)
    assert all(np.isfinite(frames).all() for frames in features.log_mel)


def test_the_doctor_finds_each_and_nothing_else(corpus_root):
    config = get_config()
    config.corpus.name, config.corpus.root = "manifest", str(corpus_root)
    config.features.max_seconds = MAX_SECONDS
    errors = (row for row in diagnose(config).findings if row.severity == "error")
    found = {row.file: row.finding for row in errors if row.file}  # and one that counts them
    assert found == {f"bad/{name}": reason for name, (_, reason) in FILES.items()}
