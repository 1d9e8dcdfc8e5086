"""Proposes a pattern from the names of recordings (`ser-jax corpora --guess`)."""

import collections
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ser_jax.corpora import file_names
from ser_jax.corpora.manifest import SPLITS
from ser_jax.corpora.named_releases import RELEASES
from ser_jax.corpora.release_files import SHOWN
from ser_jax.runtime.errors import UserError

# Words by which the part of a name is known that holds the class.
EMOTIONS = frozenset(
    "ang anger angry calm contempt dis disgust disgusted exc excited excitement fea fear fearful"
    " fru frustrated frustration hap happiness happy joy joyful bored boredom neu neutral ps sad"
    " sadness sur surprise surprised anxiety anxious amused amusement sleepy sleepiness pride shame"
    " wut freude trauer angst ekel langeweile colere joie tristesse peur degout neutre rabbia gioia"
    " tristezza paura enfado ira alegria tristeza miedo asco neutro raiva".split()
)
_GENDERS = frozenset("f m female male w woman man".split())
_SPEAKER = re.compile(r"(spk|speaker|actor|subj|subject|person|participant|s|f|m|p)\d+", re.I)
_SPEAKER_WORD = re.compile(r"spk|speaker|actor|subj|subject|person|participant", re.I)

# How names are cut: at signs, or else also between letters and digits.
_SIGNS = re.compile(r"[^/_\-. ]+")
_KINDS = re.compile(r"[^\W\d_]+|\d+")


class Proposal(NamedTuple):
    """How a folder can be read."""

    corpus: str  # corpus.name
    pattern: str  # corpus.pattern; empty for a published corpus


def propose(root: Path) -> Proposal:
    """Proposes how the recordings below a folder can be read.

    Raises:
      UserError: There are none, or no part of their names is a known emotion.
    """
    root = Path(os.path.abspath(root))
    names = file_names.in_order(file_names.recordings(root))
    if not names:
        raise UserError(f"corpus.root={root} holds no recording; name the folder that does")
    for name, release in RELEASES.items():
        if 2 * len(file_names.release_matches(release, root, names)) > len(names):
            return Proposal(name, "")
    for cut in (_SIGNS, _KINDS):
        if pattern := _pattern(names, cut):
            return Proposal(file_names.NAME, pattern)
    raise UserError(
        f"no part of the names of {file_names.seen(root, names)} is a known emotion: write"
        " corpus.pattern yourself, such as {speaker}_{label}_*.wav, and say what the labels mean"
        f" with corpus.labels; the parts are {_described(_columns(names, _SIGNS)[1])}"
    )


def _columns(names: Sequence[str], cut: re.Pattern[str]) -> tuple[list[str], list[list[str]]]:
    """Returns what stands between the parts of the most frequent form of name, and the parts.

    The parts are columns with a value per name. What stands between them begins with what is before
    the first and ends with what is behind the last, and the suffix of the file.
    """
    forms: dict[tuple[str, ...], list[list[str]]] = collections.defaultdict(list)
    for name in names:
        stem, suffix = os.path.splitext(name)
        forms[(*cut.split(stem), suffix)].append(cut.findall(stem))
    form, rows = max(forms.items(), key=lambda item: len(item[1]))
    return list(form), [list(column) for column in zip(*rows, strict=True)]


def _pattern(names: Sequence[str], cut: re.Pattern[str]) -> str:
    """Returns the pattern of the most frequent form; "" if no part of it is a known emotion."""
    between, columns = _columns(names, cut)
    fields = _fields(columns)
    if "label" not in fields.values():
        return ""
    parts = []
    for number, column in enumerate(columns):
        field, same = fields.get(number), len(set(column)) == 1
        if cut is _SIGNS:
            part = f"{{{field}}}" if field else column[0] if same else "*"
        else:
            digits = [text.isdigit() for text in column]
            kind = r"\d+" if all(digits) else r"[^\W_]+" if any(digits) else r"[^\W\d_]+"
            part = f"(?P<{field}>{kind})" if field else re.escape(column[0]) if same else kind
        parts.append(part)
    if cut is _KINDS:
        for number, field in fields.items():
            # `f2` and `m2` are two speakers.
            if (
                field == "gender"
                and fields.get(number + 1) == "speaker"
                and not between[number + 1]
            ):
                parts[number] = f"(?P<speaker>{parts[number]}" + r"\d+)"
                parts[number + 1] = ""
        between = [re.escape(text) for text in between]
    *before, behind, suffix = between
    return "".join(map("".join, zip(before, parts, strict=True))) + behind + suffix


def _fields(columns: Sequence[Sequence[str]]) -> dict[int, str]:
    """Returns number of a part → field, for those whose meaning can be told from their values."""
    values = [{text.casefold() for text in column} for column in columns]
    shares = [
        sum(text.casefold() in EMOTIONS for text in column) / len(column) for column in columns
    ]
    label = max(range(len(columns)), key=lambda number: shares[number], default=0)
    if not columns or shares[label] < 0.5 or len(values[label]) < 2:
        return {}
    fields = {label: "label"}
    for number, found in enumerate(values):
        if len(found) > 1 and found <= _GENDERS and "gender" not in fields.values():
            fields[number] = "gender"
        elif len(found) > 1 and found <= set(SPLITS) and "split" not in fields.values():
            fields[number] = "split"

    def is_speaker(number: int) -> bool:
        before = columns[number - 1] if number else [""]
        named = len(set(before)) == 1 and _SPEAKER_WORD.fullmatch(before[0])
        return bool(named) or all(_SPEAKER.fullmatch(text) for text in values[number])

    for field, beside in (("speaker", ("label",)), ("text", ("label", "speaker"))):
        shared_by = [number for number, name in fields.items() if name in beside]
        # Parts whose values repeat, most of them with several classes (and speakers).
        found = [
            number
            for number, column in enumerate(columns)
            if number not in fields
            and 1 < len(values[number]) <= len(column) / 2
            and all(_is_shared(column, columns[other]) for other in shared_by)
        ]
        found.sort(key=lambda number: (field == "speaker" and not is_speaker(number), number))
        if found:
            fields[found[0]] = field
    return fields


def _is_shared(column: Sequence[str], other: Sequence[str]) -> bool:
    """Returns whether most values of a part occur with several values of another one."""
    pairs = set(zip(column, other, strict=True))
    counts = collections.Counter(value for value, _ in pairs)
    return 2 * sum(count > 1 for count in counts.values()) > len(counts)


def _described(columns: Sequence[Sequence[str]]) -> str:
    """Describes the parts of names by their values."""
    described = []
    for column in columns:
        found = sorted(set(column))
        described.append(", ".join(found[:SHOWN]) + ", …" * (len(found) > SHOWN))
    return "; ".join(f"({number}) {text}" for number, text in enumerate(described, 1))
