"""The sentences about compared runs."""

import dataclasses

import scored

from ser_jax.evaluation import comparison
from ser_jax.report import comparison_text as text

make = scored.finished


def test_a_single_group_needs_no_warning():
    (group,) = comparison.group_runs([make("a", 0), make("b", 1), make("c", 2)])
    assert text.title(group) == "demo-speaker decadedecade…"
    assert text.scope(group) == "54 test utterances of 6 speakers"
    expected = "all 64 swaps of 6 speakers (p ≥ 0.031); intervals by jackknife over speakers"
    assert expected in text.method(group)
    assert text.remarks(group) == []
    assert text.not_comparable([group]) is None


def test_other_protocols_or_recordings_are_not_comparable():
    other = make("b", 1, protocol="demo-session", protocol_sha256="facade" * 10)
    assert text.not_comparable(comparison.group_runs([make("a", 0), other])) == (
        "not comparable: different protocols (demo-speaker decadedecade… / demo-session"
        " facadefacade…)"
    )
    other = make("b", 1, corpus_sha256="beaded" * 10)
    assert text.not_comparable(comparison.group_runs([make("a", 0), other])) == (
        "not comparable: different recordings under demo-speaker decadedecade…"
        " (demo c0ffeec0ffee… / demo beadedbeaded…)"
    )


def test_remarks():
    """On runs without scores, few speakers and uncalibrated probabilities."""
    lost = make("b", rows=[], runs=scored.DIVERGED)
    (group,) = comparison.group_runs([make("a", 0), lost])
    assert text.remarks(group) == [
        "b: seeds left out because a fold is missing: 0",
        "b has no scored seed, so it is not compared",
    ]
    few = [make(name, rows=scored.make_rows(k, speakers=4)) for k, name in enumerate("ab")]
    (group,) = comparison.group_runs(few)
    assert text.remarks(group) == [
        "intervals of runs: by utterance, too narrow",
        "differences: by utterance, too optimistic",
    ]
    assert "10,000 random swaps of 36 utterances" in text.method(group)
    together = make("c ×3", 1, ensemble=3)
    (group,) = comparison.group_runs([make("a", 0), together])
    assert text.remarks(group) == [
        "×N marks ensembles, the mean of N models: their differences to single models are not those"
        " of the systems alone"
    ]
    (group,) = comparison.group_runs([together, make("d ×3", 2, ensemble=3)])
    assert text.remarks(group) == []
    svm = make("svm", 1, probabilities="softmax of scores, uncalibrated")
    (group,) = comparison.group_runs([make("a", 0), svm])
    expected = "svm: its probabilities are the softmax of scores, uncalibrated"
    assert text.remarks(group) == [expected]


def test_unknown_speakers_are_not_counted():
    rows = [dataclasses.replace(row, speaker="") for row in scored.make_rows(0)]
    (group,) = comparison.group_runs([make("a", rows=rows)])
    assert text.scope(group) == "54 test utterances"
