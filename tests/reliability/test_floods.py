"""The web server under floods from one address, while a client at another is answered."""

import contextlib
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import web_servers
from web_servers import SPEECH

MOST_MEGABYTES = 64  # that a flood may add to the server's memory
ATTACKER, CLIENT = "127.0.0.1", "127.0.0.2"  # one machine, two addresses
STALLED = (
    b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
)
UPGRADE = (
    b"GET /api/live HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="Linux: every 127.x.y.z is this machine"
)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process have more open files than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    with web_servers.in_a_process() as (url, process):
        with client() as one:  # what is loaded at the first request
            one.post(f"{url}/api/predict", files={"file": SPEECH}).raise_for_status()
        yield url, process


def client() -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(local_address=CLIENT), timeout=60)


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), source_address=(ATTACKER, 0))


def waits(url: str, seconds: float) -> list[float]:
    """Returns how long a client waits for the page and an upload, each by a new connection."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        for ask in (
            lambda one: one.get(url),
            lambda one: one.post(f"{url}/api/predict", files={"file": SPEECH}),
        ):
            begin = time.monotonic()
            with client() as one:
                ask(one).raise_for_status()
            found.append(time.monotonic() - begin)
        time.sleep(0.3)  # it may upload twice a second for long, `Limits.per_minute`
    return found


@contextlib.contextmanager
def attacking(attack: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs an attack in a thread while entered; it returns once the event is set."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(attack, stop)
        try:
            yield
        finally:
            stop.set()
        running.result()


def ended(connection: socket.socket) -> bool:
    """Returns whether the server has closed a connection."""
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


# How long, and the longest wait that is allowed, both in s; the short form may run beside others.
SHORT, LONG = (3.0, 10.0), pytest.param((40.0, 1.0), marks=pytest.mark.long)


@pytest.mark.parametrize("duration", [SHORT, LONG])
def test_idle_and_stalled_connections(server, many_files, duration, record_property):
    """1,000 connections without a request and 100 uploads that stop; each is renewed when ended."""
    (url, _), (seconds, promised) = server, duration
    held: dict[int, socket.socket] = {}
    renewed = -1100

    def begin(number: int) -> None:
        nonlocal renewed
        renewed += 1
        held[number] = connect(url)
        if number >= 1000:
            held[number].sendall(STALLED)
        held[number].setblocking(False)

    for number in range(1100):
        begin(number)

    def renew(stop: threading.Event) -> None:
        while not stop.wait(0.05):
            for number in [number for number, one in held.items() if ended(one)]:
                held.pop(number).close()
                begin(number)

    with attacking(renew):
        found = waits(url, seconds)
    for connection in held.values():
        connection.close()
    assert max(found) < promised
    record_property(
        "measured",
        f"1,000 idle and 100 stalled connections for {seconds:g} s, {renewed} renewed:"
        f" {len(found)} answers to another client, longest {max(found):.2f} s",
    )


def frame(code: int, content: bytes = b"") -> bytes:
    """A frame of a WebSocket client, masked with zeros."""
    return bytes([code, 0x80 | len(content), 0, 0, 0, 0]) + content


FLOODS = {
    "pings": frame(0x89, b"x" * 125),
    "empty pings": frame(0x89),
    "pongs": frame(0x8A, b"x" * 125),
    "empty pieces of a message": frame(0x00),
    "messages of one sample": frame(0x82, b"\0\1"),
}


# Predictions take turns with the computing that the flood's messages ask for.
FLOODED = pytest.param((40.0, 3.0), marks=pytest.mark.long)


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("duration", [SHORT, FLOODED])
def test_a_live_session_that_is_flooded(server, flood, duration, record_property):
    """The attacker never reads, and opens the next session when one is ended."""
    (url, process), (seconds, promised) = server, duration
    begin, most, sessions = megabytes(process), 0.0, 0
    content = FLOODS[flood] * (65536 // len(FLOODS[flood]))
    first = frame(0x81, json.dumps({"rate": 16000}).encode())
    first += frame(0x02) if flood == "empty pieces of a message" else b""

    def send(stop: threading.Event) -> None:
        nonlocal most, sessions
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(url) as attack:
                sessions += 1
                attack.settimeout(1.0)
                attack.sendall(UPGRADE + first)
                while not stop.is_set():
                    attack.sendall(content)  # a time-out ends this session, unless all is sent
                    most = max(most, megabytes(process) - begin)

    with attacking(send):
        found = waits(url, seconds)
    assert max(found) < promised and most < MOST_MEGABYTES
    record_property(
        "measured",
        f"{flood} for {seconds:g} s in {sessions} sessions: {most:.0f} MB more, longest answer to"
        f" another client {max(found):.2f} s",
    )


def megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
