"""The serve command: many visitors get what `predict` gives, and signals end it."""

import concurrent.futures
import csv
import json
import signal
import socket
import subprocess

import bad_recordings
import httpx
import numpy as np
import pytest
import releases
import web_servers
import websockets.sync.client as sync
from commands import SLOW, command
from web_servers import started

import ser_jax
from ser_jax.corpora.table import Utterance
from ser_jax.prediction import timeline, timeline_files

RATE = 16000


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    """Twenty, of different lengths and sound."""
    labels = ("angry", "sad")
    return [
        releases.tone_like_speech(0.5 + 0.15 * number, labels[number % 2], f"s{number}", number)
        for number in range(20)
    ]


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, told = process.communicate(timeout=SLOW)
    return process.returncode, told


def upload(url: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{url}/api/predict", files={"file": content}, timeout=SLOW)


def test_many_get_what_predict_gives_and_nothing_is_left(trained_run, recordings, tmp_path):
    with started(trained_run, tmp_path, "--per_client=20") as (process, url):
        model = httpx.get(f"{url}/api/model").json()
        described = "the ensemble of 3 models (plain_crnn, calibrated)"
        assert model["description"] == described
        assert model["card"][0].startswith("Trained on manifest: ") and len(model["card"]) >= 4
        assert model["live"]
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
    with sync.connect(f"{url.replace('http', 'ws')}/api/live", compression=None) as session:
        session.send(json.dumps({"rate": RATE}))
        assert json.loads(session.recv(timeout=SLOW))["ready"]
        for first in range(0, len(integers), 3200):
            session.send(integers[first : first + 3200].tobytes())
        session.send('{"end": true}')
        moments = []
        while "result" not in (message := json.loads(session.recv(timeout=SLOW))):
            moments += message["moments"]
    assert [moment["end"] for moment in moments] == [moment["end"] for moment in whole["timeline"]]
    assert message["result"]["label"] == whole["label"]
    assert message["result"]["probabilities"] == pytest.approx(whole["probabilities"], abs=1e-3)


def test_a_long_recording_gets_the_timeline_of_the_command(trained_run, recordings, tmp_path):
    path = tmp_path / "long.flac"
    samples = np.resize(np.concatenate(recordings), 125 * 22050)
    path.write_bytes(bad_recordings.encoded(samples, 22050, format="FLAC"))
    predictor = ser_jax.load(trained_run)
    decision = predictor.decision()
    plan = timeline.make_plan(predictor, None, None)
    expected = timeline.follow(predictor, Utterance("a", str(path)), plan, decision)
    (tmp_path / "uploads").mkdir()
    with started(trained_run, tmp_path / "uploads") as (process, url):
        files = {"file": path.read_bytes()}
        found = httpx.post(
            f"{url}/api/predict", files=files, data={"files": "csv"}, timeout=SLOW
        ).json()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(
                b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            )
            (uploads,) = (tmp_path / "uploads").iterdir()
            web_servers.wait_for(lambda: list(uploads.iterdir()))
            code, told = ended(process, signal.SIGTERM)
    assert code == 0 and "Traceback" not in told, told
    assert found["long"] and found["seconds"] == 125.0
    assert found["probabilities"] == pytest.approx(expected.answer.probabilities, abs=1e-5)
    served, here = (
        list(csv.reader(text.splitlines()))
        for text in (found["files"]["csv"], timeline_files.text("csv", expected))
    )
    assert served[0] == here[0] and len(served) == len(here) == 625
    for one, other in zip(served[1:], here[1:], strict=True):
        numbers, wanted = (np.array(row[:2] + row[3:], np.float64) for row in (one, other))
        np.testing.assert_allclose(numbers, wanted, atol=1e-5)


def test_ctrl_c_with_visitors(trained_run, tmp_path):
    with started(trained_run, tmp_path, "--queue=1") as (process, url):
        with sync.connect(f"{url.replace('http', 'ws')}/api/live") as session:
            session.send(json.dumps({"rate": RATE}))
            session.recv(timeout=SLOW)
            code, told = ended(process, signal.SIGINT)
    assert code == 130 and "stopped by SIGINT" in told and "Traceback" not in told, told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model="], "--model is missing: name the run directory that ser-jax train has written"),
        (["--model={run}x"], "x is not a run directory"),
        (
            ["--model={run}", "--port=99999"],
            "--port=99999 is none; choose one from 1 to 65535, or 0",
        ),
        (["--model={run}", "--host=nowhere.invalid"], "--host=nowhere.invalid is no address of"),
        (["--model={run}", "--queue=0"], "--queue=0 lets nothing through; it must be above 0"),
        (["--model={run}", "--max_mb=-1"], "--max_mb=-1 lets nothing through"),
    ],
)
def test_what_it_cannot_do_it_says(trained_run, arguments, sentence):
    ended = command(*(argument.format(run=trained_run) for argument in arguments), name="serve")
    assert sentence in ended.refusal
