"""What is odd about a recording, at the edge of each limit, and copies in every company."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.corpora.table import Corpus, Utterance, utterance_id
from ser_jax.diagnosis.recordings import copy_findings, recording_findings
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.checkup import Measured
from ser_jax.protocols.protocol import Fold, Protocol

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
    clipped=False,
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
        ({"encoding": "MPEG_LAYER_III"}, [("other encoding", "MPEG_LAYER_III instead of PCM_16")]),
        ({"full_scale": 0.001, "longest_run": 1}, []),  # one sample at full scale: a normalised recording
        (
            {"clipped": True, "full_scale": 0.0123, "longest_run": 7},
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
        corpus(Utterance("a", "a.wav")), {"a": BadAudio("truncated", "half of it")}, segment_samples=SEGMENT
    )
    assert (row.finding, row.detail, row.severity) == ("truncated", "half of it", "error")


def test_what_is_the_same_for_all_spans_of_a_file_is_told_once():
    rows = [Utterance(utterance_id("a.wav", start, start + 1), "a.wav", start, start + 1) for start in (0.0, 1.0, 2.0)]
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


# --- Copies -----------------------------------------------------------------------------------------------------------


def copies(rows: dict[str, tuple[str, str]], folds: dict[str, str], *, same_bytes: bool = True) -> list[tuple]:
    """Returns (id, finding, detail) for recordings with the same samples: id → label, speaker; fold → parts."""
    utterances = [Utterance(name, f"{name}.wav", label=label, speaker=who) for name, (label, who) in rows.items()]
    examined = {name: dataclasses.replace(PLAIN, file_sha256="f" if same_bytes else f"f{name}") for name in rows}
    protocol = Protocol(
        name="p",
        corpus="test",
        classes=("angry", "sad"),
        label_mapping={},
        ids=tuple(rows),
        labels=tuple(label for label, _ in rows.values()),
        speakers=tuple(who for _, who in rows.values()),
        folds=tuple(Fold(name, parts) for name, parts in folds.items()),
        validation_rule="",
    )
    return [(row.id, row.finding, row.detail) for row in copy_findings(corpus(*utterances), examined, protocol)]


def test_a_copy_by_hand():
    found = copies({"a": ("sad", "s1"), "b": ("sad", "s1")}, {"one": "tt", "two": "ee", "three": "tv", "four": "e-"})
    assert found == [("b", "copy", "(sad, speaker s1): same bytes as a (sad, speaker s1)")]
    ((_, _, detail),) = copies({"a": ("sad", "s1"), "b": ("sad", "s1")}, {"one": "tt"}, same_bytes=False)
    assert detail == "(sad, speaker s1): same samples as a (sad, speaker s1)"


@pytest.mark.parametrize("parts", ["te", "et", "ve", "ev"])
def test_a_copy_that_is_trained_on_and_tested(parts):
    ((_, name, detail),) = copies({"a": ("sad", "s1"), "b": ("sad", "s1")}, {"one": "tt", "two": parts})
    assert name == "copy in training and test" and detail.endswith("; trained on and tested in fold two")


def test_the_leak_may_be_between_two_copies_of_a_third():
    rows = {name: ("sad", "s1") for name in "abc"}
    found = copies(rows, {"one": "-te"})
    assert [(name, kind) for name, kind, _ in found] == [
        ("b", "copy in training and test"),
        ("c", "copy in training and test"),
    ]


def test_a_copy_of_another_speaker_or_label():
    assert copies({"a": ("sad", "s1"), "b": ("sad", "s2")}, {"one": "tt"})[0][1] == "copy of another speaker"
    ((_, name, detail),) = copies({"a": ("sad", "s1"), "b": ("angry", "s2")}, {"one": "te"})
    assert name == "copy with another label"
    assert detail == "(angry, speaker s2): same bytes as a (sad, speaker s1); trained on and tested in fold one"


def test_a_withheld_label_or_an_unknown_speaker_is_no_other():
    ((_, name, detail),) = copies({"a": ("sad", ""), "b": ("", "s1")}, {"one": "t-"})
    assert (name, detail) == ("copy", "(no label, speaker s1): same bytes as a (sad)")


def test_copies_outside_the_protocol_are_found():
    rows = [Utterance(name, f"{name}.wav", label="bored") for name in "ab"]
    examined = {"a": PLAIN, "b": PLAIN}
    assert [row.finding for row in copy_findings(corpus(*rows), examined, None)] == ["copy"]


def test_bad_recordings_are_no_copies():
    rows = [Utterance(name, f"{name}.wav") for name in "ab"]
    silent = BadAudio("silent", "every sample is zero")
    assert copy_findings(corpus(*rows), {"a": silent, "b": silent}, None) == []


@given(st.lists(st.integers(0, 5), max_size=20))
def test_as_many_findings_as_copies_too_many(speech):
    rows = [Utterance(f"{number:02d}", f"{number:02d}.wav") for number in range(len(speech))]
    examined = {
        row.id: dataclasses.replace(PLAIN, speech_sha256=str(heard)) for row, heard in zip(rows, speech, strict=True)
    }
    found = copy_findings(corpus(*rows), examined, None)
    assert len(found) == len(speech) - len(set(speech)) == len({row.id for row in found})
