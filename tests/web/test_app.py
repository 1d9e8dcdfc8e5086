"""The JSON interface over real sockets: answers, limits, errors, many clients at once."""

import concurrent.futures
import threading

import bad_recordings
import httpx
import numpy as np
import pytest
import web_servers
from web_servers import wait_for

from ser_jax.features.audio import MAX_CHANNELS
from ser_jax.web.limits import Limits


def speech(peak: float = 0.25, seconds: float = 0.5, rate: int = 16000, **options) -> bytes:
    samples = peak * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 200 / rate)
    return bad_recordings.encoded(samples.astype(np.float32), rate, **options)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with web_servers.serving(tmp_path_factory.mktemp("app"), Limits(per_minute=10**6)) as server:
        yield server


def predict(url: str, content: bytes, **fields: str) -> httpx.Response:
    return httpx.post(f"{url}/api/predict", files={"file": content}, data=fields, timeout=120)


def test_an_answer_by_hand(served):
    found = predict(served.url, speech(0.25, 1.0)).json()
    assert found["label"] == "angry" and found["seconds"] == 1.0 and found["flags"] == []
    assert found["probabilities"] == pytest.approx(
        {"angry": 0.25, **dict.fromkeys(("happy", "neutral", "sad"), 0.25)}, abs=1e-4
    )
    assert len(found["waveform"]["low"]) == 600 and max(found["waveform"]["high"]) == pytest.approx(0.25, abs=0.001)
    assert (found["picture"]["columns"], found["picture"]["bands"]) == (98, 40)
    assert [(moment["start"], moment["end"]) for moment in found["timeline"]] == [(0.0, 1.0)]
    assert served.predictor.threads == {"model_0"}, "only one thread computes"


def test_a_longer_recording_moves(served):
    content = np.concatenate([np.full(112_000, 0.1), np.full(112_000, 0.9)]).astype(np.float32)
    found = predict(served.url, bad_recordings.encoded(content)).json()
    ends = [moment["end"] for moment in found["timeline"]]
    windows = [round(moment["window"]["angry"], 2) for moment in found["timeline"]]
    assert ends == [5.0, 10.0, 14.0] and windows == [0.1, 0.9, 0.9]


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
    for name, (content, kind) in bad.items():
        found = predict(served.url, content)
        assert (found.status_code, found.json()["kind"]) == (422, kind), (name, found.text)
        assert found.json()["reason"].startswith(f"the recording cannot be used: {kind}: ")
    assert len(bad) > 30 and served.left_behind == []


def test_what_the_model_is(served):
    found = httpx.get(f"{served.url}/api/model").json()
    assert found["classes"] == list(web_servers.CLASSES) and found["live"] and found["live_reason"] == ""
    assert found["limits"]["max_mb"] == 20 and found["limits"]["max_channels"] == MAX_CHANNELS
    assert httpx.get(f"{served.url}/api/health").json() == {"status": "ready", "uploads": 0, "live_sessions": 0}


def test_a_system_that_does_not_stream(tmp_path):
    with web_servers.serving(tmp_path, make_stream=web_servers.no_stream) as served:
        found = httpx.get(f"{served.url}/api/model").json()
        assert (found["live"], found["live_reason"]) == (False, web_servers.NOT_LIVE)
        assert predict(served.url, speech()).json()["timeline"] is None


def test_the_description_names_every_route_and_refusal(served):
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert set(document["paths"]) == {"/api/health", "/api/model", "/api/predict"}
    posted = document["paths"]["/api/predict"]["post"]
    assert set(posted["responses"]) == {"200", "400", "403", "408", "413", "415", "422", "429", "500", "503"}
    assert posted["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Reason")
    assert "multipart/form-data" in posted["requestBody"]["content"]
    for path in ("/docs", "/redoc"):  # they would load scripts of other places
        assert httpx.get(served.url + path).status_code == 404


def test_unknown_routes_and_methods_are_json(served):
    found = httpx.get(f"{served.url}/api/predict")
    assert found.status_code == 405 and found.headers["allow"] == "POST"
    assert found.json() == {"reason": "GET /api/predict: Method Not Allowed; /openapi.json lists what there is"}
    for path in ("/api/nothing", "/../pyproject.toml", "/page.js/x", "/%2e%2e/app.py"):
        assert httpx.get(served.url + path).status_code == 404


def test_a_page_of_another_site_cannot_send(served):
    found = httpx.post(
        f"{served.url}/api/predict", files={"file": speech()}, headers={"origin": "https://evil.example"}
    )
    assert found.status_code == 403 and "'https://evil.example' may not use this server" in found.json()["reason"]


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
    assert [answer.json()["probabilities"]["angry"] for answer in found] == pytest.approx(peaks, abs=0.002)
    assert served.left_behind == []


def test_more_than_the_queue_holds_are_told_to_come_again(tmp_path):
    with web_servers.serving(tmp_path, Limits(queue=3)) as served:
        served.predictor.gate.clear()
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            waiting = [clients.submit(predict, served.url, speech()) for _ in range(3)]
            wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["uploads"] == 3)
            refused = [clients.submit(predict, served.url, speech()).result() for _ in range(5)]
            served.predictor.gate.set()
            answered = [one.result().status_code for one in waiting]
        assert answered == [200] * 3
        for answer in refused:
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            assert answer.json()["reason"].startswith("3 uploads are being worked on, as many as may be; try again")
        assert predict(served.url, speech()).status_code == 200
        assert served.left_behind == []


def test_one_client_may_ask_so_often(tmp_path):
    with web_servers.serving(tmp_path, Limits(per_minute=2)) as served:
        assert [predict(served.url, speech()).status_code for _ in range(3)] == [200, 200, 429]
        assert httpx.get(f"{served.url}/api/model").status_code == 200


def test_the_event_loop_waits_for_no_model(tmp_path):
    with web_servers.serving(tmp_path) as served:
        served.predictor.gate.clear()
        thread = threading.Thread(target=predict, args=(served.url, speech()))
        thread.start()
        wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["uploads"] == 1)
        assert httpx.get(served.url).status_code == 200
        served.predictor.gate.set()
        thread.join()
