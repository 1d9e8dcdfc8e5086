"""What is normalised by speaker: numbers of speakers, refusals, another name and hash."""

import dataclasses

import numpy as np
import pytest
import tiny

from ser_jax.config import get_config
from ser_jax.protocols import speaker_rule
from ser_jax.protocols.speaker_rule import Rule
from ser_jax.runtime.errors import UserError

RULE = Rule(("features.normalisation=speaker",), 2, "training")


def test_speakers_are_numbered_by_name_and_those_with_few_utterances_are_0():
    numbers = speaker_rule.assign(RULE, ["b", "a", "c", "a", "b", "a"])
    assert numbers.tolist() == [2, 1, 0, 1, 2, 1] and numbers.dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "speakers", "sentence"),
    [
        ({}, ["a", "", "a", ""], "the speaker of every utterance, and that of 2 of 4 is unknown"),
        ({"few": "refuse"}, ["a", "b", "b"], r"1 of 2 speakers .*minimum=2 .* such as a \(1\)"),
        ({"minimum": 4}, ["a", "b", "b"], "no speaker has features.speaker_minimum=4 utterances"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(changes, speakers, sentence):
    with pytest.raises(UserError, match=f"features.normalisation=speaker.*{sentence}"):
        speaker_rule.assign(dataclasses.replace(RULE, **changes), speakers)


def test_the_protocol_says_so_in_name_hash_and_notes():
    plain = tiny.protocol()
    named = speaker_rule.renamed(plain, RULE)
    assert named.name == "tiny-loso+speaker-normalised"
    other = speaker_rule.renamed(plain, dataclasses.replace(RULE, minimum=3))
    assert len({plain.sha256, named.sha256, other.sha256}) == 3
    assert "by_speaker" not in plain.value() and named.to_json()["by_speaker"] == str(RULE)
    (note,) = named.notes
    assert "(transductive): not to be compared with scores on tiny-loso" in note


def test_the_rule_of_a_configuration():
    config = get_config()
    assert speaker_rule.rule(config) is None
    config.features.normalisation = "speaker"
    keys = ("features.normalisation=speaker",)
    assert speaker_rule.rule(config) == Rule(keys, config.features.speaker_minimum, "refuse")
