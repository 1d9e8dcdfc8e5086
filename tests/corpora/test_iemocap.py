import collections
from pathlib import Path

import pytest
import releases

from ser_jax.corpora import iemocap
from ser_jax.corpora.release_files import Unusable
from ser_jax.runtime.errors import UserError

# protocols.md §2: session → angry, happy (hap, exc), neutral, sad.
COUNTS = {
    "Session1": (229, 278, 384, 194),
    "Session2": (137, 327, 362, 197),
    "Session3": (240, 286, 320, 305),
    "Session4": (327, 303, 258, 143),
    "Session5": (170, 442, 384, 245),
}


def read(root: Path, allow_missing: bool = False):
    return iemocap.read(root, allow_missing=allow_missing)


def counts(corpus) -> dict[str, tuple[int, ...]]:
    found = collections.Counter((row.session, row.label) for row in corpus.utterances)
    sessions = sorted({row.session for row in corpus.utterances})
    return {
        session: tuple(found[session, label] for label in ("angry", "happy", "neutral", "sad"))
        for session in sessions
    }


def evaluation(release: Path, dialog: str) -> Path:
    return release / f"Session{dialog[4]}/dialog/EmoEvaluation/{dialog}.txt"


def append(release: Path, dialog: str, line: str) -> int:
    """Adds a line to a dialog's list and returns its number."""
    path = evaluation(release, dialog)
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    return path.read_bytes().count(b"\n")


@pytest.fixture
def release(tmp_path) -> Path:
    return releases.write_iemocap(tmp_path, releases.TRAP_TURNS, audio=None)


def test_the_traps_of_the_release(release):
    corpus = read(release)
    rows = {
        row.id.rsplit("/", 1)[1]: (row.label, row.speaker, row.session) for row in corpus.utterances
    }
    assert rows == {
        "Ses01F_impro01_F000": ("neutral", "Ses01F", "Session1"),
        "Ses01F_impro01_M000": ("angry", "Ses01M", "Session1"),
        "Ses01M_script01_1_F000": ("happy", "Ses01F", "Session1"),
        "Ses01M_script01_1_M000": ("happy", "Ses01M", "Session1"),
        "Ses05F_impro02_F001": ("happy", "Ses05F", "Session5"),
        "Ses05M_script01_1b_F000": ("sad", "Ses05F", "Session5"),
        "Ses05M_script01_1b_M000": ("angry", "Ses05M", "Session5"),
    }
    assert (corpus.rejected, corpus.warnings, corpus.modified) == ((), (), False)
    assert corpus.protocol == "iemocap-5531-session5"
    assert corpus.label_mapping == iemocap.LABEL_MAPPING
    first = corpus.utterances[0]
    assert first.id == "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000"
    assert first.file == f"{first.id}.wav" and corpus.path(first).is_file()


def test_the_folder_above_is_the_same_corpus(release):
    assert read(release.parent) == read(release)
    assert read(release).root == release


def test_windows_line_ends(release):
    before = read(release)
    path = evaluation(release, "Ses01F_impro01")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(release) == before


def test_malformed_lines_are_rejected_with_their_numbers(release):
    lines = [
        "[1.0000 - 2.0000]",
        "[1.0000 - 2.0000]\tSes01F_impro01_F009",
        "[1.0000 - 2.0000] Ses01F_impro01_F009 neu [2.5, 2.5, 2.5]",
        "[1.0000 2.0000]\tSes01F_impro01_F009\tneu\t[2.5, 2.5, 2.5]",
        "[1.0000 - 2.0000]\tSes01F_impro01_X009\tneu\t[2.5, 2.5, 2.5]",
        "[1.0000 - 2.0000]\t../../../Ses01F_impro01_F009\tneu\t[2.5, 2.5, 2.5]",
        "[1.0000 - 2.0000]\t\tneu\t[2.5, 2.5, 2.5]",
        "- 2.0000]\tSes01F_impro01_F009\tneu\t[2.5, 2.5, 2.5]",
        "[1.0000 - 2.0000]\tSes02F_impro01_F009\tneu\t[2.5, 2.5, 2.5]",
    ]
    usable = read(release).utterances
    numbers = [append(release, "Ses01F_impro01", line) for line in lines]
    corpus = read(release)
    assert corpus.utterances == usable and not corpus.modified
    list_name = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    assert [(row.file, row.line, row.reason) for row in corpus.rejected] == [
        (list_name, number, "bad line") for number in numbers
    ]
    assert f"Ses01F_impro01.txt line {numbers[0]}" in corpus.warnings[0]


def test_rater_comments_may_hold_any_bytes_and_turn_names(release):
    before = read(release)
    append(release, "Ses01F_impro01", "C-E2:\tOther;\t(like Ses01F_impro01_F000, na\xefve)")
    assert read(release) == before


def test_an_unknown_label_is_rejected(release):
    number = append(
        release, "Ses01F_impro01", "[1.0 - 2.0]\tSes01F_impro01_F009\tjoy\t[1.0, 1.0, 1.0]"
    )
    [rejection] = read(release).rejected
    assert (rejection.line, rejection.reason) == (number, "unknown label")
    assert rejection.detail.startswith("'joy' of Ses01F_impro01_F009; known: ang, dis, exc")


def test_a_turn_listed_twice_counts_once(release):
    before = read(release).utterances
    copy = evaluation(release, "Ses01F_impro01").with_name("Ses01F_impro01 copy.txt")
    copy.write_text("[1.0 - 2.0]\tSes01F_impro01_F000\tsad\t[1.0, 1.0, 1.0]\n")
    corpus = read(release)
    rejection = next(row for row in corpus.rejected if row.reason == "duplicate")
    # "… copy.txt" sorts before "….txt", so its row is the first and the real list's is the
    # duplicate.
    assert rejection.file.endswith("/Ses01F_impro01.txt") and rejection.line == 3
    assert (
        "is already in Session1/dialog/EmoEvaluation/Ses01F_impro01 copy.txt line 1 (sad)"
        in rejection.detail
    )
    assert len(corpus.utterances) == len(before)


def test_missing_recordings(release):
    gone = [turn for turn in releases.TRAP_TURNS if turn.label in ("ang", "hap", "exc")]
    for turn in gone:
        (release / turn.wav).unlink()
    with pytest.raises(Unusable) as error:
        read(release)
    sentence = str(error.value)
    assert sentence.startswith(
        f"iemocap: 5 of 7 listed recordings are missing from corpus.root={release} (Session1/"
    )
    assert "; and 2 more" in sentence and "corpus.allow_missing=true" in sentence
    corpus = read(release, allow_missing=True)
    assert len(corpus.utterances) == 2 and corpus.modified
    assert corpus.rejected == error.value.rejected and sentence[:53] in corpus.warnings[0]
    assert [(row.reason, row.line) for row in corpus.rejected] == [("missing", None)] * 5
    where = "listed in Session1/dialog/EmoEvaluation/Ses01F_impro01.txt line "
    assert corpus.rejected[0].detail.startswith(where)


def test_the_files_of_other_labels_may_be_missing(release):
    (release / releases.TRAP_TURNS[2].wav).unlink()
    assert not read(release).modified


@pytest.mark.parametrize("inside", ["", "Session1", "Session1/dialog/EmoEvaluation"])
def test_a_folder_without_dialogs(tmp_path, inside):
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    (tmp_path / inside / "._Ses01F_impro01.txt").write_bytes(releases.APPLE_DOUBLE)
    with pytest.raises(
        UserError,
        match=r"holds no Session\*/dialog/EmoEvaluation/\*\.txt; expected IEMOCAP_full_release",
    ):
        read(tmp_path)


def test_a_partial_release_is_fine(tmp_path):
    turns = releases.iemocap_turns(sessions=[3], per_label=1, samples=100)
    corpus = read(releases.write_iemocap(tmp_path, turns))
    assert counts(corpus) == {"Session3": (2, 4, 2, 2)}
    assert {row.speaker for row in corpus.utterances} == {"Ses03F", "Ses03M"}


def test_the_whole_corpus(tmp_path, iemocap_turns):
    corpus = read(
        releases.write_iemocap_from_turns(tmp_path, iemocap_turns, sessions=range(1, 6), empty=True)
    )
    assert counts(corpus) == COUNTS
    assert len(corpus.utterances) == 5531
    assert len({row.speaker for row in corpus.utterances}) == 10
    assert sum("Ses05M_script01_1b/" in row.id for row in corpus.utterances) == 24
    assert not corpus.rejected
