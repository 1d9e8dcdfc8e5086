"""Findings about labels, speakers, sessions; whole lists: tests/diagnosis/test_own_lists.py."""

from typing import Any

from ser_jax.corpora.table import Utterance
from ser_jax.protocols.list_checks import group_findings


def rows(count: int, **fields: Any) -> list[Utterance]:
    mark = "-".join(fields.values())
    return [
        Utterance(f"{mark}{number}", f"{mark}{number}.wav", **fields) for number in range(count)
    ]


def groups(*utterances: Utterance) -> list[tuple[str, str]]:
    found = group_findings(utterances)
    assert not any(row.file or row.id for row in found)
    return [(row.finding, row.detail) for row in found]


def test_a_table_without_fault():
    assert groups(*rows(5, label="sad", speaker="a"), *rows(5, label="sad", speaker="b")) == []
    assert groups(*rows(5, label="sad")) == []


def test_labels_that_differ_in_spelling_only():
    similar = [("sad", "Sad"), ("sad", "sad."), ("not sad", "not-sad"), ("ÄRGER", "ärger")]
    for one, other in similar:
        first, second = sorted([(one, 6), (other, 7)])
        expected = f"'{first[0]}' ({first[1]} utterances), '{second[0]}' ({second[1]} utterances)"
        [(name, detail)] = groups(*rows(6, label=one), *rows(7, label=other))
        assert (name, detail) == (
            "similar labels",
            f"{expected}: --config.corpus.labels='{one}={other}'",
        )
    table = [row for label in ("a", "A", "b, c", "B, C") for row in rows(5, label=label)]
    [(_, detail)] = groups(*table)
    assert detail.endswith(""": --config.corpus.labels='A=a,"B, C=b, c"'""")
    for one, other in (("sad", "mad"), ("1", "2"), ("+", "-"), ("", "sad"), ("कल", "काल")):
        assert groups(*rows(5, label=one), *rows(5, label=other)) == []


def test_a_class_of_one_speaker():
    table = [
        *rows(5, label="sad", speaker="a"),
        *rows(5, label="sad", speaker="b"),
        *rows(5, label="mad", speaker="b"),
    ]
    assert groups(*table) == [("one speaker", "label 'mad' is spoken by b only")]


def test_few_utterances_of_a_speaker_or_session():
    table = [
        *rows(5, label="sad", speaker="a", session="x"),
        *rows(4, label="sad", speaker="b", session="y"),
        *rows(3, label="", speaker="b", session="y"),  # without a label it is not scored
    ]
    assert groups(*table) == [
        ("few utterances", "speaker b: 4 utterances; fewer than 5"),
        ("few utterances", "session y: 4 utterances; fewer than 5"),
    ]


def test_a_column_that_is_filled_in_some_rows():
    for column in ("speaker", "session", "split"):
        filled = [row for name in "ab" for row in rows(5, label="sad", **{column: name})]
        expected = f"{column} is empty in 2 of 12 rows, for example sad0"
        assert groups(*filled, *rows(2, label="sad")) == [("unfilled", expected)]
