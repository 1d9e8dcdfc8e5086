"""Rules for folds: by hand, as properties, and every refusal."""

import collections
import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from ser_jax.corpora.table import GivenFold, Utterance
from ser_jax.protocols import folds
from ser_jax.protocols.folds import spread
from ser_jax.runtime.errors import UserError


def spoken(*rows: str) -> list[Utterance]:
    """Makes utterances from "speaker label split session" ("_" where empty; the end may be left
    out)."""
    fields = ("speaker", "label", "split", "session")
    cells = [[cell.replace("_", "") for cell in row.split()] for row in rows]
    return [
        Utterance(f"u{n:04}", f"u{n:04}.wav", **dict(zip(fields, row, strict=False)))
        for n, row in enumerate(cells)
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


def test_partners_of_the_test_speaker_are_in_no_part():
    """Speakers a and b in session S1, c and d in S2, e in S3; the next session validates."""
    rows = spoken("b x _ S1", "a x _ S1", "d x _ S2", "c x _ S2", "e x _ S3")
    made, rule = folds.leave_one_out_alone(rows)
    assert [(fold.name, fold.parts) for fold in made] == [
        ("a", "-evvt"),
        ("b", "e-vvt"),
        ("c", "tt-ev"),
        ("d", "tte-v"),
        ("e", "vvtte"),
    ]
    assert "other speakers of the test session are in no part" in rule


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
        groups = [
            {speakers[row] for row in rows} for rows in (fold.test, fold.validation, fold.train)
        ]
        assert groups[0] == {names[number]} and groups[1] == {names[(number + 1) % len(names)]}
        assert groups[2] == set(names) - groups[0] - groups[1]
    tested = collections.Counter(row for fold in made for row in fold.test)
    assert tested == dict.fromkeys(range(len(speakers)), 1), "every utterance is tested once"


@pytest.mark.parametrize(
    ("speakers", "sentence"),
    [
        (["a"], r"has 1 speaker \(a\); leaving one out needs at least 3: one to test, one to v"),
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
    assert collections.Counter(validation) == (
        {"t": 8} if rule == folds.OFFICIAL else {"t": 6, "v": 2}
    )
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
        UserError,
        match=f"labels for the partitions {partitions}; a protocol by split needs train, and",
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
    """15 % of each class, at least one, drawn the same way every time."""
    rows = [f"_ {label}" for label, count in counts.items() for _ in range(count)]
    (fold,), _ = folds.final(spoken(*rows))
    found = collections.Counter(rows[row].split()[1] for row in fold.validation)
    assert found == {label: max(1, round(0.15 * count)) for label, count in counts.items()}
    assert fold.name == "final" and not len(fold.test)
    assert folds.final(spoken(*rows))[0] == (fold,)


def test_stratified_rows_are_pinned():
    """A change here changes the hash of every such protocol."""
    (fold,), _ = folds.final(spoken(*["_ x"] * 20))
    assert fold.validation.tolist() == [6, 8, 19]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("xyz")), min_size=1, max_size=60))
def test_recordings_without_known_speakers_are_kept_whole(spans):
    """Where every class is in several of them; else utterances are drawn, as before there were
    spans, and the folds say so."""
    rows = [Utterance(f"{n}", f"{file}.wav", label=k) for n, (file, k) in enumerate(spans)]
    (fold,), rule = folds.final(rows)
    files = [{rows[row].file for row in part} for part in (fold.train, fold.validation)]
    of_class = collections.defaultdict(set)
    for row in rows:
        of_class[row.label].add(row.file)
    if len({row.file for row in rows}) < len(rows) and min(map(len, of_class.values())) > 1:
        assert rule == folds.STRATIFIED_RECORDINGS
        assert all(files) and not files[0] & files[1]
        assert {rows[row].label for row in fold.train} == set(of_class)
    else:
        alone = [dataclasses.replace(row, file=row.id) for row in rows]
        assert ((fold,), rule) == folds.final(alone) and rule == folds.STRATIFIED


def test_recordings_that_fit_into_the_share_are_drawn_first():
    """Of 40 spans 15 % are 6: the recordings of 30 and 7 do not fit, that of 3 does."""
    files = ["long"] * 30 + ["middle"] * 7 + ["short"] * 3
    rows = [Utterance(f"{n:02}", file, label="x") for n, file in enumerate(files)]
    (fold,), _ = folds.final(rows)
    assert {rows[row].file for row in fold.validation} == {"short"}
    (fold,), _ = folds.final(rows[:37])
    assert {rows[row].file for row in fold.validation} == {"middle"}, "the smallest if none fits"


def test_final_leaves_unlabelled_rows_unused():
    (fold,), _ = folds.final(spoken(*["_ x"] * 7, "_ _"))
    assert collections.Counter(fold.parts) == {"t": 6, "v": 1, "-": 1} and fold.parts[-1] == "-"


def test_final_without_any_label():
    with pytest.raises(UserError, match="none of the 3 utterances has a label"):
        folds.final(spoken(*WITHHELD))


# --- k folds


def test_three_folds_by_hand():
    """One class: a (4) | b (2) | c (1) and d (1); the next fold validates."""
    made, rule = folds.grouped(spoken(*"aaaabbcd"), "speaker", 3)
    assert [(fold.name, fold.parts) for fold in made] == [
        ("1of3", "eeeevvtt"),
        ("2of3", "tttteevv"),
        ("3of3", "vvvvttee"),
    ]
    assert (
        rule == "the fold after the test fold, cyclic; all utterances of a speaker are in one fold"
    )


def test_sessions_are_kept_together_just_so():
    made, rule = folds.grouped(spoken("a x _ S1", "b x _ S2", "a x _ S3", "c x _ S1"), "session", 3)
    assert [fold.parts for fold in made] == ["evte", "tevt", "vtev"] and "session" in rule


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), min_size=1, max_size=60
    ),
    st.integers(3, 9),
)
def test_every_group_is_in_one_test_fold(rows, k):
    utterances = [
        Utterance(f"{n}", "", speaker=speaker, label=label)
        for n, (speaker, label) in enumerate(rows)
    ]
    names = [speaker for speaker, _ in rows]
    if len(set(names)) < k:
        with pytest.raises(UserError, match=f"has {len(set(names))} speakers for {k} folds, and e"):
            folds.grouped(utterances, "speaker", k)
        return
    made, _ = folds.grouped(utterances, "speaker", k)
    assert [fold.name for fold in made] == [f"{n}of{k}" for n in range(1, k + 1)]
    tested = [{names[row] for row in fold.test} for fold in made]
    assert all(tested) and sum(map(len, tested)) == len(set(names)), "each group once"
    for number, fold in enumerate(made):
        after = tested[(number + 1) % k]
        assert {names[row] for row in fold.validation} == after
        assert {names[row] for row in fold.train} == set(names) - tested[number] - after


@pytest.mark.parametrize(
    ("speakers", "k", "sentence"),
    [
        ("abc", 2, r"2 folds leave nothing to train on: choose at least 3 \(test, validate, train"),
        ("abab", 3, "has 2 speakers for 3 folds, and every fold needs one; .* at most 2 folds"),
        ("abc_", 3, "1 of 4 utterances have no speaker"),
    ],
)
def test_k_folds_that_cannot_be_made(speakers, k, sentence):
    with pytest.raises(UserError, match=sentence):
        folds.grouped(spoken(*speakers), "speaker", k)


# --- The epoch count of another fold


@pytest.mark.parametrize(
    ("test", "letters"), [(TEST, "ee"), (WITHHELD, "eee"), (TEST[:1] + WITHHELD, "eeee")]
)
def test_official_partitions(test, letters):
    """Train → devel chooses the epoch; then train and devel → test, labelled or not."""
    (devel, tested), rule = folds.official(spoken(*TRAIN, *DEVEL, *test))
    names = [(fold.name, fold.epochs_from) for fold in (devel, tested)]
    assert names == [("devel", ""), ("test", "devel")]
    assert devel.parts == folds.given_split(spoken(*TRAIN, *DEVEL, *test), "devel")[0][0].parts
    assert tested.parts == "t" * 10 + letters
    assert rule == f"fold devel: {folds.STRATIFIED}; fold test: none"
    assert (
        folds.refit_rule((devel, tested))
        == "fold test trains for as many epochs as fold devel with the same seed had at its best"
    )


def test_rows_without_a_label_train_nothing_officially():
    (_, tested), _ = folds.official(spoken(*TRAIN, "_ _ train", *DEVEL, "_ _ devel", *TEST))
    assert tested.parts == "tttttttt-tt-ee"


def test_folds_that_choose_their_own_epoch_are_not_refitted():
    made, _ = folds.leave_one_out(spoken(*"abc"), "speaker")
    assert folds.refit_rule(made) == "none"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (TRAIN + DEVEL, "no test partition, which the official protocol tests on"),
        (TRAIN + TEST, r"labels for the partitions \['train', 'test'\]"),
        (DEVEL + TEST, r"labels for the partitions \['devel', 'test'\]"),
        ([*TRAIN, *DEVEL, *TEST, "a x _"], "1 of 13 utterances have no split"),
    ],
)
def test_partitions_that_make_no_official_protocol(rows, sentence):
    with pytest.raises(UserError, match=sentence):
        folds.official(spoken(*rows))


# --- Published folds


def given_fold(name: str, letters: str) -> GivenFold:
    """Makes a fold of u0000… from letters: t(rain), v(alidation), (t)e(st), - (not in it)."""
    words = {"t": "train", "v": "devel", "e": "test"}
    splits = {f"u{n:04}": words[part] for n, part in enumerate(letters) if part in words}
    return GivenFold(name, splits)


def test_published_folds_by_hand():
    expected = [("fold_1", "ttvee-"), ("fold_2", "eetttv")]
    made, rule = folds.published(spoken(*["_ x"] * 6), [given_fold(*fold) for fold in expected])
    assert [(fold.name, fold.parts) for fold in made] == expected
    assert rule == "the published validation list"


def test_without_a_validation_list_a_share_of_the_training_list_validates():
    """Whole speakers where they are known: every third of three, so the first."""
    rows = spoken(*(f"{speaker} {label}" for speaker in "bacd" for label in "xy"))
    (first, second), rule = folds.published(
        rows, [given_fold("one", "ttttttee"), given_fold("two", "teevttet")]
    )
    assert (first.parts, second.parts) == ("ttvvttee", "teevttet")
    assert rule == f"{folds.HELD_OUT_GROUPS.format(step=3, group='speaker')}; {folds.PUBLISHED}"


@pytest.mark.parametrize("letters", ["ttt-", "-vee", "----"])
def test_a_published_fold_needs_both_lists(letters):
    with pytest.raises(
        UserError, match="fold_7: no utterance of its train list, or none of its test list"
    ):
        folds.published(spoken(*["_ x"] * 4), [given_fold("fold_7", letters)])


def imbalance(fold_of_row: np.ndarray, labels: np.ndarray, folds: int) -> float:
    """Sums over classes how far the folds' shares of the class are from equal ones (squared)."""
    shares = [
        [np.mean(fold_of_row[labels == name] == fold) for fold in range(folds)]
        for name in np.unique(labels)
    ]
    return float(np.sum((np.array(shares) - 1 / folds) ** 2))


def random_table(seed: int) -> tuple[list[str], np.ndarray, int]:
    """Draws groups of 1 to 60 utterances and their classes; returns groups, labels and k."""
    rng = np.random.default_rng(seed)
    names, classes = int(rng.integers(3, 40)), int(rng.integers(2, 8))
    groups, labels = [], []
    for number in range(names):
        shares = rng.dirichlet(np.full(classes, rng.choice([0.3, 1.0, 5.0])))
        size = int(rng.integers(1, 60))
        groups += [f"g{number:02}"] * size
        labels += rng.choice(classes, size, p=shares).tolist()
    return groups, np.array(labels), int(rng.integers(3, min(names, 10) + 1))


def test_by_hand():
    """b has all of y and goes first, then a with half of x; c and d go where less of x is."""
    groups = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"] * 2
    labels = ["x"] * 4 + ["y"] * 3 + ["x"] * 2 + ["x"] * 2
    assert spread(groups, labels, 2) == {"b": 0, "a": 1, "c": 0, "d": 0}


def test_equal_groups_are_dealt_in_sorted_order():
    assert spread(list("fbdaec"), ["x"] * 6, 3) == {"a": 0, "b": 1, "c": 2, "d": 0, "e": 1, "f": 2}


def test_the_order_of_rows_does_not_matter():
    groups, labels, folds = random_table(3)
    order = np.random.default_rng(0).permutation(len(groups))
    shuffled = spread([groups[row] for row in order], labels[order].tolist(), folds)
    assert shuffled == spread(groups, labels.tolist(), folds)


def test_balance_is_on_average_no_worse_than_that_of_scikit_learn():
    ours, theirs = [], []
    for seed in range(40):
        groups, labels, folds = random_table(seed)
        chosen = spread(groups, labels.tolist(), folds)
        ours.append(imbalance(np.array([chosen[name] for name in groups]), labels, folds))
        place = np.zeros(len(groups), int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It says that small classes are smaller than k.
            splits = StratifiedGroupKFold(folds).split(groups, labels, groups)
            for number, (_, test) in enumerate(splits):
                place[test] = number
        theirs.append(imbalance(place, labels, folds))
    assert np.mean(ours) <= np.mean(theirs)
