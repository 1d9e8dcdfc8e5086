"""What is wrong or odd with recordings: those that cannot be used, their sound, and copies of each other."""

import math
from collections.abc import Iterator, Mapping, Sequence

from ser_jax.corpora.table import Corpus, Utterance
from ser_jax.diagnosis.findings import Finding
from ser_jax.features import audio
from ser_jax.features.bad_audio import BadAudio
from ser_jax.features.checkup import Measured
from ser_jax.protocols.protocol import TEST, TRAIN, VALIDATION, Protocol

# Peaks below these levels (re full scale): 33 steps of 16 bits are the noise of a good microphone, 328 a whisper.
NEAR_SILENT_DBFS = -60.0
QUIET_DBFS = -40.0
MAX_OFFSET = 0.02  # of full scale; three times the largest mean of a recording in EMO-DB
USUAL_ENCODING = "PCM_16"


def recording_findings(
    corpus: Corpus, examined: Mapping[str, Measured | BadAudio], *, segment_samples: int
) -> list[Finding]:
    """Names what is wrong or odd with each recording or span.

    Args:
      corpus: The utterances.
      examined: Utterance id → what it is like, or why it cannot be used.
      segment_samples: Samples of one segment at 16 kHz; shorter recordings are filled up with silence.

    Returns:
      The findings; what is the same for several spans of a file is one finding.
    """
    merged: dict[tuple[str, str, str], list[tuple[Utterance, float]]] = {}
    for utterance in corpus.utterances:
        result = examined[utterance.id]
        odd = [(result.reason, result.detail, 0.0)] if isinstance(result, BadAudio) else _odd(result, segment_samples)
        for name, detail, rank in odd:
            merged.setdefault((utterance.file, name, detail), []).append((utterance, rank))
    found = []
    for (file, name, detail), rows in merged.items():
        more = f" (and {len(rows) - 1} more spans of it)" if len(rows) > 1 else ""
        found.append(Finding(name, detail + more, file, rows[0][0].id, rows[0][1]))
    return found


def _odd(sound: Measured, segment_samples: int) -> Iterator[tuple[str, str, float]]:
    """Yields name, detail and rank of what is odd about a usable recording."""
    if sound.samples < segment_samples:
        segment = segment_samples / audio.SAMPLE_RATE
        yield "short", f"{sound.seconds:.3f} s; one segment is {segment:.3f} s", -sound.seconds
    if sound.clipped:
        detail = f"{100 * sound.full_scale:.2f} % of the samples at full scale, {sound.longest_run} in a row"
        yield "clipped", detail, sound.full_scale
    level = 20 * math.log10(sound.peak)
    if level < NEAR_SILENT_DBFS:
        yield "near-silent", f"peak {level:.0f} dBFS; below {NEAR_SILENT_DBFS:.0f}", -level
    elif level < QUIET_DBFS:
        yield "quiet", f"peak {level:.0f} dBFS; below {QUIET_DBFS:.0f}", -level
    if abs(sound.offset) > MAX_OFFSET:
        detail = f"mean {sound.offset:+.3f} of full scale; beyond ±{MAX_OFFSET:g}"
        yield "offset", detail, abs(sound.offset)
    if sound.rate != audio.SAMPLE_RATE:
        name = "low rate" if sound.rate < audio.SAMPLE_RATE else "high rate"
        yield name, f"{sound.rate} Hz instead of {audio.SAMPLE_RATE}", abs(sound.rate - audio.SAMPLE_RATE)
    if sound.channels > 1:
        yield "several channels", f"{sound.channels} channels", sound.channels
    if sound.encoding != USUAL_ENCODING:
        yield "other encoding", f"{sound.encoding} instead of {USUAL_ENCODING}", 0.0


def copy_findings(
    corpus: Corpus, examined: Mapping[str, Measured | BadAudio], protocol: Protocol | None
) -> list[Finding]:
    """Finds recordings with the same samples, in the same file bytes or in others, and judges what that spoils.

    Args:
      corpus: The utterances.
      examined: Utterance id → what it is like, or why it cannot be used.
      protocol: The protocol, to see which copies are both trained on and tested; None if there is none.

    Returns:
      One finding per copy, the first by id not counted, under the worst name that fits its group: another label, then
      training and test of one fold, then another speaker.
    """
    groups: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances:
        sound = examined[utterance.id]
        if isinstance(sound, Measured):
            groups.setdefault(sound.speech_sha256, []).append(utterance)
    rows = {} if protocol is None else {name: row for row, name in enumerate(protocol.ids)}
    found = []
    for group in groups.values():
        if len(group) < 2:
            continue
        folds = _leaking_folds(protocol, [rows[utterance.id] for utterance in group if utterance.id in rows])
        name = _copy_name(group, folds)
        leak = f"; trained on and tested in fold {', '.join(folds[:3])}{', …' if len(folds) > 3 else ''}"
        first, *copies = group
        for copy in copies:
            one, other = examined[first.id], examined[copy.id]
            same_file = (
                isinstance(one, Measured) and isinstance(other, Measured) and one.file_sha256 == other.file_sha256
            )
            detail = f"{_described(copy)}: same {'bytes' if same_file else 'samples'} as {first.id} {_described(first)}"
            found.append(Finding(name, detail + (leak if folds else ""), copy.file, copy.id, len(group)))
    return found


def _copy_name(group: Sequence[Utterance], leaking_folds: Sequence[str]) -> str:
    if len({utterance.label for utterance in group} - {""}) > 1:
        return "copy with another label"
    if leaking_folds:
        return "copy in training and test"
    if len({utterance.speaker for utterance in group} - {""}) > 1:
        return "copy of another speaker"
    return "copy"


def _leaking_folds(protocol: Protocol | None, rows: Sequence[int]) -> list[str]:
    """Returns the folds that test one of these utterances and train or validate on another."""
    if protocol is None or len(rows) < 2:
        return []
    parts = ((fold.name, {fold.parts[row] for row in rows}) for fold in protocol.folds)
    return [name for name, letters in parts if TEST in letters and letters & {TRAIN, VALIDATION}]


def _described(utterance: Utterance) -> str:
    words = (utterance.label or "no label", utterance.speaker and f"speaker {utterance.speaker}", utterance.split)
    return f"({', '.join(word for word in words if word)})"
