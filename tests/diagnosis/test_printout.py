"""What the doctor says: the table, the CSV file read back, the last sentence."""

import os
from pathlib import Path

import numpy as np
import pytest
from commands import read_table
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.corpora.findings import KINDS, Finding, in_order
from ser_jax.diagnosis.diagnose import Diagnosis, LabelCount
from ser_jax.diagnosis.printout import (
    HEADER,
    check_errors,
    check_output,
    report_lines,
    write_findings,
)
from ser_jax.runtime.errors import UserError

LABELS = (
    LabelCount("angry", True, 120, 127, 10, 360.0),
    LabelCount("sad", True, 1, None, 0, 3.6),
    LabelCount("", False, 9, None, 1, 0.0),
)


def diagnosis(*findings: Finding, **fields) -> Diagnosis:
    return Diagnosis("emodb", "/data/emodb", "emodb4-speaker10", in_order(list(findings)), **fields)


def test_the_table_by_hand(tmp_path):
    rows = [
        Finding("clipped", f"{share} % of the samples", f"{share}.wav", rank=share)
        for share in (1, 4, 2, 3)
    ]
    rows += [Finding("truncated", "half of it", "half.wav"), Finding("protocol", "counts differ")]
    seconds = np.array([1.0, 2.0, 6.0, 3600.0])
    found = diagnosis(*rows, listed=5, labels=LABELS, seconds=seconds, remarks=("A remark.",))
    assert report_lines(found, tmp_path / "doctor.csv").splitlines() == [
        "emodb in /data/emodb, protocol emodb4-speaker10",
        "  the reader says: A remark.",
        "  4 of 5 listed utterances are usable, 1.00 h: shortest 1.00 s, median 4.00 s, longest "
        + "3600.00 s",
        "",
        "  label       utterances  expected  speakers   hours",
        "  angry              120       127        10    0.10",
        "  sad                  1         –         –    0.00",
        "  (withheld)           9         –         1    0.00  not used",
        "",
        "  1 error",
        f"       1  truncated: {KINDS['truncated'][1]}",
        "          half.wav: half of it",
        "",
        "  5 warnings",
        f"       4  clipped: {KINDS['clipped'][1]}",
        "          4.wav: 4 % of the samples",
        "          3.wav: 3 % of the samples",
        "          2.wav: 2 % of the samples",
        "          and 1 more",
        f"       1  protocol: {KINDS['protocol'][1]}",
        "          counts differ",
        "",
        f"  every finding: {tmp_path / 'doctor.csv'}",
    ]


def test_a_clean_release_is_told_to_be_so(tmp_path):
    lines = report_lines(
        diagnosis(listed=1, labels=LABELS, seconds=np.ones(1)), tmp_path / "doctor.csv"
    )
    assert "  nothing is wrong with it\n" in lines and "error" not in lines


def test_a_release_without_a_usable_recording(tmp_path):
    found = diagnosis(Finding("silent", "", "a.wav"), listed=1, labels=LABELS)
    assert "none of 1 listed utterance is usable" in report_lines(found, tmp_path / "doctor.csv")
    unusable = Diagnosis("manifest", "/data", "", (Finding("unusable release", "no column"),))
    lines = report_lines(unusable, tmp_path / "doctor.csv")
    assert "manifest in /data, protocol none\n" in lines and "utterances" not in lines


def test_names_cannot_act_upon_the_terminal(tmp_path):
    name = os.fsdecode(b"\xff\x1b[2J\n.wav")
    lines = report_lines(diagnosis(Finding("truncated", "ä half", name)), tmp_path / "doctor.csv")
    assert r"          \udcff\x1b[2J\n.wav: ä half" in lines.splitlines()
    assert lines.encode()


@given(st.dictionaries(st.sampled_from([*KINDS, "odd case"]), st.integers(1, 9)))
def test_as_many_are_told_as_were_found(counts):
    found = diagnosis(
        *(Finding(name, "x", f"{n}.wav") for name, count in counts.items() for n in range(count))
    )
    lines = report_lines(found, Path("doctor.csv")).splitlines()
    groups = [line for line in lines if line[:8].strip().isdigit()]
    assert {line[8:].partition(":")[0].strip(): int(line[:8]) for line in groups} == counts
    shown = sum(line.endswith(".wav: x") for line in lines)
    more = sum(int(line.split()[1]) for line in lines if line.startswith("          and "))
    assert shown + more == sum(counts.values())


# --- The CSV file


def test_the_file_reads_back(tmp_path):
    rows = in_order(
        [
            Finding("truncated", 'half, "of" it', "a b,c.wav", "a b,c"),
            Finding("unlisted", "two\nlines", os.fsdecode(b"\xff.wav")),
            Finding("missing", "listed", "m.wav", allowed=True),
        ]
    )
    write_findings(tmp_path / "doctor.csv", rows)
    read = read_table(tmp_path / "doctor.csv")
    assert [tuple(row) for row in read] == [HEADER] * 3
    assert [tuple(row.values()) for row in read] == [
        ("a b,c.wav", "a b,c", "error", "truncated", 'half, "of" it'),
        ("m.wav", "", "warning", "missing", "listed"),
        (r"\udcff.wav", "", "note", "unlisted", "two\nlines"),
    ]


def test_an_earlier_file_is_replaced_and_nothing_else(tmp_path):
    path = tmp_path / "doctor.csv"
    check_output(path)
    write_findings(path, [])
    check_output(path)
    (tmp_path / "manifest.csv").write_text("file,label,speaker\n")
    (tmp_path / "empty.csv").touch()
    for name in ("manifest.csv", "empty.csv", "."):
        with pytest.raises(UserError, match="was not written by the doctor; name another file"):
            check_output(tmp_path / name)
    assert (tmp_path / "manifest.csv").read_text() == "file,label,speaker\n"


def test_a_folder_that_is_not_there_or_full(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"there is no folder {tmp_path / 'none'}; make it"):
        check_output(tmp_path / "none/doctor.csv")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to"):
        check_output(tmp_path / "doctor.csv")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        write_findings(tmp_path / "doctor.csv", [])


# --- The last sentence


def test_without_errors_there_is_no_last_sentence(tmp_path):
    check_errors(diagnosis(), tmp_path)
    check_errors(diagnosis(Finding("clipped", ""), Finding("missing", "", allowed=True)), tmp_path)


def test_the_last_sentence_counts_the_errors(tmp_path):
    with pytest.raises(
        UserError, match=r"^1 error in /data/emodb \(1 silent\): mend .*x\.csv names each.*again$"
    ):
        check_errors(diagnosis(Finding("silent", ""), Finding("clipped", "")), tmp_path / "x.csv")
    kinds = ["silent", "silent", "bad line", "missing", "truncated", "too long", "too short"]
    with pytest.raises(UserError, match=r"^7 errors in /data/emodb \(2 silent, .*, …\): mend"):
        check_errors(diagnosis(*(Finding(name, "") for name in kinds)), tmp_path / "x.csv")
