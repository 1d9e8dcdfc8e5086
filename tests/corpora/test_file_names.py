"""Corpora read by their file names: published ones, users' patterns, proposals, bad input."""

import collections
import itertools

import pytest
import releases

from ser_jax.corpora import file_names, pattern_guess, registry
from ser_jax.corpora.named_releases import RELEASES
from ser_jax.runtime.errors import UserError
from ser_jax.runtime.progress import counted


def read(name, root, pattern=""):
    return registry.read_corpus(name, str(root), manifest="", pattern=pattern, allow_missing=False)


def facts(row) -> tuple:
    attributes = dict(row.attributes)
    return row.label, row.speaker, row.text, row.split, attributes


# Corpus → id → label, speaker, text, split and some attributes, from the descriptions of releases.
EXPECTED = {
    "emodb": {
        "wav/03a01Wa": ("angry", "03", "a01", "", {"gender": "male", "age": "31"}),
        "wav/08b02L": ("boredom", "08", "b02", "", {"gender": "female"}),
        "wav/16c10Fb": ("happy", "16", "c10", "", {"language": "German"}),
        "wav/03a01Nc": ("neutral", "03", "a01", "", {}),
    },
    "ravdess": {
        "03-01-01-01-01-01-01": ("neutral", "01", "01", "", {"gender": "male"}),
        "03-01-05-02-02-01-01": ("angry", "01", "02", "", {"intensity": "strong"}),
        "03-01-08-01-02-02-02": ("surprise", "02", "02", "", {"gender": "female"}),
        "03-01-06-01-01-01-02": ("fear", "02", "01", "", {"intensity": "normal"}),
    },
    "cremad": {
        "1001_DFA_ANG_XX": ("angry", "1001", "DFA", "", {"age": "51", "gender": "male"}),
        "1001_IEO_HAP_HI": ("happy", "1001", "IEO", "", {"intensity": "high"}),
        "1002_DFA_NEU_XX": ("neutral", "1002", "DFA", "", {"intensity": "unspecified"}),
        "1040_ITH_SAD_X": ("sad", "1040", "ITH", "", {"intensity": "unspecified"}),
    },
    "tess": {
        "OAF_back_angry": ("angry", "OAF", "back", "", {"age": "64"}),
        "OA_bite_neutral": ("neutral", "OAF", "bite", "", {}),
        "YAF_back_ps": ("surprise", "YAF", "back", "", {"age": "26"}),
        "OAF_bite_sad": ("sad", "OAF", "bite", "", {"gender": "female"}),
    },
    "savee": {
        "DC_a01": ("angry", "DC", "", "", {"gender": "male"}),
        "DC_sa01": ("sad", "DC", "", "", {}),
        "JE_su15": ("surprise", "JE", "", "", {}),
        "KL_n30": ("neutral", "KL", "", "", {}),
    },
    "esd": {
        "0001_000021": ("neutral", "0001", "zh021", "train", {"language": "Mandarin"}),
        "0001_000371": ("angry", "0001", "zh021", "test", {}),
        "0011_000001": ("neutral", "0011", "en001", "devel", {"language": "English"}),
        "0011_001750": ("surprise", "0011", "en350", "train", {}),
        "0011_000350": ("neutral", "0011", "en350", "", {}),
    },
    "casia": {
        "liuchanhg/angry/201": ("angry", "liuchanhg", "201", "", {}),
        "liuchanhg/sad/201": ("sad", "liuchanhg", "201", "", {}),
        "ZhaoZuoxiang/fear/250": ("fear", "zhaozuoxiang", "250", "", {}),
        "wangzhe/surprise/202": ("surprise", "wangzhe", "202", "", {}),
    },
    "shemo": {
        "F01A05": ("angry", "F01", "", "", {"gender": "female"}),
        "M02N01": ("neutral", "M02", "", "", {"gender": "male"}),
        "M02W110": ("surprise", "M02", "", "", {}),
        "F01F01": ("fear", "F01", "", "", {}),
    },
}
COPIES = {"emodb": 1, "ravdess": 2, "cremad": 2, "tess": 1}


def test_every_release_has_a_case():
    assert set(EXPECTED) == set(RELEASES) == set(releases.NAMED_RELEASES)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_release(tmp_path, name):
    """Read from its folder, the one above and one in it; copies once, debris never."""
    release = releases.write_named(tmp_path, name)
    corpus = read(name, release)
    found = {row.id: facts(row) for row in corpus.utterances}
    assert set(found) == set(EXPECTED[name]) and not corpus.rejected
    for key, (*expected, attributes) in EXPECTED[name].items():
        *columns, others = found[key]
        assert columns == expected and attributes.items() <= others.items(), key
    assert all(corpus.path(row).is_file() for row in corpus.utterances)
    said = [text for text in corpus.warnings if "there already" in text]
    assert len(said) == bool(COPIES.get(name)) or name == "esd"
    if name in COPIES:
        assert f"{name}: {counted(COPIES[name], *file_names.TWICE)}" in said[0]
    above = read(name, tmp_path)
    assert [row.id for row in above.utterances] == [row.id for row in corpus.utterances]
    folder = corpus.path(corpus.utterances[0]).parent
    inner = read(name, folder)
    assert {row.id: facts(row) for row in inner.utterances}.items() <= found.items()
    assert inner.utterances, "a folder of the release"
    named = {label for code, label in corpus.label_mapping.items()}
    assert named == set(RELEASES[name].counts)


def test_other_forms_of_releases(tmp_path):
    """A flat SAVEE, an ESD without parts, RAVDESS as flac; songs are counted."""
    for name in ("DC_a01", "KL_su03"):
        (tmp_path / "ALL").mkdir(exist_ok=True)
        (tmp_path / f"ALL/{name}.wav").touch()
    assert [row.id for row in read("savee", tmp_path / "ALL").utterances] == ["DC_a01", "KL_su03"]
    release = releases.write_named(tmp_path, "ravdess")
    (whole,) = [t for t in read("ravdess", release).warnings if "another task" in t]
    assert whole.startswith("ravdess: 2 recordings of the release")
    ids = [row.id for row in read("ravdess", release).utterances]
    for path in [*release.rglob("*.wav")]:
        path.rename(path.with_suffix(".flac"))
    assert [row.id for row in read("ravdess", release).utterances] == ids


def test_the_two_versions_of_emodb(tmp_path):
    (tmp_path / "wav").mkdir()
    names = itertools.product(("03", "08"), "abc", (f"{n:02}" for n in range(30)), "WF", "abc")
    for number, (speaker, block, text, emotion, version) in enumerate(names):
        if number < 536:
            (tmp_path / f"wav/{speaker}{block}{text}{emotion}{version}.wav").touch()
    corpus = read("emodb", tmp_path)
    assert corpus.protocol == "emodb4-v2-speaker10" and "version 2.0.0" in corpus.warnings[0]
    corpus.path(corpus.utterances[0]).unlink()
    corpus = read("emodb", tmp_path)
    assert corpus.protocol == "emodb4-speaker10" and not corpus.warnings


def test_the_real_ravdess(ravdess_root):
    corpus = read("ravdess", ravdess_root)
    counts = collections.Counter(row.label for row in corpus.utterances)
    assert len(corpus.utterances) == 1440 and counts == RELEASES["ravdess"].counts
    assert counts.pop("neutral") == 96 and set(counts.values()) == {192}
    assert len({row.speaker for row in corpus.utterances}) == 24
    assert {row.text for row in corpus.utterances} == {"01", "02"}
    genders = collections.Counter(dict(row.attributes)["gender"] for row in corpus.utterances)
    assert genders == {"male": 720, "female": 720} and not corpus.warnings


def test_names_of_no_release(tmp_path):
    (tmp_path / "b.wav").touch()
    with pytest.raises(UserError, match=r"1 recording in .* \(b.wav\), none named as in RAVDESS"):
        read("ravdess", tmp_path)
    (tmp_path / "03-01-01-01-01-01-01.wav").touch()
    corpus = read("ravdess", tmp_path)
    assert [(row.file, row.reason) for row in corpus.rejected] == [("b.wav", "bad name")]


# --- Patterns of users


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{speaker}_{label}_{text}.wav", "s1_sad_t2.wav", ("sad", "s1", "t2", "", {})),
        ("{speaker}_{label}_*.wav", "deep/s1_sad_t2_x.WAV", ("sad", "s1", "", "", {})),
        ("{label}/{speaker}-*.wav", "sad/s1-a-b.wav", ("sad", "s1", "", "", {})),
        ("{label}/*", "sad/s1-a-b.flac", ("sad", "", "", "", {})),
        ("{speaker:2}{label:1}{text:2}.wav", "s1T07.wav", ("T", "s1", "07", "", {})),
        (
            "{split}/{gender}/{label}_{take}",
            "Dev/f/sad_1.ogg",
            ("sad", "", "", "devel", {"gender": "f", "take": "1"}),
        ),
        ("{speaker}/{speaker}_{label}.wav", "s1/s1_sad.wav", ("sad", "s1", "", "", {})),
        (r"(?P<speaker>s\d)(?P<label>[a-z]+)\d*\.wav", "x/s1sad07.wav", ("sad", "s1", "", "", {})),
        (r"(?i)(?P<label>SAD|JOY)_\w+\.wav", "x/sad_1.wav", ("sad", "", "", "", {})),
        ("{label}.{session}.wav", "sad.2.wav", ("sad", "", "", "", {})),
    ],
)
def test_a_pattern(tmp_path, pattern, name, expected):
    touch(tmp_path, name)
    (row,) = read("files", tmp_path, pattern).utterances
    assert facts(row) == expected and row.id == name.rpartition(".")[0]


def test_a_path_is_read_in_one_way_only(tmp_path):
    """A field ends at the first sign of its kind: a name with another one is not guessed at."""
    touch(tmp_path, "s_1_sad_t.wav", "s1_sad_t.wav", "s2_sad_t.wav", "other/notes.wav")
    corpus = read("files", tmp_path, "{speaker}_{label}_{text}.wav")
    by_file = {row.file: row.label for row in corpus.utterances}
    assert by_file == {"s1_sad_t.wav": "sad", "s2_sad_t.wav": "sad", "s_1_sad_t.wav": "1"}
    corpus = read("files", tmp_path, r"(?P<speaker>s\d)_(?P<label>[a-z]+)_t\.wav")
    assert [row.file for row in corpus.rejected] == ["s_1_sad_t.wav"]
    assert any("another folder" in text and "other/notes.wav" in text for text in corpus.warnings)


def test_copies_are_known_by_their_bytes(tmp_path):
    """The same name in two folders may be two recordings."""
    for folder, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s1_sad.wav").write_bytes(content)
    corpus = read("files", tmp_path, "{speaker}_{label}.wav")
    assert [row.file for row in corpus.utterances] == ["a/s1_sad.wav", "b/s1_sad.wav"]
    assert "1 file holds a recording that is there already" in corpus.warnings[0]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("", "corpus.pattern is empty; .*--guess"),
        ("{speaker}_*.wav", "has no field {label}"),
        ("{speaker}{label}.wav", "nothing says where {speaker} ends"),
        ("{speaker}*{label}.wav", "nothing says where {speaker} ends"),
        ("{speaker_{label}.wav", "is no field"),
        ("{1}_{label}.wav", r"'\{1\}' is no field"),
        ("(?P<label>[a-z.wav", "not a regular expression"),
        (
            "{label}-{speaker}.wav",
            r"matches none of 4 recordings in .* \(s1_sad_1.wav, s2_sad_1.wav, s3_sad_1.wav, …\);"
            " expected names such as LABEL-SPEAKER.wav; ser-jax corpora --guess",
        ),
    ],
)
def test_bad_patterns(tmp_path, pattern, sentence):
    touch(tmp_path, *(f"s{n}_sad_1.wav" for n in (1, 2, 3, 4)))
    with pytest.raises(UserError, match=sentence):
        read("files", tmp_path, pattern)


def test_patterns_are_for_files_only(tmp_path):
    with pytest.raises(UserError, match="is for corpus.name=files; emodb is read without"):
        read("emodb", tmp_path, "{label}.wav")


# --- Proposals

GRID = [*itertools.product(("s1", "s2", "s3"), ("angry", "happy", "sad"), ("01", "02"))]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{0}_{1}_{2}.wav", "{speaker}_{label}_{text}.wav"),
        ("{1}/{0}-{2}.wav", "{label}/{speaker}-{text}.wav"),
        ("data/wav/{0}/{1}-{2}-take.flac", "data/wav/{speaker}/{label}-{text}-take.flac"),
        ("Actor_{0}/{2}_{1}.wav", "Actor_{speaker}/{text}_{label}.wav"),
        ("{0}{1}{2}.wav", r"s(?P<speaker>\d+)(?P<label>[^\W\d_]+)(?P<text>\d+)\.wav"),
    ],
)
def test_a_proposal_reads_all_as_meant(tmp_path, form, expected):
    touch(tmp_path, *(form.format(*cell) for cell in GRID))
    assert pattern_guess.propose(tmp_path) == ("files", expected)
    rows = read("files", tmp_path, expected).utterances
    found = {(row.speaker.lstrip("s"), row.label, row.text) for row in rows}
    assert found == {(speaker[1:], label, text) for speaker, label, text in GRID}


def test_proposals_of_other_parts(tmp_path):
    grid = itertools.product(("train", "test"), ("m1", "f2", "f3"), ("ANG", "SAD"), "1234")
    touch(tmp_path, *(f"{part}/{who}{label}{n}.wav" for part, who, label, n in grid))
    speaker = r"(?P<speaker>(?P<gender>[^\W\d_]+)\d+)"
    expected = rf"(?P<split>[^\W\d_]+)/{speaker}(?P<label>[^\W\d_]+)(?P<text>\d+)\.wav"
    assert pattern_guess.propose(tmp_path) == ("files", expected)
    touch(tmp_path / "x", *(f"{n}.wav" for n in range(4)))
    with pytest.raises(
        UserError, match="no part of the names of 4 recordings .*is a known emotion"
    ):
        pattern_guess.propose(tmp_path / "x")


@pytest.mark.parametrize("name", RELEASES)
def test_a_published_corpus_is_known(tmp_path, name):
    release = releases.write_named(tmp_path, name)
    assert pattern_guess.propose(release) == (name, "")


# --- By lists


def test_meld(tmp_path):
    release = releases.write_meld(tmp_path)
    corpus = read("meld", tmp_path)
    assert {row.id: (row.file, row.label, row.split) for row in corpus.utterances} == {
        "train/dia0_utt0": ("MELD.Raw/train_splits/dia0_utt0.mp4", "happy", "train"),
        "train/dia0_utt1": ("MELD.Raw/train_splits/dia0_utt1.wav", "neutral", "train"),
        "devel/dia0_utt0": ("MELD.Raw/dev_splits_complete/dia0_utt0.mp4", "happy", "devel"),
        "devel/dia1_utt0": ("MELD.Raw/dev_splits_complete/dia1_utt0.mp4", "neutral", "devel"),
        "test/dia0_utt0": ("MELD.Raw/output_repeated_splits_test/dia0_utt0.mp4", "happy", "test"),
        "test/dia1_utt0": (
            *("MELD.Raw/output_repeated_splits_test/dia1_utt0.mp4", "neutral", "test"),
        ),
    }
    assert {row.speaker for row in corpus.utterances} == {"Joey"}
    assert "1 clip is missing in every copy of the release" in corpus.warnings[0]
    ids = [row.id for row in corpus.utterances]
    assert [row.id for row in read("meld", release).utterances] == ids
    (release / "dev_splits_complete/dia1_utt0.mp4").unlink()
    with pytest.raises(UserError, match="1 of 6 listed recordings are missing"):
        read("meld", release)
    (release / "dev_sent_emo.csv").unlink()
    with pytest.raises(UserError, match="holds no dev_sent_emo.csv"):
        read("meld", release)


@pytest.mark.parametrize("inside", ["", "..", "Audios"])
def test_msp_podcast(tmp_path, inside):
    release = releases.write_msp_podcast(tmp_path)
    corpus = read("msp_podcast", release / inside)
    found = {row.id[-9:-5]: (row.label, row.speaker, row.split) for row in corpus.utterances}
    assert found == {
        "0001": ("angry", "1", "train"),
        "0002": ("no agreement", "", "train"),
        "0003": ("other", "2", "devel"),
        "0004": ("neutral", "3", "devel"),
        "0005": ("happy", "4", "test1"),
        "0006": ("sad", "5", "test2"),
    }
    genders = {dict(row.attributes).get("gender") for row in corpus.utterances}
    assert genders == {"female", "male", None}
    assert [(row.line, row.reason) for row in corpus.rejected] == [(8, "unknown label")]
