"""Findings: how bad each is, and the order in which they are told."""

from ser_jax.corpora.findings import ERROR, KINDS, NOTE, WARNING, Finding, in_order, sentences
from ser_jax.features.pcm import REASONS


def test_every_reason_of_a_bad_recording_is_an_error():
    assert {KINDS[reason][0] for reason in REASONS} == {ERROR}


def test_an_unknown_reason_is_an_error():
    """A reader may have reasons of its own: what it rejects is not used."""
    assert Finding("odd case", "x").severity == ERROR and Finding("odd case", "x").remedy


def test_what_the_configuration_allows_is_no_error():
    assert Finding("missing", "x").severity == ERROR
    for name, severity in (("missing", WARNING), ("clipped", WARNING), ("quiet", NOTE)):
        assert Finding(name, "x", allowed=True).severity == severity


def test_the_worst_come_first():
    rows = [
        Finding("quiet", "", "a"),
        Finding("clipped", "", "b", rank=0.1),
        Finding("clipped", "", "a", rank=0.1),
        Finding("clipped", "", "c", rank=0.2),
        Finding("missing", "", "b", allowed=True),
        Finding("odd case", "", "b"),
        Finding("unreadable", "", "z"),
    ]
    expected = "unreadable z, odd case b, missing b, clipped c, clipped a, clipped b, quiet a"
    assert ", ".join(f"{row.finding} {row.file}" for row in in_order(rows)) == expected
    assert in_order(rows[::-1]) == in_order(rows)


def test_a_sentence_has_the_count_three_examples_and_the_remedy():
    rows = [Finding("clipped", f"{n} %", f"{n}.wav") for n in range(5)]
    first, second = sentences([*rows, Finding("default protocol", "by speaker")])
    remedy = KINDS["clipped"][1]
    assert first == f"clipped (5): 0.wav: 0 %; 1.wav: 1 %; 2.wav: 2 %; and 2 more ({remedy})"
    assert second == "default protocol: by speaker"
