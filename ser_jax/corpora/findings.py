"""The kinds of findings about a release, each with its severity and remedy."""

import dataclasses
from collections.abc import Iterable

SHOWN = 3  # examples in a sentence
ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)  # the worst first

# Recordings that are left out on purpose (`Corpus.left_out`).
LEFT_OUT_LABEL, NO_MAJORITY = "left-out label", "no majority"
READ_ONCE, ANOTHER_TASK = "read once", "another task"

_COPY_AGAIN = "copy the file again from its source"
_ONE_TOO_MANY = "listen to both, then delete or relabel one"

# Finding → severity and remedy. Errors cannot be used; warnings are used and worth a look, or make
# scores wrong; notes are normal in many corpora. Training refuses errors, and so may the doctor.
# The names of bad recordings and bad rows are those of rejected.csv.
_REMEDIES = {
    ERROR: {
        "unusable release": "mend what the sentence says; recordings have not been examined",
        "unusable rows": "mend the list as the rows below say; training refuses so many",
        "no classes": "name the classes as the sentence says",
        "no protocol": "mend the list, or choose another protocol.name",
        "bad line": "mend the line of the list",
        "unknown label": "mend the label in the list",
        "duplicate": "delete one of the two lines, or set corpus.raters; the first is used",
        "conflict": "mend the line that is wrong, or download the lists again; the first is used",
        "refused path": "keep recordings under corpus.root and write their paths relative to it",
        "missing": "complete the release, or set corpus.allow_missing=true to go on without them",
        "unreadable": f"{_COPY_AGAIN}, or convert it to 16-bit WAV or FLAC",
        "truncated": _COPY_AGAIN,
        "non-finite": f"{_COPY_AGAIN}, or convert it to 16-bit WAV",
        "silent": f"{_COPY_AGAIN}: it holds nothing but zeros",
        "over the limits": "convert it to 16-bit WAV, 16 kHz mono",
        "span outside the file": (
            "mend start and end in the list; leave both out if the file itself is that span"
        ),
        "too short": "take it out of the list, or join it with its neighbour",
        "too long": "cut it, or list spans of it (start, end), or raise features.max_seconds",
    },
    WARNING: {
        "copy with another label": f"{_ONE_TOO_MANY}: one label is wrong",
        "copy in training and test": f"{_ONE_TOO_MANY}: a tested recording must not be trained on",
        "copy of another speaker": f"{_ONE_TOO_MANY}: one speaker is wrong",
        "copy": "delete all but one: it counts several times",
        "bad name": "rename it as the corpus names its recordings, or take it out of the release",
        "clipped": "record with less gain; a few clipped peaks do little harm",
        "near-silent": "listen to it: is there speech?",
        "offset": "remove the DC offset with a high-pass filter",
        "short": "used, filled up with silence to one segment",
        "low rate": (
            "used, but what lies above half its rate is empty; do not mix rates between classes"
        ),
        "out of phase": "hardly anything is left of their mean: set features.channel",
        "silent channel": "their mean is half as loud as the other: set features.channel",
        "other channel": "used; list recordings apart that were made with other channels",
        "length not in header": "used; listen to its end, or write it again with its length",
        "similar labels": (
            "different classes as they are; if they mean the same, write them alike or set"
            " corpus.labels"
        ),
        "one speaker": (
            "add speakers: the class cannot be told from the voice; or merge or leave it out with"
            " corpus.labels"
        ),
        "few utterances": "add utterances or join groups: scores of this one mean little",
        "unfilled": "fill the column in every row or in none",
        "protocol": "make sure that it is meant",
    },
    NOTE: {
        "default protocol": "nothing; any other is chosen by protocol.name",
        "cut span": "nothing: it is used up to the end of the recording",
        "quiet": "nothing: the level is no mistake, but mind it if classes differ in it",
        "high rate": "nothing: it is resampled to 16 kHz",
        "several channels": "nothing, if all of them hold the same speaker: they are averaged",
        "surround": "nothing if all channels hold speech; that of films is in channel 3",
        "other encoding": "nothing; do not mix encodings between classes",
        "not used": "nothing: the protocol leaves it out",
        LEFT_OUT_LABEL: "nothing: corpus.labels or another of the joined corpora leaves it out",
        NO_MAJORITY: "nothing: no class has most of its raters; corpus.raters leaves it out",
        READ_ONCE: "nothing: the release has it twice, and one of the two is read",
        ANOTHER_TASK: "nothing: songs and video are not read",
        "unlisted": "nothing if it is meant to be left out, such as other emotions; else list it",
    },
}
KINDS: dict[str, tuple[str, str]] = {
    name: (severity, remedy)
    for severity, remedies in _REMEDIES.items()
    for name, remedy in remedies.items()
}
_UNKNOWN = (ERROR, "mend what the detail says")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One problem or oddity of a release: a row of the doctor's CSV file."""

    finding: str  # its name, in most cases one of `KINDS`
    detail: str  # A description for a person
    # path relative to the corpus root, or the name of the list; "" for the whole release
    file: str = ""
    id: str = ""  # utterance id; "" if it is not about one utterance
    # the larger, the worse among findings of its name; the worst are the examples
    rank: float = 0.0
    allowed: bool = False  # whether the configuration allows it: an error is then a warning

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        severity = KINDS.get(self.finding, _UNKNOWN)[0]
        return WARNING if self.allowed and severity == ERROR else severity

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return KINDS.get(self.finding, _UNKNOWN)[1]


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """Sorts by severity, by name as in `KINDS`, by rank (the worst first), by file and id."""
    names = {name: number for number, name in enumerate(KINDS)}

    def key(row: Finding) -> tuple[int, int, str, float, str, str]:
        place = names.get(row.finding, len(names))
        return SEVERITIES.index(row.severity), place, row.finding, -row.rank, row.file, row.id

    return tuple(sorted(findings, key=key))


def grouped(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Returns name → findings of that name, in their order."""
    groups: dict[str, list[Finding]] = {}
    for row in findings:
        groups.setdefault(row.finding, []).append(row)
    return groups


def sentences(findings: Iterable[Finding]) -> list[str]:
    """Returns a sentence per name: the count if there are several, three examples, the remedy."""
    found = []
    for name, rows in grouped(findings).items():
        examples = [f"{row.file}: {row.detail}" if row.file else row.detail for row in rows[:SHOWN]]
        if len(rows) > SHOWN:
            examples.append(f"and {len(rows) - SHOWN} more")
        count = f" ({len(rows)})" if len(rows) > 1 else ""
        remedy = f" ({rows[0].remedy})" if rows[0].severity != NOTE else ""
        found.append(f"{name}{count}: {'; '.join(examples)}{remedy}")
    return found
