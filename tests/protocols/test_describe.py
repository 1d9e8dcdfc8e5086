"""The page about a protocol: by hand, its width, its figures against an independent count, overlaps."""

import collections
import dataclasses

import pytest

from ser_jax.protocols.describe import WIDTH, describe, overlaps
from ser_jax.protocols.protocol import Fold, Protocol

TINY = Protocol(
    name="tiny",
    corpus="manifest",
    classes=("angry", "sad"),
    label_mapping={"W": "angry", "sad": "sad"},
    ids=("a/1", "a/2", "b/1", "b/2", "c/1"),
    labels=("angry", "sad", "angry", "sad", ""),
    speakers=("a", "a", "b", "b", "c"),
    folds=(Fold("dev", "tvee-"), Fold("test", "tttte", epochs_from="dev")),
    validation_rule="the next one",
    refit_rule="fold test trains for as many epochs as fold dev",
)


def test_by_hand():
    page = describe(TINY, root="/data", counts={"angry": (2, 2), "sad": (2, 3), "test": (1, 9)}, notes=["look out"])
    assert (
        page
        == f"""\
tiny
  sha256      {TINY.sha256}
  corpus      manifest at /data
  size        5 utterances, 3 speakers, 2 folds
  metrics     wa, ua
  labels      W → angry, others as they are
  validation  the next one
  refit       fold test trains for as many epochs as fold dev

  class       found  expected
  angry           2         2
  sad             2         3  differs
  (no label)      1
  test            1         9  differs

  in both parts  train + validation  train + test  validation + test
  utterances     none                none          none
  speakers       1 in dev            none          none

  fold  part        utterances  angry  sad  speakers
  dev   train                1      1    0         1
        validation           1      0    1         1
        test                 2      1    1         1
  test  train                4      2    2         2
        validation           0      0    0         0
        test                 1      0    0         1

  note: look out"""
    )


def test_unknown_speakers_are_said_to_be_unknown():
    page = describe(dataclasses.replace(TINY, speakers=("", "", "b", "b", "")), root="/", counts={})
    assert "  of 3 utterances the speaker is unknown\n" in page
    assert "5 utterances, 1 speakers" in page and "  dev   train                1      1    0         ?" in page
    nobody = describe(dataclasses.replace(TINY, speakers=("",) * 5), root="/", counts={})
    assert "5 utterances, unknown speakers" in nobody


def test_what_is_in_two_parts_of_a_fold():
    fold = Fold("f", "ttveev")
    found = overlaps(fold, ["a", "b", "b", "a", "", "c"])
    assert found == {("train", "validation"): {"b"}, ("train", "test"): {"a"}, ("validation", "test"): set()}


def test_an_utterance_that_is_listed_twice_is_found():
    twice = dataclasses.replace(TINY, ids=("a/1", "a/2", "a/1", "b/2", "c/1"))
    assert "  utterances     none                1 in dev      none" in describe(twice, root="/", counts={})


def many(folds: int, classes: int, name: str = "speaker {:03}") -> Protocol:
    """One speaker per fold, who says every class as often as its number is."""
    names = [name.format(number) for number in range(folds)]
    labels = [f"class {k:02} of a long name" for k in range(classes)]
    rows = [(who, label) for who in names for k, label in enumerate(labels) for _ in range(k + 1)]
    letters = [
        "".join("e" if who == test else "v" if who == names[n - 1] else "t" for who, _ in rows)
        for n, test in enumerate(names)
    ]
    return Protocol(
        name="many",
        corpus="manifest",
        classes=tuple(labels),
        label_mapping={label: label for label in labels},
        ids=tuple(f"{n:06}" for n in range(len(rows))),
        labels=tuple(label for _, label in rows),
        speakers=tuple(who for who, _ in rows),
        folds=tuple(Fold(who, parts) for who, parts in zip(names, letters, strict=True)),
        validation_rule="a rule of many words " * 12,
    )


@pytest.mark.parametrize("folds", [3, 19, 20, 60])
@pytest.mark.parametrize("classes", [2, 7, 12])
def test_the_page_is_never_too_wide(folds, classes):
    name = "one of the speakers with a name that is far too long for any table, number {:03}"
    page = describe(many(folds, classes, name), root="/data", counts={}, notes=["word " * 60])
    assert max(map(len, page.splitlines())) <= WIDTH
    assert f"number {folds - 1:03}" in page, "long names keep the end that tells them apart"


def test_few_folds_have_a_line_per_part_and_many_a_line_per_fold():
    assert len(describe(many(19, 2), root="/", counts={}).splitlines()) > 3 * 19
    lines = describe(many(40, 2), root="/", counts={}).splitlines()
    assert len(lines) < 40 + 30
    assert sum(line.startswith("  speaker 0") for line in lines) == 40


@pytest.mark.parametrize("folds", [5, 25])
def test_figures_equal_an_independent_count(folds):
    protocol = many(folds, 3)
    lines = describe(protocol, root="/", counts={}).splitlines()
    test = collections.Counter(
        protocol.labels[row] for row in range(len(protocol.labels)) if protocol.folds[2].parts[row] == "e"
    )
    expected = [str(test[name]) for name in protocol.classes]
    if folds < 20:
        start = next(n for n, line in enumerate(lines) if line.startswith("  speaker 002"))
        assert lines[start + 2].split() == ["test", "6", *expected, "1"]
        assert lines[start].split()[2:] == [
            "train",
            str(6 * (folds - 2)),
            *(str((k + 1) * (folds - 2)) for k in range(3)),
            str(folds - 2),
        ]
    else:
        (line,) = (line for line in lines if line.startswith("  speaker 002"))
        assert line.split()[2:] == [str(6 * (folds - 2)), "6", "6", f"{folds - 2}/1/1", *expected]
        (most,) = (line for line in lines if line.startswith("  train, most"))
        assert most.split()[2:] == [str((k + 1) * (folds - 2)) for k in range(3)]
