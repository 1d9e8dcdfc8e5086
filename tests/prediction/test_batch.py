"""The recordings that arguments of the command name: files, folders, lists."""

import json
import os
from pathlib import Path

import pytest
import releases

from ser_jax.corpora.release_files import following_links, follows_links
from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.features import media
from ser_jax.prediction.batch import find, refused
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.files import write_csv, write_json


@pytest.fixture
def folder(tmp_path):
    """A folder with three recordings (as far as their names tell), among other things."""
    for name in ("b.wav", "a/c.FLAC", "a/d.mp3", "a/notes.txt", "._b.wav", ".trash/e.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def files(arguments, folder) -> list[str]:
    found = find([str(argument) for argument in arguments])
    return [source.file.removeprefix(f"{folder}/") for source in found]


def test_what_a_folder_holds_besides_is_counted_by_kind(folder, caplog):
    (folder / "README").touch()
    (folder / "a/more.TXT").touch()
    (folder / "link").symlink_to(folder.parent)
    find([str(folder)])
    kinds = "2 .txt, 1 linked folders, 1 hidden, 1 without ending"
    assert f"passed over in {folder}: {kinds}" in caplog.text


def test_links_out_are_followed_where_that_is_asked_for(folder):
    """Into other folders, never in circles; and from the rows of a list."""
    inside = folder / "inside"
    inside.mkdir()
    (inside / "other").symlink_to("../a")
    (inside / "again").symlink_to(".")
    (inside / "b.wav").symlink_to("../b.wav")
    (inside / "list.csv").write_text("file\nother/d.mp3\n")
    (row,) = find([str(inside / "list.csv")])
    assert isinstance(row, Rejection) and "only follow_links permits" in row.detail
    assert files([inside], inside) == ["b.wav"]
    with following_links(True):
        assert files([inside], inside) == ["b.wav", "other/c.FLAC", "other/d.mp3"]
        assert files([inside / "list.csv"], inside) == ["other/d.mp3"]
    assert not follows_links()


def test_files_of_any_name_and_folders_each_recording_once(folder):
    assert files([folder], folder) == ["b.wav", "a/c.FLAC", "a/d.mp3"]
    assert files([folder / "a/notes.txt", folder / "b.wav"], folder) == ["a/notes.txt", "b.wav"]
    named = files([folder / "a/d.mp3", folder, folder / "b.wav"], folder)
    assert named == ["a/d.mp3", "b.wav", "a/c.FLAC"]


@pytest.mark.parametrize("delimiter", ",;\t")
def test_a_list_gives_files_and_spans_relative_to_it(folder, delimiter):
    rows = "b.wav,0.5,1.25,angry\na/d.mp3,,,\nb.wav,,2,sad\nb.wav,0.5,1.25,sad"
    text = f"file,start,end,label\n{rows}"
    (folder / "list.csv").write_text(text.replace(",", delimiter))
    found = [source for source in find([str(folder / "list.csv")]) if isinstance(source, Utterance)]
    assert [(source.file, source.start, source.end) for source in found] == [
        (f"{folder}/b.wav", 0.5, 1.25),
        (f"{folder}/a/d.mp3", None, None),
        (f"{folder}/b.wav", None, 2.0),
    ]


def test_times_in_milliseconds_are_converted_and_rows_keep_their_places(tmp_path, caplog):
    releases.write_wav(tmp_path / "a.wav", releases.tone_like_speech(2.0, "sad", "s", 0))
    path = tmp_path / "list.csv"
    path.write_text(f"Path,begin,end\n{tmp_path}\\a.wav,500,1500\n/x.wav,,\na.wav,,2000\n")
    first, bad, last = find([str(path)])
    assert isinstance(first, Utterance) and isinstance(last, Utterance)
    assert (first.start, first.end, last.start, last.end) == (0.5, 1.5, None, 2.0)
    assert first.file == last.file == f"{tmp_path}/a.wav"
    assert isinstance(bad, Rejection) and "not below the folder of the list" in bad.detail
    assert "list.csv: start and end are taken as milliseconds" in caplog.text
    assert "list.csv: column 'path' is read as file" in caplog.text
    path.write_text("file\nD:\\talk\\a.wav\n")  # written on another machine
    (moved,) = find([str(path)])
    assert moved.file == f"{tmp_path}/a.wav"
    assert f"1 absolute path below D:/talk is read relative to {tmp_path}" in caplog.text


def test_a_name_that_is_not_utf_8_comes_back_from_the_table(folder):
    """The bytes 0xff and 0x80; tables are UTF-8, so they hold them as escapes."""
    name = os.fsdecode(os.fsencode(folder) + b"/\xff\x80.wav")
    Path(name).write_bytes(b"x")
    (found,) = (source for source in find([str(folder)]) if "\udcff" in source.file)
    write_csv(folder / "table.csv", ("file",), [(found.file,)])
    assert "\\udcff\\udc80.wav" in (folder / "table.csv").read_text("utf-8")
    (again,) = find([str(folder / "table.csv")])
    assert again.file == name and Path(again.file).exists()
    write_json(folder / "table.json", found.file)
    assert json.loads((folder / "table.json").read_text("utf-8")) == name


def test_rows_that_name_nothing_keep_their_lines(folder):
    path = folder / "list.csv"
    path.write_text("file,start,end\n../b.wav,,\nb.wav,2,1\n,1,2\nb.wav,x,\nb.wav\nb.wav,,\n")
    *found, good = find([str(path)])
    bad = [row for row in found if isinstance(row, Rejection) and row.file == str(path)]
    assert [row.line for row in bad] == [2, 3, 4, 5, 6] and good.file == f"{folder}/b.wav"
    assert [row.reason for row in bad] == ["refused path", *["bad line"] * 4]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to predict: name recordings, folders, or CSV lists"),
        (["{}/b.wav", "{}/nowhere.wav"], "nowhere.wav: there is no such file or folder"),
        (["{}/lists.csv"], "lists.csv: there is no such file"),
        (["{}/empty"], r"empty holds no recording, nor do its folders; files that end in \.wav"),
        (["{}/header.csv"], "header.csv lists no recording"),
        (["{}/names.csv"], "names.csv, line 1: a required column is missing; found 'name'; expect"),
        (["{}/other.json"], "other.json holds no predictions: name recordings, folders, CSV lists"),
    ],
)
def test_arguments_that_name_nothing_are_refused(folder, arguments, sentence):
    (folder / "empty").mkdir()
    (folder / "header.csv").write_text("file\n")
    (folder / "names.csv").write_text("name\nb.wav\n")
    (folder / "other.json").write_text('{"predictions": [{"file": "b.wav"}]}')
    with pytest.raises(UserError, match=sentence):
        find([argument.format(folder) for argument in arguments])


@pytest.mark.parametrize("installed", [False, True])
def test_what_needs_ffmpeg_is_counted_or_found(folder, monkeypatch, caplog, installed):
    monkeypatch.setattr(media, "installed", lambda: installed)
    for name in ("e.m4a", "f.M4A", "g.webm"):
        (folder / name).write_bytes(b"x")
    left_out = "pip install 'ser_jax[media]' brings what reads 3 of its files"
    with caplog.at_level("WARNING"):
        found = files([folder], folder)
    assert found == ["b.wav", *(["e.m4a", "f.M4A", "g.webm"] * installed), "a/c.FLAC", "a/d.mp3"]
    assert (left_out in caplog.text) != installed
    for name in ("b.wav", "a/c.FLAC", "a/d.mp3"):
        (folder / name).unlink()
    if not installed:
        with pytest.raises(
            UserError, match=r"holds no recording.*ser_jax\[media\]' brings what reads 3 of"
        ):
            find([str(folder)])


def test_a_recording_that_is_too_long_has_its_way_out():
    why = Rejection("a.wav", None, "too long", "130 s; at most 120 s are read")
    row = refused(Utterance("a", "a.wav"), why)
    assert (
        row.detail == "130 s; at most 120 s are read; --timeline follows recordings of any length"
    )
