"""Live sessions over real sockets: their moments, and how each kind of client is ended."""

import asyncio
import contextlib
import json
import socket as raw
import time
import types
from typing import Any

import httpx
import numpy as np
import pytest
import web_servers
import websockets
import websockets.sync.client as sync
from web_servers import wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ser_jax.web import live_sessions
from ser_jax.web.limits import Limits

NO_HELLO = (b"\0\0", "no json", "[" * 100_000, "[1]")
HELLO = {"rate": 16000, "channels": 1, "format": "f32"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    limits = Limits(per_minute=10**6, per_client=20)
    with web_servers.serving(tmp_path_factory.mktemp("live"), limits) as server:
        yield server


@contextlib.contextmanager
def session(served, hello: object = None, **options):
    with sync.connect(served.live, **{"compression": None, **options}) as socket:
        with contextlib.suppress(ConnectionClosed):  # it may have been turned away by now
            socket.send(json.dumps(HELLO if hello is None else hello))
        yield socket


def receive(socket) -> dict:
    return json.loads(socket.recv(timeout=60))


def opened(socket):
    assert receive(socket) == {"ready": True, "classes": list(web_servers.CLASSES)}
    return socket


def end_of(socket) -> tuple[int, str]:
    """Returns the code with which the server closes, and its reason."""
    reason = ""
    try:
        while True:
            reason = receive(socket).get("reason", reason)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return closed.rcvd.code, reason


@pytest.mark.parametrize(
    ("hello", "block"),
    [
        (HELLO, np.full(3200, 0.5, "<f4")),
        ({"rate": 16000}, np.full(3200, 16384, "<i2")),
        ({"rate": 16000, "channels": 2, "format": "i16"}, np.full((3200, 2), [32767, 1], "<i2")),
    ],
)
def test_moments_come_while_it_is_spoken(served, hello, block):
    with session(served, hello) as socket:
        opened(socket)
        for number in range(1, 4):
            socket.send(block.tobytes())
            (moment,) = receive(socket)["moments"]
            assert moment["end"] == pytest.approx(0.2 * number) and moment["start"] == 0
            assert moment["window"]["angry"] == pytest.approx(0.5, abs=1e-3)
            assert sum(moment["so_far"].values()) == pytest.approx(1)
        socket.send('{"end": true}')
        assert receive(socket)["moments"] == [moment]
        result = receive(socket)["result"]
        assert result["label"] == "angry" and result["flags"] == []
        assert result["seconds"] == pytest.approx(0.6)
        assert end_of(socket) == (1000, "")
    assert served.predictor.threads == {"model_0"}


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        *((text, "a session begins with a text such as") for text in NO_HELLO),
        ('{"rate": 16000, "chanels": 1}', "the first message has a key 'chanels'; rate, channels"),
        ("{}", "rate=None; 4000 to 192000 Hz are supported"),
        ('{"rate": "16000"}', "rate=16000; 4000 to 192000 Hz"),
        ('{"rate": true}', "rate=True; 4000 to 192000 Hz"),
        ('{"rate": 1}', "rate=1; 4000 to 192000 Hz"),
        ('{"rate": 16000, "channels": 9}', "channels=9; 1 to 8 are supported"),
        ('{"rate": 16000, "format": "u8"}', "format=u8; i16 and f32 are supported"),
        ('{"rate": 16000, "format": ["i16"]}', "format=['i16']; i16 and f32 are supported"),
    ],
)
def test_a_wrong_beginning(served, first, reason):
    with sync.connect(served.live) as socket:
        socket.send(first)
        code, said = end_of(socket)
    assert code == 1008 and said.startswith(reason)


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"", 1008, "a message has 0 bytes; it must be a multiple of 4"),
        (b"\0" * 6, 1008, "a message has 6 bytes; it must be a multiple of 4"),
        ("what", 1008, 'a text message in a session says {"end": true}; samples are binary'),
        ('{"end": 1.5}', 1008, "a text message in a session says"),
        (bytes(262_148), 1009, "a message has 262148 bytes; at most 262144 are taken"),
        ('{"end": true}', 1008, "the samples cannot be used: too short"),
    ],
)
def test_a_wrong_message(served, message, code, reason):
    with session(served) as socket:
        opened(socket).send(message)
        found, said = end_of(socket)
    assert found == code and said.startswith(reason)


def test_a_huge_message_is_not_taken_in(served):
    with session(served) as socket:
        opened(socket).send(bytes(10**6))
        assert end_of(socket)[0] == 1009


def test_faster_than_speech_is_no_speech(served):
    with session(served) as socket:
        opened(socket)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(60):
                socket.send(np.full(16000, 0.5, "<f4").tobytes())
        code, reason = end_of(socket)
    assert code == 1008 and reason.startswith("samples come faster than they can be spoken; send")


def test_samples_come_in_blocks(served):
    with session(served) as socket:
        opened(socket)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(4000):
                socket.send(np.full(1, 0.5, "<f4").tobytes())
        code, reason = end_of(socket)
    assert code == 1008
    assert reason == "more than 400 messages come in a second; put more samples into each"


def test_a_silent_client_is_ended(tmp_path):
    with web_servers.serving(tmp_path, Limits(silent_seconds=0.5)) as served:
        with sync.connect(served.live) as socket:
            assert end_of(socket) == (1008, "nothing has come for 0.5 s; begin another session")
        with session(served) as socket:
            assert end_of(socket) == (1008, "nothing has come for 0.5 s; begin another session")


def test_a_session_does_not_last_for_ever(tmp_path):
    limits = Limits(live_seconds=0.5)
    with web_servers.serving(tmp_path, limits) as served, session(served) as socket:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(100):
                socket.send(np.full(160, 0.5, "<f4").tobytes())
                time.sleep(0.02)
        assert end_of(socket) == (1008, "a live session lasts 0.5 s at most; begin another")


def test_so_many_sessions_and_no_more(tmp_path):
    with web_servers.serving(tmp_path, Limits(live_sessions=1)) as served:
        with session(served) as first:
            opened(first)
            with session(served) as second:
                code, reason = end_of(second)
            assert code == 1013
            assert reason.startswith("1 live session is open, as many as may be; try again later")
            assert httpx.get(f"{served.url}/api/health").json()["live_sessions"] == 1
        wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["live_sessions"] == 0)
        with session(served) as third:
            opened(third)


def test_one_client_may_have_so_many_sessions(tmp_path):
    limits = Limits(per_client=1)
    with web_servers.serving(tmp_path, limits) as served, session(served) as first:
        opened(first)
        with session(served) as second:
            code, reason = end_of(second)
        assert code == 1013 and reason.startswith("one client may have 1 live session at once; ")
        with session(served, source_address=("127.0.0.2", 0)) as other:
            opened(other)


def test_those_that_are_turned_away_take_no_place():
    seen = []

    class TurnedAway:
        """Takes in what it is told."""

        client = None

        async def accept(self) -> None:
            pass

        async def send_text(self, text: str) -> None:
            seen.append((text, sessions.count))

        async def close(self, code: int) -> None:
            seen.append((code, sessions.count))

    engine: Any = types.SimpleNamespace(not_live="")
    websocket: Any = TurnedAway()
    sessions = live_sessions.Sessions(engine, Limits())
    asyncio.run(sessions.hold(websocket, "too often"))
    assert seen == [('{"reason": "too often"}', 0), (1013, 0)]


def test_sessions_count_for_the_rate_of_a_client(tmp_path):
    with web_servers.serving(tmp_path, Limits(per_minute=1)) as served:
        with session(served) as socket:
            opened(socket)
        with session(served) as socket:
            code, reason = end_of(socket)
        assert code == 1013
        assert reason.startswith("one client may ask 1 time in a minute; try again in ")


def test_a_system_that_does_not_stream_says_why(tmp_path):
    serving = web_servers.serving(tmp_path, make_stream=web_servers.no_stream)
    with serving as served, session(served) as socket:
        assert end_of(socket) == (1008, web_servers.NOT_LIVE)


def test_a_page_of_another_site_gets_no_session(served):
    with pytest.raises(InvalidStatus, match="HTTP 403"):
        sync.connect(served.live, origin=websockets.Origin("https://evil.example"))
    host, port = served.url.removeprefix("http://").split(":")
    with raw.create_connection((host, int(port))) as connection:
        with pytest.raises(InvalidStatus, match="HTTP 403"):
            sync.connect("ws://evil.example/api/live", sock=connection)
    with session(served, origin=served.url) as socket:
        opened(socket)


def test_a_client_that_goes_away_leaves_nothing(served):
    for _ in range(3):
        with sync.connect(served.live) as socket:
            socket.send(json.dumps(HELLO))
            opened(socket)
            socket.send(np.full(3200, 0.5, "<f4").tobytes())
            socket.socket.close()
    wait_for(lambda: httpx.get(f"{served.url}/api/health").json()["live_sessions"] == 0)


def test_samples_of_any_byte_order_become_native():
    samples = live_sessions._samples(b"\x00\x40\x00\xc0", 1, "<i2")
    np.testing.assert_array_equal(samples, [16384, -16384])
    assert live_sessions._samples(b"\0" * 8, 2, "<i2").shape == (2, 2)
    assert live_sessions._samples(b"\0" * 4, 1, "<f4").dtype.isnative


def test_twenty_sessions_at_once(served):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(session(served)) for _ in range(20)]
        for socket in sockets:
            opened(socket)
        for _ in range(3):
            for number, socket in enumerate(sockets):
                socket.send(np.full(3200, 0.3 + 0.03 * number, "<f4").tobytes())
        for number, socket in enumerate(sockets):
            for _ in range(3):
                (moment,) = receive(socket)["moments"]
                assert moment["so_far"]["angry"] == pytest.approx(0.3 + 0.03 * number)
