"""Recordings that are copies of each other: the same check for the doctor and for training."""

from collections.abc import Mapping, Sequence

from ser_jax.corpora.findings import Finding
from ser_jax.corpora.table import Utterance
from ser_jax.protocols.protocol import TEST, TRAIN, VALIDATION, Protocol

LEAK = "copy in training and test"  # the protocol has a note of it, too


def copy_findings(
    utterances: Sequence[Utterance],
    protocol: Protocol | None,
    speech: Mapping[str, str],
    files: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Finds recordings with the same samples.

    Args:
      utterances: The utterances.
      protocol: Tells which copies are both trained on and tested; None if it cannot be made.
      speech: Id of every usable utterance → a name that copies share: a digest of the samples, or
        of the bytes of file and span.
      files: The same for the bytes of the whole file; None if those are equal in every copy.

    Returns:
      One finding per copy, without the first by id, under the worst name that fits its group:
      another label, then training and test of one fold, then another speaker.
    """
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.id in speech:
            groups.setdefault(speech[utterance.id], []).append(utterance)
    rows = {} if protocol is None else {name: row for row, name in enumerate(protocol.ids)}
    found = []
    for group in groups.values():
        if len(group) < 2:
            continue
        folds = _leaking_folds(protocol, [rows[row.id] for row in group if row.id in rows])
        name = _copy_name(group, folds)
        more = ", …" if len(folds) > 3 else ""
        leak = f"; trained on and tested in fold {', '.join(folds[:3])}{more}" if folds else ""
        first, *copies = group
        for copy in copies:
            bytewise = files is None or files[copy.id] == files[first.id]
            same = "bytes" if bytewise else "samples"
            detail = f"{_described(copy)}: same {same} as {first.id} {_described(first)}{leak}"
            found.append(Finding(name, detail, copy.file, copy.id, len(group)))
    return found


def _copy_name(group: Sequence[Utterance], leaking_folds: Sequence[str]) -> str:
    if len({utterance.label for utterance in group} - {""}) > 1:
        return "copy with another label"
    if leaking_folds:
        return LEAK
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
    words = (
        utterance.label or "no label",
        utterance.speaker and f"speaker {utterance.speaker}",
        utterance.split,
    )
    return f"({', '.join(word for word in words if word)})"
