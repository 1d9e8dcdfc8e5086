import csv
import io
import os
import re
import string
from pathlib import Path

import pytest
import releases
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ser_jax.corpora import manifest
from ser_jax.corpora.listing import Unusable
from ser_jax.errors import UserError

COLUMNS = ("file", "label", "start", "end", "speaker", "session", "split")


def read(root: Path, name: str = "manifest.csv", allow_missing: bool = False):
    return manifest.read(root, manifest=name, allow_missing=allow_missing)


def write_rows(root: Path, *rows: dict[str, str]) -> None:
    """Writes rows over one recording `a.wav` (and `good.wav`, which is listed first); absent cells are empty."""
    for name in ("good.wav", "a.wav"):
        (root / name).touch()
    good = {"file": "good.wav", "label": "sad"}
    full = [{"speaker": "s", "session": "x", "split": "train", **row} for row in (good, *rows)]
    releases.write_manifest(root, full, columns=COLUMNS, seconds=None)


def only_rejection(root: Path, row: dict[str, str]):
    """Reads a manifest of a good row and this one, in line 3, and returns why this one is rejected."""
    write_rows(root, {"label": "angry", **row})
    corpus = read(root)
    assert [row.id for row in corpus.utterances] == ["good"]
    [rejection] = corpus.rejected
    assert (rejection.file, rejection.line) == ("manifest.csv", 3)
    assert f"manifest.csv line 3: {rejection.reason}" in corpus.warnings[0]
    return rejection


def test_the_columns(tmp_path):
    write_rows(
        tmp_path,
        {"file": "a.wav", "label": "angry", "start": "0.5", "end": "1.25", "speaker": "k", "split": "test"},
        {"file": "a.wav", "label": "happy", "start": "2"},
        {"file": "a.wav", "label": "sad", "end": ".5"},
    )
    corpus = read(tmp_path)
    rows = [(r.id, r.file, r.start, r.end, r.label, r.speaker, r.session, r.split) for r in corpus.utterances]
    assert rows == [
        ("a#0.000-0.500", "a.wav", None, 0.5, "sad", "s", "x", "train"),
        ("a#0.500-1.250", "a.wav", 0.5, 1.25, "angry", "k", "x", "test"),
        ("a#2.000-end", "a.wav", 2.0, None, "happy", "s", "x", "train"),
        ("good", "good.wav", None, None, "sad", "s", "x", "train"),
    ]
    assert corpus.label_mapping == {label: label for label in ("angry", "happy", "sad")}
    assert (corpus.name, corpus.root, corpus.modified, corpus.rejected) == ("manifest", tmp_path, False, ())


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_dialects(tmp_path, delimiter, encoding):
    rows = [{**row, "notes, in full; or not": f'said "so"{delimiter} twice'} for row in releases.manifest_rows(2, 1)]
    releases.write_manifest(tmp_path, rows, delimiter=delimiter, encoding=encoding, seconds=0.01)
    corpus = read(tmp_path)
    assert len(corpus.utterances) == 8 and not corpus.rejected
    assert corpus.utterances[0].id == "audio/s0/angry0"


def test_headers_cells_and_blank_rows_are_forgiving(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "manifest.csv").write_text(" File ,LABEL,Speaker\r\n\r\n a.wav , angry ,s1,,\r\n,,\r\n")
    [row] = read(tmp_path).utterances
    assert (row.file, row.label, row.speaker) == ("a.wav", "angry", "s1")


def test_the_manifest_may_lie_anywhere(tmp_path):
    root = tmp_path / "corpus"
    (root / "lists").mkdir(parents=True)
    path = releases.write_manifest(root, releases.manifest_rows(1, 1), name="lists/all.csv", seconds=None)
    releases.write_manifest(root, releases.manifest_rows(1, 1), seconds=0.01)
    assert read(root, "lists/all.csv").utterances == read(root).utterances
    outside = tmp_path / "elsewhere.csv"
    outside.write_text(path.read_text() + "bad\n")
    corpus = read(root, str(outside))
    assert corpus.utterances == read(root).utterances
    assert corpus.rejected[0].file == "elsewhere.csv"


def test_the_wav_folder_of_a_release_is_the_same_corpus(tmp_path):
    rows = [{"file": "wav/a.wav", "label": "sad", "speaker": "s"}]
    releases.write_manifest(tmp_path, rows, seconds=0.01)
    assert read(tmp_path / "wav") == read(tmp_path)


# --- The default protocol ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "protocol"),
    [
        ([{}, {}], "manifest-split"),
        ([{"split": ""}, {"split": ""}], "manifest-speaker"),
        ([{"split": "", "speaker": ""}, {"split": "", "speaker": ""}], "manifest-session"),
    ],
)
def test_the_default_protocol(tmp_path, cells, protocol):
    rows = [
        {"file": f"a{number}.wav", "label": "sad", "speaker": "s", "session": "x", "split": "train", **row}
        for number, row in enumerate(cells)
    ]
    releases.write_manifest(tmp_path, rows, seconds=0.01)
    corpus = read(tmp_path)
    assert corpus.protocol == protocol and not corpus.warnings


def test_a_column_filled_in_part_makes_no_folds(tmp_path):
    write_rows(tmp_path, {"file": "a.wav", "label": "sad", "split": ""})
    corpus = read(tmp_path)
    assert corpus.protocol == "manifest-speaker"
    assert corpus.warnings == ("manifest.csv: split is filled in 1 of 2 rows, so it makes no folds",)


def test_no_column_for_a_leak_free_evaluation(tmp_path):
    (tmp_path / "manifest.csv").write_text("file,label,speaker\na.wav,sad,s1\nb.wav,sad,\n../c.wav,sad,s2\n")
    with pytest.raises(Unusable) as error:
        read(tmp_path)
    assert str(error.value) == (
        "manifest.csv: a leak-free evaluation needs a column speaker, session or split that is filled in every row; "
        "of 2 usable rows, filled are split in 0, speaker in 1, session in 0"
    )
    assert [row.reason for row in error.value.rejected] == ["refused path"]


@pytest.mark.parametrize(
    ("word", "split"),
    [("train", "train"), ("Training", "train"), ("dev", "devel"), ("devel", "devel"), ("val", "devel")]
    + [("valid", "devel"), ("validation", "devel"), ("TEST", "test")],
)
def test_the_words_for_the_parts(tmp_path, word, split):
    write_rows(tmp_path, {"file": "a.wav", "label": "sad", "split": word})
    assert read(tmp_path).utterances[0].split == split


# --- Bad rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["eval", "fold1", "0"])
def test_an_unknown_or_ambiguous_part_is_rejected(tmp_path, word):
    rejection = only_rejection(tmp_path, {"file": "a.wav", "split": word})
    assert rejection.reason == "bad line"
    assert rejection.detail.startswith(f"unknown split {word!r}; known: train, training, devel, dev")


@pytest.mark.parametrize("column", ["start", "end"])
@pytest.mark.parametrize("value", ["x", "-1", "-0.0", "nan", "inf", "-inf", "1e999", "1_0", "1:30", "0x1", "٣", "1,5"])
def test_times_that_are_none(tmp_path, column, value):
    rejection = only_rejection(tmp_path, {"file": "a.wav", column: value})
    assert (rejection.reason, rejection.detail) == ("bad line", f"{column} {value!r} is not a number of seconds from 0")


@pytest.mark.parametrize(("start", "end"), [("1", "1"), ("2", "1.5"), ("", "0"), ("0", "0.0")])
def test_spans_that_are_none(tmp_path, start, end):
    rejection = only_rejection(tmp_path, {"file": "a.wav", "start": start, "end": end})
    assert rejection.reason == "bad line" and "is not before end" in rejection.detail


@pytest.mark.parametrize(
    ("row", "detail"), [({"file": "a.wav", "label": " "}, "empty label"), ({"file": ""}, "empty file")]
)
def test_empty_cells(tmp_path, row, detail):
    rejection = only_rejection(tmp_path, row)
    assert (rejection.reason, rejection.detail) == ("bad line", detail)


@pytest.mark.parametrize("line", ["a.wav,sad", "a.wav", "a, b.wav,sad,s1", "a.wav,sad,s1,x"])
def test_a_row_with_too_few_or_many_cells(tmp_path, line):
    (tmp_path / "good.wav").touch()
    (tmp_path / "a.wav").touch()
    (tmp_path / "manifest.csv").write_text(f"file,label,speaker\ngood.wav,sad,s1\n{line}\n")
    [rejection] = read(tmp_path).rejected
    assert (rejection.line, rejection.reason) == (3, "bad line")
    assert rejection.detail == "the number of cells is not that of the header"


@pytest.mark.parametrize(
    ("row", "first"),
    [
        ({"file": "good.wav"}, "good"),
        ({"file": "./good.wav"}, "good"),
        ({"file": ".//good.wav"}, "good"),
        ({"file": "good.wav", "start": "0"}, "good"),
        ({"file": "good.flac"}, "good"),
    ],
)
def test_a_duplicate_is_rejected_however_it_is_written(tmp_path, row, first):
    (tmp_path / "good.flac").touch()
    rejection = only_rejection(tmp_path, row)
    assert rejection.reason == "duplicate"
    assert rejection.detail == f"{first!r} (angry) is already in manifest.csv line 2 (sad)"


def test_duplicate_spans(tmp_path):
    span = {"file": "a.wav", "label": "sad", "end": "1"}
    write_rows(tmp_path, span, {**span, "start": "0"}, {**span, "start": "0.0001"}, {**span, "start": "0.5"})
    corpus = read(tmp_path)
    assert [(row.line, row.reason) for row in corpus.rejected] == [(4, "duplicate"), (5, "duplicate")]
    assert [row.id for row in corpus.utterances] == ["a#0.000-1.000", "a#0.500-1.000", "good"]


def test_every_bad_row_is_listed(tmp_path):
    write_rows(
        tmp_path,
        {"file": "a.wav", "label": ""},
        {"file": "/etc/passwd", "label": "sad"},
        {"file": "a.wav", "label": "sad", "start": "x"},
        {"file": "good.wav", "label": "sad"},
        {"file": "a.wav", "label": "sad"},
    )
    corpus = read(tmp_path)
    assert [(row.line, row.reason) for row in corpus.rejected] == [
        (3, "bad line"),
        (4, "refused path"),
        (5, "bad line"),
        (6, "duplicate"),
    ]
    assert corpus.warnings[0].startswith("manifest: 4 rows rejected (2 bad line, 1 duplicate, 1 refused path): ")
    assert corpus.warnings[0].endswith("; and 1 more")
    assert [row.id for row in corpus.utterances] == ["a", "good"] and not corpus.modified


def test_line_numbers_count_quoted_line_ends(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "manifest.csv").write_text('file,label,speaker,notes\na.wav,sad,s1,"two\nlines"\n\nb.wav,,s1,x\n')
    [rejection] = read(tmp_path).rejected
    assert (rejection.line, rejection.detail) == (5, "empty label")


# --- Refused paths (R25) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("//host/share/a.wav", "absolute"),
        ("C:/a.wav", "absolute"),
        ("c:a.wav", "absolute"),
        ("C:\\a.wav", "backslash"),
        ("sub\\a.wav", "backslash"),
        ("\\\\host\\a.wav", "backslash"),
        ("..", "leads out"),
        ("../a.wav", "leads out"),
        ("sub/../a.wav", "leads out"),
        ("sub/../../a.wav", "leads out"),
        ("a\0.wav", "NUL"),
        ("../\0", "NUL"),
        (".", "not a regular file"),
        ("sub", "not a regular file"),
        ("sub/", "not a regular file"),
        ("pipe.wav", "not a regular file"),
        ("device.wav", "link out of corpus.root"),
        ("outside.wav", "link out of corpus.root"),
        ("dangling.wav", "link out of corpus.root"),
        ("folder/secret.wav", "link out of corpus.root"),
        ("loop.wav", "cannot be opened"),
        ("x" * 300 + ".wav", "cannot be opened"),
    ],
)
def test_a_path_that_may_not_be_opened(tmp_path, file, why):
    root = tmp_path / "corpus"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.wav").touch()
    os.mkfifo(root / "pipe.wav")
    (root / "device.wav").symlink_to("/dev/zero")
    (root / "outside.wav").symlink_to("../secret.wav")
    (root / "dangling.wav").symlink_to("../nothing.wav")
    (root / "folder").symlink_to(tmp_path)
    (root / "loop.wav").symlink_to("loop.wav")
    rejection = only_rejection(root, {"file": file})
    assert rejection.reason == "refused path"
    assert why in rejection.detail and rejection.detail.startswith(repr(file[:80]))


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
    names = ["a..b.wav", "a...wav", "~a.wav", "über $HOME 'x'.wav", "-rf.wav", "sub/.hidden.wav", "a\nb.wav"]
    releases.write_manifest(tmp_path, [{"file": name, "label": "sad", "speaker": "s"} for name in names], seconds=0.01)
    assert sorted(row.file for row in read(tmp_path).utterances) == sorted(names)


PATHS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="./\\ab:\0~ \n\r\"',;", max_size=12),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "a.wav", "out", "out.wav", "in.wav", "sub", "loop", "/", "\0", "C:"]),
        max_size=5,
    ).map("/".join),
    st.text(alphabet=string.ascii_letters, min_size=200, max_size=400),
)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory) -> Path:
    """A corpus root with links inside and out, next to a file that nothing may reach."""
    base = tmp_path_factory.mktemp("trapped")
    root = base / "root"
    (root / "sub").mkdir(parents=True)
    for path in (base / "secret.wav", root / "a.wav", root / "sub/a.wav", root / "good.wav"):
        path.touch()
    (root / "out").symlink_to(base)
    (root / "out.wav").symlink_to(base / "secret.wav")
    (root / "in.wav").symlink_to("sub/a.wav")
    (root / "loop").symlink_to("loop")
    return root


@settings(max_examples=300, deadline=None)
@given(files=st.lists(PATHS, max_size=6))
@example(files=["out/secret.wav", "out/root/a.wav", "sub/../a.wav", "in.wav", "loop/a.wav", "a.wav/b.wav"])
def test_no_path_leaves_the_root_and_every_row_is_accounted_for(trapped, files):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", "label", "speaker"])
    lines = []
    for file in ["good.wav", *files]:
        lines.append(len(re.findall("\r\n|\r|\n", text.getvalue())) + 1)
        writer.writerow([file, "sad", "s"])
    (trapped / "manifest.csv").write_bytes(text.getvalue().encode())

    corpus = read(trapped, allow_missing=True)

    root = trapped.resolve()
    for row in corpus.utterances:
        real = corpus.path(row).resolve(strict=True)
        assert real.is_relative_to(root) and real.is_file()
    assert len({row.id for row in corpus.utterances}) == len(corpus.utterances)
    missing = [row for row in corpus.rejected if row.reason == "missing"]
    listed = [row for row in corpus.rejected if row.reason != "missing"]
    assert len(corpus.utterances) + len(missing) + len(listed) == len(lines)
    assert {row.line for row in listed} <= set(lines[1:])
    assert {row.reason for row in listed} <= {"bad line", "refused path", "duplicate"}
    assert corpus.modified == bool(missing)


# --- The manifest itself ----------------------------------------------------------------------------------------------


def test_no_manifest(tmp_path):
    for name in ("manifest.csv", "../x.csv", "", "a\0b"):
        with pytest.raises(
            UserError, match=r"no file .*; expected a CSV file with columns file, label and optionally start"
        ):
            read(tmp_path, name)


def test_a_manifest_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match="no file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: a required column is missing; found ; expected file, label and optionally start, end, speaker"),
        ("path,emotion\n", "line 1: a required column is missing; found 'path', 'emotion'; expected file, label"),
        ("file,speaker\n", "line 1: a required column is missing; found 'file', 'speaker'; expected"),
        ("file label\na.wav sad\n", "found 'file label'; expected"),
        ("file,label,label\n", "line 1: column label appears twice; found 'file', 'label', 'label'"),
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
    assert str(error.value).startswith(str(tmp_path / "manifest.csv")) and message in str(error.value)


def test_a_cell_beyond_the_limit(tmp_path):
    (tmp_path / "manifest.csv").write_text(f"file,label,speaker\na.wav,{'x' * 200_000},s\n")
    with pytest.raises(UserError, match="line 2: not a CSV row .field larger than field limit"):
        read(tmp_path)


def test_another_encoding(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("file,label,speaker\na.wav,sad,s\nü.wav,sad,s\n".encode("latin-1"))
    with pytest.raises(UserError, match="manifest.csv, line 3: not UTF-8 text; save the list as UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize("rows", ["", "../a.wav,sad,s\n"])
def test_no_usable_row(tmp_path, rows):
    (tmp_path / "manifest.csv").write_text("file,label,speaker\n" + rows)
    with pytest.raises(Unusable, match="holds no usable recording: .*(name no recording|line 2: refused path)"):
        read(tmp_path)


def test_missing_recordings(tmp_path):
    write_rows(tmp_path, {"file": "gone/b.wav", "label": "sad"}, {"file": "a.wav/c.wav", "label": "sad"})
    with pytest.raises(Unusable, match=r"2 of 3 listed recordings are missing .*\(a.wav/c.wav; gone/b.wav\); complete"):
        read(tmp_path)
    corpus = read(tmp_path, allow_missing=True)
    assert corpus.modified and [row.id for row in corpus.utterances] == ["good"]
    assert [(row.file, row.reason, row.detail) for row in corpus.rejected] == [
        ("a.wav/c.wav", "missing", "listed in manifest.csv line 4"),
        ("gone/b.wav", "missing", "listed in manifest.csv line 3"),
    ]
