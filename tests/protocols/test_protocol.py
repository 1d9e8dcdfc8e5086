"""A protocol as a value: its hash is taken over exactly what it should be."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from ser_jax.protocols.protocol import Fold, Protocol, stratum_weights

TINY = Protocol(
    name="tiny",
    corpus="none",
    classes=("angry", "sad"),
    label_mapping={"W": "angry", "T": "sad"},
    ids=("a/1", "a/2", "ä/3", "b/4#1.000-2.500"),
    labels=("angry", "sad", "", "sad"),
    speakers=("s1", "s2", "", "s3"),
    folds=(Fold("s1", "et-v"), Fold("s2", "ve-t")),
    validation_rule="the next one",
)


def test_targets():
    assert TINY.targets.tolist() == [0, 1, -1, 1] and TINY.targets.dtype == np.int32


def test_strata():
    """Of joined corpora every class of every corpus is one; all weigh the same in total."""
    assert TINY.corpora == ("none",) and TINY.strata is TINY.targets
    joined = dataclasses.replace(TINY, corpus="a+b+ä")
    assert joined.corpora == ("a", "b", "ä") and joined.strata.tolist() == [0, 1, -1, 3]
    weights = stratum_weights(np.array([0, 0, 0, 1, 3, 3]), 4)
    assert weights[[0, 1, 3]].tolist() == [6 / 9, 6 / 3, 6 / 6]


def test_parts():
    fold = Fold("f", "tvte-e")
    rows = [part.tolist() for part in (fold.train, fold.validation, fold.test)]
    assert rows == [[0, 2], [1], [3, 5]]


def test_hash_is_taken_over_canonical_json():
    """Written out here, so that another program can recompute it from protocol.json."""
    text = (
        '{"classes":["angry","sad"],"folds":[{"name":"s1","parts":"et-v"},{"name":"s2","parts":"ve-t"}],"label_mapping":{"T":"sad","W":"angry"},"metrics":["wa","ua"],"refit":"none","utterances":[["a/1","angry","s1"],["a/2","sad","s2"],["ä/3","",""],["b/4#1.000-2.500","sad","s3"]],"validation":"the'
        ' next one"}'
    )
    assert TINY.sha256 == hashlib.sha256(text.encode("utf-8")).hexdigest(), (
        "published results name other protocols now, and older runs cannot be resumed; if that is"
        " intended, say so in CHANGELOG.md"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("angry", "sad", "", "angry")},
        {"labels": ("angry", "sad", "sad", "sad")},
        {"speakers": ("s1", "s2", "s2", "s3")},
        {"ids": ("a/1", "a/2", "ä/3", "b/4#1.000-2.501")},
        {"folds": (Fold("s1", "et-t"), Fold("s2", "ve-t"))},
        {"folds": (Fold("s1", "et-v"),)},
        {"folds": (Fold("s2", "ve-t"), Fold("s1", "et-v"))},
        {"classes": ("sad", "angry")},
        {"label_mapping": {"W": "angry", "T": "sad", "L": "sad"}},
        {"validation_rule": "another"},
        {"refit_rule": "train+validation"},
    ],
    ids=str,
)
def test_whatever_can_change_a_score_changes_the_hash(change):
    assert dataclasses.replace(TINY, **change).sha256 != TINY.sha256


# --- The epochs of another fold

BORROWED = dataclasses.replace(
    TINY, folds=(Fold("dev", "ev-t"), Fold("test", "tt-e", epochs_from="dev"))
)


def test_the_source_of_the_epochs_is_hashed_where_there_is_one():
    """Folds that choose their own epoch are hashed as before the field existed."""
    assert Fold("a", "tve").value() == {"name": "a", "parts": "tve"}
    borrowed = Fold("a", "te", epochs_from="b").value()
    assert borrowed == {"name": "a", "parts": "te", "epochs_from": "b"}
    own = dataclasses.replace(BORROWED, folds=(BORROWED.folds[0], Fold("test", "tt-e")))
    assert len({BORROWED.sha256, own.sha256}) == 2
    assert '"epochs_from":"dev"' in json.dumps(BORROWED.value(), separators=(",", ":"))
    assert '"epochs_from"' not in json.dumps(own.value())


def test_json_says_where_the_epochs_are_from():
    folds = BORROWED.to_json()["folds"]
    assert folds[0] == {"name": "dev", "train": 1, "validation": 1, "test": 1, "parts": "ev-t"}
    counts = {"train": 2, "validation": 0, "test": 1}
    assert folds[1] == {"name": "test", **counts, "parts": "tt-e", "epochs_from": "dev"}


@pytest.mark.parametrize(
    ("folds", "sentence"),
    [
        ([Fold("b", "tt-e", "c")], r"fold b: epochs_from='c' is no fold .* \(a\)"),
        ([Fold("b", "tt-e", "b")], "fold b: epochs_from='b' is no fold"),
        ([Fold("b", "tt-e", "a"), Fold("c", "tt-e", "b")], "fold c: epochs_from='b' is no fold"),
        ([Fold("b", "tv-e", "a")], "fold b: epochs_from='a' beside a validation part"),
    ],
    ids=["unknown", "itself", "borrowed twice", "with validation"],
)
def test_epochs_come_from_a_fold_that_chooses_them(folds, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(TINY, folds=(Fold("a", "tve-"), *folds))


def test_names_and_the_order_of_a_mapping_do_not():
    mapping = {"T": "sad", "W": "angry"}
    other = dataclasses.replace(TINY, name="tiny+modified", corpus="x", label_mapping=mapping)
    assert other.sha256 == TINY.sha256


def test_nothing_but_the_utterances_and_their_parts_can_reach_the_hash():
    """Seeds, log-mel and audio have no field here; a new field must be thought about."""
    fields = {field.name for field in dataclasses.fields(Protocol)}
    hashed = "classes label_mapping ids labels speakers folds validation_rule refit_rule by_speaker"
    assert fields == {*hashed.split(), "name", "corpus", "sessions", "notes"}
    changed = dataclasses.replace(TINY, sessions=tuple("SSTT"), notes=("look out",))
    assert changed.sha256 == TINY.sha256


def test_json_holds_counts_and_everything_that_is_hashed():
    text = json.dumps(TINY.to_json())
    read = json.loads(text)
    assert read["name"] == "tiny" and read["corpus"] == "none" and read["sha256"] == TINY.sha256
    assert read["folds"] == [
        {"name": "s1", "train": 1, "validation": 1, "test": 1, "parts": "et-v"},
        {"name": "s2", "train": 1, "validation": 1, "test": 1, "parts": "ve-t"},
    ]
    hashed = {key: read[key] for key in TINY.value()}
    hashed["folds"] = [{"name": fold["name"], "parts": fold["parts"]} for fold in read["folds"]]
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(canonical.encode()).hexdigest() == TINY.sha256


def test_folds_that_are_pooled():
    names = tuple(fold.name for fold in TINY.folds)
    assert TINY.pooled_folds(names) == names
    assert BORROWED.pooled_folds({"dev", "test"}) == ("test",)
    assert BORROWED.pooled_folds({"dev"}) == ("dev",)
    tested = set(BORROWED.folds[1].test.tolist())
    labels = tuple("" if row in tested else label for row, label in enumerate(BORROWED.labels))
    withheld = dataclasses.replace(BORROWED, labels=labels)
    assert withheld.pooled_folds({"dev", "test"}) == ("dev", "test")
