"""Where a server listens, and what it says if it cannot."""

import contextlib
import importlib.util
import socket

import pytest

from ser_jax.runtime.errors import UserError
from ser_jax.web import server


def refusal(function, *arguments) -> str:
    with pytest.raises(UserError) as info:
        function(*arguments)
    return str(info.value)


def test_a_port_that_is_taken():
    with contextlib.closing(server.bind("127.0.0.1", 0)) as one:  # whose models are being loaded
        port = one.getsockname()[1]
        said = refusal(server.bind, "127.0.0.1", port)
    assert (
        said == f"127.0.0.1, port {port} cannot be listened on (Address already in use); "
        "choose another --port, or --port=0 for any that is free"
    )
    with contextlib.closing(server.bind("127.0.0.1", port)):
        pass  # it is free again


@pytest.mark.parametrize("port", [-1, 65536])
def test_no_port(port):
    said = refusal(server.bind, "127.0.0.1", port)
    assert said == f"--port={port} is none; choose one from 1 to 65535, or 0 for any that is free"


@pytest.mark.parametrize("host", ["no such host", "a" * 300, "203.0.113.7"])
def test_no_address_of_this_machine(host):
    said = refusal(server.bind, host, 0)
    assert host in said
    assert "is no address of this machine" in said or "cannot be listened on" in said


def test_every_address():
    with contextlib.closing(server.bind("0.0.0.0", 0)) as listener:
        assert not server.is_local(listener)
    with contextlib.closing(server.bind("localhost", 0)) as listener:
        assert server.is_local(listener) and listener.getsockname()[1]


def test_addresses_as_browsers_take_them():
    assert server.address_of(("127.0.0.1", 80)) == "http://127.0.0.1:80"
    assert server.address_of(("::1", 80, 0, 0)) == "http://[::1]:80"


def test_a_package_that_is_missing(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "fastapi" else found(name)
    )
    said = refusal(server.require_packages)
    assert said == 'The web page needs fastapi, not installed: pip install "ser_jax[serve]"'


def test_a_socket_is_closed_that_cannot_be_bound():
    with pytest.MonkeyPatch.context() as patch:
        made = []
        plain = socket.socket

        def remembered(*arguments):
            made.append(plain(*arguments))
            return made[-1]

        patch.setattr(socket, "socket", remembered)
        refusal(server.bind, "203.0.113.7", 0)
    assert made[0].fileno() == -1
