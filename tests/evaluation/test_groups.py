"""Which runs may be compared: those of one protocol and the same recordings, tested on the same utterances."""

import dataclasses

import pytest
import scored

from ser_jax.errors import UserError
from ser_jax.evaluation import groups
from ser_jax.evaluation.finished import FinishedRun

OTHER = {"protocol": "demo-session", "protocol_sha256": "facade" * 10}


def make(name: str, seed=0, rows=None, **changes) -> FinishedRun:
    rows = scored.make_rows(seed) if rows is None else rows
    return FinishedRun(name, scored.summarise(rows, **changes), tuple(rows))


def test_one_group_is_tested_and_needs_no_warning():
    (group,) = groups.group_runs([make("a", 0), make("b", 1), make("c", 2)])
    assert [run.name for run in group.runs] == ["a", "b", "c"]
    assert group.test is not None and len(group.test.pairs) == 3
    assert group.title == "demo-speaker decadedecade…"
    assert group.scope == "54 test utterances of 6 speakers"
    assert "all 64 swaps of 6 speakers (p ≥ 0.031); intervals by bootstrap over speakers" in group.method
    assert group.remarks == []
    assert groups.not_comparable([group]) is None


def test_other_protocols_stand_apart_with_a_warning():
    found = groups.group_runs([make("a", 0), make("b", 1, **OTHER), make("c", 2)])
    assert [[run.name for run in group.runs] for group in found] == [["a", "c"], ["b"]]
    assert found[0].test is not None and found[1].test is None
    assert groups.not_comparable(found) == (
        "not comparable: different protocols (demo-speaker decadedecade… / demo-session facadefacade…)"
    )


def test_other_recordings_stand_apart_with_a_warning():
    found = groups.group_runs([make("a", 0), make("b", 1, corpus_sha256="beaded" * 10)])
    assert [len(group.runs) for group in found] == [1, 1]
    assert groups.not_comparable(found) == (
        "not comparable: different recordings under demo-speaker decadedecade… "
        "(demo c0ffeec0ffee… / demo beadedbeaded…)"
    )


def test_other_utterances_under_the_same_hashes_are_refused_with_their_counts():
    whole = scored.make_rows(1)
    fewer = [row for row in whole if row.fold != "f0"]
    with pytest.raises(UserError) as caught:
        groups.group_runs([make("a", 0), make("b", rows=fewer)])
    assert "a was tested on 54 utterances, b on 45 (9 only in the first, 0 only in the second)" in str(caught.value)
    assert "--config.protocol.folds" in str(caught.value)


@pytest.mark.parametrize("field", ["id", "label", "speaker", "fold"])
def test_every_field_of_the_truth_must_agree(field):
    values = {"id": "x", "label": "happy", "speaker": "s1", "fold": "f1"}
    rows = scored.make_rows(1, seeds=(0,))
    rows[0] = dataclasses.replace(rows[0], **{field: values[field]})
    with pytest.raises(UserError, match=r"54 utterances, b on 54 \(1 only in the first, 1 only in the second\)"):
        groups.group_runs([make("a", 0), make("b", rows=rows)])


def test_a_run_without_scores_is_shown_but_not_compared():
    runs = [{"fold": "f0", "seed": 0, "status": "diverged", "best_epoch": None}]
    (group,) = groups.group_runs([make("a", 0), make("b", rows=[], runs=runs), make("c", 1)])
    assert [run.name for run in group.tested] == ["a", "c"]
    assert group.remarks == [
        "b: seeds left out because a fold is missing: 0",
        "b has no scored seed, so it is not compared",
    ]
    assert group.test is not None and len(group.test.pairs) == 1


def test_few_speakers_are_named_as_a_weakness():
    (group,) = groups.group_runs([make(name, rows=scored.make_rows(k, speakers=4)) for k, name in enumerate("ab")])
    assert group.remarks == [
        "intervals of runs: by utterance, too narrow",
        "differences: by utterance, too optimistic",
    ]
    assert "10,000 random swaps of 36 utterances" in group.method


def test_unknown_speakers_are_not_counted():
    rows = [dataclasses.replace(row, speaker="") for row in scored.make_rows(0)]
    (group,) = groups.group_runs([make("a", rows=rows)])
    assert group.scope == "54 test utterances"


def test_uncalibrated_probabilities_are_named():
    svm = make("svm", 1)
    svm = dataclasses.replace(svm, results={**svm.results, "probabilities": "softmax of scores, uncalibrated"})
    (group,) = groups.group_runs([make("a", 0), svm])
    assert group.remarks == ["svm: its probabilities are the softmax of scores, uncalibrated"]
