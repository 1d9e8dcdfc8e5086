"""Named protocols: hashes, counts, modified releases, refusals, folds of the real IEMOCAP."""

import collections
import csv
import dataclasses
import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from ser_jax.corpora import emotass as emotass_reader
from ser_jax.corpora import iemocap, meld, msp_podcast
from ser_jax.corpora.labels import LEFT_OUT, relabel
from ser_jax.corpora.named_releases import RELEASES
from ser_jax.corpora.registry import READERS
from ser_jax.corpora.table import CANONICAL_CLASSES, Corpus, GivenFold, Utterance
from ser_jax.protocols import named
from ser_jax.runtime.errors import UserError


def corpus_of(name, utterances, protocol="", **fields) -> Corpus:
    mapping = {label: label for label in sorted({row.label for row in utterances} - {""})}
    rows = tuple(sorted(utterances, key=lambda utterance: utterance.id))
    return Corpus(name, Path("/corpus"), rows, protocol or f"{name}-speaker", mapping, **fields)


def spoken(counts, corpus="demo", speakers=("s1", "s2", "s3")) -> Corpus:
    """A corpus in which every speaker says so many utterances of each label."""
    rows = [
        Utterance(f"{who}/{label}{n}", "", label=label, speaker=who, session=who.upper())
        for who in speakers
        for label, count in counts.items()
        for n in range(count)
    ]
    return corpus_of(corpus, rows)


def build(corpus, name="auto", lost=()):
    """Goes the whole way, as the program does; returns the protocol and the warnings."""
    name, spec = named.find_spec(name, corpus)
    chosen = named.select(spec, corpus)
    usable = [utterance for utterance in chosen.utterances if utterance.id not in lost]
    return named.build_protocol(name, spec, chosen, usable)


def sizes(protocol):
    return {
        fold.name: (len(fold.train), len(fold.validation), len(fold.test))
        for fold in protocol.folds
    }


DEMO = spoken(dict.fromkeys(CANONICAL_CLASSES, 2))


def test_by_hand():
    protocol, warnings = build(DEMO)
    assert (protocol.name, protocol.corpus, warnings) == ("demo-speaker", "demo", ())
    assert protocol.classes == CANONICAL_CLASSES
    assert list(protocol.ids) == sorted(row.id for row in DEMO.utterances)
    assert protocol.labels[:3] == ("angry", "angry", "happy")
    assert protocol.speakers[7:9] == ("s1", "s2") and len(protocol.ids) == 24
    assert [(fold.name, fold.parts) for fold in protocol.folds] == [
        ("s1", "e" * 8 + "v" * 8 + "t" * 8),
        ("s2", "t" * 8 + "e" * 8 + "v" * 8),
        ("s3", "v" * 8 + "t" * 8 + "e" * 8),
    ]
    assert protocol.validation_rule == "the speaker after the test speaker in sorted order, cyclic"


@pytest.mark.parametrize(
    "name", ["demo_speaker", "", "emodb4-speaker10", "iemocap-final", "demo-speaker+modified"]
)
def test_a_name_that_is_not_one_of_the_corpus_lists_those_that_are(name):
    with pytest.raises(UserError) as error:
        named.find_spec(name, DEMO)
    fault = f"protocol.name={name!r} is not a protocol of corpus.name='demo'"
    assert str(error.value).startswith(f"{fault}; ")
    assert str(error.value).endswith("choose one of demo-final, demo-speaker")
    assert name != "demo_speaker" or "; did you mean demo-speaker? " in str(error.value)


def test_labels_of_other_classes_are_left_out():
    corpus = spoken({**dict.fromkeys(CANONICAL_CLASSES, 1), "bored": 3})
    protocol, warnings = build(corpus)
    assert "bored" not in {*protocol.labels, *protocol.label_mapping} and len(protocol.ids) == 12
    assert protocol.name == "demo-speaker" and not warnings


def test_no_utterance_of_the_protocol():
    with pytest.raises(
        UserError,
        match=r"corpus.root=/corpus holds no utterance of the protocol: 3 utterances .*bored",
    ):
        build(spoken({"bored": 1}))


def test_a_manifest_brings_its_own_classes():
    protocol, _ = build(spoken({"bored": 2, "alert": 1}, "manifest"))
    assert protocol.classes == ("alert", "bored")
    assert protocol.label_mapping == {"alert": "alert", "bored": "bored"}
    by_session, _ = build(spoken({"bored": 2, "alert": 1}, "manifest"), "manifest-session")
    assert [fold.name for fold in by_session.folds] == ["S1", "S2", "S3"]


@pytest.mark.parametrize("corpus", ["manifest", "audformat"])
@pytest.mark.parametrize(("group", "k"), [("speaker", 3), ("session", 3), ("speaker", 4)])
def test_k_folds_of_a_corpus_without_its_own(corpus, group, k):
    rows = spoken({"bored": 2, "alert": 1}, corpus, [f"s{n}" for n in range(4)])
    protocol, warnings = build(rows, f"{corpus}-{group}-{k}fold")
    assert protocol.name == f"{corpus}-{group}-{k}fold" and not warnings
    assert [fold.name for fold in protocol.folds] == [f"{n}of{k}" for n in range(1, k + 1)]
    assert sum(len(fold.test) for fold in protocol.folds) == len(rows.utterances) == 12
    hashes = [build(rows, f"{corpus}-speaker-{k}fold")[0].sha256 for k in (3, 4)]
    assert hashes[0] != hashes[1]


def test_which_names_mean_k_folds():
    numbers = (0, 1, 2, 3, 9, 10, 99, 100, 101, 1000)
    known = [k for k in numbers if named.k_fold_spec(f"manifest-speaker-{k}fold")]
    assert known == [2, 3, 9, 10, 99, 100]
    others = ["manifest-speaker-05fold", "manifest-speaker-\u0665fold", "manifest-split-5fold"]
    others += ["manifest-speaker-5", "demo-speaker-5fold", "emodb-speaker-5fold"]
    assert named.k_fold_spec("ravdess4-text-2fold") and named.k_fold_spec("shemo-speaker-10fold")
    assert [name for name in others if named.k_fold_spec(name)] == []


def test_k_folds_of_another_corpus_are_refused():
    corpus = spoken({"bored": 2, "alert": 1}, "manifest")
    with pytest.raises(UserError) as error:
        build(corpus, "audformat-speaker-5fold")
    assert str(error.value).endswith(
        "; choose one of manifest-final,"
        " manifest-session, manifest-speaker, manifest-speaker-text, manifest-split, manifest-text,"
        " manifest-session-<k>fold, manifest-speaker-<k>fold, manifest-text-<k>fold"
    )


def test_one_label_makes_no_classifier():
    with pytest.raises(UserError, match="has the one label bored; a classifier needs at least 2"):
        build(spoken({"bored": 5}, "manifest"))


def test_final_tests_nothing():
    protocol, warnings = build(DEMO, "demo-final")
    assert sizes(protocol) == {"final": (16, 8, 0)} and not warnings


def test_a_class_that_training_lacks_is_an_error():
    """sad is said by one speaker only: the fold that tests or validates on it cannot learn it."""
    rows = [row for row in DEMO.utterances if row.label != "sad" or row.speaker == "s2"]
    with pytest.raises(
        UserError,
        match=r"^fold s1 of demo-speaker \(and 1 more\): the training part has no example"
        " of sad: sad has 2 utterances of s2; add recordings or choose another protocol",
    ):
        build(dataclasses.replace(DEMO, utterances=tuple(rows)))


def test_a_class_that_validation_lacks_is_a_warning():
    corpus = spoken(dict.fromkeys(CANONICAL_CLASSES, 1), speakers=("s1", "s2", "s3", "s4"))
    rows = [
        row for row in corpus.utterances if row.speaker != "s2" or row.label not in ("sad", "happy")
    ]
    protocol, warnings = build(dataclasses.replace(corpus, utterances=tuple(rows)))
    assert warnings == ("fold s1: the validation part has no example of happy, sad",)
    assert protocol.name == "demo-speaker"


def test_the_default_is_grouped_where_single_speakers_lack_classes():
    """Of twelve speakers each lacks a class; of a pair of them in a fold, none is lacking."""

    def lacking(speakers: int) -> Corpus:
        corpus = spoken(dict.fromkeys("xyz", 1), "manifest", [f"s{n:02}" for n in range(speakers)])
        rows = [r for r in corpus.utterances if int(r.speaker[1:]) % 3 != "xyz".index(r.label)]
        return corpus_of("manifest", rows)

    protocol, warnings = build(lacking(12))
    assert protocol.name == "manifest-speaker-5fold" and not warnings
    assert build(lacking(30))[0].name == "manifest-speaker-10fold"
    complete = spoken(dict.fromkeys("xyz", 1), "manifest", "abcdefghijkl")
    assert build(complete)[0].name == "manifest-speaker"
    # Four folds of four speakers would be no better than leaving one out.
    few = [row for row in complete.utterances if row.speaker in "abcd" and row.id != "b/x0"]
    protocol, warnings = build(corpus_of("manifest", few))
    assert protocol.name == "manifest-speaker"
    assert warnings == ("fold a: the validation part has no example of x",)


def test_a_label_map_is_part_of_the_hash():
    corpus = spoken(dict.fromkeys("xyz", 2), "manifest")
    plain, kept, merged, dropped = (
        build(relabel(corpus, labels))[0]
        for labels in ({}, {"x": "x"}, {"y": "x"}, {"z": LEFT_OUT})
    )
    assert kept.sha256 == plain.sha256
    assert len({plain.sha256, merged.sha256, dropped.sha256}) == 3
    assert merged.label_mapping == {"x": "x", "y": "x", "z": "z"} and len(merged.ids) == 18
    assert dropped.label_mapping == {"x": "x", "y": "y", "z": "-"} and len(dropped.ids) == 12


def test_speakers_on_both_sides_are_a_warning():
    """Sessions do not separate speakers here; a warning is about all folds and names three."""
    rows = [
        Utterance(f"{session}{speaker}{label}", "", label=label, speaker=speaker, session=session)
        for session in ("S1", "S2", "S3")
        for speaker in ("a", "b", "c", "d", "e", "f" if session == "S1" else "g")
        for label in ("x", "y")
    ]
    _, warnings = build(corpus_of("manifest", rows), "manifest-session")
    assert warnings == (
        "3 of 3 folds: 6 speakers are in the test part and elsewhere (a, b, c, …): scores are"
        " optimistic",
        "3 of 3 folds: 6 speakers are in the validation part and in training (a, b, c, …):"
        f" {CHOICE}",
    )


def test_unknown_speakers_are_not_one_speaker():
    rows = [
        Utterance(f"{split}{label}{n}", "", label=label, split=split)
        for split in ("train", "devel", "test")
        for label in "xy"
        for n in range(2)
    ]
    (warning,) = build(corpus_of("manifest", rows), "manifest-split")[1]
    assert warning.startswith("the speaker of 12 of 12 utterances is unknown: ")


# --- Modified releases

EMODB_COUNTS = {"angry": 127, "happy": 71, "neutral": 79, "sad": 62}


def emodb(counts) -> Corpus:
    rows = [
        Utterance(f"wav/{label}{n:03}", "", label=label, speaker=f"{n % 10:02}")
        for label, count in counts.items()
        for n in range(count)
    ]
    return corpus_of("emodb", rows, "emodb4-speaker10")


def test_the_counts_of_a_release_are_known():
    protocol, warnings = build(emodb(EMODB_COUNTS))
    assert protocol.name == "emodb4-speaker10" and not warnings and len(protocol.folds) == 10


SEVEN = {**EMODB_COUNTS, "boredom": 81, "disgust": 46, "fear": 69}


def test_all_seven_emotions_of_emodb():
    protocol, warnings = build(emodb(SEVEN), "emodb7-speaker10")
    assert protocol.name == "emodb7-speaker10" and not warnings and len(protocol.folds) == 10
    assert protocol.classes == tuple(sorted(SEVEN)) and len(protocol.ids) == 535
    assert collections.Counter(protocol.labels) == SEVEN
    four, warnings = build(emodb(SEVEN))
    assert four.name == "emodb4-speaker10" and not warnings
    assert four.sha256 == build(emodb(EMODB_COUNTS))[0].sha256, "the other three have no say"


def test_a_class_that_no_recording_has_is_an_error_that_names_those_found():
    with pytest.raises(UserError) as error:
        build(emodb(EMODB_COUNTS), "emodb7-speaker10")
    assert (
        str(error.value)
        == "corpus.root=/corpus has no recording of boredom, disgust, fear, which the protocol"
        " needs; found: angry 127, happy 71, neutral 79, sad 62; complete the release or choose"
        " one of emodb-final, emodb4-speaker-text, emodb4-speaker10, emodb4-text,"
        " emodb4-v2-speaker10"
    )
    with pytest.raises(UserError, match="no recording of neutral, sad, .*; complete the release$"):
        build(emodb({"angry": 3, "happy": 3}))


def test_other_counts_make_a_modified_protocol():
    protocol, warnings = build(emodb({**EMODB_COUNTS, "happy": 70, "sad": 63}))
    assert protocol.name == "emodb4-speaker10+modified"
    assert warnings == (
        "counts differ from emodb4-speaker10: happy: 70 instead of 71; sad: 63 instead of 62",
    )
    assert protocol.sha256 != build(emodb(EMODB_COUNTS))[0].sha256


def test_lost_utterances_make_a_modified_protocol():
    whole, _ = build(DEMO)
    protocol, warnings = build(DEMO, lost={"s1/angry0", "s2/sad1"})
    assert protocol.name == "demo-speaker+modified"
    assert warnings == (
        "2 of 24 listed utterances cannot be used and are left out of demo-speaker",
    )
    assert len(protocol.ids) == 22 and "s1/angry0" not in protocol.ids
    assert protocol.sha256 != whole.sha256
    assert [len(fold.parts) for fold in protocol.folds] == [22] * 3


def test_missing_recordings_make_a_modified_protocol():
    protocol, _ = build(dataclasses.replace(DEMO, modified=True))
    assert protocol.name == "demo-speaker+modified"


def test_the_hash_depends_on_the_table_alone():
    """Neither the folder, nor the files, nor the order in which a reader found the rows."""
    protocol, _ = build(DEMO)
    moved = [
        dataclasses.replace(row, file="elsewhere.flac", start=1.0)
        for row in reversed(DEMO.utterances)
    ]
    other = dataclasses.replace(corpus_of("demo", moved), root=Path("/mnt/other"), warnings=("x",))
    assert build(other)[0].sha256 == protocol.sha256
    for change in ({"label": "sad"}, {"speaker": "s2"}):
        rows = [*moved[:-1], dataclasses.replace(moved[-1], **change)]
        assert build(corpus_of("demo", rows))[0].sha256 != protocol.sha256


# --- EmotAsS

EMOTASS_COUNTS = {
    "train": {"angry": 126, "happy": 718, "neutral": 2197, "sad": 301},
    "devel": {"angry": 157, "happy": 581, "neutral": 3107, "sad": 341},
    "test": {"": 3099},
}


def emotass(counts) -> Corpus:
    rows = [
        Utterance(f"wav/{split}_{label}{n:04}", "", label=label, split=split)
        for split, labels in counts.items()
        for label, count in labels.items()
        for n in range(count)
    ]
    return corpus_of("emotass", rows, "emotass-devel")


UNKNOWN = (
    "the speaker of 7528 of 7528 utterances is unknown: training, validation and test part may"
    " share speakers",
)


def test_emotass():
    protocol, warnings = build(emotass(EMOTASS_COUNTS))
    assert protocol.name == "emotass-devel" and warnings == UNKNOWN
    (fold,) = protocol.folds
    assert fold.name == "devel" and len(fold.test) == 4186 and len(protocol.ids) == 3342 + 4186
    validation = collections.Counter(protocol.labels[row] for row in fold.validation)
    assert validation == {"angry": 19, "happy": 108, "neutral": 330, "sad": 45}
    assert len(fold.train) == 3342 - 502
    final, _ = build(emotass(EMOTASS_COUNTS), "emotass-final")
    assert final.folds[0].parts.count("-") == 3099, "withheld labels are never trained on"


def test_emotass_official():
    """Both folds train for the epoch that was best on devel, without the withheld test part."""
    protocol, warnings = build(emotass(EMOTASS_COUNTS), "emotass-official")
    assert protocol.name == "emotass-official"
    assert warnings[0].startswith("the speaker of 10627 of 10627 utterances is unknown")
    devel, test = protocol.folds
    assert sizes(protocol) == {"devel": (3342 - 502, 502, 4186), "test": (3342 + 4186, 0, 3099)}
    assert test.epochs_from == "devel" and {protocol.labels[row] for row in test.test} == {""}
    assert protocol.refit_rule.startswith("fold test trains for as many epochs as fold devel")
    alone, _ = build(emotass(EMOTASS_COUNTS), "emotass-devel")
    assert [alone.ids[row] for row in alone.folds[0].validation] == [
        protocol.ids[row] for row in devel.validation
    ]


def test_refit_is_part_of_the_hash():
    corpus = emotass(EMOTASS_COUNTS)
    name, spec = named.find_spec("emotass-official", corpus)
    once, again = (
        named.build_protocol(name, spec, corpus, corpus.utterances, refit=refit)[0]
        for refit in ("none", "train+validation")
    )
    assert once == build(corpus, name)[0] and once.sha256 != again.sha256
    assert dataclasses.replace(again, refit_rule=once.refit_rule) == once, "no other change"
    assert again.refit_rule == f"{named.rules.AGAIN}; {once.refit_rule}"


def test_counts_that_are_only_recalled_warn_and_no_more():
    counts = {**EMOTASS_COUNTS, "train": {**EMOTASS_COUNTS["train"], "sad": 300}}
    protocol, warnings = build(emotass(counts))
    assert protocol.name == "emotass-devel"
    assert warnings[0] == "counts differ from emotass-devel: train sad: 300 instead of 301"
    counts = {**EMOTASS_COUNTS, "test": {"": 3098}}
    protocol, (warning, _) = build(emotass(counts), "emotass-official")
    assert protocol.name == "emotass-official" and warning.endswith("test: 3098 instead of 3099")


# --- IEMOCAP


@pytest.fixture
def release(iemocap_turns) -> Corpus:
    """The 5531 turns of the real release, without its files."""
    with iemocap_turns.open(newline="", encoding="utf-8") as file:
        rows = [
            Utterance(
                f"Session{row['session']}/sentences/wav/{row['dialog']}/{row['turn']}",
                "",
                label=iemocap.LABEL_MAPPING[row["label"]],
                speaker=row["speaker"],
                session=f"Session{row['session']}",
            )
            for row in csv.DictReader(file)
        ]
    return dataclasses.replace(
        corpus_of("iemocap", rows, iemocap.PROTOCOL), label_mapping=iemocap.LABEL_MAPPING
    )


IEMOCAP_5531_SESSION5 = "042f13c9339b2fc7c9e08a376e2c6f093735cbccef8dfb41c45965145681e300"
SESSIONS = {f"Session{n}": count for n, count in enumerate((1085, 1023, 1151, 1031, 1241), 1)}


@pytest.mark.parametrize("name", ["auto", "iemocap-5531-session5"])
def test_iemocap_by_session(release, name):
    protocol, warnings = build(release, name)
    assert protocol.name == "iemocap-5531-session5" and not warnings
    assert protocol.label_mapping == iemocap.LABEL_MAPPING
    order = [*SESSIONS, "Session1"]
    assert sizes(protocol) == {
        test: (5531 - SESSIONS[test] - SESSIONS[after], SESSIONS[after], SESSIONS[test])
        for test, after in zip(order[:-1], order[1:], strict=True)
    }


def test_iemocap_by_speaker(release):
    protocol, warnings = build(release, "iemocap-5531-speaker10")
    assert protocol.name == "iemocap-5531-speaker10"
    both = "10 of 10 folds: 5 sessions are in the test part and elsewhere (Session1, Session2,"
    assert any(warning.startswith(both) for warning in warnings), "the partner of a dialogue"
    names = [f"Ses0{number}{letter}" for number in range(1, 6) for letter in "FM"]
    assert [fold.name for fold in protocol.folds] == names
    turns = collections.Counter(row.speaker for row in release.utterances)
    assert {name: parts[2] for name, parts in sizes(protocol).items()} == turns
    tests = [len(fold.test) for fold in protocol.folds]
    assert [a + b for a, b in zip(tests[::2], tests[1::2], strict=True)] == list(SESSIONS.values())


def test_iemocap_by_speaker_without_the_partner(release):
    protocol, warnings = build(release, "iemocap-5531-speaker10-no-partner")
    assert protocol.name == "iemocap-5531-speaker10-no-partner" and not warnings
    names = np.array(protocol.speakers)
    for fold in protocol.folds:
        session = fold.name[:-1]
        assert set(names[fold.test]) == {fold.name}
        assert not any(session in name for name in names[[*fold.train, *fold.validation]])
        assert len(set(names[fold.train])) == 6 and len(set(names[fold.validation])) == 2
    tested = np.concatenate([fold.test for fold in protocol.folds])
    assert sorted(tested) == list(range(5531))


def test_the_final_model_of_iemocap_says_whose_partners_it_trains_on(release):
    (warning,) = build(release, "iemocap-final")[1]
    assert warning == (
        f"fold final: 2 sessions are in the validation part and in training (Session1, Session4):"
        f" {CHOICE}"
    )


def test_iemocap_nearest_to_the_paper(release):
    protocol, warnings = build(release, "iemocap-5507-session5")
    assert protocol.name == "iemocap-5507-session5" and not warnings and len(protocol.ids) == 5507
    assert not any("Ses05M_script01_1b" in name for name in protocol.ids)
    assert any("Ses05M_script01_1/" in name for name in protocol.ids), "a similar name stays"
    tested = {name: parts[2] for name, parts in sizes(protocol).items()}
    assert tested == {**SESSIONS, "Session5": 1241 - 24}


def test_iemocap_improvised(release):
    protocol, warnings = build(release, "iemocap-impro-session5")
    assert protocol.name == "iemocap-impro-session5" and not warnings and len(protocol.ids) == 2943
    assert all(re.search(r"/Ses0\d[FM]_impro", name) for name in protocol.ids)
    assert sum("script" not in row.id for row in release.utterances) == 2943


def test_iemocap_with_a_session_missing(release):
    """A release of four sessions runs under another name, and says what differs."""
    rows = tuple(utterance for utterance in release.utterances if utterance.session != "Session3")
    protocol, (warning,) = build(dataclasses.replace(release, utterances=rows))
    assert protocol.name == "iemocap-5531-session5+modified"
    assert "sad: 779 instead of 1084" in warning and "Session3: 0 instead of 1151" in warning
    assert "Session4" not in warning


def test_recorded_hash_of_the_default_protocol(release):
    """Published results name it; see test_protocol.py for what a change means."""
    assert build(release)[0].sha256 == IEMOCAP_5531_SESSION5


# --- Published folds


def emobox(*folds: GivenFold) -> Corpus:
    """Four speakers with two classes each; published folds over them."""
    return dataclasses.replace(
        spoken({"x": 1, "y": 1}, "emobox", ("a", "b", "c", "d")),
        protocol="emobox-small",
        folds=folds,
    )


def by_speaker(name: str, **splits: str) -> GivenFold:
    """Makes a published fold from split=speakers."""
    rows = [(who, split) for split, names in splits.items() for who in names]
    return GivenFold(name, {f"{who}/{label}0": split for who, split in rows for label in "xy"})


def test_the_published_folds_are_the_default_of_an_emobox_dataset():
    corpus = emobox(
        by_speaker("fold_1", train="ab", devel="c", test="d"),
        by_speaker("fold_2", train="cdb", test="a"),
    )
    protocol, warnings = build(corpus)
    assert protocol.name == "emobox-small" and not warnings
    assert [(fold.name, fold.parts) for fold in protocol.folds] == [
        ("fold_1", "ttttvvee"),
        ("fold_2", "eevvtttt"),
    ]


def test_the_other_protocols_of_an_emobox_dataset():
    corpus = emobox(by_speaker("fold_1", train="abc", test="d"))
    names = ["emobox-small", "emobox-small-final", "emobox-small-speaker"]
    assert sorted(named.specs_of(corpus)) == names
    made = [[fold.name for fold in build(corpus, name)[0].folds] for name in names]
    assert made == [["fold_1"], ["final"], ["a", "b", "c", "d"]]
    with pytest.raises(
        UserError, match="choose one of emobox-small, emobox-small-final, emobox-small-speaker$"
    ):
        build(corpus, "emobox-other")


def test_published_folds_that_share_speakers_are_a_warning():
    parts = {f"{who}/{label}0": "train" for who in "abc" for label in "xy"} | {"c/y0": "test"}
    protocol, warnings = build(emobox(GivenFold("fold_1", parts)))
    sentence = "fold fold_1: 1 speaker is in the test part and elsewhere (c): "
    assert warnings[0] == f"{sentence}scores are optimistic"
    assert protocol.notes == warnings and protocol.to_json()["notes"] == list(warnings)


# --- What the parts of a fold share

CHOICE = "validation scores, which choose the epoch, are optimistic"
# Per utterance: part, speaker, session, file.
SHARED = [
    ("t a S1 1, v b S2 2, e c S3 3", []),
    (
        "t a S1 1, v b S2 2, e a S3 3",
        ["speaker is in the test part and elsewhere (a): scores are optimistic"],
    ),
    (
        "t a S1 1, v b S2 2, e b S2 3",
        ["speaker is in the test part and elsewhere (b): scores are optimistic"],
    ),
    (
        "t a S1 1, v b S1 2, e c S3 3",
        [f"session is in the validation part and in training (S1): {CHOICE}"],
    ),
    (
        "t a S1 1, v a S1 2, e c S3 3",
        [f"speaker is in the validation part and in training (a): {CHOICE}"],
    ),
    (
        "t a _ 1, v b _ 1, e c _ 1",
        [
            "recording is in the test part and elsewhere (1): scores are optimistic",
            f"recording is in the validation part and in training (1): {CHOICE}",
        ],
    ),
    (
        "t _ _ 1, v _ _ 2, e c _ 3",
        [
            "the speaker of 4 of 6 utterances is unknown: training, validation and test part may"
            " share speakers"
        ],
    ),
]


@pytest.mark.parametrize(("cells", "expected"), SHARED, ids=[cells for cells, _ in SHARED])
def test_parts_that_share_something(cells, expected):
    """Of published folds, so that any parts are possible; both folds are alike."""
    rows, splits = [], {}
    for number, (cell, label) in enumerate(itertools.product(cells.split(", "), "xy")):
        part, speaker, session, file = cell.replace("_", "").split(" ")
        rows.append(Utterance(f"u{number}", file, None, None, label, speaker, session))
        splits[f"u{number}"] = {"t": "train", "v": "devel", "e": "test"}[part]
    given = tuple(GivenFold(name, splits) for name in ("f1", "f2"))
    corpus = corpus_of("emobox", rows, "emobox-small", folds=given)
    found = [warning.removeprefix("2 of 2 folds: 1 ") for warning in build(corpus)[1]]
    assert found == expected
    name, spec = named.find_spec("auto", corpus)
    contents = [f"sha of {row.file}" for row in rows]
    _, same = named.build_protocol(name, spec, corpus, corpus.utterances, recordings=contents)
    assert [warning.removeprefix("2 of 2 folds: 1 ") for warning in same] == expected
    copies = ["sha"] * len(rows)
    _, warnings = named.build_protocol(name, spec, corpus, corpus.utterances, recordings=copies)
    assert sum("1 recording is in" in warning for warning in warnings) == 2


def test_sessions_are_kept_where_folds_are_made_of_them():
    for name, sessions in (("manifest-session-3fold", 24), ("manifest-speaker", 0)):
        corpus = spoken(dict.fromkeys(CANONICAL_CLASSES, 2), "manifest")
        protocol, _ = build(corpus, name)
        assert len(protocol.sessions) == len(protocol.to_json()["sessions"]) == sessions


# --- By speaker, by text and by both


def grid(corpus: str, speakers: int, texts: int, labels=CANONICAL_CLASSES) -> Corpus:
    """Every speaker says every text in every class."""
    rows = [
        Utterance(f"{who}/{what}/{label}", "", label=label, speaker=f"s{who:02}", text=f"t{what}")
        for who, what in itertools.product(range(speakers), range(texts))
        for label in labels
    ]
    return corpus_of(corpus, rows)


@pytest.mark.parametrize(
    ("speakers", "texts", "by_speaker", "by_text"),
    [(24, 2, 5, 2), (12, 12, 12, 12), (13, 13, 5, 5), (2, 20, 2, 5), (3, 3, 3, 3)],
)
def test_no_speaker_and_no_text_is_on_both_sides(speakers, texts, by_speaker, by_text):
    """Every utterance is tested once; training and validation share neither with the test part."""
    corpus = grid("files", speakers, texts)
    folds = {"speaker": by_speaker, "text": by_text, "speaker-text": 2 * by_speaker}
    for way, count in folds.items():
        protocol, _ = build(corpus, f"files-{way}")
        assert len(protocol.folds) == count
        tested = np.concatenate([fold.test for fold in protocol.folds])
        assert sorted(tested) == list(range(len(corpus.utterances)))
        for fold in protocol.folds:
            rest = np.concatenate([fold.train, fold.validation])
            assert len(fold.train) and len(fold.validation)
            for part in way.split("-"):
                names = np.array([getattr(row, part) for row in corpus.utterances])
                assert not set(names[fold.test]) & set(names[rest])
            labels = collections.Counter(np.array(protocol.labels)[fold.test].tolist())
            assert len(set(labels.values())) == 1, "equal class shares"


def test_a_protocol_by_text_needs_texts():
    corpus = grid("files", 3, 1)
    with pytest.raises(UserError, match="1 text, so none is left to train on"):
        build(corpus, "files-speaker-text")
    rows = tuple(dataclasses.replace(row, text="") for row in corpus.utterances)
    with pytest.raises(UserError, match=r"12 of 12 utterances have no text, .* put \{text\} into"):
        build(dataclasses.replace(corpus, utterances=rows), "files-text")


def test_official_parts_of_msp_podcast():
    """The part that is asked for is tested; the others are not in the protocol."""
    corpus = whole_corpus("msp_podcast")
    split = {row.id: row.split for row in corpus.utterances}
    for tested in ("test1", "test2"):
        protocol, _ = build(corpus, f"msp_podcast-{tested}")
        (fold,) = protocol.folds
        parts = [
            {split[protocol.ids[n]] for n in rows}
            for rows in (fold.train, fold.validation, fold.test)
        ]
        assert parts == [{"train"}, {"devel"}, {tested}] and fold.name == tested
        assert not {"other", "no agreement"} & set(protocol.classes)


GOLDEN = {
    "demo-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "emodb4-speaker10": "8071d3fe920b225997adca8a4d0999e6d5c362e6e61c632ebebdb6cc28f7183a",
    "emodb7-speaker10": "0435c372bc00e1496a9ff2b74f9dede0edf6a7a011a1f927eec1834318f99c43",
    "iemocap-5531-session5": "6b7662c3ad34c7d892bebc530aefea44dfa97efb3213bafeebe1d5408fda7708",
    "iemocap-5531-speaker10-no-partner": (
        "e61306a2d87c52a13dc95fd8dec5ebb12ae73bd86ccbdebda6f67ba4f8a73331"
    ),
    "iemocap-5531-speaker10": "2c3924c5472c69e3fd3c88f37ded4ff528a1cfe1c0f6bd3f39ee7e968e972609",
    "iemocap-5507-session5": "6cf2f870b9a6cb92fbc2b6aa68258e050f03b695ab8de914fac4f70cc4546919",
    "iemocap-impro-session5": "f9052e19e01b6b8b18bbf3b9fa328989d432190887bb0ad81569bb102a5c5bf1",
    "emotass-devel": "faaa9d9507a59faab6ba64225e358bb4676f51afab8b3a0ec4a435fc4e65e71d",
    "emotass-official": "878d079bc0e2f8534f13c58823b91343353ae2063dd4e78d3da37b939f928c19",
    "manifest-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "manifest-session": "addb81df320c0e8e6a835fb7947840eb4154d8606b5e564b845f75997024cf9d",
    "manifest-split": "1156b3de5df7d9bac7c31c8bed72b6efe2dbdeef744591b62777020b74802350",
    "audformat-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "audformat-session": "addb81df320c0e8e6a835fb7947840eb4154d8606b5e564b845f75997024cf9d",
    "audformat-split": "1156b3de5df7d9bac7c31c8bed72b6efe2dbdeef744591b62777020b74802350",
    "audformat-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "demo-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "emodb-final": "3dd637c434716205284ca80a18a3c30d8d748ceff18015631a5cf3924a2f207b",
    "emotass-final": "9a8f040fc53aee2d027c7f39046f26f1220682cdfa3cee44685f8e9ebb83d286",
    "iemocap-final": "ab48272a5221ab26c589b9c9055e6f39a929e21584cf754dc15665beb0fa9100",
    "manifest-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "emobox-small": "652785743ce57dc2ff40573de9333621d91048b6e448d68ccfcf4c42766a17a5",
    "emobox-small-speaker": "e754af1ed7af5d6fa52665f9a28a02c6c869931f3a0e103f89d83feb153b226b",
    "emobox-small-final": "95c452d9316b163b52cb178d51b2cb3df4861bf9f922016f4bd28de9e0ef50e1",
    "manifest-speaker-5fold": "bf1e6f8c661934571296a3d734ff1215ca31c132446cf6b06686c39283b9058e",
    "manifest-session-3fold": "99f58cf64664365d9887ac80e869087ffc43e39dd682f9cf8f3bd8bd44870603",
    "audformat-speaker-4fold": "9e24e10d438e6f171eca8fa1d327317152ba318fd9ecb2542aa5814fbfb2c35a",
}
# Of corpora with many protocols that share their rules: the hash of all their hashes.
GOLDEN_TOGETHER = {
    "emodb": "6e0dfcd765cfa3211cc290c01ab9904e118220c88e49a19c3ae94e61400fb765",
    "ravdess": "f33ac89a2a98bd437ad634592acf7a577a765c79b20bdadb83cbe194dd71fcad",
    "cremad": "07ed2c0a4d8e2975ed39e31e11cf75de5001b4849fbef8c20ab1721232590fd3",
    "tess": "7ed88b140b270b5888a38692332697496b91b4b4b5a6a6f41b2b7e84b3a4d0c0",
    "savee": "b88ca55b8fd94ab23f033e12440a3aeed5254b7c69bee34f1e4b7201be084ac7",
    "esd": "8c0133280570f19f67954580839430688003c9562cd8ecba4dfe36473fe82e0d",
    "casia": "30ae59606d70c78f7cd373bf88009f1131307ddc0c89bf501b44d1e32f3fd2bd",
    "shemo": "7d0eb8a9c15c573049946a8521db409a7286ddb25bdabe714e90877488ffe995",
    "meld": "8a59b45ac62a892a4e06251d095410ba0dec671c0971d73eef34762383cd2f23",
    "msp_podcast": "7db009c3ca426cda9e17f2195748d89aceb6ff6e672e9bc55f4d092785352810",
    "files": "7f304156fdfa040be6f1807f78715876a8e832702468c03ee34e3b4c8a4ccab4",
    "manifest": "dcd23fcfdd5bf1c48dd6aaadc01859d3cee7439a22319ceaeedbe894d2a0a321",
}
FOUR = {label: label for label in CANONICAL_CLASSES}
MAPPINGS = {
    **{name: release.labels for name, release in RELEASES.items()},
    "meld": meld.LABEL_MAPPING,
    "msp_podcast": msp_podcast.LABEL_MAPPING,
    "emotass": emotass_reader.LABEL_MAPPING,
    "iemocap": iemocap.LABEL_MAPPING,
}


def small_corpus(name: str) -> Corpus:
    """84 utterances of 6 speakers, 3 sessions and 3 splits; EmotAsS has no test labels."""
    mapping = MAPPINGS.get(name, FOUR)
    labels = [mapping[code] for code in sorted(mapping)]
    rows = []
    for number in range(84):
        speaker, label = "abcdef"[number % 6], labels[number // 6 % len(labels)]
        dialog = ("impro01", "script01_1", "Ses05M_script01_1b")[number % 7 % 3]
        split = ("train", "devel", "test")[number // 28]
        if name == "emotass":
            label = label if split != "test" else ""
            rows.append(Utterance(f"wav/{split}_{number:04}", "", label=label, split=split))
        else:
            key = f"{speaker}/{dialog}/{number:04}"
            session = f"Session{number % 3 + 1}"
            row = Utterance(key, "", None, None, label, speaker, session, split)
            rows.append(row)
    rows.sort(key=lambda row: row.id)
    if name != "emobox":
        return Corpus(name, Path("/corpus"), tuple(rows), f"{name}-x", mapping)
    given = GivenFold("fold_1", {row.id: row.split for row in rows})
    swapped = {"train": "test", "test": "train"}
    others = {row.id: swapped[row.split] for row in rows if row.split != "devel"}
    other = GivenFold("fold_2", others)
    return Corpus(name, Path("/corpus"), tuple(rows), "emobox-small", mapping, folds=(given, other))


def whole_corpus(name: str) -> Corpus:
    """Six speakers say five texts in all classes; a part of the corpus for each text."""
    labels = sorted(set(MAPPINGS.get(name, FOUR).values()))
    parts = ("train", "devel", "test", "test1", "test2")
    corpus = grid(name, 6, len(parts), labels)
    rows = [
        dataclasses.replace(
            row, split=parts[int(row.text[1:])], session=f"S{int(row.speaker[1:]) % 3}"
        )
        for row in corpus.utterances
    ]
    return dataclasses.replace(corpus, utterances=tuple(rows))


def _corpus_of(protocol: str) -> str:
    return protocol.partition("-")[0].rstrip("0123456789")


def test_golden_hashes():
    changed = {}
    for name, expected in GOLDEN.items():
        protocol, _ = build(small_corpus(_corpus_of(name)), name)
        if protocol.sha256 != expected:
            changed[name] = protocol.sha256
    for corpus, expected in GOLDEN_TOGETHER.items():
        found = whole_corpus(corpus)
        names = sorted(set(named.specs_of(found)) - set(GOLDEN))
        hashes = [build(found, name)[0].sha256 for name in names]
        together = hashlib.sha256("".join(hashes).encode()).hexdigest()
        if together != expected:
            changed[corpus] = together
    assert not changed, (
        "these hashes have changed: published results name other protocols now; if that is"
        f" intended, say so in CHANGELOG.md and pin the new hashes: {changed}"
    )


def test_every_named_protocol_is_pinned():
    known = {name for corpus in READERS for name in named.specs_of(small_corpus(corpus))}
    k_fold = {name for name in GOLDEN if named.k_fold_spec(name)}
    own = {name for name in known if _corpus_of(name) not in GOLDEN_TOGETHER}
    assert own <= set(GOLDEN) - k_fold <= known >= set(named.SPECS)
    assert {name.partition("-")[0] for name in k_fold} == {"manifest", "audformat"}
