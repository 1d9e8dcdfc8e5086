"""Label maps: their form, and what they do to a corpus; refusals: test_own_lists.py."""

from pathlib import Path

import pytest

from ser_jax.corpora.labels import means_nothing, parse, relabel
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.runtime.errors import UserError


def corpus(*labels: str) -> Corpus:
    rows = tuple(Utterance(f"{n}", f"{n}.wav", label=label) for n, label in enumerate(labels))
    return Corpus("test", Path("/corpus"), rows, "", {f"{label}!": label for label in labels})


def test_entries_with_commas_are_quoted_and_blanks_do_not_matter():
    assert parse('"sad, very = sad",  mad=angry ,') == {"sad, very": "sad", "mad": "angry"}
    assert parse("") == {}
    with pytest.raises(UserError, match="corpus.labels=.*maps a more than once"):
        parse("a=b,a=c")


def test_labels_are_renamed_at_once_and_stand_in_the_mapping():
    """a and b change places: the map is not applied twice; c is left out, "-" is not asked for."""
    found = relabel(corpus("a", "b", "c", "-"), {"a": "b", "b": "a", "c": "-"})
    assert [(row.id, row.label) for row in found.utterances] == [("0", "b"), ("1", "a"), ("3", "-")]
    assert found.label_mapping == {"a!": "b", "b!": "a", "c!": "-", "-!": "-"}


def test_what_no_map_may_do():
    with pytest.raises(UserError, match="maps e, which is no label of the corpus; it has a, b"):
        relabel(corpus("a", "b"), {"e": "a"})
    with pytest.raises(UserError, match="leaves out all 2 utterances"):
        relabel(corpus("a", "b"), {"a": "-", "b": "-"})


def test_words_for_nothing():
    assert all(
        map(means_nothing, ["", "NaN", "n/a", "#N/A", "None", "??", "XXX", "--", "no label"])
    )
    words = ["neutral", "x", "other", "oth", "nancy", "0", "sad?", "nothing", "unsure", "nonempty"]
    assert not any(map(means_nothing, words))
