"""What is odd about a recording, at the edge of each limit."""

import dataclasses
from pathlib import Path

import pytest

from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.diagnosis.measure import Measured
from ser_jax.diagnosis.recording_checks import recording_findings
from ser_jax.features.pcm import BadAudio

PLAIN = Measured(
    file_sha256="f0",
    speech_sha256="s0",
    samples=16000,
    seconds=1.0,
    rate=16000,
    channels=1,
    encoding="PCM_16",
    peak=0.5,
    offset=0.0,
    flags=(),
    full_scale=0.0,
    longest_run=0,
)
SEGMENT = 5040


def corpus(*rows: Utterance) -> Corpus:
    return Corpus("test", Path("/nowhere"), tuple(sorted(rows, key=lambda row: row.id)), "none", {})


def odd(**changes) -> list[tuple[str, str]]:
    examined = {"a": dataclasses.replace(PLAIN, **changes)}
    found = recording_findings(corpus(Utterance("a", "a.wav")), examined, segment_samples=SEGMENT)
    assert all((row.file, row.id) == ("a.wav", "a") for row in found)
    return [(row.finding, row.detail) for row in found]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"samples": 5040, "seconds": 0.315}, []),
        ({"samples": 5039, "seconds": 0.3149}, [("short", "0.315 s; one segment is 0.315 s")]),
        ({"peak": 0.0101}, []),
        ({"peak": 0.0099}, [("quiet", "peak -40 dBFS; below -40")]),
        ({"peak": 0.00101}, [("quiet", "peak -60 dBFS; below -40")]),
        ({"peak": 0.0001}, [("near-silent", "peak -80 dBFS; below -60")]),
        ({"offset": 0.02}, []),
        ({"offset": -0.03}, [("offset", "mean -0.030 of full scale; beyond ±0.02")]),
        ({"rate": 8000}, [("low rate", "8000 Hz instead of 16000")]),
        ({"rate": 48000}, [("high rate", "48000 Hz instead of 16000")]),
        ({"channels": 2}, [("several channels", "2 channels")]),
        (
            {"channels": 2, "flags": ("several channels", "out of phase")},
            [
                ("several channels", "2 channels"),
                ("out of phase", "the channels cancel each other out"),
            ],
        ),
        ({"encoding": "MPEG_LAYER_III"}, [("other encoding", "MPEG_LAYER_III instead of PCM_16")]),
        # One sample at full scale: a normalised recording.
        ({"full_scale": 0.001, "longest_run": 1}, []),
        (
            {"flags": ("clipped",), "full_scale": 0.0123, "longest_run": 7},
            [("clipped", "1.23 % of the samples at full scale, 7 in a row")],
        ),
        (
            {"rate": 8000, "channels": 2, "peak": 0.005},
            [
                ("quiet", "peak -46 dBFS; below -40"),
                ("low rate", "8000 Hz instead of 16000"),
                ("several channels", "2 channels"),
            ],
        ),
    ],
)
def test_limits(changes, expected):
    assert odd(**changes) == expected


def test_a_bad_recording_has_its_reason():
    (row,) = recording_findings(
        corpus(Utterance("a", "a.wav")),
        {"a": BadAudio("truncated", "half of it")},
        segment_samples=SEGMENT,
    )
    assert (row.finding, row.detail, row.severity) == ("truncated", "half of it", "error")


def test_what_is_the_same_for_all_spans_of_a_file_is_told_once():
    rows = [
        Utterance(utterance_id("a.wav", start, start + 1), "a.wav", start, start + 1)
        for start in (0.0, 1.0, 2.0)
    ]
    examined = {
        row.id: dataclasses.replace(PLAIN, rate=8000, peak=peak)
        for row, peak in zip(rows, (0.5, 0.004, 0.002), strict=True)
    }
    found = recording_findings(corpus(*rows), examined, segment_samples=SEGMENT)
    assert sorted((row.finding, row.id, row.detail) for row in found) == [
        ("low rate", "a#0.000-1.000", "8000 Hz instead of 16000 (and 2 more spans of it)"),
        ("quiet", "a#1.000-2.000", "peak -48 dBFS; below -40"),
        ("quiet", "a#2.000-3.000", "peak -54 dBFS; below -40"),
    ]
