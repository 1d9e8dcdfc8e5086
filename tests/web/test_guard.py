"""Who may ask: the server's own page and programs, not the pages of others."""

import httpx
import pytest
import web_servers
from starlette.datastructures import Headers

from ser_jax.web.guard import LOCAL, Guard


async def nothing(scope, receive, send):
    raise AssertionError


def objection(names, **headers: str) -> str:
    return Guard(nothing, names).objection(Headers(headers))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"]
)
def test_names_of_this_machine_are_answered_to(host):
    assert objection(LOCAL, host=host) == ""
    assert objection(LOCAL, host=host, origin=f"http://{host}") == ""


REFUSED = "this server does not answer to the name {!r}; use 127.0.0.1, [::1], localhost"
OTHER_HOSTS = (
    *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""),
    *("localhost:80:90", "::1", "localhost:"),
)
OTHER_ORIGINS = (
    *("http://evil.example", "null", "", "http://127.0.0.1:9000", "http://localhost:8000"),
    *("file://127.0.0.1:8000", "http://127.0.0.1:8000.evil.example", "127.0.0.1:8000"),
)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_another_name_may_be_a_trap(host):
    assert objection(LOCAL, host=host) == REFUSED.format(host)
    assert objection(LOCAL, host=host, origin=f"http://{host}") == REFUSED.format(host)


@pytest.mark.parametrize("origin", OTHER_ORIGINS)
def test_pages_of_other_places_are_turned_away(origin):
    for names in (LOCAL, None):
        reason = objection(names, host="127.0.0.1:8000", origin=origin)
        assert reason == f"a page of {origin!r} may not use this server; open the server's own page"


def test_behind_a_proxy():
    names = {*LOCAL, "Ser.Example.org"}
    for host in ("127.0.0.1:8000", "ser.example.org"):
        assert objection(names, host=host, origin="https://ser.example.org") == ""
        assert "may not use" in objection(names, host=host, origin="https://other.example.org")
    assert objection(None, host="anything", origin="http://anything") == ""


def test_every_answer_says_what_the_page_may_load(tmp_path):
    with web_servers.serving(tmp_path) as served:
        answers = [
            httpx.get(served.url),
            httpx.get(f"{served.url}/api/nothing"),
            httpx.get(served.url, headers={"host": "evil.example"}),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 403]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy and "server" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answers[2].json() == {"reason": REFUSED.format("evil.example")}
