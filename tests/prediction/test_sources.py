"""What the arguments of the command name: files, folders, lists, and rows of lists that name nothing."""

import pytest

from ser_jax.corpora.table import Rejection, Utterance
from ser_jax.errors import UserError
from ser_jax.prediction.sources import find


@pytest.fixture
def folder(tmp_path):
    """A folder with three recordings (as far as their names tell), among other things."""
    for name in ("b.wav", "a/c.FLAC", "a/d.mp3", "a/notes.txt", "._b.wav", ".trash/e.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def files(arguments, folder) -> list[str]:
    return [source.file.removeprefix(f"{folder}/") for source in find([str(argument) for argument in arguments])]


def test_a_folder_gives_the_recordings_in_it_and_below(folder):
    assert files([folder], folder) == ["b.wav", "a/c.FLAC", "a/d.mp3"]


def test_files_are_taken_whatever_they_are_called(folder):
    assert files([folder / "a/notes.txt", folder / "b.wav"], folder) == ["a/notes.txt", "b.wav"]


def test_what_is_named_twice_stands_there_once(folder):
    assert files([folder / "a/d.mp3", folder, folder / "b.wav"], folder) == ["a/d.mp3", "b.wav", "a/c.FLAC"]


@pytest.mark.parametrize("delimiter", ",;\t")
def test_a_list_gives_files_and_spans_relative_to_it(folder, delimiter):
    lines = ["file,start,end,label", "b.wav,0.5,1.25,angry", "a/d.mp3,,,", "b.wav,,2,sad", "b.wav,0.5,1.25,sad"]
    (folder / "list.csv").write_text("\n".join(lines).replace(",", delimiter))
    found = [source for source in find([str(folder / "list.csv")]) if isinstance(source, Utterance)]
    assert [(source.file, source.start, source.end) for source in found] == [
        (f"{folder}/b.wav", 0.5, 1.25),
        (f"{folder}/a/d.mp3", None, None),
        (f"{folder}/b.wav", None, 2.0),
    ]


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
        (["{}/names.csv"], "names.csv, line 1: a required column is missing; found 'name'; expected file and"),
    ],
)
def test_arguments_that_name_nothing_are_refused(folder, arguments, sentence):
    (folder / "empty").mkdir()
    (folder / "header.csv").write_text("file\n")
    (folder / "names.csv").write_text("name\nb.wav\n")
    with pytest.raises(UserError, match=sentence):
        find([argument.format(folder) for argument in arguments])
