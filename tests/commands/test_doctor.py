"""The command as a user runs it: exit codes, what it prints, what it writes, and Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import defects
import pytest
from commands import ROOT, SLOW, Ended, command, read_table, real_command

from ser_jax.diagnosis.printout import HEADER
from ser_jax.runtime.signals import exit_message


def doctor(root: Path, output: Path, *arguments: str) -> Ended:
    corpus = ("--config.corpus.name=manifest", f"--config.corpus.root={root}", f"--output={output}")
    return command(*corpus, *arguments, name="doctor")


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return defects.write_clean(tmp_path_factory.mktemp("clean"))


def test_the_installation_needs_no_release():
    ended = command("--system", name="doctor")
    assert ended.code == 0 and "\nmachine\n" in ended.out and "cpu" in ended.out


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
        assert ended.refusal.startswith(f"14 errors in {root} (2 unreadable, ")
        assert str(output) in ended.refusal
        assert ended.refusal.endswith("then run the doctor again")
        rows = read_table(output)
        read = {(row["file"], row["severity"], row["finding"]) for row in rows if row["file"]}
        assert read == defects.EXPECTED and len(rows) == len(read) + 2 and tuple(rows[0]) == HEADER
        assert "\n  14 errors\n" in ended.out and "\n  5 notes\n" in ended.out


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config.corpus.root=/nowhere", "corpus.root=/nowhere is not a folder"),
        ("--config.corpus.name=crema", "corpus.name='crema' is unknown; did you mean cremad"),
        ("--config.corpus.nam=manifest", "has no key 'nam'; did you mean 'name'?"),
        ("--config.protocol.name=foo", "protocol.name='foo' is not a protocol"),
        ("--output=/nowhere/found.csv", "there is no folder /nowhere"),
    ],
)
def test_bad_arguments_leave_with_2_at_once(clean, tmp_path, argument, sentence):
    ended = doctor(clean, tmp_path / "found.csv", argument)
    assert sentence in ended.refusal and not ended.out and not (tmp_path / "found.csv").exists()


def test_the_file_is_doctor_csv_in_the_current_folder_by_default(clean, tmp_path, monkeypatch):
    arguments = ["--config.corpus.name=manifest", f"--config.corpus.root={clean}"]
    monkeypatch.setattr("commands.ROOT", tmp_path)
    done = real_command(*arguments, name="doctor", PYTHONPATH=str(ROOT))
    assert done.code == 0, done.err
    assert os.listdir(tmp_path) == ["doctor.csv"]
    assert f"every finding: {tmp_path / 'doctor.csv'}\n" in done.out


def test_ctrl_c_ends_it_without_a_file_or_a_traceback(clean, tmp_path):
    """The signal reaches the whole group, workers included, as from a terminal."""
    program = (
        "import os, signal, sys\n"
        "from ser_jax.commands import command_line\n"
        "from ser_jax.diagnosis import measure as checkup\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "original = checkup.run\n"
        "def interrupted(*arguments, **options):\n"
        "    for result in original(*arguments, **options):\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "        yield result\n"
        "checkup.run = interrupted\n"
        "sys.exit(command_line.main(['doctor', *sys.argv[1:]]))\n"
    )
    corpus = ["--config.corpus.name=manifest", f"--config.corpus.root={clean}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *corpus, f"--output={tmp_path / 'x.csv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SLOW,
        start_new_session=True,
    )
    told = exit_message(signal.SIGINT) + "\n"
    assert (done.returncode, done.stderr, done.stdout) == (128 + signal.SIGINT, told, "")
    assert os.listdir(tmp_path) == []
