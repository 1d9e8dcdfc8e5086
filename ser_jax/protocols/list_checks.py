"""What the list of a corpus says before any recording is opened: one check for training and doctor.

Training refuses the errors and logs the rest; the doctor shows all of them.
"""

import collections
import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ser_jax.config import Config
from ser_jax.corpora.findings import ERROR, Finding
from ser_jax.corpora.labels import KEY, LEFT_OUT, check_classes, parse, write
from ser_jax.corpora.release_files import check_bad_share
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.protocols import named, speaker_rule
from ser_jax.protocols.named import Spec
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted

FEW_UTTERANCES = 5  # of a speaker or session: fewer do not tell the recall of four classes

UNUSABLE = "unusable rows"  # the finding that there are too many

_COLUMNS = ("speaker", "session", "split")
_Found = TypeVar("_Found")


@dataclasses.dataclass(frozen=True)
class Listed:
    """What the list tells about a protocol."""

    corpus: Corpus | None  # the utterances of the protocol; None if there are none of a class
    protocol: Protocol | None  # as if every recording could be used; None if it cannot be made
    warnings: tuple[str, ...]  # of `named.build_protocol`; they are among the findings
    findings: tuple[Finding, ...]  # errors first


def examine(config: Config, corpus: Corpus, name: str, spec: Spec) -> Listed:
    """Returns what a corpus's list tells about its use with a configuration.

    Args:
      config: The resolved configuration.
      corpus: Everything that is listed.
      name: Name of the protocol, and
      spec: its definition, both from `named.find_spec`.
    """
    errors, others = [], []

    def attempt(kind: str, function: Callable[..., _Found], *args, **options) -> _Found | None:
        try:
            return function(*args, **options)
        except UserError as error:
            errors.append(Finding(kind, str(error)))
            return None

    most = config.features.max_bad_share
    attempt(UNUSABLE, check_bad_share, corpus.rejected, len(corpus.utterances), most)
    selected = attempt("no protocol", named.select, spec, corpus)
    protocol, warnings = None, ()
    if selected is not None and spec.classes is None:
        requested = {*parse(config.corpus.labels).values()} - {LEFT_OUT}
        attempt("no classes", check_classes, selected, requested)
    if selected is not None and not any(row.finding == "no classes" for row in errors):
        others += group_findings(selected.utterances)
        made = attempt(
            *("no protocol", named.build_protocol, name, spec, selected, selected.utterances),
            refit=config.training.refit,
            rule=speaker_rule.rule(config),
        )
        protocol, warnings = made or (None, ())
        others += [Finding("protocol", sentence) for sentence in warnings]
    best, _ = named.find_spec(named.AUTO, corpus)
    if protocol is not None and best != corpus.protocol:
        fault = "leaving one speaker out leaves validation parts without some class"
        if name == corpus.protocol:
            others.append(Finding("protocol", f"{fault}; protocol.name={best} has all in each"))
        elif name == best:
            others.append(Finding("default protocol", f"{best}: {fault}"))
    return Listed(selected, protocol, warnings, (*errors, *others))


def refuse_errors(listed: Listed) -> None:
    """Raises the first error as a `UserError`."""
    for row in listed.findings:
        if row.severity == ERROR:
            raise UserError(row.detail)


def group_findings(utterances: Sequence[Utterance]) -> list[Finding]:
    """Finds labels, speakers and sessions that make scores unreliable.

    Labels that differ in spelling only, classes of one speaker, speakers and sessions with few
    utterances, and columns that are filled in some rows only; without file and id.
    """
    return [
        *_similar_labels(utterances),
        *_classes_of_one_speaker(utterances),
        *_small_groups(utterances),
        *_half_filled_columns(utterances),
    ]


def _similar_labels(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    counts = collections.Counter(utterance.label for utterance in utterances)
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
        plain = "".join(sign for sign in folded if unicodedata.category(sign)[0] in "LMN")
        spellings.setdefault(plain or label, []).append(label)
    found: list[str] = []
    renamed: dict[str, str] = {}
    for labels in spellings.values():
        if len(labels) > 1:
            found.append(
                ", ".join(f"{label!r} ({counted(counts[label], 'utterance')})" for label in labels)
            )
            most = max(labels, key=lambda label: (counts[label], label.islower()))
            renamed |= {label: most for label in labels if label != most}
    if found:  # one finding: of several flags only the last would hold
        yield Finding("similar labels", f"{'; '.join(found)}: --config.{KEY}='{write(renamed)}'")


def _classes_of_one_speaker(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    speakers: dict[str, set[str]] = {}
    for utterance in utterances:
        if utterance.label and utterance.speaker:
            speakers.setdefault(utterance.label, set()).add(utterance.speaker)
    for label, names in sorted(speakers.items()):
        if len(names) == 1:
            yield Finding("one speaker", f"label {label!r} is spoken by {min(names)} only")


def _small_groups(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    for column in ("speaker", "session"):
        counts = collections.Counter(
            getattr(utterance, column) for utterance in utterances if utterance.label
        )
        for name, count in sorted(counts.items()):
            if name and count < FEW_UTTERANCES:
                detail = (
                    f"{column} {name}: {counted(count, 'utterance')}; fewer than {FEW_UTTERANCES}"
                )
                yield Finding("few utterances", detail, rank=-count)


def _half_filled_columns(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    for column in _COLUMNS:
        empty = [utterance for utterance in utterances if not getattr(utterance, column)]
        if 0 < len(empty) < len(utterances):
            detail = (
                f"{column} is empty in {len(empty)} of {counted(len(utterances), 'row')}, for"
                f" example {empty[0].id}"
            )
            yield Finding("unfilled", detail)
