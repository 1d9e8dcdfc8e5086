"""The JSON interface over real sockets: answers, limits, errors, many clients at once."""

import concurrent.futures

import bad_recordings
import httpx
import numpy as np
import pytest
import web_servers
from web_servers import wait_for

from ser_jax.features.audio import MAX_CHANNELS
from ser_jax.web import engine
from ser_jax.web.limits import Limits


def speech(peak: float = 0.25, seconds: float = 0.5, rate: int = 16000, **options) -> bytes:
    samples = peak * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 200 / rate)
    return bad_recordings.encoded(samples.astype(np.float32), rate, **options)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    limits = Limits(per_minute=10**6, per_client=20)
    with web_servers.serving(tmp_path_factory.mktemp("app"), limits) as server:
        yield server


def predict(url: str, content: bytes, **fields: str) -> httpx.Response:
    return httpx.post(f"{url}/api/predict", files={"file": content}, data=fields, timeout=120)


def test_an_answer_by_hand(served):
    found = predict(served.url, speech(0.25, 1.0)).json()
    assert found["label"] == "angry" and found["seconds"] == 1.0 and found["flags"] == []
    expected = dict.fromkeys(web_servers.CLASSES, 0.25)
    assert found["probabilities"] == pytest.approx(expected, abs=1e-4)
    assert len(found["waveform"]["low"]) == 600
    assert max(found["waveform"]["high"]) == pytest.approx(0.25, abs=0.001)
    assert (found["picture"]["columns"], found["picture"]["bands"]) == (98, 40)
    # The fake stream has another moment when it ends.
    assert [(moment["start"], moment["end"]) for moment in found["timeline"]] == [(0.0, 1.0)] * 2
    assert served.predictor.threads == {"model_0"}, "only one thread computes"


def test_a_longer_recording_moves(served):
    content = np.concatenate([np.full(112_000, 0.1), np.full(112_000, 0.9)]).astype(np.float32)
    found = predict(served.url, bad_recordings.encoded(content)).json()
    ends = [moment["end"] for moment in found["timeline"]]
    windows = [round(moment["window"]["angry"], 2) for moment in found["timeline"]]
    assert ends == [5.0, 10.0, 14.0, 14.0] and windows == [0.1, 0.9, 0.9, 0.9]


@pytest.mark.parametrize("make_stream", [web_servers.LoudStream, web_servers.no_stream])
def test_a_recording_that_is_too_long_gets_a_timeline(tmp_path, make_stream):
    """130 s: quiet, silent, loud; the models take 120 s."""
    tone, silence = np.sin(2 * np.pi * 500 / 8000 * np.arange(50 * 8000)), np.zeros(30 * 8000)
    samples = np.concatenate([0.2 * tone, silence, 0.8 * tone]).astype(np.float32)
    content = bad_recordings.encoded(samples, 8000, format="FLAC")
    with web_servers.serving(tmp_path, make_stream=make_stream) as served:
        found = predict(served.url, content, files="csv, textgrid,audacity").json()
        assert predict(served.url, speech()).status_code == 200
        assert served.left_behind == [] and served.predictor.threads == {"model_0"}
    assert (found["long"], found["seconds"], found["picture"]) == (True, 130.0, None)
    assert max(found["waveform"]["high"]) == pytest.approx(0.8, abs=0.01)
    assert len(found["waveform"]["high"]) == 600
    moments = found["timeline"]
    assert 0.19 < moments[0]["window"]["angry"] < 0.3 and 0.75 < moments[-1]["window"]["angry"]
    assert moments[-1]["end"] == 130.0 and found["probabilities"] == pytest.approx(
        moments[-1]["so_far"]
    )
    header, *rows = found["files"]["csv"].splitlines()
    assert header.startswith("start,end,label,p_angry,p_happy") and len(rows) == len(moments)
    assert found["files"]["textgrid"].startswith('File type = "ooTextFile"')
    assert found["files"]["audacity"].splitlines()[-1].endswith("130.000000\tangry")
    if make_stream is web_servers.no_stream:  # windows of 3 s, half of which overlaps
        assert moments[1]["start"] == 1.5 and moments[1]["end"] == 4.5
        assert {} in [moment["window"] for moment in moments]  # silence


def test_a_recording_may_be_too_long_for_a_timeline(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "MAX_TIMELINE_SECONDS", 125.0)
    content = bad_recordings.encoded(np.full(130 * 8000, 0.2, np.float32), 8000)
    with web_servers.serving(tmp_path) as served:
        for _ in range(2):
            found = predict(served.url, content)
            assert (found.status_code, found.json()["kind"]) == (422, "too long")
            assert found.json()["reason"].startswith(
                "the recording cannot be used: too long: 130.000 s; at most 125 s are read"
            )
        assert served.left_behind == []


def test_files_of_a_short_recording(served):
    found = predict(served.url, speech(), files="csv").json()
    assert not found["long"] and list(found["files"]) == ["csv"]
    assert predict(served.url, speech()).json()["files"] == {}


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"format": "FLAC", "rate": 44100}, ["odd rate"]),
        ({"format": "OGG"}, []),
        ({"format": "MP3", "rate": 48000}, ["odd rate"]),
        ({"peak": 1.5, "subtype": "FLOAT"}, ["clipped"]),
    ],
)
def test_formats_and_flags(served, options, flags):
    assert predict(served.url, speech(**options)).json()["flags"] == flags


def test_every_bad_recording_is_a_reason_and_leaves_nothing_behind(served):
    bad = {name: made for name, made in bad_recordings.bad_files().items() if made[1] != "too long"}
    for name in ("samples-zero.wav", "flac-zero.flac"):  # silence is an answer
        found = predict(served.url, bad.pop(name)[0])
        assert found.status_code == 200 and "no speech" in found.json()["flags"], found.text
    for name, (content, kind) in bad.items():
        found = predict(served.url, content)
        assert (found.status_code, found.json()["kind"]) == (422, kind), (name, found.text)
        assert found.json()["reason"].startswith(f"the recording cannot be used: {kind}: ")
    assert len(bad) > 30 and served.left_behind == []


def test_what_the_model_is(served):
    found = httpx.get(f"{served.url}/api/model").json()
    assert found["classes"] == list(web_servers.CLASSES)
    assert found["live"] and found["live_reason"] == ""
    assert found["card"] == list(web_servers.NOTES)
    assert found["limits"]["max_mb"] == 20 and found["limits"]["max_channels"] == MAX_CHANNELS
    health = httpx.get(f"{served.url}/api/health").json()
    assert health == {"status": "ready", "uploads": 0, "live_sessions": 0}


def test_a_system_that_does_not_stream(tmp_path):
    with web_servers.serving(tmp_path, make_stream=web_servers.no_stream) as served:
        found = httpx.get(f"{served.url}/api/model").json()
        assert (found["live"], found["live_reason"]) == (False, web_servers.NOT_LIVE)
        answer = predict(served.url, speech(), files="csv").json()
        assert answer["timeline"] is answer["files"] is None


def test_the_description_names_every_route_and_refusal(served):
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert set(document["paths"]) == {"/api/health", "/api/model", "/api/predict"}
    posted = document["paths"]["/api/predict"]["post"]
    assert " ".join(sorted(posted["responses"])) == "200 400 403 408 413 415 422 429 500 503"
    content = posted["responses"]["422"]["content"]["application/json"]
    assert content["schema"]["$ref"].endswith("/Reason")
    assert "multipart/form-data" in posted["requestBody"]["content"]
    for path in ("/docs", "/redoc"):  # they would load scripts of other places
        assert httpx.get(served.url + path).status_code == 404


def test_unknown_routes_and_methods_are_json(served):
    found = httpx.get(f"{served.url}/api/predict")
    assert found.status_code == 405 and found.headers["allow"] == "POST"
    reason = "GET /api/predict: Method Not Allowed; /openapi.json lists what there is"
    assert found.json() == {"reason": reason}
    for path in ("/api/nothing", "/../pyproject.toml", "/page.js/x", "/%2e%2e/app.py"):
        assert httpx.get(served.url + path).status_code == 404


@pytest.mark.parametrize("path", ["", "/page.js", "/api/health", "/api/nothing", "/api/predict"])
def test_head_is_get_without_the_body(served, path):
    with httpx.Client() as client:  # one connection: a body would be taken for the next answer
        got, head = client.get(served.url + path), client.head(served.url + path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-length"] == got.headers["content-length"] != "0"
        assert client.get(served.url).status_code == 200


def test_a_page_of_another_site_cannot_send(served):
    origin = {"origin": "https://evil.example"}
    files = {"file": speech()}
    found = httpx.post(f"{served.url}/api/predict", files=files, headers=origin)
    assert found.status_code == 403
    assert "'https://evil.example' may not use this server" in found.json()["reason"]


def test_a_defect_is_json_too(tmp_path, monkeypatch, caplog):
    with web_servers.serving(tmp_path) as served:
        monkeypatch.setattr(served.predictor, "predict", lambda *_, **__: 1 // 0)
        found = predict(served.url, speech())
    assert found.status_code == 500
    assert found.json() == {"reason": "the server has a defect, which it has written to its log"}
    assert "ZeroDivisionError" in caplog.text and served.left_behind == []


def test_twenty_clients_at_once(served):
    peaks = [0.3 + 0.03 * number for number in range(20)]
    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        found = list(clients.map(lambda peak: predict(served.url, speech(peak)), peaks))
    assert [answer.status_code for answer in found] == [200] * 20
    angry = [answer.json()["probabilities"]["angry"] for answer in found]
    assert angry == pytest.approx(peaks, abs=0.002)
    assert served.left_behind == []


def test_more_than_the_queue_holds_are_told_to_come_again(tmp_path):
    with web_servers.serving(tmp_path, Limits(queue=3)) as served:
        served.predictor.gate.clear()
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            waiting = [clients.submit(predict, served.url, speech()) for _ in range(3)]
            wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["uploads"] == 3)
            refused = [clients.submit(predict, served.url, speech()).result() for _ in range(5)]
            assert httpx.get(served.url).status_code == 200  # the event loop waits for no model
            served.predictor.gate.set()
            answered = [one.result().status_code for one in waiting]
        assert answered == [200] * 3
        for answer in refused:
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            sentence = "3 uploads are being worked on, as many as may be; try again"
            assert answer.json()["reason"].startswith(sentence)
        assert predict(served.url, speech()).status_code == 200
        assert served.left_behind == []


def test_one_client_may_upload_so_many_at_once(tmp_path):
    with web_servers.serving(tmp_path, Limits(per_client=2)) as served:
        served.predictor.gate.clear()
        with concurrent.futures.ThreadPoolExecutor(2) as clients:
            waiting = [clients.submit(predict, served.url, speech()) for _ in range(2)]
            wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["uploads"] == 2)
            refused = predict(served.url, speech())
            with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
                files = {"file": speech()}
                late = clients.submit(other.post, f"{served.url}/api/predict", files=files)
                wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["uploads"] >= 2)
                served.predictor.gate.set()
                assert late.result().status_code == 200
            assert [one.result().status_code for one in waiting] == [200, 200]
    assert refused.status_code == 429
    assert refused.json()["reason"].startswith("one client may have 2 uploads at once")


def test_one_client_may_ask_so_often(tmp_path):
    with web_servers.serving(tmp_path, Limits(per_minute=2)) as served:
        assert [predict(served.url, speech()).status_code for _ in range(3)] == [200, 200, 429]
        assert httpx.get(f"{served.url}/api/model").status_code == 200
