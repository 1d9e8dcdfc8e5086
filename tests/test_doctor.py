"""The command as a user runs it: exit codes, what it prints, what it writes, and Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import defects
import pytest
from commands import ROOT, SLOW, Ended, command, read_table

from ser_jax.diagnosis.report import HEADER


def doctor(root: Path, output: Path, *arguments: str) -> Ended:
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}", f"--output={output}")
    return command(*corpus, *arguments, module="ser_jax.doctor")


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return defects.write_clean(tmp_path_factory.mktemp("clean"))


def test_a_clean_release_leaves_with_0(clean, tmp_path):
    ended = doctor(clean, tmp_path / "found.csv")
    assert (ended.code, read_table(tmp_path / "found.csv")) == (0, [])
    assert "nothing is wrong with it" in ended.out and str(tmp_path / "found.csv") in ended.out
    assert "examining: 32/32 files" in ended.err and "error" not in ended.err


def test_warnings_leave_with_0(clean, tmp_path):
    root = Path(shutil.copytree(clean, tmp_path / "release"))
    shutil.copy(root / "audio/s0/sad0.wav", root / "audio/s0/sad1.wav")
    ended = doctor(root, tmp_path / "found.csv")
    assert ended.code == 0 and "1 warning\n       1  copy: " in ended.out
    assert [row["severity"] for row in read_table(tmp_path / "found.csv")] == ["warning"]


def test_errors_leave_with_2_and_a_sentence(tmp_path):
    root = defects.write_broken(tmp_path / "release")
    output = tmp_path / "found.csv"
    for _ in range(2):  # the file of an earlier time is replaced
        ended = doctor(root, output, f"--config.features.max_seconds={defects.MAX_SECONDS}")
        assert ended.refusal.startswith(f"15 errors in {root} (2 unreadable, ") and str(output) in ended.refusal
        assert ended.refusal.endswith("then run the doctor again")
        rows = read_table(output)
        read = {(row["file"], row["severity"], row["finding"]) for row in rows if row["file"]}
        assert read == defects.EXPECTED and len(rows) == len(read) + 1 and tuple(rows[0]) == HEADER
        assert "\n  15 errors\n" in ended.out and "\n  5 notes\n" in ended.out


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config.corpus.root=/nowhere", "corpus.root=/nowhere is not a folder"),
        ("--config.corpus.name=cremad", "corpus.name='cremad' is unknown"),
        ("--config.corpus.nam=manifest", "the configuration has no key 'nam'; did you mean 'name'?"),
        ("--config.protocol.name=foo", "protocol.name='foo' is not a protocol"),
        ("--output=/nowhere/found.csv", "there is no folder /nowhere"),
    ],
)
def test_bad_arguments_leave_with_2_at_once(clean, tmp_path, argument, sentence):
    ended = doctor(clean, tmp_path / "found.csv", argument)
    assert sentence in ended.refusal and not ended.out and not (tmp_path / "found.csv").exists()


def test_the_file_is_doctor_csv_in_the_current_folder_by_default(clean, tmp_path):
    arguments = ["--config.corpus.name=manifest", f"--config.corpus.root={clean}"]
    done = subprocess.run(
        [sys.executable, "-m", "ser_jax.doctor", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SLOW,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["doctor.csv"] and f"every finding: {tmp_path / 'doctor.csv'}\n" in done.stdout


def test_ctrl_c_ends_it_without_a_file_or_a_traceback(clean, tmp_path):
    """The signal reaches the whole group, workers included, as from a terminal."""
    program = (
        "import os, signal, sys\n"
        "from ser_jax import cli, doctor\n"
        "from ser_jax.features import checkup\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "original = checkup.run\n"
        "def interrupted(*arguments, **options):\n"
        "    for result in original(*arguments, **options):\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "        yield result\n"
        "checkup.run = interrupted\n"
        "from absl import flags\n"
        "doctor.CONFIG = cli.define_config()\n"
        "doctor.OUTPUT = flags.DEFINE_string('output', '', '')\n"
        "cli.run(doctor.main)\n"
    )
    arguments = ["--config.corpus.name=manifest", f"--config.corpus.root={clean}", f"--output={tmp_path / 'x.csv'}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SLOW,
        start_new_session=True,
    )
    assert (done.returncode, done.stderr, done.stdout) == (128 + signal.SIGINT, "interrupted\n", "")
    assert os.listdir(tmp_path) == []
