"""The command, with a trained model: it says what `predict` says, to many at once, and ends when it is told to."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import bad_recordings
import httpx
import numpy as np
import pytest
import releases
import websockets.sync.client as sync
from commands import ROOT, SLOW, command

import ser_jax
from ser_jax.web.limits import Limits

RATE = 16000


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    """Twenty, of different lengths and sound."""
    return [
        releases.tone_like_speech(0.5 + 0.15 * number, ("angry", "sad")[number % 2], f"s{number}", number)
        for number in range(20)
    ]


@contextlib.contextmanager
def started(run: Path, uploads: Path, *arguments: str):
    """Runs the command as a user does; yields the process and the address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_jax.serve", f"--model={run}", "--port=0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(uploads)},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        ready = re.fullmatch(r"ready: (http://127\.0\.0\.1:\d+)  \(Ctrl-C ends it\)\n", line)
        assert ready, line + process.communicate()[1]
        yield process, ready[1]
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, told = process.communicate(timeout=SLOW)
    return process.returncode, told


def upload(url: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{url}/api/predict", files={"file": content}, timeout=SLOW)


def test_it_says_what_predict_says_to_many_at_once_and_leaves_nothing(trained_run, recordings, tmp_path):
    with started(trained_run, tmp_path) as (process, url):
        model = httpx.get(f"{url}/api/model").json()
        assert model["description"] == "the ensemble of 3 models of run (plain_crnn, calibrated)" and model["live"]
        contents = [bad_recordings.encoded(samples) for samples in recordings]
        with concurrent.futures.ThreadPoolExecutor(20) as clients:
            found = list(clients.map(lambda content: upload(url, content), contents))
        assert [answer.status_code for answer in found] == [200] * 20
        _hold_a_session(url, recordings[10], found[10].json())
        assert upload(url, b"nothing").status_code == 422
        (uploads,) = tmp_path.iterdir()
        assert uploads.stat().st_mode & 0o077 == 0 and list(uploads.iterdir()) == []
        code, told = ended(process, signal.SIGTERM)
    assert code == 0 and "Traceback" not in told, told
    assert list(tmp_path.iterdir()) == []
    predictor = ser_jax.load(trained_run)
    for content, answer in zip(contents, found, strict=True):
        (tmp_path / "a.wav").write_bytes(content)
        expected, said = predictor.predict(tmp_path / "a.wav"), answer.json()
        assert said["label"] == expected.label and said["seconds"] == expected.seconds
        assert said["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
        ends = [moment["end"] for moment in said["timeline"]]
        assert ends == pytest.approx(np.arange(0.315, said["seconds"], 0.2))


def _hold_a_session(url: str, samples: np.ndarray, whole: dict) -> None:
    integers = np.round(samples * 32767).astype("<i2")
    with sync.connect(f"{url.replace('http', 'ws')}/api/live", compression=None) as socket:
        socket.send(json.dumps({"rate": RATE}))
        assert json.loads(socket.recv(timeout=SLOW))["ready"]
        for first in range(0, len(integers), 3200):
            socket.send(integers[first : first + 3200].tobytes())
        socket.send('{"end": true}')
        moments = []
        while "result" not in (message := json.loads(socket.recv(timeout=SLOW))):
            moments += message["moments"]
    assert [moment["end"] for moment in moments] == [moment["end"] for moment in whole["timeline"]]
    assert message["result"]["label"] == whole["label"]
    assert message["result"]["probabilities"] == pytest.approx(whole["probabilities"], abs=1e-3)


def test_ctrl_c_with_visitors(trained_run, tmp_path):
    with started(trained_run, tmp_path, "--queue=1") as (process, url):
        with sync.connect(f"{url.replace('http', 'ws')}/api/live") as socket:
            socket.send(json.dumps({"rate": RATE}))
            socket.recv(timeout=SLOW)
            code, told = ended(process, signal.SIGINT)
    assert code == 130 and told.endswith("interrupted\n") and "Traceback" not in told, told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--model is missing: name the run directory that python -m ser_jax.main has written"),
        (["--model={run}x"], "x is not a run directory"),
        (["--model={run}", "--port=99999"], "--port=99999 is none; choose one from 1 to 65535, or 0 for any that is"),
        (["--model={run}", "--port=x"], "flag --port=x: invalid literal for int() with base 10: 'x' (--help lists"),
        (["--model={run}", "--host=nowhere.invalid"], "--host=nowhere.invalid is no address of this machine"),
        (["--model={run}", "--queue=0"], "--queue=0 lets nothing through; it must be above 0"),
        (["--model={run}", "--max_mb=-1"], "--max_mb=-1 lets nothing through"),
        (["--model={run}", "--quueue=3"], "unknown flag --quueue; --help lists the flags"),
        (["--model={run}", "a.wav"], "unexpected argument 'a.wav'; options start with --"),
    ],
)
def test_what_it_cannot_do_it_says(trained_run, arguments, sentence):
    ended = command(*(argument.format(run=trained_run) for argument in arguments), module="ser_jax.serve")
    assert sentence in ended.refusal


def test_the_defaults_of_the_flags_are_those_of_the_limits():
    defaults = Limits()
    helped = subprocess.run(
        [sys.executable, "-m", "ser_jax.serve", "--help"], capture_output=True, text=True, cwd=ROOT, timeout=SLOW
    ).stdout
    for name in ("max_mb", "queue", "per_minute", "live_sessions"):
        assert re.search(rf"--{name}: [^-]*\(default: '{getattr(defaults, name)}'\)", helped), helped
