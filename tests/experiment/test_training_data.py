"""What models were trained on, and what of another corpus they have seen thereby."""

from pathlib import Path

import pytest

from ser_jax.config import get_config
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.experiment import training_data
from ser_jax.experiment.training_data import TrainedOn

PROTOCOL = {
    "utterances": [[f"u{n}", "sad", speaker] for n, speaker in enumerate(("a", "a", "b", "c", ""))],
    "folds": [
        {"name": "a", "parts": "eetv-"},
        {"name": "c", "parts": "ttve-", "epochs_from": "d"},
        {"name": "d", "parts": "-e--v"},
    ],
    "recordings": ["r0", "r1", "r2", "r3", "r4"],
}


@pytest.mark.parametrize(
    ("folds", "numbers", "speakers"),
    [({"a"}, "23", "bc"), ({"c"}, "0124", "ab"), ({"a", "c"}, "01234", "abc")],
)
def test_training_and_validation_parts_of_all_folds_that_vote(folds, numbers, speakers):
    """Fold c takes its epochs from d, whose validation part has then chosen them."""
    (seen,) = training_data.trained_on(PROTOCOL, folds, {"": KEY})
    assert seen == TrainedOn(frozenset(f"r{n}" for n in numbers), frozenset(speakers), KEY)
    older = {name: value for name, value in PROTOCOL.items() if name != "recordings"}
    (seen,) = training_data.trained_on(older, folds, {"": KEY})
    assert seen.recordings == {f"u{n}" for n in numbers}


def corpus(*speakers: str) -> Corpus:
    rows = (Utterance(f"x{n}", f"x{n}.wav", speaker=name) for n, name in enumerate(speakers))
    return Corpus("other", Path(), tuple(rows), "", {})


KEY = ("iemocap",)
SEEN = TrainedOn(frozenset({"r0", "r1"}), frozenset({"a", "b"}), KEY)
OLD = TrainedOn(frozenset({"x2"}), frozenset(), KEY)  # of a run without digests: ids
ELSE = TrainedOn(frozenset({"r9"}), frozenset({"a", "new"}), ("emotass",))


@pytest.mark.parametrize(
    ("recordings", "seen", "key", "kept", "speakers"),
    [
        # Names alone mean nothing in another corpus; in the same one they do.
        (["n0", "n1", "n2", "n3"], [SEEN, ELSE], ("emodb",), [0, 1, 2, 3], set()),
        (["n0", "n1", "n2", "n3"], [SEEN], KEY, [2, 3], {"a", "b"}),
        # Nor once a recording is known; of every entry by itself.
        (["n0", "n1", "r0", "n3"], [SEEN], ("emodb",), [3], {"a", "b", "new"}),
        (["n0", "n1", "n2", "r9"], [SEEN, ELSE], ("emodb",), [1], {"a", "new"}),
        (["n0", "n1", "n2", "r1"], [SEEN], KEY, [2], {"a", "b"}),  # its speaker is unknown
        (["n0", "n1", "n2", "n3"], [OLD], KEY, [0, 1, 3], {"new"}),
        (["n0", "n1", "n2", "n3"], [OLD], ("emodb",), [0, 1, 2, 3], set()),
    ],
)
def test_recordings_and_their_speakers_are_left_out(recordings, seen, key, kept, speakers):
    other = corpus("a", "b", "new", "")
    known = dict(zip((u.id for u in other.utterances), recordings, strict=True))
    rest, left_out = training_data.unseen(other, known, seen, {"": key})
    assert [u.id for u in rest.utterances] == [f"x{n}" for n in kept]
    assert {u.speaker for u in left_out} - {""} == speakers


def test_joined_corpora_are_taken_apart():
    """Trained on both, speakers of each are known in it alone; and the other way round."""
    keys = {"iemocap/": KEY, "emotass/": ("emotass",)}
    protocol = {
        "utterances": [["iemocap/x", "sad", "iemocap/a"], ["emotass/y", "sad", "emotass/b"]],
        "folds": [{"name": "final", "parts": "tv"}],
        "recordings": ["r0", "r1"],
    }
    seen = training_data.trained_on(protocol, ["final"], keys)
    assert seen == [
        TrainedOn(frozenset({"r0"}), frozenset({"a"}), KEY),
        TrainedOn(frozenset({"r1"}), frozenset({"b"}), ("emotass",)),
    ]
    other = corpus("a", "b")
    new = {"x0": "n0", "x1": "n1"}
    assert training_data.seen_ids(other.utterances, new, seen, {"": KEY}) == {"x0"}
    rows = [
        Utterance(f"{name}/{n}", "", speaker=f"{name}/{speaker}")
        for name in ("iemocap", "emotass")
        for n, speaker in enumerate("ab")
    ]
    new = {row.id: "new" for row in rows}
    assert training_data.seen_ids(rows, new, seen, keys) == {"iemocap/0", "emotass/1"}
    assert training_data.seen_ids(rows, new, seen[:1], keys) == {"iemocap/0"}


@pytest.mark.parametrize(("name", "same"), [("ravdess", True), ("files", False)])
def test_corpora_of_ones_own_are_told_apart_by_their_place(name, same):
    first, second = get_config(), get_config()
    first.corpus.update(name=name, root="/one")
    second.corpus.update(name=name, root="/other")
    keys = [training_data.corpus_keys(config) for config in (first, second)]
    assert (keys[0] == keys[1]) == same
