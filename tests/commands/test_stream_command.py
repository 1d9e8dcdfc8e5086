"""`ser-jax stream`: as a user runs it."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import made_runs
import numpy as np
import pytest
from commands import ROOT, SLOW, Started

import ser_jax


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_runs.make_run(tmp_path_factory.mktemp("run") / "plain", "plain_crnn")


SAMPLES = (made_runs.speech(1.1) * 32767).astype(np.int16)


def start(run: Path, *arguments: str, output: int = subprocess.PIPE) -> subprocess.Popen:
    command = [sys.executable, "-m", "ser_jax", "stream", f"--model={run}", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=output, stderr=pipe)


def ended(run: Path, content: bytes, *arguments: str) -> tuple[int, str, str]:
    process = start(run, *arguments)
    out, err = process.communicate(content, timeout=SLOW)
    return process.returncode, out.decode(), err.decode()


def test_json_lines_end_with_what_predict_says(run):
    code, out, err = ended(run, SAMPLES.tobytes(), "--json", "--window=0.5")
    assert code == 0, err
    *moments, last = map(json.loads, out.splitlines())
    expected = ser_jax.load(run).predict(SAMPLES, 16000)
    found = (last["label"], last["seconds"], last["flags"])
    assert found == (expected.label, expected.seconds, [])
    assert last["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert [m["start"] for m in moments] == [0, 0.2, 0.4, 0.6]
    assert moments[3]["window"] != moments[3]["so_far"]


def test_ctrl_c_ends_the_input_and_gives_the_answer(run):
    process = start(run)
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(SAMPLES[:16000].tobytes())
    process.stdin.flush()
    lines = [process.stdout.readline().decode() for _ in range(4)]
    process.send_signal(signal.SIGINT)
    lines += process.stdout.read().decode().splitlines()
    assert process.wait(SLOW) == 0, process.stderr.read()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    assert [line.split()[0] for line in lines] == ["0.32", "0.52", "0.71", "0.92", "all"]
    assert "all 1.00 s" in lines[-1]


def test_on_a_terminal_one_line_is_rewritten(run):
    primary, secondary = pty.openpty()
    process = start(run, output=secondary)
    os.close(secondary)
    _, err = process.communicate(SAMPLES.tobytes(), timeout=SLOW)
    shown = os.read(primary, 65536).decode()
    os.close(primary)
    assert process.returncode == 0, err
    assert shown.count("\r\x1b[K") == 5 and shown.count("\n") == 1 and "\r\x1b[Kall 1.10 s" in shown


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        (b"", (), "the stream cannot be used: too short"),
        (b"RIFF\0\0\0\0WAVEfmt ", (), "begins as a WAV file"),
        (SAMPLES.tobytes(), ("--channels=9",), "--channels=9: 1 to 8 channels are read"),
        (SAMPLES.tobytes(), ("--encoding=f32",), "the samples cannot be used: "),
        (b"", ("--rate=1",), "a stream of 1 Hz cannot be used"),
        (b"", ("--model=",), "--model is missing"),
    ],
)
def test_what_it_cannot_do_it_says(run, content, arguments, sentence):
    stream = Started(f"--model={run}", *arguments, name="stream", content=content)
    assert sentence in stream.wait().refusal
