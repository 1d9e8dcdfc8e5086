"""Fold rules: by hand, no shared speaker between test and the rest, and every refusal with its sentence."""

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.corpora.table import Utterance
from ser_jax.errors import UserError
from ser_jax.protocols import folds


def spoken(*rows: str) -> list[Utterance]:
    """Makes utterances from "speaker label split session" ("_" where empty; the end may be left out)."""
    fields = ("speaker", "label", "split", "session")
    cells = [[cell.replace("_", "") for cell in row.split()] for row in rows]
    return [
        Utterance(f"u{n:04}", f"u{n:04}.wav", **dict(zip(fields, row, strict=False))) for n, row in enumerate(cells)
    ]


def test_leave_one_speaker_out_by_hand():
    """Validation is the next speaker after the tested one; after the last comes the first."""
    made, rule = folds.leave_one_out(spoken("b", "a", "d", "c", "a"), "speaker")
    assert [(fold.name, fold.parts) for fold in made] == [
        ("a", "vette"),
        ("b", "ettvt"),
        ("c", "ttvet"),
        ("d", "tvetv"),
    ]
    assert rule == "the speaker after the test speaker in sorted order, cyclic"


def test_leave_one_session_out_by_hand():
    made, rule = folds.leave_one_out(spoken("x _ _ S2", "y _ _ S1", "x _ _ S3", "z _ _ S2"), "session")
    assert [(fold.name, fold.parts) for fold in made] == [("S1", "vetv"), ("S2", "etve"), ("S3", "tvet")]
    assert rule == "the session after the test session in sorted order, cyclic"


def test_rows_of_a_part():
    (fold, *_), _ = folds.leave_one_out(spoken("b", "a", "d", "c", "a"), "speaker")
    assert fold.test.tolist() == [1, 4] and fold.validation.tolist() == [0] and fold.train.tolist() == [2, 3]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["ä", "B", "a", "10", "9", "Ses01F"]), min_size=1, max_size=30))
def test_no_speaker_is_on_both_sides(speakers):
    utterances = [Utterance(f"{n}", "", speaker=speaker) for n, speaker in enumerate(speakers)]
    names = sorted(set(speakers))
    if len(names) < 3:
        with pytest.raises(UserError):
            folds.leave_one_out(utterances, "speaker")
        return
    made, _ = folds.leave_one_out(utterances, "speaker")
    assert [fold.name for fold in made] == names
    for number, fold in enumerate(made):
        groups = [{speakers[row] for row in rows} for rows in (fold.test, fold.validation, fold.train)]
        assert groups[0] == {names[number]} and groups[1] == {names[(number + 1) % len(names)]}
        assert groups[2] == set(names) - groups[0] - groups[1]
    tested = collections.Counter(row for fold in made for row in fold.test)
    assert tested == dict.fromkeys(range(len(speakers)), 1), "every utterance is tested once"


@pytest.mark.parametrize(
    ("speakers", "sentence"),
    [
        (
            ["a"],
            r"has 1 speaker \(a\); leaving one out needs at least 3: one to test, one to validate, one to train on",
        ),
        (["a", "b", "a"], r"has 2 speakers \(a, b\); leaving one out needs at least 3"),
        (["a", "_", "b", "c", "_"], r"2 of 5 utterances have no speaker"),
    ],
)
def test_groups_that_make_no_folds(speakers, sentence):
    with pytest.raises(UserError, match=sentence):
        folds.leave_one_out(spoken(*speakers), "speaker")


# Utterances of each partition: label of the row; a withheld one is "_".
TRAIN = [f"_ {label} train" for label in ("x", "y") * 4]
DEVEL = ["_ x devel", "_ y devel"]
TEST = ["_ x test", "_ y test"]
WITHHELD = ["_ _ test"] * 3


@pytest.mark.parametrize(
    ("rows", "name", "after_train", "rule"),
    [
        (TRAIN + DEVEL + TEST, "test", "vvee", folds.OFFICIAL),
        (TRAIN + DEVEL, "devel", "ee", folds.STRATIFIED),
        (TRAIN + TEST, "test", "ee", folds.STRATIFIED),
        (TRAIN + DEVEL + WITHHELD, "devel", "ee---", folds.STRATIFIED),
        (TRAIN + DEVEL + TEST[:1] + WITHHELD, "test", "vve---", folds.OFFICIAL),
    ],
    ids=["all", "no test", "no devel", "withheld", "withheld in part"],
)
def test_given_split(rows, name, after_train, rule):
    (fold,), found = folds.given_split(spoken(*rows))
    assert (fold.name, fold.parts[len(TRAIN) :], found) == (name, after_train, rule)
    validation = fold.parts[: len(TRAIN)]
    assert collections.Counter(validation) == ({"t": 8} if rule == folds.OFFICIAL else {"t": 6, "v": 2})
    if rule == folds.STRATIFIED:
        assert {TRAIN[row] for row in range(8) if validation[row] == "v"} == set(TRAIN)


def test_devel_can_be_asked_for():
    (fold,), rule = folds.given_split(spoken(*TRAIN, *DEVEL, *TEST), tested="devel")
    assert (fold.name, fold.parts[8:], rule) == ("devel", "ee--", folds.STRATIFIED)


def test_training_rows_without_a_label_are_unused():
    (fold,), _ = folds.given_split(spoken(*TRAIN, "_ _ train", *DEVEL, "_ _ devel", *TEST))
    assert fold.parts == "tttttttt-vv-ee"


@pytest.mark.parametrize(
    ("rows", "tested", "partitions"),
    [
        (DEVEL + TEST, "", r"\['devel', 'test'\]"),
        (TRAIN, "", r"\['train'\]"),
        (TRAIN + WITHHELD, "", r"\['train'\]"),
        (TRAIN + TEST, "devel", r"\['train', 'test'\]"),
        (["_ _ train", *DEVEL], "", r"\['devel'\]"),
    ],
)
def test_partitions_that_make_no_protocol(rows, tested, partitions):
    with pytest.raises(
        UserError, match=f"labels for the partitions {partitions}; a protocol by split needs train, and"
    ):
        folds.given_split(spoken(*rows), tested)


def test_rows_in_no_partition_are_not_silently_unused():
    with pytest.raises(UserError, match="1 of 11 utterances have no split"):
        folds.given_split(spoken(*TRAIN, *TEST, "a x _"))


def test_validation_is_whole_speakers_where_they_are_known():
    """Every third of three speakers, so the first; the test part has no say."""
    rows = [f"{speaker} {label} train" for speaker in "bac" for label in "xy"]
    (fold,), rule = folds.given_split(spoken(*rows, "d x test"))
    assert fold.parts == "ttvvtte"
    assert rule.endswith("speaker in sorted order, starting with the first")


@pytest.mark.parametrize(("speakers", "held_out"), [(3, 1), (7, 1), (10, 2), (14, 2), (100, 15)])
def test_about_fifteen_percent_of_the_speakers_validate(speakers, held_out):
    rows = [f"s{number:03} {label}" for number in range(speakers) for label in "xy"]
    (fold,), _ = folds.final(spoken(*rows))
    validation = {rows[row].split()[0] for row in fold.validation}
    assert len(validation) == held_out and "s000" in validation
    assert not validation & {rows[row].split()[0] for row in fold.train}


@pytest.mark.parametrize("speakers", [["a", "b"], ["a", "b", "c", "_"]], ids=["two", "one unknown"])
def test_stratified_where_speakers_are_few_or_unknown(speakers):
    rows = [f"{speaker} {label}" for speaker in speakers for label in "xxxy"]
    (fold,), rule = folds.final(spoken(*rows))
    assert rule == folds.STRATIFIED
    assert collections.Counter(rows[row].split()[1] for row in fold.validation) == {
        "x": round(0.15 * 3 * len(speakers)) or 1,
        "y": 1,
    }


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from("wxyz"), st.integers(1, 90), min_size=1))
def test_stratified_share(counts):
    """15 % of each class, at least one, drawn the same way every time and not just the first ones."""
    rows = [f"_ {label}" for label, count in counts.items() for _ in range(count)]
    (fold,), _ = folds.final(spoken(*rows))
    found = collections.Counter(rows[row].split()[1] for row in fold.validation)
    assert found == {label: max(1, round(0.15 * count)) for label, count in counts.items()}
    assert fold.name == "final" and not len(fold.test)
    assert folds.final(spoken(*rows))[0] == (fold,)


def test_stratified_rows_are_pinned():
    """A change here changes the hash of every such protocol: old run directories become other protocols."""
    (fold,), _ = folds.final(spoken(*["_ x"] * 20))
    assert fold.validation.tolist() == [6, 8, 19]


def test_final_leaves_unlabelled_rows_unused():
    (fold,), _ = folds.final(spoken(*["_ x"] * 7, "_ _"))
    assert collections.Counter(fold.parts) == {"t": 6, "v": 1, "-": 1} and fold.parts[-1] == "-"


def test_final_without_any_label():
    with pytest.raises(UserError, match="none of the 3 utterances has a label"):
        folds.final(spoken(*WITHHELD))
