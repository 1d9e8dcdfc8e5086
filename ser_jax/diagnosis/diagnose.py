"""Examines the release that a configuration names and collects everything wrong or odd with it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ser_jax.config import Config
from ser_jax.corpora import from_config
from ser_jax.corpora.findings import Finding, in_order
from ser_jax.corpora.release_files import Unusable, check_bad_share
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.diagnosis.measure import Measured, examine_corpus
from ser_jax.diagnosis.recording_checks import recording_findings
from ser_jax.diagnosis.table_checks import rejection_findings, unlisted_findings, unused_findings
from ser_jax.experiment import config_checks
from ser_jax.features import audio
from ser_jax.features.extraction import rejection
from ser_jax.features.pcm import REASONS, BadAudio
from ser_jax.models import build
from ser_jax.protocols import list_checks, named, speaker_rule
from ser_jax.protocols.copies import copy_findings
from ser_jax.protocols.list_checks import UNUSABLE
from ser_jax.protocols.named import Spec
from ser_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class LabelCount:
    """How much a release holds of one label."""

    label: str  # the label; "" where it is withheld
    used: bool  # whether the protocol uses it
    utterances: int  # usable utterances
    expected: int | None  # how many the protocol expects; None if it does not say
    speakers: int  # how many speakers they are from; 0 if those are unknown
    seconds: float  # their length together


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Findings and counts about a release."""

    corpus: str  # name of the corpus
    root: str  # folder of the release
    # its name, with "+modified" if training would call it so; "" if it cannot be made
    protocol: str
    findings: tuple[Finding, ...]  # the worst first
    listed: int = 0  # rows of the corpus, usable or not
    labels: tuple[LabelCount, ...] = ()  # those of the protocol first
    # [N] f64, length of every usable utterance
    seconds: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    remarks: tuple[str, ...] = ()  # other warnings of the corpus's reader


def diagnose(config: Config) -> Diagnosis:
    """Reads a release, examines every listed recording, and makes the protocol.

    Uses `corpus`, `protocol.name`, `features` and the segments of `model`. Missing recordings are
    found in any case; `corpus.allow_missing` makes them a warning.

    Raises:
      UserError: If the corpus, its folder or the protocol is unknown, or the folder is no release
        of the corpus.
    """
    config_checks.check(config)
    c, f = config.corpus, config.features
    try:
        corpus = from_config.read_listed(config, audio.length, allow_missing=True)
    except Unusable as error:
        rows = rejection_findings(error.rejected, allow_missing=c.allow_missing)
        findings = in_order([Finding("unusable release", str(error)), *rows])
        return Diagnosis(c.name, c.root, "", findings)
    name, spec = named.find_spec(config.protocol.name, corpus)
    listed = list_checks.examine(config, corpus, name, spec)
    examined = examine_corpus(
        corpus, max_seconds=f.max_seconds, workers=f.workers, mix=audio.Mix(f.channel)
    )
    usable = {key: sound for key, sound in examined.items() if isinstance(sound, Measured)}
    protocol, selected = listed.protocol, listed.corpus or corpus
    rows = tuple(utterance for utterance in selected.utterances if utterance.id in usable)
    bad = [
        rejection(utterance, error)
        for utterance in selected.utterances
        if isinstance(error := examined[utterance.id], BadAudio)
    ]
    findings = [row for row in listed.findings if row.finding != UNUSABLE]
    try:
        check_bad_share((*corpus.rejected, *bad), len(rows), f.max_bad_share)
        allow_bad = True
    except UserError as error:
        findings.append(Finding(UNUSABLE, str(error)))
        allow_bad = False
    if listed.corpus is not None:
        findings += unused_findings(corpus, selected)
    if protocol is not None and bad and rows:
        try:
            rule = speaker_rule.rule(config)
            protocol, warnings = named.build_protocol(name, spec, selected, rows, rule=rule)
            new = (sentence for sentence in warnings if sentence not in listed.warnings)
            findings += [Finding("protocol", sentence) for sentence in new]
        except UserError as error:
            protocol = None
            findings.append(Finding("no protocol", str(error)))
    findings += [
        *rejection_findings(corpus.rejected, allow_missing=c.allow_missing, allow_bad=allow_bad),
        *unlisted_findings(corpus),
        *(
            dataclasses.replace(row, allowed=allow_bad and row.finding in REASONS)
            for row in recording_findings(
                corpus, examined, segment_samples=_segment_samples(config)
            )
        ),
        *copy_findings(
            corpus.utterances,
            protocol,
            {key: sound.speech_sha256 for key, sound in usable.items()},
            {key: sound.file_sha256 for key, sound in usable.items()},
        ),
    ]
    return Diagnosis(
        corpus=corpus.name,
        root=", ".join(map(str, corpus.folders or [corpus.root])),
        protocol="" if protocol is None else protocol.name,
        findings=in_order(findings),
        listed=len(corpus.utterances) + len(corpus.rejected),
        labels=_label_counts(corpus, selected, spec, examined),
        seconds=np.array([sound.seconds for sound in usable.values()], np.float64),
        remarks=_remarks(corpus),
    )


def _remarks(corpus: Corpus) -> tuple[str, ...]:
    """Returns the reader's warnings without the last ones, which sum up rejected rows."""
    summaries = len({row.reason == "missing" for row in corpus.rejected})
    return corpus.warnings[: len(corpus.warnings) - summaries]


def _segment_samples(config: Config) -> int:
    """Returns how many samples the longest segment of the system spans."""
    frames = max(channel.window for channel in build.segmentations(config))
    f = config.features
    return round(f.sample_rate * (f.window_seconds + (frames - 1) * f.hop_seconds))


def _label_counts(
    corpus: Corpus, selected: Corpus, spec: Spec, examined: Mapping[str, Measured | BadAudio]
) -> tuple[LabelCount, ...]:
    """Counts usable utterances: of the protocol for its labels, all of them for other labels."""
    ids = {utterance.id for utterance in selected.utterances}
    used = spec.classes or tuple(sorted({utterance.label for utterance in selected.utterances}))
    rows: dict[str, list[Utterance]] = {label: [] for label in used}
    seconds = dict.fromkeys(used, 0.0)
    for utterance in corpus.utterances:
        sound = examined[utterance.id]
        if isinstance(sound, Measured) and (utterance.id in ids or utterance.label not in used):
            rows.setdefault(utterance.label, []).append(utterance)
            seconds[utterance.label] = seconds.get(utterance.label, 0.0) + sound.seconds
    return tuple(
        LabelCount(
            label=label,
            used=label in used,
            utterances=len(rows[label]),
            expected=spec.counts.get(label),
            speakers=len({utterance.speaker for utterance in rows[label]} - {""}),
            seconds=seconds[label],
        )
        for label in (*used, *sorted(rows.keys() - set(used)))
    )
