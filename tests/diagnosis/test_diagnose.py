"""Whole releases of every reader: findings, severities and counts."""

import collections
from pathlib import Path

import defects
import numpy as np
import pytest
import releases

from ser_jax.config import get_config
from ser_jax.corpora import demo
from ser_jax.diagnosis.diagnose import Diagnosis, LabelCount, diagnose
from ser_jax.runtime.errors import UserError


def examine(name: str, root: Path | str, **keys) -> Diagnosis:
    """Diagnoses a release with keys such as `protocol__name`."""
    config = get_config()
    config.corpus.name, config.corpus.root = name, str(root)
    for key, value in keys.items():
        section, _, key = key.partition("__")
        config[section][key] = value
    return diagnose(config)


def found(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    return sorted((row.file, row.severity, row.finding) for row in diagnosis.findings)


def about_the_whole(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(row.finding, row.detail) for row in diagnosis.findings if not row.file]


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    return defects.write_broken(tmp_path_factory.mktemp("broken"))


# --- Every defect, and none


def test_every_defect_is_found_once(broken):
    diagnosis = examine("manifest", broken, features__max_seconds=defects.MAX_SECONDS)
    lost = "9 of 54 listed utterances cannot be used and are left out of manifest-speaker"
    (many, sentence), protocol = about_the_whole(diagnosis)
    assert many == "unusable rows" and "12 of 57 listed recordings are unusable" in sentence
    assert protocol == ("protocol", lost)
    assert diagnosis.remarks == (), "the reader's summaries are not repeated"
    assert found(diagnosis) == sorted(
        [*defects.EXPECTED, ("", "warning", "protocol"), ("", "error", "unusable rows")]
    )
    assert diagnosis.protocol == "manifest-speaker+modified"
    assert (diagnosis.listed, len(diagnosis.seconds)) == (58, 45)
    ids = {row.file: row.id for row in diagnosis.findings}
    assert ids["bad/span.wav"] == "bad/span#0.500-9.000" and ids["odd/clipped.wav"] == "odd/clipped"
    assert ids["bad/missing.wav"] == ids["extra/unlisted.wav"] == ids["manifest.csv"] == ""


def test_nothing_is_found_in_a_clean_release(tmp_path):
    diagnosis = examine("manifest", defects.write_clean(tmp_path))
    assert diagnosis.findings == diagnosis.remarks == ()
    assert diagnosis.protocol == "manifest-speaker"
    assert diagnosis.labels == tuple(
        LabelCount(label, True, 8, None, 4, 6.0) for label in ("angry", "happy", "neutral", "sad")
    )
    np.testing.assert_array_equal(diagnosis.seconds, np.full(32, 0.75))


def test_counts_add_up(broken):
    """Listed = usable + bad + rejected rows; usable = the sum over the labels."""
    diagnosis = examine("manifest", broken, features__max_seconds=defects.MAX_SECONDS)
    kinds = collections.Counter(row.finding for row in diagnosis.findings)
    errors = [row for row in diagnosis.findings if row.severity == "error"]
    unusable = [row for row in errors if row.file]
    assert diagnosis.listed == len(diagnosis.seconds) + len(unusable)
    assert sum(row.utterances for row in diagnosis.labels) == len(diagnosis.seconds)
    assert sum(row.seconds for row in diagnosis.labels) == pytest.approx(diagnosis.seconds.sum())
    assert kinds.total() == len(defects.EXPECTED) + 2


# --- Keys


def test_missing_recordings_may_be_allowed(tmp_path):
    root = defects.write_clean(tmp_path)
    (root / "audio/s0/sad0.wav").unlink()
    for allowed, severity in ((False, "error"), (True, "warning")):
        assert found(examine("manifest", root, corpus__allow_missing=allowed)) == [
            ("audio/s0/sad0.wav", severity, "missing")
        ]


@pytest.mark.parametrize(("system", "short"), [("plain_crnn", 0), ("multi_crnn", 32)])
def test_short_is_what_does_not_fill_a_segment_of_the_system(tmp_path, system, short):
    root = releases.write_manifest(tmp_path, releases.manifest_rows(), seconds=0.4).parent
    config = get_config()
    config.system, config.corpus.name, config.corpus.root = system, "manifest", str(root)
    assert [row.finding for row in diagnose(config).findings] == ["short"] * short


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"protocol__name": "emodb4-speaker10"}, "is not a protocol of corpus.name='manifest'"),
        ({"features__workers": -1}, "features.workers=-1; it must be at least 0"),
        ({"corpus__manifest": "other.csv"}, "corpus.manifest=other.csv: no file"),
    ],
)
def test_wrong_keys_are_refused(broken, keys, sentence):
    with pytest.raises(UserError, match=sentence):
        examine("manifest", broken, **keys)


# --- Releases that no protocol can be made of


def test_a_release_that_its_reader_refuses(tmp_path):
    rows = [{"file": "a.wav", "label": "sad"}, {"file": "", "label": "sad"}]
    diagnosis = examine("manifest", releases.write_manifest(tmp_path, rows[:1]).parent)
    ((name, detail),) = about_the_whole(diagnosis)
    assert name == "no protocol" and "has the one label sad" in detail
    releases.write_manifest(tmp_path / "two", rows, seconds=None)
    assert found(examine("manifest", tmp_path / "two")) == [
        ("", "error", "unusable release"),
        ("a.wav", "error", "missing"),
        ("manifest.csv", "error", "bad line"),
    ]


def test_too_few_speakers_for_the_protocol(tmp_path):
    root = releases.write_manifest(tmp_path, releases.manifest_rows(speakers=2)).parent
    diagnosis = examine("manifest", root)
    ((name, detail),) = about_the_whole(diagnosis)
    assert name == "no protocol" and "leaving one out needs at least 3" in detail
    assert diagnosis.protocol == "" and len(diagnosis.seconds) == diagnosis.listed == 16


def test_no_usable_recording(tmp_path):
    root = defects.write_clean(tmp_path)
    for path in root.rglob("*.wav"):
        path.write_bytes(b"")
    diagnosis = examine("manifest", root)
    counts = collections.Counter(row.finding for row in diagnosis.findings)
    assert counts == {"unreadable": 32, "unusable rows": 1} and not len(diagnosis.seconds)


def test_no_utterance_of_the_protocol(tmp_path):
    root = releases.write_emodb(tmp_path, releases.emodb_names(emotions="LEA"))
    diagnosis = examine("emodb", root)
    assert [row.utterances for row in diagnosis.labels if row.used] == [0, 0, 0, 0]
    ((name, detail),) = about_the_whole(diagnosis)
    assert name == "no protocol" and "holds no utterance of the protocol" in detail


# --- Other readers


def test_emodb(tmp_path):
    root = releases.write_emodb(tmp_path, [*releases.emodb_names(), "03a01La.wav", "08a01La.wav"])
    releases.write_wav(root / "wav/noname.wav", defects.noise())
    diagnosis = examine("emodb", root)
    assert found(diagnosis) == [
        ("", "warning", "protocol"),
        ("wav/03a01La.wav", "note", "not used"),
        ("wav/08a01La.wav", "note", "not used"),
        ("wav/noname.wav", "warning", "bad name"),
    ]
    ((_, detail),) = about_the_whole(diagnosis)
    assert detail.startswith(
        "counts differ from emodb4-speaker10: angry: 8 instead of 127; happy: 8 instead of 71"
    )
    *four, bored = diagnosis.labels
    assert [(row.label, row.utterances, row.expected, row.used) for row in four] == [
        ("angry", 8, 127, True),
        ("happy", 8, 71, True),
        ("neutral", 8, 79, True),
        ("sad", 8, 62, True),
    ]
    assert (bored.utterances, bored.expected, bored.speakers, bored.used) == (2, None, 2, False)


def test_labels_are_counted_within_the_protocol(tmp_path):
    turns = [*releases.iemocap_turns(), releases.Turn("Ses01M_script01_1_F000", "sad")]
    diagnosis = examine(
        "iemocap", releases.write_iemocap(tmp_path, turns), protocol__name="iemocap-impro-session5"
    )
    assert {row.label: row.utterances for row in diagnosis.labels}["sad"] == 20
    assert len(diagnosis.seconds) == 101
    (left_out,) = [row for row in diagnosis.findings if row.finding == "not used"]
    assert left_out.id.endswith("Ses01M_script01_1_F000")
    assert left_out.detail == "by the protocol's rule"


def test_iemocap_with_an_unknown_label_and_a_turn_that_is_gone(tmp_path):
    turns = [*releases.iemocap_turns(), releases.Turn("Ses02F_impro09_F000", "bad")]
    root = releases.write_iemocap(tmp_path, turns)
    (root / turns[0].wav).unlink()
    diagnosis = examine("iemocap", root)
    (missing,) = [row for row in diagnosis.findings if row.severity == "error"]
    assert (missing.finding, missing.file) == ("missing", turns[0].wav)
    # Training goes on without one row of a hundred.
    place = "Session2/dialog/EmoEvaluation/Ses02F_impro09.txt"
    assert (place, "warning", "unknown label") in found(diagnosis)
    unlisted = "Session2/sentences/wav/Ses02F_impro09/Ses02F_impro09_F000.wav"
    assert (unlisted, "note", "unlisted") in found(diagnosis)


def test_emotass_with_a_recording_in_two_partitions(tmp_path):
    root = releases.write_emotass(tmp_path, [*releases.emotass_rows(), ("train_0099.wav", None)])
    wav = root / "wav"
    (wav / "devel_0003.wav").write_bytes((wav / "train_0003.wav").read_bytes())
    diagnosis = examine("emotass", root, protocol__name="emotass-devel")
    leaks = [row for row in diagnosis.findings if row.finding.startswith("copy")]
    assert [(row.file, row.severity, row.finding) for row in leaks] == [
        ("wav/train_0003.wav", "warning", "copy in training and test")
    ]
    assert "(angry, train): same bytes as wav/devel_0003 (angry, devel)" in leaks[0].detail
    assert ("wav/train_0099.wav", "note", "unlisted") in found(diagnosis)
    assert ("wav/test_0001.wav", "note", "not used") in found(diagnosis)
    (remark,) = diagnosis.remarks
    assert "1 recording of train and devel in wav/, not in" in remark


def test_the_demo_corpus_is_clean(monkeypatch):
    monkeypatch.setattr(demo, "SENTENCES", demo.SENTENCES[:2])  # rendering all ten takes long
    diagnosis = examine("demo", "")
    assert diagnosis.findings == () and len(diagnosis.seconds) == 48


def test_emo_db_is_clean(emodb_root):
    diagnosis = examine("emodb", emodb_root)
    assert diagnosis.findings == () and len(diagnosis.seconds) == 339
    counts = [(row.label, row.utterances, row.speakers) for row in diagnosis.labels]
    assert counts == [("angry", 127, 10), ("happy", 71, 10), ("neutral", 79, 10), ("sad", 62, 10)]
