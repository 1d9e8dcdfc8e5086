"""The whole way of the doctor: from a configuration to everything that is wrong or odd with a release."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ser_jax import checks
from ser_jax.config import Config
from ser_jax.corpora.listing import Unusable
from ser_jax.corpora.registry import read_corpus
from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.diagnosis.findings import Finding, in_order
from ser_jax.diagnosis.recordings import copy_findings, recording_findings
from ser_jax.diagnosis.rows import group_findings, rejection_findings, unlisted_findings, unused_findings
from ser_jax.errors import UserError
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.checkup import Measured, examine_corpus
from ser_jax.models import build
from ser_jax.protocols import registry
from ser_jax.protocols.specs import Spec


@dataclasses.dataclass(frozen=True, slots=True)
class LabelCount:
    """What there is of one label.

    Attributes:
      label: The label; "" where it is withheld.
      used: Whether the protocol uses it.
      utterances: Usable utterances.
      expected: How many the protocol expects; None if it does not say.
      speakers: How many speakers they are from; 0 if those are unknown.
      seconds: Their length together.
    """

    label: str
    used: bool
    utterances: int
    expected: int | None
    speakers: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
      corpus: Name of the corpus.
      root: Folder of the release.
      protocol: Name of the protocol, with "+modified" if training would call it so; "" if it cannot be made.
      findings: Everything, the worst first.
      listed: How many rows the corpus lists, usable or not.
      labels: Its labels, those of the protocol first.
      seconds: Length of every usable utterance.
      remarks: What else the corpus's reader says.
    """

    corpus: str
    root: str
    protocol: str
    findings: tuple[Finding, ...]
    listed: int = 0
    labels: tuple[LabelCount, ...] = ()
    seconds: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))  # [usable utterances] f64, s
    remarks: tuple[str, ...] = ()


def diagnose(config: Config) -> Diagnosis:
    """Reads a release, examines every recording that it lists, and makes the protocol.

    Missing recordings are found whether or not `corpus.allow_missing` is set; it says how bad that is.

    Args:
      config: The configuration; of it count `corpus`, `protocol.name`, `features` and the segments of `model`.

    Returns:
      The diagnosis.

    Raises:
      UserError: If the corpus, its folder or the protocol is not known, or the folder is no release of the corpus.
    """
    checks.check(config)
    c, f = config.corpus, config.features
    try:
        corpus = read_corpus(c.name, c.root, manifest=c.manifest, allow_missing=True)
    except Unusable as error:
        rows = rejection_findings(error.rejected, allow_missing=c.allow_missing)
        return Diagnosis(c.name, c.root, "", in_order([Finding("unusable release", str(error)), *rows]))
    name, spec = registry.find_spec(config.protocol.name, corpus)
    examined = examine_corpus(corpus, max_seconds=f.max_seconds, workers=f.workers)
    findings = [
        *rejection_findings(corpus.rejected, allow_missing=c.allow_missing),
        *unlisted_findings(corpus),
        *recording_findings(corpus, examined, segment_samples=_segment_samples(config)),
    ]
    usable = {utterance.id for utterance in corpus.utterances if isinstance(examined[utterance.id], Measured)}
    selected, protocol = None, None
    try:
        selected = registry.select(spec, corpus)
        findings += unused_findings(corpus, selected)
        rows = tuple(utterance for utterance in selected.utterances if utterance.id in usable)
        findings += group_findings(rows)
        protocol, warnings = registry.build_protocol(name, spec, selected, rows)
        findings += [Finding("protocol", sentence) for sentence in warnings]
    except UserError as error:
        findings.append(Finding("no protocol", f"{name}: {error}"))
    findings += copy_findings(corpus, examined, protocol)
    return Diagnosis(
        corpus=corpus.name,
        root=str(corpus.root),
        protocol="" if protocol is None else protocol.name,
        findings=in_order(findings),
        listed=len(corpus.utterances) + len(corpus.rejected),
        labels=_label_counts(corpus, selected or corpus, spec, examined),
        seconds=np.array([sound.seconds for sound in examined.values() if isinstance(sound, Measured)], np.float64),
        remarks=_remarks(corpus),
    )


def _remarks(corpus: Corpus) -> tuple[str, ...]:
    """Returns the reader's sentences but the last ones, which sum up rejected rows and missing recordings."""
    summaries = len({row.reason == "missing" for row in corpus.rejected})
    return corpus.warnings[: len(corpus.warnings) - summaries]


def _segment_samples(config: Config) -> int:
    """Returns how many samples the longest segment of the system spans."""
    frames = max(channel.window for channel in build.channels(config))
    f = config.features
    return round(f.sample_rate * (f.window_seconds + (frames - 1) * f.hop_seconds))


def _label_counts(
    corpus: Corpus, selected: Corpus, spec: Spec, examined: Mapping[str, Measured | BadAudio]
) -> tuple[LabelCount, ...]:
    """Counts usable utterances: those of the protocol for its labels, all of them for the others."""
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
