"""Features that are normalised by what a speaker's own recordings have in common.

All recordings of a speaker count, without their labels, and those of a test speaker too: scores are
what a system reaches that has heard a person before (transductive). So they are no scores of the
named protocol, and a protocol of another name and hash says so.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from ser_jax.config import Config
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

SUFFIX = "+speaker-normalised"
SPEAKER = "speaker"  # value of features.normalisation and features.level
REFUSE = "refuse"
FEW = (REFUSE, "training")  # values of features.speaker_few
SHOWN = 3  # speakers that a message names


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is done by speaker."""

    keys: tuple[str, ...]  # of the configuration, such as "features.normalisation=speaker"
    minimum: int  # utterances that a speaker must have
    few: str  # one of `FEW`: what becomes of speakers with fewer

    def __str__(self) -> str:
        """Returns the rule in words, as it is hashed."""
        fewer = "refused" if self.few == REFUSE else "as without it"
        return (
            f"{', '.join(self.keys)}: from all recordings of a speaker, test speakers too, without"
            f" labels; fewer than {self.minimum} utterances: {fewer}"
        )


def rule(config: Config) -> Rule | None:
    """Returns what the configuration normalises by speaker; None for nothing."""
    f = config.features
    keys = [key for key in ("normalisation", "level") if f[key] == SPEAKER]
    if not keys:
        return None
    return Rule(
        tuple(f"features.{key}={SPEAKER}" for key in keys), f.speaker_minimum, f.speaker_few
    )


def assign(rule: Rule, speakers: Sequence[str]) -> np.ndarray:
    """Returns [N] i32, the number of every utterance's speaker from 1 on; 0: has too few.

    Raises:
      UserError: If a speaker is unknown, or has too few utterances and the rule refuses them.
    """
    key, counts = rule.keys[0], collections.Counter(speakers)
    if unknown := counts.pop("", 0):
        raise UserError(
            f"{key} needs the speaker of every utterance, and that of {unknown} of {len(speakers)}"
            " is unknown: add the column speaker to the list, or leave the key out"
        )
    few = [name for name, count in sorted(counts.items()) if count < rule.minimum]
    if few and rule.few == REFUSE:
        named = ", ".join(f"{name} ({counts[name]})" for name in few[:SHOWN])
        raise UserError(
            f"{key}: {len(few)} of {counted(len(counts), 'speaker has', 'speakers have')} fewer"
            f" than features.speaker_minimum={rule.minimum} utterances, such as {named}: lower it,"
            " leave them out, or set features.speaker_few=training to treat them as without the key"
        )
    kept = [name for name in sorted(counts) if counts[name] >= rule.minimum]
    if not kept:
        raise UserError(
            f"{key}: no speaker has features.speaker_minimum={rule.minimum} utterances; lower it,"
            " or leave the key out"
        )
    numbers = {name: number for number, name in enumerate(kept, 1)}
    return np.array([numbers.get(name, 0) for name in speakers], np.int32)


def renamed(protocol: Protocol, rule: Rule) -> Protocol:
    """Returns the protocol under a name and hash that tell how features are normalised.

    Raises:
      UserError: As `assign`.
    """
    missing = int(np.count_nonzero(assign(rule, protocol.speakers) == 0))
    note = (
        f"{', '.join(rule.keys)}: features are normalised by all recordings of a speaker, those of"
        " test speakers too, without labels (transductive): not to be compared with scores on"
        f" {protocol.name}"
    )
    if missing:
        note += f"; but {counted(missing, 'utterance')}, of speakers with fewer than {rule.minimum}"
    name, notes = protocol.name + SUFFIX, (*protocol.notes, note)
    return dataclasses.replace(protocol, name=name, by_speaker=str(rule), notes=notes)
