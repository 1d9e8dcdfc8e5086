"""From a corpus to a named protocol: counts, modified releases, refusals, and the folds of the real IEMOCAP."""

import collections
import csv
import dataclasses
import re
from pathlib import Path

import pytest

from ser_jax.corpora import iemocap
from ser_jax.corpora.table import CANONICAL_CLASSES, Corpus, GivenFold, Utterance
from ser_jax.errors import UserError
from ser_jax.protocols import registry, specs


def corpus_of(name, utterances, protocol="", **fields) -> Corpus:
    mapping = {label: label for label in sorted({utterance.label for utterance in utterances} - {""})}
    rows = tuple(sorted(utterances, key=lambda utterance: utterance.id))
    return Corpus(name, Path("/corpus"), rows, protocol or f"{name}-speaker", mapping, **fields)


def spoken(counts, corpus="demo", speakers=("s1", "s2", "s3")) -> Corpus:
    """A corpus in which every speaker says so many utterances of each label."""
    rows = [
        Utterance(f"{speaker}/{label}{n}", "", label=label, speaker=speaker, session=speaker.upper())
        for speaker in speakers
        for label, count in counts.items()
        for n in range(count)
    ]
    return corpus_of(corpus, rows)


def build(corpus, name="auto", lost=()):
    """Goes the whole way, as the program does; returns the protocol and the warnings."""
    name, spec = registry.find_spec(name, corpus)
    chosen = registry.select(spec, corpus)
    usable = [utterance for utterance in chosen.utterances if utterance.id not in lost]
    return registry.build_protocol(name, spec, chosen, usable)


DEMO = spoken(dict.fromkeys(CANONICAL_CLASSES, 2))


def test_by_hand():
    protocol, warnings = build(DEMO)
    assert (protocol.name, protocol.corpus, warnings) == ("demo-speaker", "demo", ())
    assert protocol.classes == CANONICAL_CLASSES
    assert list(protocol.ids) == sorted(utterance.id for utterance in DEMO.utterances) and len(protocol.ids) == 24
    assert protocol.labels[:3] == ("angry", "angry", "happy") and protocol.speakers[7:9] == ("s1", "s2")
    assert [(fold.name, fold.parts) for fold in protocol.folds] == [
        ("s1", "e" * 8 + "v" * 8 + "t" * 8),
        ("s2", "t" * 8 + "e" * 8 + "v" * 8),
        ("s3", "v" * 8 + "t" * 8 + "e" * 8),
    ]
    assert protocol.validation_rule == "the speaker after the test speaker in sorted order, cyclic"


@pytest.mark.parametrize("name", ["demo_speaker", "", "emodb4-speaker10", "iemocap-final", "demo-speaker+modified"])
def test_a_name_that_is_not_one_of_the_corpus_lists_those_that_are(name):
    with pytest.raises(
        UserError, match=re.escape(f"protocol.name={name!r} is not a protocol of corpus.name='demo'")
    ) as e:
        registry.find_spec(name, DEMO)
    assert str(e.value).endswith("choose one of demo-final, demo-speaker")


def test_every_protocol_begins_with_the_name_of_its_corpus():
    corpora = {spec.corpus for spec in specs.SPECS.values()}
    assert corpora == {"audformat", "demo", "emodb", "emotass", "iemocap", "manifest"}
    for name, spec in specs.SPECS.items():
        assert name.startswith(spec.corpus) and "+" not in name
    assert {f"{corpus}-final" for corpus in corpora} <= set(specs.SPECS)


def test_the_default_protocol_of_every_corpus_is_one_of_its_own():
    for corpus, default in [
        ("demo", "demo-speaker"),
        ("emodb", "emodb4-speaker10"),
        ("iemocap", iemocap.PROTOCOL),
        ("emotass", "emotass-devel"),
        ("emotass", "emotass-official"),
        ("audformat", "audformat-split"),
        ("manifest", "manifest-speaker"),
        ("manifest", "manifest-session"),
        ("manifest", "manifest-split"),
    ]:
        name, spec = registry.find_spec("auto", dataclasses.replace(DEMO, name=corpus, protocol=default))
        assert name == default and spec.corpus == corpus


def test_labels_of_other_classes_are_left_out():
    corpus = spoken({**dict.fromkeys(CANONICAL_CLASSES, 1), "bored": 3})
    protocol, warnings = build(corpus)
    assert "bored" not in {*protocol.labels, *protocol.label_mapping} and len(protocol.ids) == 12
    assert protocol.name == "demo-speaker" and not warnings


def test_no_utterance_of_the_protocol():
    with pytest.raises(
        UserError, match=r"corpus.root=/corpus holds no utterance of the protocol: 3 utterances .*bored"
    ):
        build(spoken({"bored": 1}))


def test_a_manifest_brings_its_own_classes():
    protocol, _ = build(spoken({"bored": 2, "alert": 1}, "manifest"))
    assert protocol.classes == ("alert", "bored") and protocol.label_mapping == {"alert": "alert", "bored": "bored"}
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
    assert len({build(rows, name)[0].sha256 for name in (f"{corpus}-speaker-3fold", f"{corpus}-speaker-4fold")}) == 2


@pytest.mark.parametrize(
    ("name", "known"),
    [(f"manifest-speaker-{k}fold", 2 <= k <= 100) for k in (0, 1, 2, 3, 9, 10, 99, 100, 101, 1000)]
    + [
        ("manifest-speaker-05fold", False),
        ("manifest-speaker-\u0665fold", False),
        ("manifest-split-5fold", False),
        ("manifest-speaker-5", False),
        ("demo-speaker-5fold", False),
        ("emodb-speaker-5fold", False),
    ],
)
def test_which_names_mean_k_folds(name, known):
    assert (specs.k_fold_spec(name) is not None) == known


def test_k_folds_of_another_corpus_are_refused():
    corpus = spoken({"bored": 2, "alert": 1}, "manifest")
    with pytest.raises(UserError) as error:
        build(corpus, "audformat-speaker-5fold")
    assert str(error.value).endswith(
        "choose one of manifest-final, manifest-session, manifest-speaker, manifest-split, "
        "manifest-speaker-<k>fold, manifest-session-<k>fold"
    )


def test_one_label_makes_no_classifier():
    with pytest.raises(UserError, match="has the one label bored; a classifier needs at least 2"):
        build(spoken({"bored": 5}, "manifest"))


def test_final_tests_nothing():
    protocol, warnings = build(DEMO, "demo-final")
    assert [(fold.name, len(fold.train), len(fold.validation), len(fold.test)) for fold in protocol.folds] == [
        ("final", 16, 8, 0)
    ]
    assert not warnings


def test_a_class_that_training_lacks_is_an_error():
    """sad is said by one speaker only: the fold that tests or validates on it cannot learn it."""
    rows = [row for row in DEMO.utterances if row.label != "sad" or row.speaker == "s2"]
    with pytest.raises(UserError, match=r"fold s1 of demo-speaker: the training part has no example of sad \(6 utter"):
        build(dataclasses.replace(DEMO, utterances=tuple(rows)))


def test_a_class_that_validation_lacks_is_a_warning():
    corpus = spoken(dict.fromkeys(CANONICAL_CLASSES, 1), speakers=("s1", "s2", "s3", "s4"))
    rows = [row for row in corpus.utterances if row.speaker != "s2" or row.label not in ("sad", "happy")]
    protocol, warnings = build(dataclasses.replace(corpus, utterances=tuple(rows)))
    assert warnings == ("fold s1: the validation part has no example of happy, sad",)
    assert protocol.name == "demo-speaker"


def test_speakers_on_both_sides_are_a_warning():
    """Sessions do not separate speakers here; the name of the fold and of the first five speakers are said."""
    rows = [
        Utterance(f"{session}{speaker}{label}", "", label=label, speaker=speaker, session=session)
        for session in ("S1", "S2", "S3")
        for speaker in ("a", "b", "c", "d", "e", "f" if session == "S1" else "g")
        for label in ("x", "y")
    ]
    _, warnings = build(corpus_of("manifest", rows), "manifest-session")
    assert warnings == (
        "fold S1: 5 speakers are in the test part and elsewhere (a, b, c, d, e): scores are optimistic",
        "fold S2: 6 speakers are in the test part and elsewhere (a, b, c, d, e, …): scores are optimistic",
        "fold S3: 6 speakers are in the test part and elsewhere (a, b, c, d, e, …): scores are optimistic",
    )


def test_unknown_speakers_are_not_one_speaker():
    rows = [
        Utterance(f"{split}{label}{n}", "", label=label, split=split)
        for split in ("train", "devel", "test")
        for label in "xy"
        for n in range(2)
    ]
    _, warnings = build(corpus_of("manifest", rows), "manifest-split")
    assert warnings == ()


# --- Modified releases ------------------------------------------------------------------------------------------------

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


SEVEN = {"angry": 127, "boredom": 81, "disgust": 46, "fear": 69, "happy": 71, "neutral": 79, "sad": 62}


def test_all_seven_emotions_of_emodb():
    protocol, warnings = build(emodb(SEVEN), "emodb7-speaker10")
    assert protocol.name == "emodb7-speaker10" and not warnings and len(protocol.folds) == 10
    assert protocol.classes == tuple(sorted(SEVEN)) and collections.Counter(protocol.labels) == SEVEN
    assert len(protocol.ids) == 535
    four, warnings = build(emodb(SEVEN))
    assert four.name == "emodb4-speaker10" and not warnings
    assert four.sha256 == build(emodb(EMODB_COUNTS))[0].sha256, "the other three have no say"


def test_other_counts_of_the_seven_make_a_modified_protocol():
    protocol, (warning,) = build(emodb({**SEVEN, "boredom": 80}), "emodb7-speaker10")
    assert protocol.name == "emodb7-speaker10+modified" and warning.endswith("boredom: 80 instead of 81")


def test_a_class_that_no_recording_has_is_an_error_that_names_those_found():
    with pytest.raises(UserError) as error:
        build(emodb(EMODB_COUNTS), "emodb7-speaker10")
    assert str(error.value) == (
        "corpus.root=/corpus has no recording of boredom, disgust, fear, which the protocol needs; found: angry 127, "
        "happy 71, neutral 79, sad 62; complete the release or choose one of emodb-final, emodb4-speaker10"
    )
    with pytest.raises(UserError, match="no recording of neutral, sad, .*; complete the release$"):
        build(emodb({"angry": 3, "happy": 3}))


def test_other_counts_make_a_modified_protocol():
    protocol, warnings = build(emodb({**EMODB_COUNTS, "happy": 70, "sad": 63}))
    assert protocol.name == "emodb4-speaker10+modified"
    assert warnings == ("counts differ from emodb4-speaker10: happy: 70 instead of 71; sad: 63 instead of 62",)
    assert protocol.sha256 != build(emodb(EMODB_COUNTS))[0].sha256


def test_lost_utterances_make_a_modified_protocol():
    whole, _ = build(DEMO)
    protocol, warnings = build(DEMO, lost={"s1/angry0", "s2/sad1"})
    assert protocol.name == "demo-speaker+modified"
    assert warnings == ("2 of 24 listed utterances cannot be used and are left out of demo-speaker",)
    assert len(protocol.ids) == 22 and "s1/angry0" not in protocol.ids
    assert protocol.sha256 != whole.sha256
    assert [len(fold.parts) for fold in protocol.folds] == [22] * 3


def test_missing_recordings_make_a_modified_protocol():
    protocol, _ = build(dataclasses.replace(DEMO, modified=True))
    assert protocol.name == "demo-speaker+modified"


def test_the_hash_depends_on_the_table_alone():
    """Neither the folder, nor the files, nor the order in which a reader found the rows."""
    protocol, _ = build(DEMO)
    moved = [dataclasses.replace(row, file="elsewhere.flac", start=1.0) for row in reversed(DEMO.utterances)]
    other = dataclasses.replace(corpus_of("demo", moved), root=Path("/mnt/other"), warnings=("x",))
    assert build(other)[0].sha256 == protocol.sha256
    relabelled = [dataclasses.replace(row, label="sad" if row.id == "s1/angry0" else row.label) for row in moved]
    assert build(corpus_of("demo", relabelled))[0].sha256 != protocol.sha256
    respoken = [dataclasses.replace(row, speaker="s2" if row.id == "s1/angry0" else row.speaker) for row in moved]
    assert build(corpus_of("demo", respoken))[0].sha256 != protocol.sha256


# --- EmotAsS ----------------------------------------------------------------------------------------------------------

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


def test_emotass():
    protocol, warnings = build(emotass(EMOTASS_COUNTS))
    assert protocol.name == "emotass-devel" and not warnings
    (fold,) = protocol.folds
    assert fold.name == "devel" and len(fold.test) == 4186 and len(protocol.ids) == 3342 + 4186
    assert collections.Counter(protocol.labels[row] for row in fold.validation) == {
        "angry": 19,
        "happy": 108,
        "neutral": 330,
        "sad": 45,
    }
    assert len(fold.train) == 3342 - 502
    final, _ = build(emotass(EMOTASS_COUNTS), "emotass-final")
    assert collections.Counter(final.folds[0].parts)["-"] == 3099, "withheld labels are never trained on"


def test_emotass_official():
    """Both partitions train for the epoch that was best on devel; nothing of the withheld test part is trained on."""
    protocol, warnings = build(emotass(EMOTASS_COUNTS), "emotass-official")
    assert protocol.name == "emotass-official" and not warnings
    devel, test = protocol.folds
    assert (len(devel.train), len(devel.validation), len(devel.test)) == (3342 - 502, 502, 4186)
    assert (len(test.train), len(test.validation), len(test.test)) == (3342 + 4186, 0, 3099)
    assert test.epochs_from == "devel" and {protocol.labels[row] for row in test.test} == {""}
    assert protocol.refit_rule.startswith("fold test trains for as many epochs as fold devel")
    alone, _ = build(emotass(EMOTASS_COUNTS), "emotass-devel")
    assert [alone.ids[row] for row in alone.folds[0].validation] == [protocol.ids[row] for row in devel.validation]


def test_refit_is_part_of_the_hash():
    corpus = emotass(EMOTASS_COUNTS)
    name, spec = registry.find_spec("emotass-official", corpus)
    once, again = (
        registry.build_protocol(name, spec, corpus, corpus.utterances, refit=refit)[0]
        for refit in ("none", "train+validation")
    )
    assert once == build(corpus, name)[0] and once.sha256 != again.sha256
    assert dataclasses.replace(again, refit_rule=once.refit_rule) == once, "and changes nothing else"
    assert again.refit_rule.startswith("every fold with a validation part is trained again on training and validation")
    assert again.refit_rule.endswith(f"; {once.refit_rule}")


def test_the_official_protocol_counts_its_test_part():
    protocol, (warning,) = build(emotass({**EMOTASS_COUNTS, "test": {"": 3098}}), "emotass-official")
    assert protocol.name == "emotass-official" and warning.endswith("test: 3098 instead of 3099")


def test_counts_that_are_only_recalled_warn_and_no_more():
    counts = {**EMOTASS_COUNTS, "train": {**EMOTASS_COUNTS["train"], "sad": 300}}
    protocol, warnings = build(emotass(counts))
    assert protocol.name == "emotass-devel"
    assert warnings == ("counts differ from emotass-devel: train sad: 300 instead of 301",)


# --- IEMOCAP ----------------------------------------------------------------------------------------------------------


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
    return dataclasses.replace(corpus_of("iemocap", rows, iemocap.PROTOCOL), label_mapping=iemocap.LABEL_MAPPING)


IEMOCAP_5531_SESSION5 = "042f13c9339b2fc7c9e08a376e2c6f093735cbccef8dfb41c45965145681e300"
SESSIONS = {"Session1": 1085, "Session2": 1023, "Session3": 1151, "Session4": 1031, "Session5": 1241}


def sizes(protocol):
    return {fold.name: (len(fold.train), len(fold.validation), len(fold.test)) for fold in protocol.folds}


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
    assert protocol.name == "iemocap-5531-speaker10" and not warnings
    assert [fold.name for fold in protocol.folds] == [
        f"Ses0{number}{letter}" for number in range(1, 6) for letter in "FM"
    ]
    turns = collections.Counter(utterance.speaker for utterance in release.utterances)
    assert {name: parts[2] for name, parts in sizes(protocol).items()} == turns
    tests = [len(fold.test) for fold in protocol.folds]
    assert [a + b for a, b in zip(tests[::2], tests[1::2], strict=True)] == list(SESSIONS.values())


def test_iemocap_nearest_to_the_paper(release):
    protocol, warnings = build(release, "iemocap-5507-session5")
    assert protocol.name == "iemocap-5507-session5" and not warnings and len(protocol.ids) == 5507
    assert not any("Ses05M_script01_1b" in name for name in protocol.ids)
    assert any("Ses05M_script01_1/" in name for name in protocol.ids), "another dialog of a like name stays"
    assert {name: parts[2] for name, parts in sizes(protocol).items()} == {**SESSIONS, "Session5": 1241 - 24}


def test_iemocap_improvised(release):
    protocol, warnings = build(release, "iemocap-impro-session5")
    assert protocol.name == "iemocap-impro-session5" and not warnings and len(protocol.ids) == 2943
    assert all(re.search(r"/Ses0\d[FM]_impro", name) for name in protocol.ids)
    scripted = len(release.utterances) - sum("script" in utterance.id for utterance in release.utterances)
    assert scripted == 2943


def test_iemocap_with_a_session_missing(release):
    """A release of four sessions runs under another name, and says what differs."""
    rows = tuple(utterance for utterance in release.utterances if utterance.session != "Session3")
    protocol, (warning,) = build(dataclasses.replace(release, utterances=rows))
    assert protocol.name == "iemocap-5531-session5+modified"
    assert "sad: 779 instead of 1084" in warning and "Session3: 0 instead of 1151" in warning
    assert "Session4" not in warning


def test_the_protocols_of_iemocap_have_different_hashes(release):
    names = [name for name, spec in specs.SPECS.items() if spec.corpus == "iemocap"]
    assert len({build(release, name)[0].sha256 for name in names}) == len(names) == 5


def test_recorded_hash_of_the_default_protocol(release):
    """Published results name it; see test_protocol.py for what a change means."""
    assert build(release)[0].sha256 == IEMOCAP_5531_SESSION5


# --- Published folds --------------------------------------------------------------------------------------------------


def emobox(*folds: GivenFold) -> Corpus:
    """Four speakers with two classes each; published folds over them."""
    return dataclasses.replace(
        spoken({"x": 1, "y": 1}, "emobox", ("a", "b", "c", "d")), protocol="emobox-small", folds=folds
    )


def by_speaker(name: str, **splits: str) -> GivenFold:
    """Makes a published fold from split=speakers."""
    return GivenFold(
        name, {f"{who}/{label}0": split for split, names in splits.items() for who in names for label in "xy"}
    )


def test_the_published_folds_are_the_default_of_an_emobox_dataset():
    corpus = emobox(by_speaker("fold_1", train="ab", devel="c", test="d"), by_speaker("fold_2", train="cdb", test="a"))
    protocol, warnings = build(corpus)
    assert protocol.name == "emobox-small" and not warnings
    assert [(fold.name, fold.parts) for fold in protocol.folds] == [("fold_1", "ttttvvee"), ("fold_2", "eevvtttt")]


def test_the_other_protocols_of_an_emobox_dataset():
    corpus = emobox(by_speaker("fold_1", train="abc", test="d"))
    assert sorted(specs.specs_of(corpus)) == ["emobox-small", "emobox-small-final", "emobox-small-speaker"]
    assert [fold.name for fold in build(corpus, "emobox-small-speaker")[0].folds] == ["a", "b", "c", "d"]
    assert [fold.name for fold in build(corpus, "emobox-small-final")[0].folds] == ["final"]
    with pytest.raises(UserError, match="choose one of emobox-small, emobox-small-final, emobox-small-speaker$"):
        build(corpus, "emobox-other")


def test_published_folds_that_share_speakers_are_a_warning():
    parts = {"a/x0": "train", "a/y0": "train", "b/x0": "train", "b/y0": "train", "c/x0": "train", "c/y0": "test"}
    _, warnings = build(emobox(GivenFold("fold_1", parts)))
    assert warnings == ("fold fold_1: 1 speakers are in the test part and elsewhere (c): scores are optimistic",)
