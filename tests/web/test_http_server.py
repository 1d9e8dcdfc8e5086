"""Connections that do nothing, and clients that do not read."""

import contextlib
import socket
import time

import httpx
import pytest
import web_servers

from ser_jax.web import http_server
from ser_jax.web.limits import Limits


def connect(served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return bool(connection.recv(65536))
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(30)


GET = b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b""),  # nothing at all
        (GET[:20], b""),  # a part of a header
        (GET[:20], b"x"),  # a header that goes on and on
        (GET, b""),  # a request, then nothing
        (GET + GET[:20], b"x"),
    ],
)
def test_who_sends_no_request_is_disconnected(tmp_path, monkeypatch, first, drop):
    monkeypatch.setattr(http_server, "_IDLE_SECONDS", 0.5)
    with web_servers.serving(tmp_path) as served, connect(served) as connection:
        connection.sendall(first)
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            while is_open(connection):
                connection.sendall(drop)
        assert 0.4 < time.monotonic() - begin < 5


def test_the_longest_idle_makes_room(tmp_path):
    """Five times `per_client` connections of one client; one that is at work is left alone."""
    limits = Limits(per_client=1)
    with web_servers.serving(tmp_path, limits) as served, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(served)) for _ in range(5)]
        held[0].sendall(
            b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        web_servers.wait_for(lambda: served.left_behind)
        held += [stack.enter_context(connect(served)) for _ in range(2)]
        assert [is_open(one) for one in held] == [True, False, False, True, True, True, True]
        with contextlib.closing(socket.socket()) as other:
            other.bind(("127.0.0.2", 0))
            other.connect(held[0].getpeername())
            other.sendall(GET)
            assert other.recv(100).startswith(b"HTTP/1.1 200 ")
        assert is_open(held[3])


def test_where_none_is_idle_the_next_is_turned_away(tmp_path, monkeypatch):
    monkeypatch.setattr(http_server, "_MOST_CONNECTIONS", 1)
    with web_servers.serving(tmp_path) as served, connect(served) as busy:
        served.predictor.gate.clear()
        try:
            files = {"file": web_servers.SPEECH}
            request = httpx.Request("POST", f"{served.url}/api/predict", files=files)
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            busy.sendall(b"POST /api/predict HTTP/1.1\r\n%b\r\n" % head.encode() + request.read())
            web_servers.wait_for(lambda: served.predictor.threads)
            with connect(served) as other:
                answer = other.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(b"try again later")
        finally:
            served.predictor.gate.set()
        assert busy.recv(100).startswith(b"HTTP/1.1 200 ")
        assert httpx.get(served.url).status_code == 200  # the other one is idle now


def test_who_does_not_read_is_disconnected(tmp_path, monkeypatch):
    monkeypatch.setattr(http_server, "_UNREAD_SECONDS", 0.5)
    ask = GET.replace(b"/api/health", b"/style.css")
    with web_servers.serving(tmp_path) as served, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = served.url.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.settimeout(0.2)
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < 30:
                with contextlib.suppress(TimeoutError):
                    connection.sendall(ask * 100)
        assert time.monotonic() - begin < 20
