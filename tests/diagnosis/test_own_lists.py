"""Lists as people have them: each is read as meant, or refused by training and doctor alike.

The forms are those that public threads show (docs/own-recordings.md).
"""

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import releases

from ser_jax.config import get_config
from ser_jax.corpora import from_config
from ser_jax.corpora.registry import read_corpus
from ser_jax.diagnosis.diagnose import diagnose
from ser_jax.experiment import pipeline, setup, systems
from ser_jax.features import audio
from ser_jax.features.extraction import CUT, extract
from ser_jax.protocols import copies, list_checks, named
from ser_jax.protocols.protocol import Protocol
from ser_jax.runtime.errors import UserError

SECONDS = 0.5
SPEAKERS, LABELS = ("s0", "s1", "s2", "s3"), ("angry", "neutral", "sad")
ROWS = [
    {"file": f"{who}/{label}.wav", "label": label, "speaker": who}
    for who in SPEAKERS
    for label in LABELS
]
Change = Callable[[dict[str, str], int], dict[str, str]]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """The recordings of `ROWS`, and one of each of twelve further speakers."""
    root = tmp_path_factory.mktemp("own")
    for number, row in enumerate([*ROWS, *MANY]):
        speech = releases.tone_like_speech(SECONDS, row["label"], row["speaker"], number)
        releases.write_wav(root / row["file"], speech)
    return root


# Twelve speakers, each of whom says one utterance of all classes but one.
MANY = [
    {"file": f"m{who:02}/{label}.wav", "label": label, "speaker": f"m{who:02}"}
    for who in range(12)
    for number, label in enumerate(LABELS)
    if who % 3 != number
]


def table(change: Change = lambda row, number: row, delimiter=",", end="\n", rows=ROWS) -> str:
    """The list of `ROWS`, each changed by a function of row and number."""
    changed = [change(dict(row), number) for number, row in enumerate(rows)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(changed[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(changed)
    return text.getvalue()


def renamed(header: str) -> str:
    return header + table().removeprefix("file,label,speaker")


def with_labels(*labels: str) -> str:
    return table(lambda row, number: row | {"label": labels[number % len(labels)]})


def with_speakers(*names: str) -> str:
    """Every speaker's three rows are of names[0], [1] and [2], with the speaker's digit for {}."""
    return table(lambda row, number: row | {"speaker": names[number % 3].format(row["speaker"][1])})


def with_times(start: object, end: object, delimiter: str = ",") -> str:
    times = {"start": str(start), "end": str(end)}
    return table(lambda row, number: row | times, delimiter=delimiter)


def rated(rows: list[dict[str, str]], *answers: str) -> list[dict[str, str]]:
    """A row per rater of each of the rows; "=" stands for their own label."""
    return [
        row | {"label": row["label"] if answer == "=" else answer}
        for row in rows
        for answer in answers
    ]


def without_speaker(row: dict[str, str], number: int) -> dict[str, str]:
    return {name: row[name] for name in ("file", "label")}


def rare(row: dict[str, str], number: int) -> dict[str, str]:
    return row | {"label": "fear"} if row["file"] == "s1/sad.wav" else row


Keys = dict[str, Any]
SADS = [row for row in ROWS if row["label"] == "sad"]
OTHERS = [row for row in ROWS if row["label"] != "sad"]
THREE, ALL = "angry neutral sad", 12

# Name: the list; keys of the configuration; the protocol's classes and utterances, and what is
# said, if anything. {root} is the folder of the recordings.
READ: dict[str, tuple[str | bytes, Keys, str, int, str]] = {
    "as it should be": (table(), {}, THREE, ALL, ""),
    "file and label alone, to ship": (
        *(table(without_speaker), {"protocol.name": "manifest-final"}, THREE, ALL, ""),
    ),
    "absolute paths": (
        table(lambda row, _: row | {"file": "{root}/" + row["file"]}),
        *({}, THREE, ALL, "12 absolute paths are read relative to corpus.root"),
    ),
    "backslashes": (
        table(lambda row, _: row | {"file": row["file"].replace("/", "\\")}),
        *({}, THREE, ALL, "12 paths have backslashes"),
    ),
    "absolute, with backslashes": (
        table(lambda row, _: row | {"file": ("{root}/" + row["file"]).replace("/", "\\")}),
        *({}, THREE, ALL, "12 paths have backslashes"),
    ),
    "absolute on another machine": (
        table(lambda row, _: row | {"file": "/home/me/own/" + row["file"]}),
        *({}, THREE, ALL, "12 absolute paths below /home/me/own are read relative to"),
    ),
    "absolute on Windows": (
        table(lambda row, _: row | {"file": "C:\\own\\" + row["file"].replace("/", "\\")}),
        *({}, THREE, ALL, "12 absolute paths below C:/own are read relative to"),
    ),
    "other names of columns": (
        renamed("Wav Path,emotion,Speaker_ID"),
        *({}, THREE, ALL, "column 'wav path' is read as file"),
    ),
    "a line for Excel": ("sep=;\r\n" + table(delimiter=";", end="\r\n"), {}, THREE, ALL, ""),
    "bars": (table(delimiter="|"), {}, THREE, ALL, ""),
    "labels in Chinese": (with_labels("愤怒", "中性"), {}, "中性 愤怒", ALL, ""),
    "semicolons, CRLF, BOM": (
        *(("\ufeff" + table(delimiter=";", end="\r\n")).encode(), {}, THREE, ALL, ""),
    ),
    "tabs, UTF-16": (table(delimiter="\t").encode("utf-16"), {}, THREE, ALL, ""),
    "carriage returns": (table(end="\r"), {}, THREE, ALL, ""),
    "an end some ms late": (with_times(0, 0.58), {}, THREE, ALL, CUT),
    "decimal commas": (with_times("0,1", "0,45", ";"), {}, THREE, ALL, ""),
    "times that are nan": (with_times("nan", "NaN"), {}, THREE, ALL, ""),
    "milliseconds": (with_times(100, 450), {}, THREE, ALL, "taken as milliseconds"),
    "samples": (with_times(1600, 7200), {}, THREE, ALL, "taken as samples"),
    "01, 1 and 1.0": (
        *(with_speakers("0{}", "{}", "{}.0"), {}, THREE, ALL, "4 speakers are spelt in several"),
    ),
    "F01, f-1 and F1": (
        *(with_speakers("F0{}", "f-{}", "F{}"), {}, THREE, ALL, "'F01' = 'F1' = 'f-1'"),
    ),
    "labels in two cases": (
        *(with_labels("Sad", "angry", "sad", "angry"), {}, "Sad angry sad", ALL),
        "corpus.labels='Sad=sad'",
    ),
    "labels mapped": (
        *(table(), {"corpus.labels": "angry=high, neutral=low, sad=low"}, "high low", ALL, ""),
    ),
    "a label left out": (table(), {"corpus.labels": "sad=-"}, "angry neutral", 8, ""),
    "no label, left out": (
        *(with_labels("nan", "angry", "sad", "sad", "angry"), {"corpus.labels": "nan=-"}),
        *("angry sad", 9, ""),
    ),
    "xxx as a class": (
        *(with_labels("xxx", "angry"), {"corpus.labels": "xxx=other"}, "angry other", ALL, ""),
    ),
    "numbers that are classes": (
        *(with_labels("1", "2", "3"), {"corpus.labels": "1=low,2=2,3=high"}, "2 high low", ALL),
        "",
    ),
    "a row per rater": (
        *(table(rows=rated(ROWS, "=", "angry", "=")), {"corpus.raters": "majority"}, THREE, ALL),
        "12 recordings have the class that most of their raters chose",
    ),
    "raters who merge, or do not answer": (
        table(rows=[*OTHERS, *rated(SADS, "joy", "sad", "cheer", "", "nan")]),
        {"corpus.raters": "majority", "corpus.labels": "joy=happy,cheer=happy"},
        *("angry happy neutral", ALL, "raters gave no answer"),
    ),
    "raters who disagree": (
        table(rows=[*OTHERS, *SADS[1:], *rated(SADS[:1], "sad", "angry")]),
        *({"corpus.raters": "majority"}, THREE, 11, "1 recording is left out: no class has most"),
    ),
    "rows twice": (table(rows=ROWS * 2), {}, THREE, ALL, "12 rows repeat an earlier one"),
    "missing recordings": (
        table(rows=[*ROWS, *({**row, "file": f"gone{n}.wav"} for n, row in enumerate(ROWS))]),
        *({"corpus.allow_missing": True}, THREE, ALL, "12 of 24 listed recordings are missing"),
    ),
    "a rare class, left out": (table(rare), {"corpus.labels": "fear=-"}, THREE, 11, ""),
    "many speakers who say little": (
        *(table(rows=MANY), {}, THREE, 24, "leaves validation parts without some class"),
    ),
}

# What the doctor says of single recordings.
IN_THE_DOCTOR = {
    CUT: "s behind that of the recording",
    "12 of 24 listed recordings are missing": "listed in list.csv line 14",
}

# Name: the list; keys; a part of the sentence.
REFUSED: dict[str, tuple[str | bytes, Keys, str]] = {
    "file and label alone": (
        *(table(without_speaker), {}, "12 of 12 utterances have no speaker, by which the protocol"),
    ),
    "speakers that are nan": (
        *(with_speakers("s{}", "nan", "?"), {}, "8 of 12 utterances have no speaker"),
    ),
    **{
        f"label {label}": (with_labels(label, "angry"), {}, f"{label}=-")
        for label in ("nan", "None", "NA", "N/A", "?", "xxx", "-", "unknown", "<NA>", "null")
    },
    "empty labels": (
        *(table(lambda row, n: row | {"label": "" if n == 4 else row["label"]}), {}),
        "1 of 12 listed recordings are unusable (8.33%; limit 5.00%), for example"
        " list.csv line 6: bad line: empty label",
    ),
    "label - beside a map": (
        *(with_labels("-", "angry", "sad", "joy"), {"corpus.labels": "sad=-"}, "labels='-=-'"),
    ),
    "ratings": (with_labels("2.75", "3.5", "1"), {}, "does not predict ratings such as arousal"),
    "1 to 5": (with_labels(*"12345"), {}, "corpus.labels='1=low,2=low,3=low,4=low,5=low'"),
    "ratings of raters": (
        *(table(rows=rated(ROWS, "1", "2", "2")), {"corpus.raters": "majority"}, "2=low"),
    ),
    "a row per rater": (
        table(rows=rated(ROWS, "=", "angry", "sad")),
        {},
        "set corpus.raters=majority",
    ),
    "raters of another kind": (table(), {"corpus.raters": "mean"}, "choose none or majority"),
    "a map with a typing error": (
        *(table(), {"corpus.labels": "anger=angry"}, "maps anger, which is no label of the corpus"),
    ),
    "a map that is none": (table(), {"corpus.labels": "sad"}, "write it as theirs=ours"),
    "a map that leaves one class": (
        *(table(), {"corpus.labels": "sad=-,neutral=-"}, "has the one label angry"),
    ),
    "absolute paths elsewhere": (
        *(table(lambda row, _: row | {"file": "/data/" + row["label"] + row["file"]}), {}),
        "absolute, and not below corpus.root=",
    ),
    "missing recordings": (
        *(table(lambda row, n: row | {"file": f"{n}.wav"}), {}, "12 of 12 listed recordings are"),
    ),
    "two columns that may be the file": (renamed("path,filename,label"), {}, "may be the file"),
    "one label": (with_labels("sad"), {}, "has the one label sad; a classifier needs at least 2"),
    "a rare class": (*(table(rare), {}, "no example of fear: fear has 1 utterance of s1; add"),),
    "a span far outside": (
        *(table(lambda row, n: row | {"end": "9" if n == 4 else "0.5"}), {}),
        "span outside the file",
    ),
}


def configured(recordings: Path, folder: Path, text: str | bytes, keys: Keys):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "list.csv").write_bytes(data.replace(b"{root}", str(recordings).encode()))
    config = get_config()
    named_keys = {"corpus.name": "manifest", "corpus.root": str(recordings), "features.workers": 1}
    named_keys["corpus.manifest"] = str(folder / "list.csv")
    config.update_from_flattened_dict(named_keys | keys)
    return config


def prepare(config, folder: Path) -> tuple[Protocol, str]:
    """Does what training does before it trains; returns the protocol and all that was said."""
    corpus = from_config.read(config, folder / "rejected.csv", audio.length)
    name, spec = named.find_spec(config.protocol.name, corpus)
    listed = list_checks.examine(config, corpus, name, spec)
    list_checks.refuse_errors(listed)
    corpus = named.select(spec, corpus)
    features = extract(
        *(corpus, setup.logmel_settings(config)),
        log_mel=False,
        hsf=False,
        store_root=folder / "store",
        max_seconds=config.features.max_seconds,
        max_bad_share=config.features.max_bad_share,
        workers=1,
    )
    protocol, warnings = named.build_protocol(name, spec, corpus, features.utterances)
    said = [*corpus.warnings, *(row.detail for row in listed.findings), *warnings]
    return protocol, "\n".join([*said, *features.flagged])


@pytest.mark.parametrize("name", READ)
def test_a_list_that_a_careful_person_could_read_is_read(name, recordings, tmp_path):
    text, keys, classes, utterances, said = READ[name]
    config = configured(recordings, tmp_path, text, keys)
    protocol, sentences = prepare(config, tmp_path)
    assert protocol.classes == tuple(classes.split()) and len(protocol.ids) == utterances
    assert said in sentences
    truth = dict(zip(protocol.ids, protocol.labels, strict=True))
    if classes == THREE:
        assert all(label in key for key, label in truth.items())
    if "absolute" in name or "backslash" in name:
        assert set(truth) == {row["file"].removesuffix(".wav") for row in ROWS}
    if name in ("milliseconds", "samples", "decimal commas"):
        assert all(key.endswith("#0.100-0.450") for key in truth)
    diagnosis = diagnose(config)
    assert not [row for row in diagnosis.findings if row.severity == "error"]
    assert diagnosis.protocol == protocol.name
    told = "\n".join([*diagnosis.remarks, *(row.detail for row in diagnosis.findings)])
    assert IN_THE_DOCTOR.get(said, said) in told


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_would_be_a_guess_is_refused_by_training_and_doctor(name, recordings, tmp_path):
    text, keys, sentence = REFUSED[name]
    config = configured(recordings, tmp_path, text, keys)
    with pytest.raises(UserError) as error:
        prepare(config, tmp_path)
    assert sentence in str(error.value)
    try:
        diagnosis = diagnose(config)
    except UserError as refusal:
        assert sentence in str(refusal)
    else:
        assert [row for row in diagnosis.findings if row.severity == "error"]


class Stopped(Exception):
    """Training has come to the compilation."""


@pytest.fixture
def no_system(monkeypatch):
    """Training stops before it compiles."""

    def make_system(*_):
        raise Stopped

    monkeypatch.setattr(systems, "start", lambda *_, **__: make_system)


def test_columns_that_were_ignored_stay_so_and_are_named(recordings, tmp_path, caplog, no_system):
    """The protocol of a list that was read before goes by the same columns."""
    config = configured(recordings, tmp_path, renamed("file,label,speaker_id"), {})
    corpus = from_config.read(config, tmp_path / "rejected.csv", audio.length)
    with pytest.raises(UserError, match="12 of 12 utterances have no speaker"):
        pipeline.set_up(config, corpus, tmp_path, training=True)
    assert (
        "column 'speaker_id' is not read: if it holds the speaker, call it speaker" in caplog.text
    )


@pytest.mark.parametrize(
    ("file", "copied", "said"),
    [
        ("s1/sad.wav", copies.LEAK, "(s1/sad.wav): scores are optimistic"),
        ("s1/angry.wav", "copy with another label", None),
    ],
)
def test_copies_are_told_by_both(file, copied, said, recordings, tmp_path, caplog, no_system):
    root = Path(shutil.copytree(recordings, tmp_path / "copied"))
    shutil.copy(root / "s0/sad.wav", root / file)
    config = configured(root, tmp_path, table(), {"features.store": str(tmp_path / "store")})
    corpus = from_config.read(config, tmp_path / "rejected.csv", audio.length)
    with pytest.raises(Stopped):
        pipeline.set_up(config, corpus, tmp_path, training=True)
    told = [row for row in diagnose(config).findings if row.finding == copied]
    assert [row.severity for row in told] == ["warning"]
    assert (told[0].detail if said is None else said) in caplog.text


def test_rows_for_which_training_is_refused_are_all_listed(recordings, tmp_path, no_system):
    text, keys, sentence = REFUSED["empty labels"]
    config = configured(recordings, tmp_path, text, keys)
    corpus = from_config.read(config, tmp_path / "rejected.csv", audio.length)
    with pytest.raises(UserError, match=re.escape(sentence)):
        pipeline.set_up(config, corpus, tmp_path, training=True)
    assert [row.line for row in from_config.read_rejected(tmp_path / "rejected.csv")] == [6]


def test_the_page_s_patterns_read_what_it_says(tmp_path):
    page = (Path(__file__).parents[2] / "docs/own-recordings.md").read_text(encoding="utf-8")
    found = re.findall(r"`(\{label\}\S+|\{speaker\}\S+)` reads\s`(\S+)`", page)
    for number, (pattern, name) in enumerate(found):
        root = tmp_path / str(number)
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
        corpus = read_corpus("files", str(root), manifest="", pattern=pattern, allow_missing=False)
        (row,) = corpus.utterances
        assert (row.label, row.speaker) == ("angry", "anna")
    assert len(found) == 2
