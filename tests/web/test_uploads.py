"""Forms as clients send them, and as they should not: what is refused leaves nothing behind."""

import socket
import time
from pathlib import Path

import bad_recordings
import httpx
import numpy as np
import pytest
import web_servers
from web_servers import SPEECH, wait_for

from ser_jax.web.limits import Limits

SMALL = Limits(max_mb=1)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with web_servers.serving(tmp_path_factory.mktemp("uploads"), SMALL) as server:
        yield server


def form(
    *parts: tuple[str, bytes], boundary: str = "x", end: bytes = b"--x--\r\n"
) -> httpx.Request:
    """Returns a request with parts that are given as headers and content."""
    made = [b"--x\r\n%b\r\n\r\n%b\r\n" % (head.encode(), content) for head, content in parts]
    body = b"".join(made) + end
    kind = f"multipart/form-data; boundary={boundary}" if boundary else "multipart/form-data"
    return httpx.Request("POST", "http://unset/", headers={"content-type": kind}, content=body)


def part(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


def answer(served, request: httpx.Request) -> httpx.Response:
    request.url = httpx.URL(f"{served.url}/api/predict")
    request.headers["host"] = request.url.netloc.decode()
    with httpx.Client(timeout=120) as client:
        return client.send(request)


FILE = (part("file", '; filename="a.wav"'), SPEECH)


def test_a_form_is_read_whatever_its_order_and_its_names(served):
    fields = [(part("classes"), b"angry, sad"), (part("threshold"), b" 0.5 ")]
    for parts in ([FILE, *fields], [*fields, FILE]):
        found = answer(served, form(*parts))
        assert found.status_code == 200, found.text
        assert found.json()["probabilities"] == {"angry": 0.5, "sad": 0.5}
        assert found.json()["label"] == "angry"
    names = ("../../etc/passwd", "a\\..\\b.wav", "", "x" * 3000, "-rf.wav")
    heads = [part("file", f'; filename="{name}"') for name in names]
    for head in (*heads, part("file") + "\r\nContent-Type: text/html"):
        assert answer(served, form((head, SPEECH))).status_code == 200
    assert served.left_behind == []


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (form(), 400, "the form has no part file; send multipart/form-data with the part file, as"),
        (form((part("classes"), b"sad")), 400, "the form has no part file"),
        (form(FILE, FILE), 400, "the form has the part file twice; send one"),
        (
            form((part("fiel"), b"")),
            400,
            "the form has a part 'fiel'; file, classes, threshold, files",
        ),
        (form(("X: y", b"")), 400, "the form has a part ''; file, classes, threshold, files are"),
        (form((part("classes"), b"x" * 1025)), 400, "the part classes is longer than 1024 bytes"),
        (form(FILE, end=b""), 400, "the form ends before its time"),
        (form(FILE, end=b"--x-"), 400, "the form ends before its time"),
        (form((part("file") + "\r\nno header", b"")), 400, "the form is damaged"),
        (form((part("file") + "\r\nX: " + "y" * 9000, b"")), 400, "the form is damaged"),
        (form((part("classes"), b""), boundary="z"), 400, "the form is damaged"),
        (form(FILE, boundary=""), 400, "the form does not say what separates its parts"),
        (form(FILE, boundary="b" * 300), 400, "what separates the parts of the form is too long"),
        (form((part("file"), b"")), 422, "the recording cannot be used: unreadable: the file is"),
        (form((part("file"), b"RIFF")), 422, "the recording cannot be used: unreadable: not a WAV"),
        (form(FILE, (part("threshold"), b"much")), 400, "threshold=much is no number; send a prob"),
        (form(FILE, (part("threshold"), b"nan")), 400, "threshold=nan is no probability"),
        (form(FILE, (part("threshold"), b"\xff")), 400, "threshold=\ufffd is no number"),
        (form(FILE, (part("classes"), b"bored")), 400, "classes=bored: the model knows angry, hap"),
        (form(FILE, (part("files"), b"csv,pdf")), 400, "files=pdf is no format; choose any of csv"),
        (form((part("file"), bytes(1_000_001))), 413, "the recording is larger than 1 MB; cut it"),
        (form((part("file"), bytes(1_100_000))), 413, "the recording is larger than 1 MB"),
    ],
)
def test_what_is_refused_is_told_and_leaves_nothing_behind(served, request_, status, reason):
    found = answer(served, request_)
    assert found.status_code == status and found.json()["reason"].startswith(reason), found.text
    assert served.left_behind == [] and httpx.get(f"{served.url}/api/health").json()["uploads"] == 0


def test_a_million_bytes_are_taken(served):
    """The file may have 1 MB; the form around it does not count."""
    samples = np.full((1_000_000 - 44) // 2, 0.25, np.float32)
    whole = bad_recordings.encoded(samples)
    assert len(whole) == 1_000_000
    assert answer(served, form((part("file"), whole))).status_code == 200


def test_other_content_is_no_form(served):
    for kind in ("audio/wav", "application/json", "application/x-www-form-urlencoded"):
        head = {"content-type": kind}
        found = httpx.post(f"{served.url}/api/predict", content=SPEECH, headers=head)
        assert found.status_code == 415
        assert found.json()["reason"].startswith(f"the content type {kind!r} is no form")


def test_a_body_of_unknown_length_is_counted_while_it_comes(served):
    def chunks():
        yield b"--x\r\n" + part("file").encode() + b"\r\n\r\n"
        for _ in range(20):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    found = httpx.post(f"{served.url}/api/predict", content=chunks(), headers=headers)
    assert found.status_code == 413 and served.left_behind == []


def begun_upload(served, announced: int = 5000) -> socket.socket:
    """Sends the beginning of an upload, and no more."""
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = (
        f"POST /api/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {announced}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n{part('file')}\r\n\r\nRIFF"
    )
    connection.sendall(head.encode())
    return connection


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (
            Limits(upload_seconds=0.5),
            b"the upload has not come in 0.5 s, or nothing of it for 10 s",
        ),
        (Limits(silent_seconds=0.5), b"not come in 60 s, or nothing of it for 0.5 s"),
    ],
)
def test_a_slow_upload_is_ended_and_takes_no_place(tmp_path, limits, reason):
    with web_servers.serving(tmp_path, limits) as served:
        with begun_upload(served) as connection:
            wait_for(lambda: served.left_behind)
            assert httpx.get(f"{served.url}/api/health").json()["uploads"] == 0
            reply = connection.makefile("rb").read()  # the server does not wait for the rest
        assert reply.startswith(b"HTTP/1.1 408 ") and reason in reply
        wait_for(lambda: not served.left_behind)


def test_an_upload_may_take_its_time_as_long_as_some_of_it_comes(tmp_path):
    request = form(FILE)
    body = request.read()
    with web_servers.serving(tmp_path, Limits(silent_seconds=0.5)) as served:

        def slowly():
            for first in range(0, len(body), len(body) // 4):
                time.sleep(0.25)
                yield body[first : first + len(body) // 4]

        url, headers = (
            f"{served.url}/api/predict",
            {"content-type": request.headers["content-type"]},
        )
        assert httpx.post(url, content=slowly(), headers=headers).status_code == 200


def test_nothing_is_left_of_a_client_that_goes_away(tmp_path):
    with web_servers.serving(tmp_path) as served:
        with begun_upload(served):
            wait_for(lambda: served.left_behind)
            (path,) = served.left_behind
            assert path.parent == tmp_path and "wav" not in path.name
            assert path.stat().st_mode & 0o077 == 0
        wait_for(lambda: not served.left_behind)
        wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["uploads"] == 0)


def test_no_room_is_the_fault_of_the_server(tmp_path):
    gone = Path(tmp_path / "gone")
    with web_servers.serving(gone) as served:
        found = answer(served, form(FILE))
    assert found.status_code == 503 and found.headers["retry-after"] == "60"
    reason = "the server cannot keep the upload (No such file or directory); try again later"
    assert found.json() == {"reason": reason}
