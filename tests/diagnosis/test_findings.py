"""Findings: how bad each is, and the order in which they are told."""

import pytest

from ser_jax.diagnosis.findings import ERROR, KINDS, NOTE, SEVERITIES, WARNING, Finding, in_order
from ser_jax.features.bad_audio import REASONS


def test_every_kind_has_a_severity_and_a_remedy():
    for severity, remedy in KINDS.values():
        assert severity in SEVERITIES and len(remedy.split()) >= 3


def test_every_reason_of_a_bad_recording_is_an_error():
    assert {KINDS[reason][0] for reason in REASONS} == {ERROR}


def test_an_unknown_reason_is_an_error():
    """A reader may have reasons of its own: what it rejects is not used."""
    assert Finding("odd case", "x").severity == ERROR and Finding("odd case", "x").remedy


@pytest.mark.parametrize(
    ("name", "allowed", "severity"),
    [("missing", False, ERROR), ("missing", True, WARNING), ("clipped", True, WARNING), ("quiet", True, NOTE)],
)
def test_what_the_configuration_allows_is_no_error(name, allowed, severity):
    assert Finding(name, "x", allowed=allowed).severity == severity


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
    found = [(row.finding, row.file) for row in in_order(rows)]
    assert found == [
        ("unreadable", "z"),
        ("odd case", "b"),
        ("missing", "b"),
        ("clipped", "c"),
        ("clipped", "a"),
        ("clipped", "b"),
        ("quiet", "a"),
    ]
    assert in_order(rows[::-1]) == in_order(rows)
