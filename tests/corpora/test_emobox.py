import json
from pathlib import Path

import pytest
from emobox_release import LABEL_MAP, Spoken, utterances, write_lists, write_recordings

from ser_jax.corpora import emobox
from ser_jax.corpora.release_files import Unusable
from ser_jax.runtime.errors import UserError

ALL = utterances()
FIRST, SECOND, THIRD = (ALL[start : start + 8] for start in (0, 8, 16))
FOLDS = {
    1: {"train": FIRST + SECOND, "test": THIRD},
    2: {"train": FIRST, "valid": SECOND, "test": THIRD},
}


def read(root: Path, lists: Path | str, allow_missing: bool = False):
    return emobox.read(root, manifest=str(lists), allow_missing=allow_missing)


@pytest.fixture
def lists(tmp_path) -> Path:
    return write_lists(tmp_path / "data/tiny", FOLDS)


@pytest.fixture
def root(tmp_path) -> Path:
    return write_recordings(tmp_path / "audio", ALL)


def change(lists: Path, name: str, line: int, text: str | dict) -> None:
    """Replaces a line (from 1) of a list, or adds one after the last."""
    path = lists / name
    rows = path.read_text().splitlines()
    rows[line - 1 : line] = [text if isinstance(text, str) else json.dumps(text)]
    path.write_text("\n".join(rows) + "\n")


def test_utterances_labels_and_speakers(lists, root):
    corpus = read(root, lists)
    assert corpus.name == "emobox" and corpus.protocol == "emobox-tiny" and corpus.root == root
    assert {row.id: (row.label, row.speaker) for row in corpus.utterances} == {
        f"wav/{one.name}": ({"anger": "angry"}.get(one.label, one.label), one.speaker)
        for one in ALL
    }
    assert [row.id for row in corpus.utterances] == sorted(row.id for row in corpus.utterances)
    kept = {label: label for label in ("happy", "neutral", "sad")}
    assert corpus.label_mapping == {"anger": "angry", **kept}
    assert (corpus.rejected, corpus.warnings, corpus.modified) == ((), (), False)
    assert all(corpus.path(row).is_file() for row in corpus.utterances)


def test_the_published_folds(lists, root):
    first, second = read(root, lists).folds
    assert (first.name, second.name) == ("fold_1", "fold_2")
    for fold, splits in ((first, "train train test"), (second, "train devel test")):
        assert fold.splits == {
            f"wav/{one.name}": split
            for some, split in zip((FIRST, SECOND, THIRD), splits.split(), strict=True)
            for one in some
        }


def test_folds_are_in_the_order_of_their_numbers(tmp_path, root):
    lists = write_lists(tmp_path / "data/tiny", {n: FOLDS[1] for n in (1, 2, 10, 9)})
    found = [fold.name for fold in read(root, lists).folds]
    assert found == ["fold_1", "fold_2", "fold_9", "fold_10"]


@pytest.mark.parametrize("place", ["", "wav", "tiny", "downloads/tiny"])
def test_every_way_to_name_the_recordings_is_the_same_corpus(tmp_path, lists, place):
    """The dataset's own folder or its wav/, the folder that holds it, the benchmark's own."""
    given = tmp_path / "audio"
    held = given if place in ("", "wav") else given / place
    write_recordings(held, ALL)
    corpus = read(given / "wav" if place == "wav" else given, lists)
    assert corpus.root == held and corpus.utterances[0].id == "wav/0300"


@pytest.mark.parametrize("how", ["absolute", "of the root", "of the working directory"])
def test_where_the_lists_may_lie(tmp_path, monkeypatch, root, how):
    base = {"of the root": root, "absolute": tmp_path / "lists"}.get(how, tmp_path / "here")
    lists = write_lists(base / "data/tiny", FOLDS)
    monkeypatch.chdir(base)
    assert len(read(root, lists if how == "absolute" else "data/tiny").folds) == 2


def test_spans_of_long_recordings(tmp_path):
    spoken = [
        Spoken("m1", "anger", "s", "", ".flac", (10509.2, 10512.32)),
        Spoken("m2", "sad", "s", "", ".flac", (0, 2)),
    ]
    lists = write_lists(tmp_path / "data/long", {1: {"train": spoken[:1], "test": spoken[1:]}})
    corpus = read(write_recordings(tmp_path / "audio", spoken), lists)
    assert [(row.id, row.file, row.start, row.end) for row in corpus.utterances] == [
        ("long#0.000-2.000", "long.flac", 0.0, 2.0),
        ("long#10509.200-10512.320", "long.flac", 10509.2, 10512.32),
    ]


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".MP4"])
def test_videos_are_expected_as_wav(tmp_path, suffix):
    spoken = [Spoken("one", "anger", "s", suffix=suffix), Spoken("two", "sad", "t", suffix=suffix)]
    lists = write_lists(tmp_path / "data/film", {1: {"train": spoken[:1], "test": spoken[1:]}})
    write_recordings(tmp_path / "audio", [Spoken("one", "", ""), Spoken("two", "", "")])
    found = [row.file for row in read(tmp_path / "audio", lists).utterances]
    assert found == ["wav/one.wav", "wav/two.wav"]


# --- Speakers


def test_the_speakers_of_iemocap_are_those_of_the_turns(tmp_path):
    """The benchmark's list has the letter of the dialog, which mixes the speakers of a session."""
    turns = [
        f"Ses01{dialog}_impro01_{who}00{n}" for dialog in "FM" for who in "FM" for n in range(2)
    ]
    spoken = [Spoken(turn, ("ang", "neu")[n % 2], turn[:6]) for n, turn in enumerate(turns)]
    label_map = {"ang": "Angry", "neu": "Neutral", "hap": "Happy", "exc": "Happy"}
    folds = {1: {"train": spoken[:4], "test": spoken[4:]}}
    lists = write_lists(tmp_path / "data/iemocap", folds, label_map=label_map)
    corpus = read(write_recordings(tmp_path / "audio", spoken), lists)
    assert {row.id: row.speaker for row in corpus.utterances} == {
        f"wav/{turn}": f"Ses01{turn[-4]}" for turn in turns
    }


def test_a_speaker_of_its_own_for_every_utterance_is_none(tmp_path, root):
    spoken = [Spoken(one.name, one.label, one.name) for one in ALL]
    lists = write_lists(tmp_path / "data/tiny", {1: {"train": spoken[:16], "test": spoken[16:]}})
    corpus = read(root, lists)
    assert {row.speaker for row in corpus.utterances} == {""}
    (warning,) = corpus.warnings
    assert "gives every utterance its own speaker: speakers are taken as unknown" in warning


def test_without_the_list_of_speakers_they_are_unknown(tmp_path, root):
    lists = write_lists(tmp_path / "data/tiny", FOLDS, speakers=False)
    corpus = read(root, lists)
    assert {row.speaker for row in corpus.utterances} == {""}
    (warning,) = corpus.warnings
    assert warning.endswith(
        "holds no data.seg.wrd.stm: speakers are unknown and may be on both sides of a fold"
    )


def test_speakers_with_spaces_and_commas(tmp_path, root):
    two = "Phoebe, and Rachel"
    spoken = [Spoken(one.name, one.label, two if one in FIRST else one.speaker) for one in ALL]
    lists = write_lists(tmp_path / "data/tiny", {1: {"train": spoken[:16], "test": spoken[16:]}})
    found = {row.speaker for row in read(root, lists).utterances}
    assert found == {two, "female_08", "female_09"}


# --- Bad lines

TRAIN = "fold_1/tiny_train_fold_1.jsonl"
GOOD = ALL[0].row("tiny")


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("{", "bad line", "not JSON: '{'"),
        ("[" * 100_000, "bad line", "not JSON"),
        ("[1]", "bad line", "not a JSON object"),
        ({**GOOD, "key": ""}, "bad line", "key, wav and emo must be texts"),
        ({**GOOD, "wav": None}, "bad line", "key, wav and emo must be texts"),
        ({**GOOD, "emo": 3}, "bad line", "key, wav and emo must be texts"),
        ({"key": "x", "audio": "a.wav", "label": "sad"}, "bad line", "key, wav and emo must be"),
        ({**GOOD, "type": "feature"}, "bad line", "type 'feature' of tiny-0300; only recordings"),
        ({**GOOD, "emo": "fury"}, "unknown label", "'fury' of tiny-0300; known: anger, boredem, h"),
        ({**GOOD, "start_time": 2, "end_time": 2}, "bad line", "is not before end_time 2"),
        ({**GOOD, "start_time": -1}, "bad line", "start_time -1 is not a number of seconds from 0"),
        ({**GOOD, "end_time": "3"}, "bad line", "end_time '3' is not a number of seconds"),
        ({**GOOD, "end_time": True}, "bad line", "end_time True is not a number of seconds"),
        (
            json.dumps(GOOD).replace("1.8778125", "1").replace("30045.0", 'NaN, "end_time": NaN'),
            "bad line",
            "nan is",
        ),
        ({**GOOD, "wav": "downloads/tiny/../../x.wav"}, "refused path", '".." leads out of its'),
        ({**GOOD, "wav": "downloads/tiny/wav\\0300.wav"}, "refused path", "backslash"),
        ({**GOOD, "wav": "downloads/tiny/a\0b.wav"}, "refused path", "NUL"),
        (ALL[1].row("tiny"), "duplicate", "'wav/0301' is already in the train part of fold_1"),
        (THIRD[0].row("tiny"), "duplicate", "'wav/0900' is already in the test part of fold_1"),
        ({**GOOD, "emo": "sad"}, "conflict", "'tiny-0300', sad, in another list; angry here"),
    ],
)
def test_a_bad_line_is_rejected_with_its_number(lists, root, line, reason, detail):
    """The first line of the first fold is bad; in the second fold the utterance is well."""
    change(lists, TRAIN, 1, line)
    corpus = read(root, lists)
    bad = [row for row in corpus.rejected if row.reason == reason]
    assert len(corpus.rejected) == 1 and len(bad) == 1 and detail in bad[0].detail
    late = reason == "conflict"  # which shows in the second fold only
    expected = (TRAIN.replace("1", "2"), 1) if late else (TRAIN, 2 if "0301" in detail else 1)
    assert (bad[0].file, bad[0].line) == expected
    assert corpus.modified, "a protocol that lost rows must not carry the name of the published one"
    assert [len(fold.splits) for fold in corpus.folds] == ([24, 23] if late else [23, 24])


def test_nothing_that_is_tested_can_be_trained_on(lists, root):
    """An utterance in two lists of a fold stays in its test part."""
    change(lists, TRAIN, 1, THIRD[0].row("tiny"))
    first, _ = read(root, lists).folds
    assert first.splits[f"wav/{THIRD[0].name}"] == "test"


def test_bad_lines_of_the_list_of_speakers(lists, root):
    change(lists, "data.seg.wrd.stm", 2, "tiny-0301 1 male_03 0 1.87")
    corpus = read(root, lists)
    (bad,) = corpus.rejected
    assert (bad.file, bad.line, bad.reason) == ("data.seg.wrd.stm", 2, "bad line")
    assert {row.id for row in corpus.utterances if not row.speaker} == {"wav/0301"}


def test_empty_lines_are_nothing(lists, root):
    (lists / TRAIN).write_text("\n" + (lists / TRAIN).read_text().replace("\n", "\n\n"))
    assert len(read(root, lists).utterances) == 24


# --- Lists that cannot be used


def test_missing_recordings_are_all_listed(lists, root):
    for one in ALL[:5]:
        (root / "wav" / one.file).unlink()
    with pytest.raises(
        Unusable, match=r"5 of 24 listed recordings are missing from corpus.root=.*\(wav/0300.wav; "
    ) as e:
        read(root, lists)
    assert [row.file for row in e.value.rejected] == [f"wav/{one.file}" for one in ALL[:5]]
    corpus = read(root, lists, allow_missing=True)
    assert corpus.modified and len(corpus.utterances) == 19


@pytest.mark.parametrize("name", ["manifest.csv", "/nowhere"])
def test_a_folder_of_lists_that_is_none(root, name):
    with pytest.raises(
        UserError,
        match=f"corpus.manifest={name} is not a folder; set it to the folder of one dataset's",
    ):
        read(root, name)


def test_the_folder_above_the_lists(lists, root):
    with pytest.raises(
        UserError, match=r"data holds no label_map.json; corpus.manifest must be data/<dataset>"
    ):
        read(root, lists.parent)


def test_lists_without_folds(lists, root):
    for path in lists.glob("fold_*"):
        path.rename(path.with_name(f"old_{path.name}"))
    with pytest.raises(
        UserError, match="tiny holds no fold_1; corpus.manifest must be data/<dataset>"
    ):
        read(root, lists)


def test_absent_lists_are_counted_and_the_first_named(lists, root):
    for path in lists.glob("fold_*/*_t*_fold_?.jsonl"):
        path.unlink()
    first = r"\(fold_1/tiny_test_fold_1.jsonl, fold_1/tiny_train_fold_1.jsonl, "
    end = r".*, …\); download the benchmark's lists again$"
    with pytest.raises(UserError, match=f"tiny lacks 4 of its lists {first}{end}"):
        read(root, lists)


def test_a_label_map_that_is_none(lists, root):
    for text in ("{", "[]", '{"anger": 1}', '{"anger": ""}'):
        (lists / "label_map.json").write_text(text)
        with pytest.raises(UserError, match="label_map.json: not (JSON|a JSON object from labels)"):
            read(root, lists)


def test_labels_may_differ_from_the_map_in_case_only(lists, root):
    """As those of the real EMO-DB list do: the map says Neutral, the lists say neutral."""
    assert "Neutral" in LABEL_MAP and "neutral" not in LABEL_MAP
    assert sum(row.label == "neutral" for row in read(root, lists).utterances) == 6
