"""Protocols of several joined corpora: no speaker is split, and every utterance is tested once."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.protocols import folds as rules
from ser_jax.protocols import named
from ser_jax.protocols.protocol import TEST, TRAIN, UNUSED, VALIDATION


def rows(
    corpus: str, speakers: int, *, sessions: int = 0, unknown: bool = False
) -> list[Utterance]:
    """Two utterances of each speaker and class; speakers are spread over sessions."""
    return [
        Utterance(
            f"{corpus}/{speaker:02d}{label}{take}",
            *("x.wav", None, None),
            label=label,
            speaker="" if unknown else f"{corpus}/{speaker:02d}",
            session=f"{corpus}/S{speaker % sessions}" if sessions else "",
            corpus=corpus,
        )
        for speaker in range(speakers)
        for label in ("angry", "sad")
        for take in range(2)
    ]


MANY, FEW = rows("many", 16), rows("few", 4)
PAIRS = rows("pairs", 8, sessions=4)
BOTH = sorted(MANY + FEW + PAIRS, key=lambda row: row.id)


def letters(fold: rules.Fold, name: str, key: str = "corpus") -> str:
    """The parts that hold utterances of a corpus, or of another group."""
    found = {part for part, row in zip(fold.parts, BOTH, strict=True) if getattr(row, key) == name}
    return "".join(sorted(found))


def check_apart(made: tuple[rules.Fold, ...]) -> None:
    for fold, speaker in (
        (fold, speaker) for fold in made for speaker in {r.speaker for r in BOTH}
    ):
        assert len(letters(fold, speaker, "speaker")) == 1, (fold.name, speaker)


def test_folds_of_speakers_have_equal_parts_of_every_corpus_and_class():
    """Of 28 speakers; those of a session stay together, and a corpus of 4 is not in one fold."""
    made, rule = rules.speakers_apart(BOTH)
    check_apart(made)
    assert [fold.name for fold in made] == [f"{n}of5" for n in range(1, 6)]
    assert rule.endswith("; speakers of a session count as one")
    for corpus, label in ((c, k) for c in ("many", "few", "pairs") for k in ("angry", "sad")):
        number = [
            sum(
                (BOTH[row].corpus, BOTH[row].label) == (corpus, label) for row in fold.test.tolist()
            )
            for fold in made
        ]
        assert max(number) - min(number) <= 4 and sum(number) == sum(
            (row.corpus, row.label) == (corpus, label) for row in BOTH
        )
    for fold in made:
        assert all(len(letters(fold, f"pairs/S{n}", "session")) == 1 for n in range(4))


def test_up_to_twelve_speakers_each_is_left_out():
    made, rule = rules.speakers_apart(FEW)
    assert [fold.name for fold in made] == [f"few/{n:02d}" for n in range(4)]
    assert rule == rules.NEXT_GROUP.format(group="speaker")


def test_leave_one_corpus_out():
    made, _ = rules.leave_one_corpus_out(BOTH)
    check_apart(made)
    assert [fold.name for fold in made] == ["few", "many", "pairs"]
    for fold in made:
        assert letters(fold, fold.name) == TEST
        others = {letters(fold, name) for name in ("few", "many", "pairs") if name != fold.name}
        assert TRAIN + VALIDATION in others and TEST not in "".join(others)


@pytest.mark.parametrize(("corpus", "within"), [("many", 5), ("few", 4), ("pairs", 4)])
def test_train_on_one_tests_every_utterance_once(corpus, within):
    made, rule = rules.train_on(BOTH, corpus)
    check_apart(made)
    assert len(made) == within + 1 and made[-1].name == corpus
    tested = Counter(row for fold in made for row in fold.test.tolist())
    assert tested == dict.fromkeys(range(len(BOTH)), 1)
    assert letters(made[-1], corpus) == TRAIN + VALIDATION
    for fold in made[:-1]:
        assert letters(fold, corpus) == "".join(sorted((TEST, TRAIN, VALIDATION)))
        assert {letters(fold, name) for name in {"few", "many", "pairs"} - {corpus}} == {UNUSED}
    assert rule.startswith(f"fold {corpus}: every 7th speaker" if corpus == "many" else "fold ")


@pytest.mark.parametrize("inside", [rows("some", 2), rows("some", 5, unknown=True)])
def test_without_enough_known_speakers_only_the_others_are_tested(inside):
    made, rule = rules.train_on(FEW + inside, "some")
    assert [fold.name for fold in made] == ["some"] and "none within it" in rule
    assert {row.corpus for row in np.array(FEW + inside)[made[0].test]} == {"few"}


def test_they_are_found_by_name():
    corpus = Corpus("few+many+pairs", Path("/"), tuple(BOTH), "few+many+pairs-speaker", {})
    assert list(named.specs_of(corpus)) == [
        "few+many+pairs-speaker",
        "leave-one-corpus-out",
        *("train-on-few", "train-on-many", "train-on-pairs"),
        "few+many+pairs-final",
    ]
    assert named.find_spec("auto", corpus)[0] == "few+many+pairs-speaker"
    name, spec = named.find_spec("few+many+pairs-speaker-3fold", corpus)
    made, warnings = named.build_protocol(name, spec, corpus, BOTH)
    assert len(made.folds) == 3 and made.corpus == corpus.name
    assert any("sessions are in the test part and elsewhere" in each for each in warnings)
