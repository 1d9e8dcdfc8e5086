"""What the doctor can find: the names of the findings, how bad each is and what to do about it."""

import dataclasses

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)  # the worst first

_COPY_AGAIN = "copy the file again from its source"
_ONE_TOO_MANY = "listen to both, then delete or relabel one"

# Finding → severity and remedy. Errors cannot be used, or make scores wrong; warnings are used and worth a look; notes
# are normal in many corpora. The names of bad recordings and bad rows are those of rejected.csv.
KINDS: dict[str, tuple[str, str]] = {
    "unusable release": (ERROR, "mend what the sentence says; recordings have not been examined"),
    "no protocol": (ERROR, "mend the list, or choose another protocol.name"),
    "bad line": (ERROR, "mend the line of the list"),
    "unknown label": (ERROR, "mend the label in the list"),
    "duplicate": (ERROR, "delete one of the two lines; the first is used"),
    "conflict": (ERROR, "mend the line that is wrong, or fetch the lists anew; the first is used"),
    "refused path": (ERROR, "keep recordings under corpus.root and write their paths relative to it"),
    "missing": (ERROR, "complete the release, or set corpus.allow_missing=true to go on without them"),
    "unreadable": (ERROR, f"{_COPY_AGAIN}, or convert it to 16-bit WAV or FLAC"),
    "truncated": (ERROR, _COPY_AGAIN),
    "non-finite": (ERROR, f"{_COPY_AGAIN}, or convert it to 16-bit WAV"),
    "silent": (ERROR, f"{_COPY_AGAIN}: it holds nothing but zeros"),
    "over the limits": (ERROR, "convert it to 16-bit WAV, 16 kHz mono"),
    "span outside the file": (ERROR, "mend start and end in the list"),
    "too short": (ERROR, "take it out of the list, or join it with its neighbour"),
    "too long": (ERROR, "cut it, or list spans of it (start, end), or raise features.max_seconds"),
    "copy with another label": (ERROR, f"{_ONE_TOO_MANY}: one label is wrong"),
    "copy in training and test": (ERROR, f"{_ONE_TOO_MANY}: a tested recording must not be trained on"),
    "copy of another speaker": (ERROR, f"{_ONE_TOO_MANY}: one speaker is wrong"),
    "copy": (WARNING, "delete all but one: it counts several times"),
    "bad name": (WARNING, "rename it as the corpus names its recordings, or take it out of the release"),
    "clipped": (WARNING, "record with less gain; a few clipped peaks do little harm"),
    "near-silent": (WARNING, "listen to it: is there speech?"),
    "offset": (WARNING, "remove the DC offset with a high-pass filter"),
    "short": (WARNING, "used, filled up with silence to one segment"),
    "low rate": (WARNING, "used, but what lies above half its rate is empty; do not mix rates between classes"),
    "similar labels": (WARNING, "write them alike if they mean the same: they are different classes"),
    "one speaker": (WARNING, "add speakers: the class cannot be told from the voice"),
    "few utterances": (WARNING, "add utterances or join groups: scores of this one mean little"),
    "unfilled": (WARNING, "fill the column in every row or in none"),
    "protocol": (WARNING, "make sure that it is meant; training warns of it, too"),
    "quiet": (NOTE, "nothing: the level is no mistake, but mind it if classes differ in it"),
    "high rate": (NOTE, "nothing: it is resampled to 16 kHz"),
    "several channels": (NOTE, "nothing, if all of them hold the same speaker: they are averaged"),
    "other encoding": (NOTE, "nothing; do not mix encodings between classes"),
    "not used": (NOTE, "nothing: the protocol leaves it out"),
    "unlisted": (NOTE, "nothing if it is meant to be left out, such as other emotions; else list it"),
}
_UNKNOWN = (ERROR, "mend what the detail says")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in a release: a row of the doctor's CSV file.

    Attributes:
      finding: Its name, in most cases one of `KINDS`.
      detail: What was found, for a person.
      file: Path relative to the corpus root, or the name of the list; "" if it is about the release as a whole.
      id: Utterance id; "" if it is not about one utterance.
      rank: The larger, the worse among findings of its name; examples are taken from the top.
      allowed: Whether the configuration allows it: an error is then a warning.
    """

    finding: str
    detail: str
    file: str = ""
    id: str = ""
    rank: float = 0.0
    allowed: bool = False

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
    """Sorts findings: errors first, then by name as in `KINDS`, the worst first, then by file and id."""
    names = {name: number for number, name in enumerate(KINDS)}

    def key(row: Finding) -> tuple[int, int, str, float, str, str]:
        place = names.get(row.finding, len(names))
        return SEVERITIES.index(row.severity), place, row.finding, -row.rank, row.file, row.id

    return tuple(sorted(findings, key=key))
