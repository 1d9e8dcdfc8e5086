"""Copies by hand; in training and doctor: tests/diagnosis/test_own_lists.py."""

from hypothesis import given
from hypothesis import strategies as st

from ser_jax.corpora.table import Utterance
from ser_jax.protocols.copies import copy_findings
from ser_jax.protocols.protocol import Fold, Protocol


def copies(
    rows: dict[str, tuple[str, str]], folds: dict[str, str], *, same_bytes: bool = True
) -> list[tuple]:
    """Returns (id, finding, detail) of copies: id → (label, speaker); fold → parts."""
    utterances = [
        Utterance(name, f"{name}.wav", label=label, speaker=who)
        for name, (label, who) in rows.items()
    ]
    speech = dict.fromkeys(rows, "same")
    files = None if same_bytes else {name: f"f{name}" for name in rows}
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
    return [
        (row.id, row.finding, row.detail)
        for row in copy_findings(utterances, protocol, speech, files)
    ]


SAME = {"a": ("sad", "s1"), "b": ("sad", "s1")}


def test_a_copy_by_hand():
    found = copies(SAME, {"one": "tt", "two": "ee", "three": "tv", "four": "e-"})
    assert found == [("b", "copy", "(sad, speaker s1): same bytes as a (sad, speaker s1)")]
    ((_, _, detail),) = copies(SAME, {"one": "tt"}, same_bytes=False)
    assert detail == "(sad, speaker s1): same samples as a (sad, speaker s1)"


def test_a_copy_that_is_trained_on_and_tested():
    for parts in ("te", "et", "ve", "ev"):
        ((_, name, detail),) = copies(SAME, {"one": "tt", "two": parts})
        assert name == "copy in training and test"
        assert detail.endswith("; trained on and tested in fold two")


def test_the_leak_may_be_between_two_copies_of_a_third():
    rows = {name: ("sad", "s1") for name in "abc"}
    found = [(name, kind) for name, kind, _ in copies(rows, {"one": "-te"})]
    assert found == [(name, "copy in training and test") for name in "bc"]


def test_a_copy_of_another_speaker_or_label():
    ((_, name, _),) = copies({"a": ("sad", "s1"), "b": ("sad", "s2")}, {"one": "tt"})
    assert name == "copy of another speaker"
    ((_, name, detail),) = copies({"a": ("sad", "s1"), "b": ("angry", "s2")}, {"one": "te"})
    assert name == "copy with another label"
    same = "(angry, speaker s2): same bytes as a (sad, speaker s1)"
    assert detail == f"{same}; trained on and tested in fold one"


def test_a_withheld_label_or_an_unknown_speaker_is_no_other():
    ((_, name, detail),) = copies({"a": ("sad", ""), "b": ("", "s1")}, {"one": "t-"})
    assert (name, detail) == ("copy", "(no label, speaker s1): same bytes as a (sad)")


def test_copies_outside_the_protocol_are_found_and_bad_recordings_are_none():
    rows = [Utterance(name, f"{name}.wav", label="bored") for name in "abc"]
    found = copy_findings(rows, None, {"a": "same", "b": "same"})
    assert [(row.id, row.finding) for row in found] == [("b", "copy")]


@given(st.lists(st.integers(0, 5), max_size=20))
def test_as_many_findings_as_copies_too_many(speech):
    rows = [Utterance(f"{number:02d}", f"{number:02d}.wav") for number in range(len(speech))]
    names = {row.id: str(samples) for row, samples in zip(rows, speech, strict=True)}
    found = copy_findings(rows, None, names)
    assert len(found) == len(speech) - len(set(speech)) == len({row.id for row in found})
