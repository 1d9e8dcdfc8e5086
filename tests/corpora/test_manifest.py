import csv
import os
from pathlib import Path

import pytest
import releases

from ser_jax.corpora import manifest
from ser_jax.corpora.release_files import Unusable
from ser_jax.runtime.errors import UserError

COLUMNS = ("file", "label", "start", "end", "speaker", "session", "split")


def read(root: Path, name: str = "manifest.csv", allow_missing: bool = False):
    return manifest.read(root, manifest=name, allow_missing=allow_missing)


def write_rows(root: Path, *rows: dict[str, str]) -> None:
    """Writes rows over `a.wav` after a row of `good.wav`; absent cells are empty."""
    for name in ("good.wav", "a.wav"):
        (root / name).touch()
    good = {"file": "good.wav", "label": "sad"}
    full = [{"speaker": "s", "session": "x", "split": "train", **row} for row in (good, *rows)]
    releases.write_manifest(root, full, columns=COLUMNS, seconds=None)


def test_the_columns(tmp_path):
    span = {"start": "0.5", "end": "1.25", "speaker": "k", "split": "test"}
    write_rows(
        tmp_path,
        {"file": "a.wav", "label": "angry", **span},
        {"file": "a.wav", "label": "happy", "start": "2"},
        {"file": "a.wav", "label": "sad", "end": ".5"},
    )
    corpus = read(tmp_path)
    rows = [
        (r.id, r.file, r.start, r.end, r.label, r.speaker, r.session, r.split)
        for r in corpus.utterances
    ]
    assert rows == [
        ("a#0.000-0.500", "a.wav", None, 0.5, "sad", "s", "x", "train"),
        ("a#0.500-1.250", "a.wav", 0.5, 1.25, "angry", "k", "x", "test"),
        ("a#2.000-end", "a.wav", 2.0, None, "happy", "s", "x", "train"),
        ("good", "good.wav", None, None, "sad", "s", "x", "train"),
    ]
    assert corpus.label_mapping == {label: label for label in ("angry", "happy", "sad")}
    assert (corpus.name, corpus.root) == ("manifest", tmp_path)
    assert not corpus.modified and not corpus.rejected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_dialects(tmp_path, delimiter, encoding):
    rows = [
        {**row, "notes, in full; or not": f'said "so"{delimiter} twice'}
        for row in releases.manifest_rows(2, 1)
    ]
    releases.write_manifest(tmp_path, rows, delimiter=delimiter, encoding=encoding, seconds=0.01)
    corpus = read(tmp_path)
    assert len(corpus.utterances) == 8 and not corpus.rejected
    assert corpus.utterances[0].id == "audio/s0/angry0"


def test_headers_cells_and_blank_rows_are_forgiving(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "manifest.csv").write_text(
        " File ,LABEL,Speaker\r\n\r\n a.wav , angry ,s1,,\r\n,,\r\n"
    )
    [row] = read(tmp_path).utterances
    assert (row.file, row.label, row.speaker) == ("a.wav", "angry", "s1")


def test_the_manifest_may_lie_anywhere(tmp_path):
    root = tmp_path / "corpus"
    (root / "lists").mkdir(parents=True)
    path = releases.write_manifest(
        root, releases.manifest_rows(1, 1), name="lists/all.csv", seconds=None
    )
    releases.write_manifest(root, releases.manifest_rows(1, 1), seconds=0.01)
    assert read(root, "lists/all.csv").utterances == read(root).utterances
    outside = tmp_path / "elsewhere.csv"
    outside.write_text(path.read_text() + "bad\n")
    corpus = read(root, str(outside))
    assert corpus.utterances == read(root).utterances
    assert corpus.rejected[0].file == "elsewhere.csv"


# --- The default protocol


def test_the_default_protocol(tmp_path):
    filled = {"file": "a.wav", "label": "sad", "speaker": "s", "session": "x", "split": "train"}
    for empty, protocol in (("", "split"), ("split", "speaker"), ("split speaker", "session")):
        row = {**filled, **dict.fromkeys(empty.split(), "")}
        releases.write_manifest(tmp_path, [row], seconds=0.01)
        corpus = read(tmp_path)
        assert corpus.protocol == f"manifest-{protocol}" and not corpus.warnings


def test_a_column_filled_in_part_makes_no_folds(tmp_path):
    write_rows(tmp_path, {"file": "a.wav", "label": "sad", "split": ""})
    corpus = read(tmp_path)
    assert corpus.protocol == "manifest-speaker"
    assert corpus.warnings == (
        "manifest.csv: split is filled in 1 of 2 rows, so it makes no folds",
    )


def test_without_a_filled_column_the_default_goes_by_speaker(tmp_path):
    """It is refused where folds are made, not by what needs none (test_own_lists.py)."""
    write_rows(tmp_path, {"file": "a.wav", "label": "sad"})
    text = (tmp_path / "manifest.csv").read_text().replace(",s,x,train", ",,,")
    (tmp_path / "manifest.csv").write_text(text)
    assert read(tmp_path).protocol == "manifest-speaker"


def test_the_words_for_the_parts(tmp_path):
    words = "train Training dev devel val valid validation TEST".split()
    rows = [
        {"file": "a.wav", "label": "sad", "start": str(n), "split": word}
        for n, word in enumerate(words, 1)
    ]
    write_rows(tmp_path, *rows)
    found = [row.split for row in read(tmp_path).utterances if row.id != "good"]
    assert found == ["train"] * 2 + ["devel"] * 5 + ["test"]


# --- Bad rows


def test_bad_cells(tmp_path):
    """Splits, times and spans that are none, and empty cells."""
    cases = [
        ({"split": word}, f"unknown split {word!r}; known: train, training, devel, dev")
        for word in ("eval", "fold1", "0")
    ]
    cases += [
        ({column: value}, f"{column} {value!r} is not a number of seconds from 0")
        for column in ("start", "end")
        for value in "x -1 -0.0 inf -inf 1e999 1_0 1:30 0x1 ٣ 1,5".split()
    ]
    cases += [
        ({"start": start, "end": end}, f"start {start or '0'}")
        for start, end in (("1", "1"), ("2", "1.5"), ("", "0"), ("0", "0.0"))
    ]
    cases += [({"label": " "}, "empty label"), ({"file": ""}, "empty file")]
    write_rows(tmp_path, *({"file": "a.wav", "label": "sad", **cells} for cells, _ in cases))
    corpus = read(tmp_path)
    assert [row.id for row in corpus.utterances] == ["good"]
    for number, ((_, detail), row) in enumerate(zip(cases, corpus.rejected, strict=True), 3):
        assert (row.line, row.reason) == (number, "bad line") and row.detail.startswith(detail)


def test_a_row_with_too_few_or_many_cells(tmp_path):
    lines = ["a.wav,sad", "a.wav", "a, b.wav,sad,s1", "a.wav,sad,s1,x"]
    (tmp_path / "good.wav").touch()
    (tmp_path / "a.wav").touch()
    text = "\n".join(["file,label,speaker", "good.wav,sad,s1", *lines])
    (tmp_path / "manifest.csv").write_text(text)
    assert [(row.line, row.detail) for row in read(tmp_path).rejected] == [
        (number, "the number of cells is not that of the header") for number in (3, 4, 5, 6)
    ]


def test_a_duplicate_is_rejected_however_it_is_written(tmp_path):
    (tmp_path / "good.flac").touch()
    files = ("good.wav", "./good.wav", ".//good.wav", "good.flac")
    rows = [{"file": file, "label": "angry"} for file in files]
    write_rows(tmp_path, *rows, {**rows[0], "start": "0"})
    assert [(row.line, row.reason, row.detail) for row in read(tmp_path).rejected] == [
        (line, "duplicate", "'good' (angry) is already in manifest.csv line 2 (sad)")
        for line in range(3, 8)
    ]


def test_every_bad_row_is_listed(tmp_path):
    write_rows(
        tmp_path,
        {"file": "a.wav", "label": ""},
        {"file": "/etc/passwd", "label": "sad"},
        {"file": "a.wav", "label": "sad", "start": "x"},
        {"file": "good.wav", "label": "angry"},
        {"file": "a.wav", "label": "sad"},
    )
    corpus = read(tmp_path)
    assert [(row.line, row.reason) for row in corpus.rejected] == [
        (3, "bad line"),
        (4, "refused path"),
        (5, "bad line"),
        (6, "duplicate"),
    ]
    assert corpus.warnings[0].startswith(
        "manifest: 4 rows rejected (2 bad line, 1 duplicate, 1 refused path): "
    )
    assert corpus.warnings[0].endswith("; and 1 more")
    assert [row.id for row in corpus.utterances] == ["a", "good"] and not corpus.modified


def test_line_numbers_count_quoted_line_ends(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "manifest.csv").write_text(
        'file,label,speaker,notes\na.wav,sad,s1,"two\nlines"\n\nb.wav,,s1,x\n'
    )
    [rejection] = read(tmp_path).rejected
    assert (rejection.line, rejection.detail) == (5, "empty label")


# --- Refused paths (R25)


REFUSED = {
    "absolute": ["/etc/passwd", "//host/share/a.wav", "C:/a.wav", "c:a.wav", "C:\\a.wav"]
    + ["\\\\host\\a.wav", "/etc\\passwd"],
    '".." leads out': ["..", "../a.wav", "sub/../a.wav", "sub/../../a.wav", "..\\a.wav"],
    "NUL": ["a\0.wav", "../\0"],
    "not a regular file": [".", "sub", "sub/", "pipe.wav"],
    "link out of corpus.root": "device.wav outside.wav dangling.wav folder/secret.wav".split(),
    "cannot be opened": ["loop.wav", "x" * 300 + ".wav"],
}


def test_paths_that_may_not_be_opened(tmp_path):
    root = tmp_path / "corpus"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.wav").touch()
    os.mkfifo(root / "pipe.wav")
    (root / "device.wav").symlink_to("/dev/zero")
    (root / "outside.wav").symlink_to("../secret.wav")
    (root / "dangling.wav").symlink_to("../nothing.wav")
    (root / "folder").symlink_to(tmp_path)
    (root / "loop.wav").symlink_to("loop.wav")
    cases = [(file, why) for why, files in REFUSED.items() for file in files]
    write_rows(root, *({"file": file, "label": "sad"} for file, _ in cases))
    corpus = read(root)
    assert [row.id for row in corpus.utterances] == ["good"]
    for number, ((file, why), row) in enumerate(zip(cases, corpus.rejected, strict=True), 3):
        assert (row.line, row.reason) == (number, "refused path"), file
        assert row.detail.startswith(f"{file[:80]!r}: {why}"), file


def test_links_that_stay_inside_are_fine(tmp_path):
    real = tmp_path / "real"
    (real / "store").mkdir(parents=True)
    (real / "store/0.wav").touch()
    (real / "link.wav").symlink_to("store/0.wav")
    (tmp_path / "root").symlink_to("real")
    (real / "manifest.csv").write_text("file,label,speaker\nlink.wav,sad,s1\n")
    [row] = read(tmp_path / "root").utterances
    assert row.id == "link"


def test_names_that_only_look_dangerous_are_fine(tmp_path):
    names = ["a..b.wav", "a...wav", "~a.wav", "über $HOME 'x'.wav", "-rf.wav", "sub/.hidden.wav"]
    names.append("a\nb.wav")
    rows = [{"file": name, "label": "sad", "speaker": "s"} for name in names]
    releases.write_manifest(tmp_path, rows, seconds=0.01)
    assert sorted(row.file for row in read(tmp_path).utterances) == sorted(names)


# --- The manifest itself


def test_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("manifest.csv", "../x.csv", "", "a\0b", "pipe"):
        with pytest.raises(
            UserError,
            match=r"no file .*; expected a CSV file with columns file, label and optionally start",
        ):
            read(tmp_path, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "required column is missing; found ; expected file, label and optionally start, end"),
        ("a,emotion\n", "a required column is missing; found 'a', 'emotion'; expected file, label"),
        (
            "wav,path,label\n",
            "'wav' and 'path' may be the file: call one of them file; found 'wav', 'path'",
        ),
        ("file,speaker\n", "line 1: a required column is missing; found 'file', 'speaker'; expec"),
        ("file label\na.wav sad\n", "found 'file label'; expected"),
        (
            "file,label,label\n",
            "line 1: column label appears twice; found 'file', 'label', 'label'",
        ),
        (
            'file,label,speaker\na.wav,sad,s\n"b.wav,sad,s\nc.wav,sad,s\n',
            "line 3: not a CSV row (unexpected end of data)",
        ),
        ('file,label,speaker\n"b"x.wav,sad,s\n', "line 2: not a CSV row"),
    ],
)
def test_a_text_that_is_no_manifest(tmp_path, text, message):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    sentence = str(error.value)
    assert sentence.startswith(str(tmp_path / "manifest.csv")) and message in sentence


def test_a_cell_beyond_the_limit(tmp_path):
    csv.field_size_limit(131072)  # Python's own: reading ARFF files, SciPy lifts it for everyone.
    (tmp_path / "manifest.csv").write_text(f"file,label,speaker\na.wav,{'x' * 200_000},s\n")
    with pytest.raises(UserError, match="line 2: not a CSV row .field larger than field limit"):
        read(tmp_path)


def test_another_encoding(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(
        "file,label,speaker\na.wav,sad,s\nü.wav,sad,s\n".encode("latin-1")
    )
    with pytest.raises(
        UserError, match="manifest.csv, line 3: not UTF-8 text; save the list as UTF-8"
    ):
        read(tmp_path)


@pytest.mark.parametrize("rows", ["", "../a.wav,sad,s\n"])
def test_no_usable_row(tmp_path, rows):
    (tmp_path / "manifest.csv").write_text("file,label,speaker\n" + rows)
    with pytest.raises(
        Unusable, match="holds no usable recording: .*(name no recording|line 2: refused path)"
    ):
        read(tmp_path)


def test_missing_recordings(tmp_path):
    write_rows(
        tmp_path, {"file": "gone/b.wav", "label": "sad"}, {"file": "a.wav/c.wav", "label": "sad"}
    )
    with pytest.raises(
        Unusable,
        match=r"2 of 3 listed recordings are missing .*\(a.wav/c.wav; gone/b.wav\); complete",
    ):
        read(tmp_path)
    corpus = read(tmp_path, allow_missing=True)
    assert corpus.modified and [row.id for row in corpus.utterances] == ["good"]
    assert [(row.file, row.reason, row.detail) for row in corpus.rejected] == [
        ("a.wav/c.wav", "missing", "listed in manifest.csv line 4"),
        ("gone/b.wav", "missing", "listed in manifest.csv line 3"),
    ]


def test_other_columns_are_attributes(tmp_path):
    """Those whose values repeat; what raters disagree on is about them."""
    cells = ["file,label,speaker,Gender,age,text,id,note"]
    for n in range(4):
        gender, age, note = ("m", "30", "NA") if n % 2 else ("F", "", "x")
        cells.append(f"{n}.wav,sad,s{n},{gender},{age},t{n % 2},row{n},{note}")
        (tmp_path / f"{n}.wav").touch()
    (tmp_path / "manifest.csv").write_text("\n".join(cells))
    rows = manifest.read(tmp_path, manifest="manifest.csv", allow_missing=False).utterances
    assert [row.attributes for row in rows[:2]] == [
        (("gender", "F"), ("note", "x")),
        (("age", "30"), ("gender", "m")),
    ]
    assert [row.text for row in rows] == ["t0", "t1", "t0", "t1"]
    rated = ["file,label,rater,gender"]
    rated += [
        f"{n}.wav,{label},{rater},f"
        for n in range(4)
        for rater, label in (("r1", "sad"), ("r2", "sad"), ("r3", "joy"))
    ]
    (tmp_path / "manifest.csv").write_text("\n".join(rated))
    corpus = manifest.read(tmp_path, manifest="manifest.csv", allow_missing=False, raters={})
    assert {row.attributes for row in corpus.utterances} == {(("gender", "f"),)}
